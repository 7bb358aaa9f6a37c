"""How a worker leaves: asked once or several times, by its supervisor or by a signal; each time it goes as asked.

The invariant is that whoever sends callers here learns it before the port is given up: first replies say
``connection: close`` (and, when the whole product stops, readiness is off), then accepting ends, then what is under
way ends or is cut so that its caller can see it, then what is left to log is written.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from proxy.supervisor_link import AT_ONCE, DRAIN, RETIRE

if TYPE_CHECKING:
    from proxy.worker import Worker

_log = logging.getLogger("llm_optimizer.worker")


class Departure:
    """Waits for the word to leave and carries it out.

    Args:
        worker: Who leaves.
        tell: Sends a message to the supervisor; None without one.
    """

    def __init__(self, worker: "Worker", *, tell: Callable[[Mapping[str, Any]], object] | None) -> None:
        self._worker = worker
        self._tell = tell
        self._how = ""
        self._signals = 0
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()

    def ask(self, how: str) -> None:
        """Leave as ``how`` says; once leaving, only ``AT_ONCE`` changes anything."""
        if how == AT_ONCE:
            self._at_once.set()
        if not self._asked.is_set():
            self._how = how
            self._asked.set()

    def on_signal(self) -> None:
        """Somebody signalled this very process.

        The first signal asks the supervisor for a successor, because callers would wait in the slot's queue
        until this process has ended. Service managers signal every process of a group, so it is not taken for
        more than that.
        """
        self._signals += 1
        if self._tell is None or self._signals > 1:
            self.ask(AT_ONCE if self._asked.is_set() else DRAIN)
        else:
            self._tell({"leaving": True})

    async def run(self) -> int:
        """Wait to be asked, then leave; returns how many requests were cut."""
        await self._asked.wait()
        worker, limits = self._worker, self._worker.limits
        retires = self._how == RETIRE
        delay_s = limits.drain_delay_s if self._how == DRAIN else 0.0
        if self._tell is not None:
            self._tell({"draining": delay_s + limits.drain_s})
        # The product as a whole goes on when a worker is replaced, so health checks must not notice.
        worker.plane.draining = not retires
        worker.server.announce_drain()
        if delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), delay_s)
        cut = await self._drain(limits.drain_s)
        if cut:
            _log.warning("%d requests were still under way and were cut", cut)
        worker.close()
        return cut

    async def _drain(self, seconds: float) -> int:
        server = self._worker.server
        if not self._at_once.is_set():
            drained = asyncio.ensure_future(server.drain(seconds))
            hurry = asyncio.ensure_future(self._at_once.wait())
            await asyncio.wait((drained, hurry), return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if drained.done():
                return drained.result()
            drained.cancel()
            with suppress(asyncio.CancelledError):
                await drained
        return await server.drain(0.0)
