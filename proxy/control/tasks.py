"""Background tasks that never die in silence: a death is logged and counted, and the task starts again.

This is the only place of the optimizer process that makes tasks, so ``close`` ends every one of them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.logs import LOGGER_NAME

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 30.0
SETTLED_AFTER_S: Final = 60.0

_log = logging.getLogger(LOGGER_NAME)


class Tasks:
    """The running tasks of one process.

    ``deaths`` counts, by task name, how often one had to be restarted; ``down`` names those that wait for it now.
    """

    def __init__(self) -> None:
        self.deaths: Counter[str] = Counter()
        self.down: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of those that run or are about to start again."""
        return frozenset(self._running)

    def spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start ``run`` and start it again, with back-off, whenever it raises; returning normally ends it.

        Raises:
            ValueError: A task of this name runs already.
        """
        if name in self._running:
            raise ValueError(f"a task named {name!r} is running")
        task = asyncio.get_running_loop().create_task(self._keep(name, run), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))

    async def cancel(self, name: str) -> None:
        """End one task and wait until it has ended; an unknown name is no error."""
        await _end([task for task in (self._running.get(name),) if task is not None])

    async def finish(self, name: str, *, patience_s: float) -> None:
        """Wait for a task that was asked to end, and cancel it after ``patience_s``."""
        task = self._running.get(name)
        if task is not None:
            await asyncio.wait({task}, timeout=patience_s)
            await _end([task])

    async def close(self) -> None:
        """End all tasks and wait until they have ended."""
        await _end(list(self._running.values()))

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        delay = FIRST_DELAY_S
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await run()
            except Exception:  # noqa: BLE001 - the outermost frame of a task; it is logged and counted
                self.deaths[name] += 1
                if clock() - started >= SETTLED_AFTER_S:
                    delay = FIRST_DELAY_S
                _log.exception("task %s died; it starts again in %.1f s", name, delay)
                self.down.add(name)
                try:
                    await asyncio.sleep(delay)
                finally:
                    self.down.discard(name)
                delay = min(delay * 2, LONGEST_DELAY_S)
            else:
                return


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
