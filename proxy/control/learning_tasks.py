"""What one ``Learning`` does in the background, as tasks that never die in silence."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.control.learning import Learning
from proxy.control.tasks import Tasks

WATCH_S: Final = 0.05
CONTROL_S: Final = 0.2


class LearningTasks:
    """Runs a learning until ``stop``; ``prefix`` tells the tasks of several apart.

    Args:
        learning: What works.
        tasks: Where the tasks live.
        prefix: Before every name.
    """

    def __init__(self, learning: Learning, tasks: Tasks, *, prefix: str = "") -> None:
        self._learning = learning
        self._tasks = tasks
        self._reloaded = asyncio.Event()
        self._work: dict[str, Callable[[], Awaitable[None]]] = {
            f"{prefix}publish": self._publish,
            f"{prefix}contexts": self._refresh_contexts,
            f"{prefix}rollout-watch": partial(_every, WATCH_S, learning.optimizing.watch),
            f"{prefix}rollout-control": self._control_rollouts,
            f"{prefix}strategies": self._look_for_changes,
        }

    def start(self) -> None:
        """Start every task."""
        for name, work in self._work.items():
            self._tasks.spawn(name, work)

    async def stop(self) -> None:
        """End every task and wait until they have ended."""
        for name in self._work:
            await self._tasks.cancel(name)

    def reloaded(self) -> None:
        """A new configuration may have the route that a strategy waited for, or another interval."""
        self._reloaded.set()

    async def _publish(self) -> None:
        while True:
            self._learning.publish_learned()
            await asyncio.sleep(self._learning.settings.publish_interval_s)

    async def _refresh_contexts(self) -> None:
        learning = self._learning
        await learning.contextual.run(lambda: learning.settings, lambda: learning.publication.table)

    async def _control_rollouts(self) -> None:
        while True:
            await self._learning.optimizing.controller.tick()
            await asyncio.sleep(CONTROL_S)

    async def _look_for_changes(self) -> None:
        while True:
            self._reloaded.clear()
            await self._learning.optimizing.strategist.round()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._learning.settings.optimization.interval_s):
                    await self._reloaded.wait()


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        work()
        await asyncio.sleep(seconds)
