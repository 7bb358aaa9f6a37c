"""One worker's lease on one limit of one subject in one window, and what can be told of it.

Invariant: a lease lowers itself to what it is going to keep before it says so, and is raised only by a grant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from optimizer.lease_terms import LARGEST, NANO, RATES, Claim, Grant, nano
from optimizer.routing import Quota
from proxy.admission.rate_limited import Limited, ratelimit_headers

NEVER: Final = -(1 << 62)
AMOUNT_OF: Final[Mapping[str, int]] = {"requests": 0, "tokens": 1, "usd_day": 2, "usd_month": 2}
"""Which of (requests, tokens, nano-dollars) a measure counts."""


class Clockwork(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], object], /) -> Any: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any: ...


class Meter:
    """One limit of one subject in one window; see the module. Amounts are integers of ``lease_terms``."""

    __slots__ = (
        "at",
        "chunk",
        "denied",
        "denied_until",
        "end",
        "free",
        "left",
        "limit",
        "low",
        "measure",
        "reserved",
        "serial",
        "spent",
        "start",
        "subject",
        "touched",
        "unallocated",
        "used",
    )

    def __init__(self, subject: str, measure: str, limit: int, window: tuple[int, int], serial: int) -> None:
        self.subject = subject
        self.measure = measure
        self.limit = limit
        self.start, self.end = window
        self.serial = serial
        self.free = 0
        self.reserved = 0
        self.used = 0
        self.unallocated = limit  # what nobody holds, as far as was last heard
        self.low = NEVER  # below this much of `free` it is time to ask for more
        self.chunk = 0  # how much to be ahead by
        self.spent = 0  # since the last refresh
        self.denied = 0
        self.denied_until = 0.0
        self.touched = False
        self.left = False  # another holder took over; what is free here only goes back
        self.at = 0.0

    @property
    def remaining(self) -> int:
        """What could still be had here."""
        return max(0, self.free + self.unallocated)

    def claim(self, need: int) -> Claim:
        """What to tell the optimizer. Lowers itself first to what it is going to keep."""
        self.free = min(self.free, self.chunk) if self.free > 0 else self.free
        spare = max(0, self.free)
        return Claim(
            self.subject,
            self.measure,
            self.start,
            self.serial,
            self.limit,
            min(self.used, LARGEST),
            min(self.used + self.reserved + spare, LARGEST),
            need,
            max(need, self.chunk - spare),
        )

    def take(self, grant: Grant) -> None:
        """Follow the optimizer's answer."""
        self.free = grant.granted - self.used - self.reserved
        self.unallocated = grant.unallocated
        self.low = self.free // 2 if grant.unallocated > 0 and self.chunk > 0 else NEVER


Parts = Sequence[tuple[Meter, int]]
"""What one request reserves, or would."""


def limits_of(quota: Quota) -> list[tuple[str, int]]:
    """The limits that there are, budgets in nano-dollars."""
    found = [
        ("requests", quota.requests_per_minute),
        ("tokens", quota.tokens_per_minute),
        ("usd_day", None if quota.usd_per_day is None else nano(quota.usd_per_day)),
        ("usd_month", None if quota.usd_per_month is None else nano(quota.usd_per_month)),
    ]
    return [(measure, min(LARGEST, max(0, limit))) for measure, limit in found if limit is not None]


def header_lines(parts: Parts, now: float) -> bytes:
    """Lines about the tightest limit of each rate."""
    tightest: dict[str, tuple[int, Meter]] = {}
    for meter, _ in parts:
        if meter.measure in RATES:
            left = meter.remaining
            if meter.measure not in tightest or left < tightest[meter.measure][0]:
                tightest[meter.measure] = left, meter
    return b"".join(
        [
            ratelimit_headers(measure, meter.limit, left, meter.end - now)
            for measure, (left, meter) in tightest.items()
        ]
    )


def limited(meter: Meter) -> Limited:
    """The meter as callers are told of it."""
    one = unit(meter)
    return Limited(meter.subject, meter.measure, meter.limit / one, meter.remaining / one, meter.end)


def unit(meter: Meter) -> int:
    """How many of a meter's integers make one dollar, request or token."""
    return 1 if meter.measure in RATES else NANO
