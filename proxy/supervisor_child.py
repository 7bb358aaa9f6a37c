"""One supervised process: started, linked, watched, restarted with back-off, stopped politely and then firmly.

The invariant is one process per slot at any moment. What to start is a function of the slot's own history, so a
restart may differ from a first start (a new incarnation, ``--resume``).
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from proxy.logs import LOGGER_NAME
from proxy.supervisor_link import Link, Message, pair

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
SETTLED_AFTER_S: Final = 10.0

_log = logging.getLogger(LOGGER_NAME)


class Child:
    """A slot that holds one process.

    Args:
        name: What logs call it: ``optimizer``, ``worker-1``.
        command: Arguments for start number n (0 is the first); ``--link-fd N`` is appended.
        greet: Called with the child right after each start, to send what it waits for.
        on_message: Called with the child and each of its messages.
        on_exit: Called with the child, its exit status and the seconds it lived, before any restart.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        greet: Callable[["Child"], None],
        on_message: Callable[["Child", Message], None],
        on_exit: Callable[["Child", int, float], None],
    ) -> None:
        self.name = name
        self.ready = False
        self.starts = 0
        self._command = command
        self._greet = greet
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._link: Link | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message over the link; False when nobody is there to read it."""
        return self._link is not None and self._link.send(message)

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

    async def stop(self, patience_s: float) -> bool:
        """Ask the process to end, kill it after ``patience_s``; True when it ended by itself."""
        self._stopping.set()
        process = self._process
        if process is None:
            return True
        if not self.send({"stop": True}):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            await asyncio.wait_for(process.wait(), patience_s)
        except TimeoutError:
            _log.warning("%s did not end within %.0f s and is killed", self.name, patience_s)
            self.kill()
            await process.wait()
            return False
        return True

    def kill(self) -> None:
        """End the process at once."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run_once(self) -> int:
        ours, theirs = pair()
        command = [*self._command(self.starts), "--link-fd", str(theirs.fileno())]
        self.starts += 1
        try:
            # Its own session: Ctrl-C reaches the supervisor alone, which then drains in order.
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            _log.exception("%s could not be started", self.name)
            ours.close()
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
            self._link.send({"stop": True})
        try:
            return await self._process.wait()
        finally:
            self._link.close()
            self._link = None
            self._process = None
            self.ready = False


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
