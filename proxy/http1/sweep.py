"""One coarse timer for all deadlines of a server or a pool.

Invariant: while it runs, ``soon`` is the clock rounded up by at most one interval, so hot paths can set
deadlines without reading a clock, and none ends early; it runs only while there is something to watch.
"""

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.1
_LATE_FACTOR = 4


class Sweeper:
    """Calls ``tick(now)`` every ``INTERVAL_S`` until it returns False; ``start`` sets it going again.

    When the loop itself was blocked for several intervals, sockets may hold bytes that nobody could read yet:
    one round is then skipped, so that our own lag is not blamed on a peer.
    """

    __slots__ = ("_clock", "_handle", "_loop", "_now", "_skipped", "_tick", "soon")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], tick: Callable[[float], bool]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._tick = tick
        self._handle: asyncio.TimerHandle | None = None
        self._skipped = False
        self._now = clock()
        self.soon = self._now + INTERVAL_S

    def start(self) -> None:
        """Run, if not running already."""
        if self._handle is None:
            self._read_clock()
            self._handle = self._loop.call_later(INTERVAL_S, self._run)

    def stop(self) -> None:
        """Stop for now."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        before = self._now
        self._read_clock()
        self._skipped = not self._skipped and self._now - before > _LATE_FACTOR * INTERVAL_S
        self._handle = self._loop.call_later(INTERVAL_S, self._run)
        if not self._skipped and not self._tick(self._now):
            self.stop()

    def _read_clock(self) -> None:
        self._now = self._clock()
        self.soon = self._now + INTERVAL_S
