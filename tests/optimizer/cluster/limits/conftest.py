"""A real Redis for the limits: started, frozen, killed and emptied by the test that has it."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """One redis-server on a unix socket, without persistence: whoever kills it has wiped it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                "0",
                "--unixsocket",
                str(self.socket),
                "--save",
                "",
                "--appendonly",
                "no",
            ],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.say("PING").startswith(b"+PONG"):
                return
            time.sleep(0.005)
        raise TimeoutError("redis-server does not start")

    def say(self, *words: str) -> bytes:
        """One command in plain words, and the beginning of the answer; empty when nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(5)
                link.connect(str(self.socket))
                link.sendall(" ".join(words).encode() + b"\r\n")
                return link.recv(65536)
        except OSError:
            return b""

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running server; its socket's path must be short, so not pytest's own directory."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    directory = Path("/tmp") / f"llmo-redis-{tmp_path.name[-20:]}-{time.monotonic_ns()}"
    directory.mkdir(mode=0o700)
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)
