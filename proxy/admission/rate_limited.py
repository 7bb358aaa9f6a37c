"""How a caller is told about limits: the refusals, and the ``x-ratelimit-*`` header lines.

Invariant: whoever is refused learns which limit of whom it was, when it resets, and whether coming back helps.
"""

import time
from math import ceil
from typing import Final, NamedTuple

from optimizer.lease_terms import PERIODS, RATES
from proxy.errors import ProxyError

AWAY_S: Final = 2.0
"""When to come back if nobody could say what is left."""


class Limited(NamedTuple):
    """One limit as it stands; dollars for budgets. ``resets_at`` is Unix seconds."""

    subject: str
    measure: str
    limit: float
    remaining: float
    resets_at: int


class RateLimited(ProxyError):
    """A limit refuses the request: 429, or 503 when nobody could say what is left of it.

    ``retry_after_s`` is when coming back may help; ``headers`` are the lines to answer with, ``Retry-After`` included.
    """

    status = 429
    code = "rate_limit_exceeded"
    kind = "requests"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        kind: str,
        retry_after_s: float,
        headers: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.headers = b"retry-after: %d\r\n" % max(1, ceil(retry_after_s)) + headers


def exceeded(limited: Limited, amount: float, now: float, headers: bytes) -> RateLimited:
    """The refusal of a request that takes ``amount`` (requests, tokens, or dollars) where less is left."""
    wait_s = max(0.0, limited.resets_at - now)
    whose, period = _whose(limited.subject), PERIODS[limited.measure]
    when = f"It resets in {_duration(wait_s)}, at {_clock(limited.resets_at)} UTC."
    if limited.measure not in RATES:
        return RateLimited(
            f"The budget of {whose} is used up: ${limited.limit:g} per {period}, ${limited.remaining:.6g} of it "
            f"left, and this request may cost ${amount:.6g}. {when}",
            status=429,
            code="budget_exceeded",
            kind="insufficient_quota",
            retry_after_s=wait_s,
            # Clients that would try again by themselves only waste their time.
            headers=b"x-should-retry: false\r\n" + headers,
        )
    if amount > limited.limit > 0:
        return RateLimited(
            f"The request is too large for {whose}: it may take {amount:.0f} {limited.measure}, and the limit is "
            f"{limited.limit:.0f} per {period}. Send less, or ask for fewer output tokens.",
            status=429,
            code="rate_limit_exceeded",
            kind=limited.measure,
            retry_after_s=wait_s,
            headers=b"x-should-retry: false\r\n" + headers,
        )
    return RateLimited(
        f"Rate limit of {whose} reached: {limited.limit:.0f} {limited.measure} per {period}, "
        f"{limited.remaining:.0f} left, {amount:.0f} asked for. {when}",
        status=429,
        code="rate_limit_exceeded",
        kind=limited.measure,
        retry_after_s=wait_s,
        headers=headers,
    )


def away(limited: Limited, now: float) -> RateLimited:
    """The refusal when nobody who counts can be asked (the optimizer, or Redis where nodes share limits), and the
    settings say to stay closed.
    """
    is_rate = limited.measure in RATES
    what = f"{limited.measure} limit" if is_rate else "budget"
    setting = "access.when_optimizer_away." + ("rates" if is_rate else "budgets")
    return RateLimited(
        f"Nobody can say what is left of the {what} of {_whose(limited.subject)}: who counts it does not answer, "
        f"and {setting} is 'closed'. Try again soon.",
        status=503,
        code="limits_unavailable",
        kind="service_unavailable",
        retry_after_s=min(AWAY_S, max(1.0, limited.resets_at - now)),
    )


def ratelimit_headers(measure: str, limit: int, remaining: int, wait_s: float) -> bytes:
    """Lines for one rate limit; ``measure`` is ``requests`` or ``tokens``."""
    name = measure.encode()
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        *(name, limit),
        *(name, remaining),
        *(name, _duration(max(0.0, wait_s)).encode()),
    )


def _duration(seconds: float) -> str:
    """Whole seconds, rounded up, in the notation of OpenAI's headers: ``6m0s``."""
    whole = ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _clock(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _whose(subject: str) -> str:
    kind, _, name = subject.partition(":")
    return f"client key {name!r}" if kind == "key" else f"{kind} {name!r}"
