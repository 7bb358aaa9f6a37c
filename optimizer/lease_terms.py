"""What a worker and the optimizer say to each other about limits: measures, windows, claims and grants.

Invariant: every number is absolute within one window of one holder, so saying a thing twice means it once.
Amounts are integers (requests, tokens, nano-dollars), so sums are exact. Stdlib and orjson only: workers import this.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
USD_DAY: Final = "usd_day"
USD_MONTH: Final = "usd_month"
MEASURES: Final = (REQUESTS, TOKENS, USD_DAY, USD_MONTH)
RATES: Final = frozenset((REQUESTS, TOKENS))
PERIODS: Final[Mapping[str, str]] = {REQUESTS: "minute", TOKENS: "minute", USD_DAY: "day", USD_MONTH: "month"}

NANO: Final = 1_000_000_000
LARGEST: Final = 1 << 61
"""No amount is larger, so that sums of two still fit what JSON and SQLite hold."""
MAX_CLAIMS: Final = 512

_MINUTE_S: Final = 60
_DAY_S: Final = 86_400


class Windows(NamedTuple):
    """The minute, day and month that one moment lies in, as Unix seconds; each ends where the next one begins."""

    minute: int
    minute_end: int
    day: int
    day_end: int
    month: int
    month_end: int

    def of(self, measure: str) -> tuple[int, int]:
        """Start and end of the window in which ``measure`` is counted."""
        match PERIODS[measure]:
            case "minute":
                return self.minute, self.minute_end
            case "day":
                return self.day, self.day_end
            case _:
                return self.month, self.month_end


class Claim(NamedTuple):
    """One holder's state of one meter.

    ``serial`` numbers the holders within a worker: who forgets its numbers comes back under another one, and what
    it held stays counted. ``used`` is settled; ``hold`` is what it keeps (used, reserved and still free), to which it
    has already lowered itself; ``need`` is wanted beyond that by requests that wait, ``want`` (>= need) to be ahead.
    """

    subject: str
    measure: str
    start: int
    serial: int
    limit: int
    used: int
    hold: int
    need: int
    want: int


class Grant(NamedTuple):
    """The answer: how much the holder has in all (>= ``hold``), and how much nobody holds yet."""

    granted: int
    unallocated: int


class Grants(NamedTuple):
    """The answer to a report: one entry for each claim, None where there is none.

    ``wait_s`` is how long a request may be held up for such an answer; 0 says nothing about it.
    """

    grants: Sequence[Grant | None]
    wait_s: float = 0.0


class Report(NamedTuple):
    """What one worker sends. ``sequence`` grows with every report of one incarnation."""

    worker: int
    sequence: int
    claims: Sequence[Claim]


def windows(now: float) -> Windows:
    """The windows around ``now`` (Unix seconds), in UTC."""
    second = int(now // 1)
    minute, day = second - second % _MINUTE_S, second - second % _DAY_S
    first = datetime.fromtimestamp(day, UTC).replace(day=1)
    later = first.replace(year=first.year + 1, month=1) if first.month == 12 else None
    following = later or first.replace(month=first.month + 1)
    return Windows(
        minute, minute + _MINUTE_S, day, day + _DAY_S, int(first.timestamp()), int(following.timestamp())
    )


def end_of(measure: str, start: int) -> int:
    """When the window of ``measure`` that begins at ``start`` ends."""
    return windows(start).of(measure)[1]


def nano(usd: float) -> int:
    """Dollars as nano-dollars, within 0 and ``LARGEST``; what is no number is nothing."""
    return min(LARGEST, max(0, round(usd * NANO))) if isfinite(usd) else 0


def encode_report(report: Report) -> bytes:
    """A report as JSON."""
    document = {"worker": report.worker, "sequence": report.sequence, "claims": report.claims}
    return orjson.dumps(document, default=tuple)


def decode_report(data: bytes) -> Report:
    """A report from JSON.

    Raises:
        ValueError: It is none.
    """
    document = orjson.loads(data)
    try:
        claims = [Claim(*row) for row in document["claims"]]
        report = Report(document["worker"], document["sequence"], claims)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a report: {error!r}") from error
    if len(claims) > MAX_CLAIMS or not _are_amounts(report[:2]):
        raise ValueError("a report has a worker, a sequence and no more claims than allowed")
    for claim in claims:
        if claim.measure not in MEASURES or not isinstance(claim.subject, str):
            raise ValueError(f"no such meter: {claim.subject!r} {claim.measure!r}")
        if not _are_amounts(claim[2:]):
            raise ValueError(f"not an amount in {claim!r}")
    return report


def encode_grants(answer: Grants) -> bytes:
    """The answer as JSON."""
    document: dict[str, object] = {"grants": answer.grants}
    if answer.wait_s:
        document["wait_s"] = answer.wait_s
    return orjson.dumps(document, default=tuple)


def decode_grants(data: bytes) -> Grants:
    """The answer from JSON.

    Raises:
        ValueError: It is none.
    """
    try:
        document = orjson.loads(data)
        rows: list[Any] = document["grants"]
        grants = [None if row is None else Grant(*row) for row in rows]
        wait_s = float(document.get("wait_s", 0.0))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an answer: {error!r}") from error
    if not all(grant is None or _are_amounts(grant) for grant in grants) or not 0 <= wait_s <= 1:
        raise ValueError("not an amount in the answer")
    return Grants(grants, wait_s)


def _are_amounts(values: Sequence[object]) -> bool:
    return all(type(value) is int and 0 <= value <= LARGEST * 2 for value in values)
