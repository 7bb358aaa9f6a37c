"""The state directory: where everything lives, who this node is, and which process is the how-manyeth.

Directories are 0700 and files 0600. The node id is random and permanent; an incarnation number is given to
one process and never again, which is what makes request ids and segment directories unique.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from optimizer.durable import replace_file
from optimizer.ids import KEY_BYTES
from optimizer.keys import PEPPER_BYTES

_SUBDIRECTORIES = (
    "secrets",
    "table",
    "selectors",
    "log",
    "index",
    "content",
    "run",
    "config",
    "config/history",
)
_LOW_32 = 0xFFFF_FFFF
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
_SOCKET_PATH_BYTES = 103


class StateDirectoryError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


class StateDirectory:
    """The layout below one path. Creating an instance creates what is missing; any process may do so."""

    def __init__(self, path: Path | str) -> None:
        """Use ``path``, creating layout, node id and keys where missing.

        Raises:
            StateDirectoryError: If it is unsafe to take the directory over, or a file in it is damaged.
            OSError: If the disk refuses.
        """
        root = Path(path).absolute()
        self.path = root
        self.node_file = root / "node.json"
        self.incarnation_file = root / "incarnation"
        self.id_key_file = root / "secrets" / "id.key"
        self.admin_key_file = root / "secrets" / "admin.key"
        self.worker_token_file = root / "secrets" / "worker.token"
        self.key_pepper_file = root / "secrets" / "keys.pepper"
        self.table_file = root / "table" / "table.json"
        self.key_file = root / "table" / "keys.json"
        self.selector_directory = root / "selectors"
        self.log_directory = root / "log"
        self.index_directory = root / "index"
        self.content_directory = root / "content"
        self.judge_file = root / "judge.json"
        self.database_file = root / "learner.sqlite3"
        self.control_database_file = root / "control.sqlite3"
        self.limits_file = root / "limits.sqlite3"
        self.run_directory = root / "run"
        self.optimizer_socket = root / "run" / "optimizer.sock"
        self.guard_file = root / "run" / "guard"
        self.pids_file = root / "run" / "pids"
        self.config_history = root / "config" / "history"
        self.kafka_cursor_file = root / "kafka.cursor.json"
        self.traces_cursor_file = root / "traces.cursor.json"
        self.dead_letter_file = root / "kafka.dead.jsonl"
        self.forwarded_cursor_file = root / "forwarded.cursor.json"
        self.shards_directory = root / "shards"
        self.shard_count_file = root / "shards.count"
        # Only in a directory that goes with its processes; it says why there is no lasting one.
        self.ephemeral_file = root / "ephemeral"
        self._lock_file = root / "lock"
        if len(os.fsencode(self.optimizer_socket)) > _SOCKET_PATH_BYTES:
            raise StateDirectoryError(
                f"{root} is too long a path: the unix socket below it would pass the system's "
                f"{_SOCKET_PATH_BYTES} bytes; use a shorter state directory"
            )
        self._claim()
        with self._locked():
            self._make_layout()
        self.node = self._read_node()

    @property
    def id_key(self) -> bytes:
        """The node's secret key for request ids, 32 bytes."""
        key = self.id_key_file.read_bytes()
        if len(key) != KEY_BYTES:
            raise StateDirectoryError(f"{self.id_key_file} must hold {KEY_BYTES} bytes, it has {len(key)}")
        return key

    def share(self, id_key: bytes, key_pepper: bytes) -> None:
        """Use the keys that all nodes of a cluster have, each 32 bytes, instead of the node's own.

        Ids and client keys that were made with the ones before are unknown from then on.
        """
        with self._locked():
            for file, key in ((self.id_key_file, id_key), (self.key_pepper_file, key_pepper)):
                if file.read_bytes() != key:
                    replace_file(file, key)

    @property
    def key_pepper(self) -> bytes:
        """What client keys are digested with, 32 bytes: nothing else is, least of all request ids."""
        pepper = self.key_pepper_file.read_bytes()
        if len(pepper) != PEPPER_BYTES:
            raise StateDirectoryError(
                f"{self.key_pepper_file} must hold {PEPPER_BYTES} bytes, it has {len(pepper)}; every client key "
                "was digested with it: put it back, or remove it and make new keys"
            )
        return pepper

    @property
    def worker_token(self) -> str:
        """The secret that workers show to the optimizer's socket."""
        return self.worker_token_file.read_text("ascii").strip()

    def source_directory(self, incarnation: int, role: str) -> Path:
        """Where the process with this incarnation and role keeps its log segments."""
        return self.log_directory / source_name(self.node, incarnation, role)

    def allocate_incarnation(self) -> int:
        """Take the next incarnation number, 1 or more; no other process ever gets it, power loss included."""
        with self._locked():
            try:
                last = int(self.incarnation_file.read_text("ascii"))
            except (FileNotFoundError, ValueError):
                last = self._highest_seen()
            incarnation = last + 1
            if incarnation > _LOW_32:
                raise StateDirectoryError(f"{self.path} has used all 2**32 incarnations")
            replace_file(self.incarnation_file, b"%d\n" % incarnation)
        return incarnation

    def _claim(self) -> None:
        """Create the root, or check that an existing one is ours to tighten."""
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StateDirectoryError(f"{self.path} can not be made: {error.strerror}") from error
        else:
            return
        if not self.path.is_dir():
            raise StateDirectoryError(f"{self.path} is not a directory")
        facts = self.path.stat()
        if stat.S_IMODE(facts.st_mode) & 0o077 == 0:
            return
        # Changing the mode of, say, /tmp because of a typo would hurt the whole machine.
        if facts.st_uid != os.geteuid() or not (self.node_file.exists() or not any(self.path.iterdir())):
            raise StateDirectoryError(
                f"{self.path} is open to other users and was not made by llm-optimizer; "
                "use a directory of its own, or chmod 700 it"
            )
        self.path.chmod(0o700)

    def _make_layout(self) -> None:
        for name in _SUBDIRECTORIES:
            directory = self.path / name
            directory.mkdir(mode=0o700, exist_ok=True)
            if stat.S_IMODE(directory.stat().st_mode) & 0o077:
                directory.chmod(0o700)
        if not self.node_file.exists():
            node = secrets.randbits(32)
            replace_file(self.node_file, orjson.dumps({"node": f"{node:08x}"}) + b"\n")
        if not self.id_key_file.exists():
            replace_file(self.id_key_file, secrets.token_bytes(KEY_BYTES))
        if not self.key_pepper_file.exists():
            replace_file(self.key_pepper_file, secrets.token_bytes(PEPPER_BYTES))
        if not self.worker_token_file.exists():
            replace_file(self.worker_token_file, secrets.token_hex(32).encode() + b"\n")

    def _read_node(self) -> int:
        try:
            node = int(orjson.loads(self.node_file.read_bytes())["node"], 16)
        except (ValueError, KeyError, TypeError) as error:
            raise StateDirectoryError(f"{self.node_file} is damaged: {error!r}") from error
        if not 0 <= node <= _LOW_32:
            raise StateDirectoryError(f"{self.node_file} names a node beyond 32 bits")
        return node

    def _highest_seen(self) -> int:
        """The largest incarnation that left a trace, for when the counter is lost."""
        parsed = (parse_source(name) for name in os.listdir(self.log_directory))
        return max((source[1] for source in parsed if source is not None), default=0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def source_name(node: int, incarnation: int, role: str) -> str:
    """Name of a process's segment directory: ``<node hex8>-<incarnation hex8>-<role>``."""
    return f"{node:08x}-{incarnation:08x}-{role}"


def parse_source(name: str) -> tuple[int, int, str] | None:
    """(node, incarnation, role) of a segment directory's name, None if it is not one."""
    node, _, rest = name.partition("-")
    incarnation, _, role = rest.partition("-")
    if len(node) != 8 or len(incarnation) != 8 or not role:
        return None
    try:
        return int(node, 16), int(incarnation, 16), role
    except ValueError:
        return None
