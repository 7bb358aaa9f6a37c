"""A real PostgreSQL server that tests may kill, stop and start, and stores over it or over SQLite."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from optimizer.control_store.store import SqlStore
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.records import Optimization, Status


def programs() -> Path:
    """Where initdb and postgres are, or a loud skip that names them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = shutil.which("initdb") or (str(found[-1]) if found else None)
    if there is None:
        pytest.skip("postgresql is not installed: apt-get install postgresql")
    return Path(there).resolve().parent


def unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


class PostgresServer:
    """One cluster in a directory of its own; commits are not synced, nobody pulls the plug here."""

    def __init__(self, directory: Path) -> None:
        self.bin = programs()
        self.unprivileged = unprivileged()
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody", "nogroup")
        self._run(
            "initdb", "-D", str(directory / "data"), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"
        )

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self.unprivileged, str(self.bin / program), *arguments],
            check=True,
            capture_output=True,
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self._process is not None:
            return
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.unprivileged, str(self.bin / "postgres"), "-D", str(self.directory / "data"),
                 "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
                 # Each test has a database of its own; after a kill all since the last checkpoint are made again.
                 "-c", "checkpoint_timeout=30s", "-c", "checkpoint_completion_target=0.1",
                 "-c", f"unix_socket_directories={self.directory}"],
                stdout=log, stderr=log, cwd=self.directory, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )  # fmt: skip
        until = time.monotonic() + 40
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.directory / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """As after a power cut: all its processes end at once."""
        if self._process is not None:
            self.resume()
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            self._process = None

    def stop_answering(self) -> None:
        """Black-hole it: connections are accepted by the kernel, nobody answers."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside of a transaction; its rows, if it has some."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create(self, options: str = "") -> str:
        """A new database's name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return name

    def url(self, database: str) -> str:
        """Where a database is."""
        return f"postgresql://postgres:hunter2@127.0.0.1:{self.port}/{database}"

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresServer]:
    """The server of this session; use ``postgres``, which starts it again."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-postgres-") as directory:
        server = PostgresServer(Path(directory))
        yield server
        server.kill()


@pytest.fixture
def postgres(cluster: PostgresServer) -> PostgresServer:
    """A real PostgreSQL that runs."""
    cluster.start()
    cluster.resume()
    return cluster


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """An empty database of each kind; None is the SQLite file."""
    if request.param == "sqlite":
        return None
    server = request.getfixturevalue("postgres")
    return server.url(server.create())


@pytest.fixture
async def open_store(tmp_path: Path):
    """``open_store(url, **options)``: a store that is closed at the end."""
    opened = []

    def open_(url: str | None = None, **options) -> SqlStore:
        store = SqlStore(url, directory=tmp_path, **options)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store, url: str | None) -> SqlStore:
    """A store over an empty database of each kind."""
    return open_store(url)


@pytest.fixture
def make_record():
    """``make_record(number, revision, **changes)``."""

    def make(number: int = 1, revision: int = 1, **changes) -> Optimization:
        fields = {
            "id": f"opt_{number}",
            "name": f"Nummer {number} 漢字",
            "strategy": "cost_reduction",
            "route": "auto",
            "parameters": {"target_reduction": 0.3, "note": "ü\u2028"},
            "status": Status.COLLECTING,
            "revision": revision,
            "origin": "api",
            "created_at": 1_795_000_000.123456,
            "updated_at": 1_795_000_000.123456 + revision,
        }
        return Optimization(**{**fields, **changes})

    return make


@pytest.fixture
def make_row():
    """``make_row(number, **changes)``: one second later for each number."""

    def make(number: int = 1, **changes) -> AuditRow:
        fields = {
            "id": f"opt_1:{number}",
            "at": 1_795_000_000.25 + number,
            "actor": "local",
            "action": "optimization.deploy",
            "target": "opt_1",
            "detail": {"from": "proposed", "to": "running", "number": number},
        }
        return AuditRow(**{**fields, **changes})

    return make
