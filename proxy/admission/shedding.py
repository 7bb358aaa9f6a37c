"""When to refuse new requests because the event loop is behind, and how many to take then.

A turn of the loop reads every ready socket and then begins what it read, so how long a turn takes is how long a
request waits before anybody looks at it. A burst makes one long turn; only if all turns of an interval were long is
there a standing queue, which more patience will not shorten. Then each turn begins as many requests as fit a small
slice of time and the rest are refused where they stand, until for a whole interval nobody had to be.

Invariant: off, the detector costs a request one attribute; it looks at a clock twice a turn.
"""

from collections.abc import Callable
from time import perf_counter

# The interval in which every turn must have been long, in targets.
_INTERVAL_TARGETS = 5.0
# What a turn may spend on beginning requests while shedding: at least this, in seconds.
_SLICE_S = 0.002
_LEAST_TAKEN = 4
# The cost of a request is tracked as a median, in steps: a process that was put to sleep must not look dear.
_STEP_UP, _STEP_DOWN = 1.1, 0.9


class Shedder:
    """See the module. ``on`` says whether ``takes`` must be asked, ``refused`` counts what it turned away.

    ``target_s`` is the standing delay from which on requests are refused; 0 switches it off for good.
    """

    __slots__ = (
        "_clock",
        "_cost_s",
        "_first_at",
        "_last_end",
        "_left",
        "_long_since",
        "_refused_at",
        "_refused_before",
        "on",
        "refused",
        "target_s",
    )

    def __init__(self, target_s: float, *, clock: Callable[[], float] = perf_counter) -> None:
        self.target_s = target_s
        self.on = False
        self.refused = 0
        self._clock = clock
        self._cost_s = 0.0001  # of beginning one request
        self._first_at = 0.0
        self._last_end = 0.0
        self._left = 0
        self._long_since: float | None = None
        self._refused_at = 0.0
        self._refused_before = 0

    def takes(self) -> bool:
        """Whether one more request is begun in this turn. Asked only while ``on``."""
        if self._left > 0:
            self._left -= 1
            return True
        self.refused += 1
        return False

    def gathering(self) -> None:
        """The first piece of work of a turn is there. Asked before ``takes``."""
        self._first_at = now = self._clock()
        if self.on:
            # Time in which nothing was begun is time in which nobody new waited: a burst may use some of it.
            slice_s = max(_SLICE_S, min((now - self._last_end) / 2, self.target_s / 2))
            self._left = max(_LEAST_TAKEN, int(slice_s / self._cost_s))

    def ran(self, begun_at: float, pieces: int) -> None:
        """A turn's work is done: ``pieces`` of it (0 if all was refused) since ``begun_at`` on the same clock."""
        now = self._clock()
        target = self.target_s
        if pieces:
            self._cost_s *= _STEP_UP if now - begun_at > pieces * self._cost_s else _STEP_DOWN
        idle = self._first_at - self._last_end > max(target, _SLICE_S)
        self._last_end = now
        if self.on:
            if self.refused != self._refused_before:
                self._refused_before = self.refused
                self._refused_at = now
            elif now - self._refused_at > _INTERVAL_TARGETS * target:
                self.on = False
                self._long_since = None
        elif target <= 0.0 or now - self._first_at < target:
            self._long_since = None
        elif self._long_since is None or idle:
            self._long_since = self._first_at
        elif now - self._long_since > _INTERVAL_TARGETS * target:
            self.on = True
            self._refused_at = now
