"""The worker slots: one process each, replaced one after the other while the product serves.

The invariant is that a slot is never without a process because of us: the new one is ready, on the same sockets,
before the old one is asked to go. While both are there both accept, and each connection belongs to one of them.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from proxy.logs import LOGGER_NAME
from proxy.supervisor_child import Child
from proxy.supervisor_link import AT_ONCE, DRAIN, RETIRE, Message
from proxy.supervisor_sockets import SlotSockets

READY_PATIENCE_S: Final = 20.0

_log = logging.getLogger(LOGGER_NAME)


class Workers:
    """All slots of one product.

    Args:
        slots: The sockets of each slot.
        command: Makes a worker's command line from the descriptors it listens on, and whether another one serves
            there until it is ready.
        greet, on_message, on_exit: See ``Child``.
        patience_s: How long a worker may take to end, until it says itself.
    """

    def __init__(
        self,
        slots: Sequence[SlotSockets],
        command: Callable[[Sequence[int], bool], Sequence[str]],
        *,
        greet: Callable[[Child], None],
        on_message: Callable[[Child, Message], None],
        on_exit: Callable[[Child, int, float], None],
        patience_s: float,
    ) -> None:
        self._slots = tuple(slots)
        self._command = command
        self._greet = greet
        self._on_message = on_message
        self._on_exit = on_exit
        self._patience_s = patience_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._stopping = False
        self.current = [self._make(number) for number in range(len(self._slots))]
        self.joining: Child | None = None
        self.retiring: Child | None = None

    def __iter__(self) -> Iterator[Child]:
        """Every worker that has a process or gets one."""
        yield from self.current
        yield from (child for child in (self.joining, self.retiring) if child is not None)

    def start(self) -> None:
        """Start the first process of every slot."""
        for child in self.current:
            self._spawn(child.keep(), child.name)

    def replace_all_soon(self) -> None:
        """Begin a rolling restart, unless one is under way."""
        if self._one_at_a_time.locked():
            _log.warning("a rolling restart is under way already; this request changes nothing")
            return
        self._spawn(self._replace_all(), "rolling-restart")

    def replace_soon(self, child: Child) -> None:
        """Begin to replace one worker, which wants to go."""
        self._spawn(self._replace_one(child), f"replace-{child.name}")

    async def stop(self, how: str = DRAIN) -> bool:
        """End all workers and every restart; True when all ended by themselves."""
        self._stopping = True
        # The workers hold the port now, and with the last of them it is given up.
        for slot in self._slots:
            slot.close()
        ended = await asyncio.gather(*(child.stop(self._patience_s, how) for child in self))
        while self._tasks:
            await asyncio.wait(self._tasks)
        return all(ended)

    def hurry(self, patience_s: float) -> None:
        """Let no worker wait for anything any more."""
        for child in self:
            child.hurry(patience_s, {"stop": AT_ONCE})

    async def _replace_all(self) -> None:
        async with self._one_at_a_time:
            for child in list(self.current):
                if not await self._replace(child):
                    return
            if not self._stopping:
                _log.info("rolling restart done: %d workers replaced", len(self.current))

    async def _replace_one(self, child: Child) -> None:
        async with self._one_at_a_time:
            await self._replace(child)

    async def _replace(self, old: Child) -> bool:
        """Put a new process in the place of ``old``; False if the old one has to go on."""
        if self._stopping or old not in self.current:
            return not self._stopping
        number = self.current.index(old)
        new = self.joining = self._make(number, is_successor=True)
        self._spawn(new.keep(), new.name)
        is_ready = await new.became_ready(READY_PATIENCE_S)
        if self._stopping:
            return False
        self.joining = None
        if not is_ready:
            _log.error("the new %s did not become ready; the old one goes on serving", new.name)
            new.kill()
            return False
        self.current[number], self.retiring = new, old
        await old.stop(self._patience_s, RETIRE)
        self.retiring = None
        return not self._stopping

    def _make(self, number: int, *, is_successor: bool = False) -> Child:
        descriptors = self._slots[number].descriptors
        return Child(
            f"worker-{number + 1}",
            lambda start: self._command(descriptors, is_successor and start == 0),
            greet=self._greet,
            on_message=self._on_message,
            on_exit=self._on_exit,
            descriptors=descriptors,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
