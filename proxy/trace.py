"""W3C trace context: which trace a request belongs to, and what its upstreams are told about it.

Pure but for the random numbers of new ids. With tracing on every request is a span of ours, whose parent is the
caller's, and every attempt a span below it; the upstream is told that of its attempt. With tracing off the caller's
headers go on as they came, and the log only notes where the request belongs. A header that is not what the
specification says counts as none.
"""

import random
import re
from collections.abc import Callable, MutableMapping
from time import perf_counter
from typing import Any, Final, NamedTuple

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
SAMPLED: Final = 1

# Version 00 ends there; a later one may say more.
_HEADER: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_SPANS: Final = 1 << 64
# A trace is sampled by the end of its id, so that everybody who takes the same share takes the same traces.
_SHARES: Final = 1 << 56


class Parent(NamedTuple):
    """What a caller says of its own span; ids in lower-case hex."""

    trace_id: str
    span_id: str
    flags: int


def parse(value: bytes | None) -> Parent | None:
    """Read a ``traceparent`` header; None if there is none or it is not valid.

    Versions that are not known yet are read as far as version 00 goes, as the specification asks.
    """
    found = _HEADER.fullmatch(value) if value is not None else None
    if found is None or (found[4] is not None and found[0][:2] == b"00"):
        return None
    return Parent(found[1].decode(), found[2].decode(), int(found[3], 16))


class Trace:
    """A request's place in its trace. ``span`` is the number of our span; 0 when we make none.

    The spans of attempts have the numbers after it.
    """

    __slots__ = ("_launched", "_state", "flags", "parent_id", "span", "trace_id")

    def __init__(self, trace_id: str, parent_id: str, flags: int, span: int, state: bytes) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.flags = flags
        self.span = span
        self._state = state
        self._launched: list[tuple[str, str | None, float]] = []

    def launched(self, why: str, arm: str | None, begun_at: float) -> bytes:
        """The headers for an attempt that begins now. ``begun_at`` is when the request came, by ``perf_counter``."""
        if not self.span:
            return b""  # The caller's own go on with its other headers.
        self._launched.append((why, arm, (perf_counter() - begun_at) * 1000))
        span = self._span(len(self._launched))
        return f"traceparent: 00-{self.trace_id}-{span}-{self.flags:02x}\r\n".encode() + self._state

    def note(self, data: dict[str, Any]) -> None:
        """Put the ids into the ``data`` of the request's event, and into its attempts."""
        data["trace_id"] = self.trace_id
        data["trace_flags"] = self.flags
        if self.parent_id:
            data["parent_span_id"] = self.parent_id
        if not self.span:
            return
        data["span_id"] = self._span(0)
        rows: list[dict[str, Any]] = data.get("attempts", [])
        launched = [*enumerate(self._launched, 1)]
        for row in rows:
            # The row that served is the last one, whenever it was begun; of several alike ones the first began first.
            why = row.get("why")
            found = next((one for one in launched if why is None or one[1][:2] == (why, row["arm"])), None)
            if found is not None:
                launched.remove(found)
                number, (_, _, at_ms) = found
                row["span_id"] = self._span(number)
                row["at_ms"] = round(at_ms, 3)

    def _span(self, number: int) -> str:
        return f"{(self.span + number) % _SPANS or 1:016x}"


class Tracer:
    """Begins the traces of one worker's requests. ``rate`` is the share of new traces that are sampled; None is off."""

    def __init__(self, bits: Callable[[int], int] | None = None) -> None:
        """``bits`` gives random integers of so many bits."""
        self.rate: float | None = None
        # Ids have to be different, not secret.
        self._bits = bits if bits is not None else random.Random().getrandbits  # noqa: S311

    def begin(self, headers: MutableMapping[bytes, bytes]) -> Trace | None:
        """The trace of a request, None when it belongs to none.

        With tracing on this takes the caller's trace headers out of ``headers``: upstreams get ours instead.
        """
        parent = parse(headers.get(TRACEPARENT))
        rate = self.rate
        if rate is None:
            return (
                Trace(parent.trace_id, parent.span_id, parent.flags, 0, b"") if parent is not None else None
            )
        headers.pop(TRACEPARENT, None)
        state = headers.pop(TRACESTATE, b"")
        span = self._bits(64) or 1
        if parent is not None:
            block = b"tracestate: %b\r\n" % state if state else b""
            return Trace(parent.trace_id, parent.span_id, parent.flags & SAMPLED, span, block)
        number = self._bits(128) or 1
        flags = SAMPLED if number % _SHARES < rate * _SHARES else 0
        return Trace(f"{number:032x}", "", flags, span, b"")
