"""A server process that may be stopped, killed, frozen and started again on the same data and port.

A server does not outlive the process that started it, however that one ends: a small watcher sees its end.

Ports are taken from below the range that the kernel gives to outgoing connections, so that nobody takes a port while
its server is down.
"""

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path


class Missing(Exception):
    """A program is not installed; the text says which, and how to get it."""


def need(program: str, package: str) -> str:
    """The path of ``program``.

    Raises:
        Missing: If it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed: apt-get install {package}")
    return found


def free_port() -> int:
    """A port of loopback that nobody has."""
    while True:
        port = random.randint(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class ServerProcess(ABC):
    """One server. ``directory`` is its own and stays; ``port`` too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended; a frozen one runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout_s: float = 40.0) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if self.running:
            return
        self._forget()
        with (self.directory / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                start_new_session=True,
            )  # fmt: skip
        # Its input ends when this process does, or when it closes it.
        self._watcher = subprocess.Popen(
            ["sh", "-c", f"read _; kill -KILL {self._process.pid}"], stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + timeout_s
        while not self._answers():
            if not self.running or time.monotonic() > until:
                self.kill()
                log_file = self.directory / "output.log"
                raise RuntimeError(f"{type(self).__name__} did not start:\n{log_file.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self, timeout_s: float = 20.0) -> None:
        """SIGTERM, and wait; SIGKILL if it takes too long."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._forget()

    def kill(self) -> None:
        """SIGKILL: what it had not given to the kernel is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def pause(self) -> None:
        """SIGSTOP: the kernel still takes connections and bytes, nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; nothing happens to one that was not paused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _forget(self) -> None:
        self._process = None
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher = None

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is ready; must not take longer than a second or so."""
