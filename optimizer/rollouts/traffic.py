"""How busy a route is and how slow its control: what a plan needs to say how long it will take and what to compare.

Times and counts are arguments; nothing here reads a clock.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import erf, exp, log, sqrt
from typing import Final

from policies.types import ArmEvidence, Moments

WINDOW_S: Final = 600.0
_BUCKET_S: Final = 10.0
_SLOW_SHARE: Final = 0.05
_LEAST_WEIGHT: Final = 20.0
_STEPS: Final = 60


class Rates:
    """Requests per second per route over the last ten minutes."""

    def __init__(self, *, now: float) -> None:
        self._started = now
        self._buckets: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, counts: Mapping[str, int], *, now: float) -> None:
        """Count requests by route, as seen at ``now``."""
        if counts:
            begin = now - now % _BUCKET_S
            if not self._buckets or self._buckets[-1][0] != begin:
                self._buckets.append((begin, {}))
            bucket = self._buckets[-1][1]
            for route, count in counts.items():
                bucket[route] = bucket.get(route, 0) + count
        while self._buckets and self._buckets[0][0] < now - WINDOW_S:
            self._buckets.popleft()

    def per_second(self, route: str, *, now: float) -> float:
        """The mean rate since the window or this object began; 0 for an idle route."""
        total = sum(counts.get(route, 0) for begin, counts in self._buckets if begin >= now - WINDOW_S)
        return total / max(min(WINDOW_S, now - self._started), 1.0)


def p95_ms(evidence: Sequence[ArmEvidence], shares: Sequence[float]) -> float | None:
    """The 95th percentile of what a route's callers wait for, in milliseconds; None while too little is known.

    Time to the first token for streams and the whole time otherwise, from the log-normal fits of the arms, mixed by
    their shares of traffic.
    """
    parts: list[tuple[float, float, float]] = []
    for arm, share in zip(evidence, shares, strict=True):
        latency, ttft = arm.signal("latency"), arm.signal("ttft")
        if share <= 0.0 or latency.weight < _LEAST_WEIGHT:
            continue
        streams = min(ttft.weight / latency.weight, 1.0)
        parts += [_part(latency, share * (1.0 - streams)), _part(ttft, share * streams)]
    parts = [part for part in parts if part[0] > 0.0]
    if not parts:
        return None
    total = sum(share for share, _, _ in parts)
    low, high = log(1e-6), log(1e5)
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if sum(share * _above(middle, mean, spread) for share, mean, spread in parts) > _SLOW_SHARE * total:
            low = middle
        else:
            high = middle
    return 1000.0 * exp(high)


def _part(moments: Moments, share: float) -> tuple[float, float, float]:
    return (
        (share, moments.mean, max(sqrt(moments.variance), 1e-6)) if moments.weight > 0.0 else (0.0, 0.0, 1.0)
    )


def _above(value: float, mean: float, spread: float) -> float:
    return 0.5 * (1.0 - erf((value - mean) / (spread * sqrt(2.0))))
