"""A real Redis server that keeps what it was told over a kill, and forgets it when it is wiped."""

import contextlib
import shutil
import socket
from pathlib import Path

from loadtests.servers.process import ServerProcess, need


class RedisServer(ServerProcess):
    """One ``redis-server`` with an append-only file; ``url`` is what a client is given."""

    def __init__(self, directory: Path, *, password: str | None = None) -> None:
        """Make, but do not start it.

        Raises:
            Missing: Without ``redis-server``.
        """
        self._program = need("redis-server", "redis-server")
        self._password = password
        super().__init__(directory)

    @property
    def url(self) -> str:
        """redis://..."""
        return self.url_by(self.address)

    def url_by(self, address: str) -> str:
        """The same over another address, that of a relay say."""
        return f"redis://{'' if self._password is None else f':{self._password}@'}{address}/0"

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does."""
        assert self._ask(b"FLUSHALL").startswith(b"+OK")

    def wipe(self) -> None:
        """Kill it and lose its data; ``start`` begins with nothing."""
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        (self.directory / "dump.rdb").unlink(missing_ok=True)

    def _ask(self, command: bytes) -> bytes:
        """Send one command without arguments; what came back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            if self._password is not None:
                connection.sendall(f"AUTH {self._password}\r\n".encode())
                connection.recv(1024)
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)

    def _command(self) -> list[str]:
        secured = [] if self._password is None else ["--requirepass", self._password]
        return [
            self._program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory),
            "--save", "", "--appendonly", "yes", "--appendfsync", "no", "--maxmemory", "256mb", *secured,
        ]  # fmt: skip

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask(b"PING").startswith(b"+PONG")
        return False
