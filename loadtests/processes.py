"""Starting pinned child processes, knowing when they are ready, and reading what they cost.

Invariant: a process started here is stopped here, also when the caller fails; nothing else is ever signalled.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
WORKER_CORE = 0
LOAD_CORE = 1
ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A scenario can't give a number; the message says why."""


class Skipped(Exception):
    """A scenario needs something that this machine lacks; the message names it and how to install it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the measured worker runs on and which one everything else."""

    worker: int
    load: int


def cores() -> Cores:
    """The first two cores this process may use.

    Raises:
        Skipped: On a machine with a single core, where both sides would disturb each other.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Skipped("needs two cores: one for the worker, one for the load")
    return Cores(allowed[0], allowed[1])


def cpu_seconds(pids: Iterable[int]) -> float:
    """User plus system time of processes so far, from /proc/<pid>/stat."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def descendants(pid: int) -> list[int]:
    """The process and all its children, the parent first."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found.extend(int(child) for child in children)
    return found


def command_line(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pin(pid: int, core: int) -> None:
    """Pin every thread of a process to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


class Child:
    """A process in its own group, pinned, with its output kept in a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | str,
        log: Path,
        environ: Mapping[str, str] | None = None,
        name: str = "",
        pass_fds: Sequence[int] = (),
        cwd: Path = ROOT,
    ) -> None:
        self.name = name or Path(command[0]).name
        self.log_path = log
        self._log = log.open("wb")
        self._lines: queue.Queue[str] = queue.Queue()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
            pass_fds=pass_fds,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._log.write(line.encode())
            self._lines.put(line)

    def wait_for(self, pattern: str, *, seconds: float = 15.0) -> re.Match[str]:
        """Wait for a line of standard output that matches.

        Raises:
            Failed: If the process ends or the time is over.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                found = re.search(pattern, self._lines.get(timeout=0.05))
            except queue.Empty:
                if self.process.poll() is not None:
                    raise Failed(
                        f"{self.name} ended with {self.process.returncode}; see {self._log.name}"
                    ) from None
                continue
            if found:
                return found
        raise Failed(f"{self.name} did not say {pattern!r} within {seconds:g} s; see {self._log.name}")

    def pids(self) -> list[int]:
        """This process and its children."""
        return descendants(self.pid)

    def stop(self, *, seconds: float = 5.0) -> None:
        """SIGTERM to the group's leader, SIGKILL to the whole group if it does not end."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._reader.join(1.0)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
