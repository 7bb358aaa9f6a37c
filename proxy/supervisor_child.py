"""One supervised process: started, linked, watched, restarted with back-off, stopped politely and then firmly.

The invariant is one process per child at any moment. What to start is a function of the child's own history, so a
restart may differ from a first start (a new incarnation, ``--resume``).
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from proxy.logs import LOGGER_NAME
from proxy.supervisor_link import DRAIN, Link, Message, pair

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
SETTLED_AFTER_S: Final = 10.0

_LATE_STOP_S: Final = 10.0

_log = logging.getLogger(LOGGER_NAME)


class Child:
    """A place that holds one process.

    Args:
        name: What logs call it: ``optimizer``, ``worker-1``.
        command: Arguments for start number n (0 is the first); ``--link-fd N`` is appended.
        greet: Called with the child right after each start, to send what it waits for.
        on_message: Called with the child and each of its messages.
        on_exit: Called with the child, its exit status and the seconds it lived, before any restart.
        descriptors: What every process of this child inherits besides its link.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        greet: Callable[["Child"], None],
        on_message: Callable[["Child", Message], None],
        on_exit: Callable[["Child", int, float], None],
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.ready = False
        self.killed = False
        self.starts = 0
        self._command = command
        self._greet = greet
        self._on_message = on_message
        self._on_exit = on_exit
        self._descriptors = tuple(descriptors)
        self._process: asyncio.subprocess.Process | None = None
        self._link: Link | None = None
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None
        self._hurried = False

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message over the link; False when nobody is there to read it."""
        return self._link is not None and self._link.send(message)

    def is_ready(self) -> None:
        """Note that the process said so."""
        self.ready = True
        self._settled.set()

    async def became_ready(self, patience_s: float) -> bool:
        """Wait until the first process is ready, has ended, or ``patience_s`` are over; whether it is ready."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), patience_s)
        return self.ready

    async def keep(self) -> None:
        """Run the process again and again until ``stop``."""
        delay = FIRST_DELAY_S
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            status = await self._run_once()
            lived = clock() - started
            self._on_exit(self, status, lived)
            if self._stopping.is_set():
                return
            if lived >= SETTLED_AFTER_S:
                delay = FIRST_DELAY_S
            _log.warning("%s ended (%s); starting it again in %.1f s", self.name, _cause(status), delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def stop(self, patience_s: float, how: str = DRAIN) -> bool:
        """Ask the process to end, kill it after ``patience_s``; True when it ended by itself.

        A second call waits as well, and asks nothing more of the process.
        """
        process = self._process
        if not self._stopping.is_set():
            self._stopping.set()
            if process is not None and not self.send({"stop": how}):
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            self.allow(patience_s)
        if process is not None:
            await process.wait()
        return not self.killed

    def allow(self, patience_s: float) -> None:
        """Kill what was asked to stop only after ``patience_s`` from now; nothing once it was hurried."""
        if self._stopping.is_set() and not self._hurried:
            self._kill_after(patience_s)

    def hurry(self, patience_s: float, message: Message) -> None:
        """Ask the process to end without waiting for anything; kill it after ``patience_s``."""
        self._stopping.set()
        self._hurried = True
        self.send(message)
        self._kill_after(patience_s)

    def kill(self) -> None:
        """End the process at once."""
        self._stopping.set()
        if self._process is not None:
            self.killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _kill_after(self, patience_s: float) -> None:
        def over() -> None:
            if self._process is not None:
                _log.warning("%s did not end in time and is killed", self.name)
            self.kill()

        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(patience_s, over)

    async def _run_once(self) -> int:
        ours, theirs = pair()
        command = [*self._command(self.starts), "--link-fd", str(theirs.fileno())]
        self.starts += 1
        try:
            # Its own session: Ctrl-C reaches the supervisor alone, which then drains in order.
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *self._descriptors),
                start_new_session=True,
            )
        except (OSError, ValueError):  # ValueError: a descriptor was closed, because the end has begun
            if not self._stopping.is_set():
                _log.exception("%s could not be started", self.name)
            ours.close()
            self._settled.set()
            return 1
        finally:
            theirs.close()
        self._link = Link(ours)
        self._link.attach(
            asyncio.get_running_loop(),
            on_message=lambda message: self._on_message(self, message),
            on_end=lambda: None,
        )
        self._greet(self)
        if self._stopping.is_set():
            self._link.send({"stop": DRAIN})
            self.allow(_LATE_STOP_S)
        try:
            return await self._process.wait()
        finally:
            self._link.close()
            self._link = None
            self._process = None
            self.ready = False
            self._settled.set()
            if self._end is not None:
                self._end.cancel()


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
