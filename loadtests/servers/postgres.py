"""A real PostgreSQL server on loopback that may be stopped, frozen, killed and started again; nobody pulls the plug."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg

from loadtests.servers.process import Missing, ServerProcess, need


class PostgresServer(ServerProcess):
    """One database cluster in a directory of its own; commits are not synced to the disk."""

    def __init__(self, directory: Path) -> None:
        """Make, but do not start it.

        Raises:
            Missing: Without PostgreSQL, or ``setpriv`` for root, as whom it refuses to run.
        """
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        there = shutil.which("initdb") or (str(found[-1]) if found else None)
        if there is None:
            raise Missing("postgresql is not installed: apt-get install postgresql")
        self._bin = Path(there).resolve().parent
        self._unprivileged: list[str] = []
        super().__init__(directory)
        if os.geteuid() == 0:
            need("setpriv", "util-linux")
            self._unprivileged = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
            shutil.chown(directory, "nobody", "nogroup")
        subprocess.run(
            [*self._unprivileged, str(self._bin / "initdb"), "-D", str(directory / "data"), "-U", "postgres",
             "-A", "trust", "-N", "-E", "UTF8"],
            check=True, capture_output=True, cwd=directory, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Of the database ``postgres``."""
        return self.url_by(self.address)

    def url_by(self, address: str, database: str = "postgres") -> str:
        """The same over another address, that of a relay say."""
        return f"postgresql://postgres:hunter2@{address}/{database}"

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement outside of a transaction; its rows, if it has some."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """SIGKILL to all its processes, as after a power cut."""
        if self._process is not None:
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            super().kill()

    def _processes(self) -> Sequence[psutil.Process]:
        assert self._process is not None
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _command(self) -> list[str]:
        return [
            *self._unprivileged, str(self._bin / "postgres"), "-D", str(self.directory / "data"),
            "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
            "-c", "unix_socket_directories=",
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False
