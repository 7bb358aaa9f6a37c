"""Where a product lives that was given no place it can write to: in memory, for as long as it runs.

Invariant: nothing is given up silently. A directory that holds a state is never passed over, because without its keys,
limits and rollouts the product would be another one; and whoever runs from a temporary place finds the file
``ephemeral`` in it, with the reason. Standard library only (with ``optimizer.log.node``).
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizer.log.node import StateDirectory, StateDirectoryError
from proxy.supervisor_sockets import StartRefused

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - directories made in it are 0700 and have random names
ROOMY_BYTES: Final = 512 * 1024 * 1024
"""A place with so much room is taken; of smaller ones the largest."""

LOG_BYTES_VARIABLE: Final = "LLM_OPTIMIZER__EVENT_LOG__MAX_BYTES"
SEGMENT_BYTES_VARIABLE: Final = "LLM_OPTIMIZER__EVENT_LOG__SEGMENT_BYTES"

_PREFIX: Final = "llm-optimizer-"
_LEFT_BEHIND_S: Final = 60.0
_LEAST_SEGMENT_BYTES: Final = 64 * 1024
_MOST_SEGMENT_BYTES: Final = 8 * 1024 * 1024
_NOT_WRITABLE: Final = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory in use; ``missing`` says why it is a temporary one, and is empty otherwise."""

    path: Path
    missing: str = ""

    def leave(self) -> None:
        """Remove a temporary directory."""
        if self.missing:
            shutil.rmtree(self.path, ignore_errors=True)


def find_home(wanted: Path, places: Sequence[Path] | None = None) -> Home:
    """``wanted`` if it can be written, else a new directory, 0700, in one of ``places``.

    Raises:
        StartRefused: ``wanted`` holds a state that can't be written, or there is no other place.
    """
    try:
        _try_writing(wanted)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            return Home(wanted)  # Whoever uses it explains better what is wrong with it.
        reason = f"{wanted} can't be written ({error.strerror})"
    else:
        return Home(wanted)
    if _holds_state(wanted):
        raise StartRefused(
            f"{reason}, but it holds a state: without its keys, limits and rollouts this would be another product. "
            "Make it writable for this user, or choose another directory with --state-dir."
        )
    candidates = list(places) if places is not None else [SHARED_MEMORY, *_temporary()]
    for place in candidates:
        _remove_left_behind(place)
    path = _make_in(sorted(candidates, key=_room, reverse=True))
    if path is None:
        raise StartRefused(f"{reason}, and there is no place for a temporary one in {_names(candidates)}")
    (path / "ephemeral").write_text(reason + "\n", encoding="utf-8")
    return Home(path, reason)


def within_memory(state: StateDirectory, environ: Mapping[str, str]) -> Mapping[str, str]:
    """``environ``, in which the event log of a temporary state directory is bounded by the room that it has.

    The usual bounds are made for disks: one segment of theirs would fill the shared memory of a container.
    """
    if not state.ephemeral_file.exists():
        return environ
    most = _room(state.path)[1] // 4
    segment = min(max(most // 16, _LEAST_SEGMENT_BYTES), _MOST_SEGMENT_BYTES)
    return {LOG_BYTES_VARIABLE: str(most), SEGMENT_BYTES_VARIABLE: str(segment), **environ}


def _try_writing(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".writable-", dir=directory)
    os.close(descriptor)
    os.unlink(name)


def _holds_state(directory: Path) -> bool:
    try:
        return (directory / "node.json").exists()
    except OSError:
        # Closed to us and there: states are kept closed.
        return True


def _temporary() -> list[Path]:
    try:
        return [Path(tempfile.gettempdir())]
    except FileNotFoundError:
        return []


def _room(place: Path) -> tuple[bool, int]:
    """Whether it is roomy, and the free bytes that matter if it is not."""
    try:
        facts = os.statvfs(place)
    except OSError:
        return False, 0
    free = facts.f_bavail * facts.f_frsize
    return free >= ROOMY_BYTES, min(free, ROOMY_BYTES)


def _make_in(places: Sequence[Path]) -> Path | None:
    for place in places:
        with contextlib.suppress(OSError):
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            try:
                StateDirectory(path)
            except (OSError, StateDirectoryError):  # Too full, or the path of its sockets would be too long.
                shutil.rmtree(path, ignore_errors=True)
            else:
                return path
    return None


def _remove_left_behind(place: Path) -> None:
    """Take away what killed predecessors left in memory: their lock is free, and was not taken just now."""
    for path in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            is_ours = path.lstat().st_uid == os.geteuid() and not path.is_symlink()
            if not is_ours or not (path / "ephemeral").exists():
                continue
            descriptor = os.open(path / "run" / "serve.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if time.time() - os.fstat(descriptor).st_mtime > _LEFT_BEHIND_S:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _names(places: Sequence[Path]) -> str:
    return " or ".join(map(str, places)) or "any place"
