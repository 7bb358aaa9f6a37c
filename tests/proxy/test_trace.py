"""W3C trace context: what is read, what is refused, what upstreams and the log are told."""

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.trace import TRACEPARENT, TRACESTATE, Parent, Tracer, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01".encode()


def tracer(rate: float | None) -> Tracer:
    made = Tracer(random.Random(1).getrandbits)
    made.rate = rate
    return made


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (VALID, 1),
        (f"00-{TRACE}-{SPAN}-00".encode(), 0),
        (f"00-{TRACE}-{SPAN}-ff".encode(), 255),
        (f"01-{TRACE}-{SPAN}-01".encode(), 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be".encode(), 1),
        (f"cc-{TRACE}-{SPAN}-01-".encode(), 1),
    ],
)
def test_a_valid_header_is_read(header: bytes, flags: int) -> None:
    assert parse(header) == Parent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        VALID[:-1],
        VALID + b"0",
        VALID + b"-extra",  # version 00 ends there
        VALID + b", " + VALID,  # two headers
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"cc-{TRACE}-{SPAN}-01.later".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{SPAN}-0g".encode(),
        f"0-{TRACE}-{SPAN}-01".encode(),
        f"00_{TRACE}_{SPAN}_01".encode(),
        f" 00-{TRACE}-{SPAN}-01".encode(),
        VALID + b"\n",
        b"\xff" * 55,
    ],
)
def test_what_is_not_valid_counts_as_none(header: bytes | None) -> None:
    assert parse(header) is None


@given(st.binary(max_size=80))
def test_nothing_in_a_header_breaks_it(header: bytes) -> None:
    found = parse(header)
    assert found is None or re.fullmatch(r"[0-9a-f]{32}", found.trace_id)


def launched(headers: dict[bytes, bytes], rate: float | None) -> tuple[Any, bytes]:
    trace = tracer(rate).begin(headers)
    assert trace is not None
    return trace, trace.launched("first", "a", 0.0)


def test_with_tracing_off_the_callers_headers_go_on_and_the_log_says_where_it_belongs() -> None:
    headers = {TRACEPARENT: VALID, TRACESTATE: b"vendor=1"}
    trace, block = launched(headers, None)
    data: dict[str, Any] = {"attempts": [{"arm": "a"}]}
    trace.note(data)
    assert block == b""
    assert headers == {TRACEPARENT: VALID, TRACESTATE: b"vendor=1"}
    assert data == {
        "attempts": [{"arm": "a"}],
        "trace_id": TRACE,
        "trace_flags": 1,
        "parent_span_id": SPAN,
    }
    assert tracer(None).begin({}) is None
    assert tracer(None).begin({TRACEPARENT: b"nonsense"}) is None


def test_with_tracing_on_the_upstream_is_told_the_span_of_its_attempt() -> None:
    headers = {TRACEPARENT: VALID, TRACESTATE: b"vendor=1", b"x": b"y"}
    trace, first = launched(headers, 0.0)
    second = trace.launched("retry", "a", 0.0)
    data: dict[str, Any] = {"attempts": [{"arm": "a", "why": "first"}, {"arm": "a", "why": "retry"}]}
    trace.note(data)
    assert headers == {b"x": b"y"}
    spans = [row["span_id"] for row in data["attempts"]]
    assert len({data["span_id"], SPAN, *spans}) == 4
    # The caller has sampled it, whatever our own share is.
    for span, block in zip(spans, (first, second), strict=True):
        assert block == f"traceparent: 00-{TRACE}-{span}-01\r\ntracestate: vendor=1\r\n".encode()
    assert (data["trace_id"], data["parent_span_id"], data["trace_flags"]) == (TRACE, SPAN, 1)
    assert all(row["at_ms"] >= 0 for row in data["attempts"])


def test_the_attempt_that_served_is_found_wherever_it_stands() -> None:
    """A hedge that lost stands before the first attempt, which won."""
    trace = tracer(1.0).begin({})
    assert trace is not None
    blocks = {why: trace.launched(why, arm, 0.0) for why, arm in (("first", "a"), ("hedge", "b"))}
    data: dict[str, Any] = {"attempts": [{"arm": "b", "why": "hedge"}, {"arm": "a", "why": "first"}]}
    trace.note(data)
    for row in data["attempts"]:
        assert row["span_id"].encode() in blocks[row["why"]]


@pytest.mark.parametrize("header", [b"nonsense", None])
def test_without_a_valid_header_a_new_trace_begins_and_foreign_state_is_dropped(header: bytes | None) -> None:
    headers = {TRACESTATE: b"vendor=1"} | ({TRACEPARENT: header} if header is not None else {})
    trace, block = launched(headers, 1.0)
    data: dict[str, Any] = {}
    trace.note(data)
    assert b"tracestate" not in block
    assert headers == {}
    assert parse(block.removeprefix(b"traceparent: ").removesuffix(b"\r\n")) is not None
    assert "parent_span_id" not in data
    assert data["trace_flags"] == 1


def test_new_traces_are_sampled_at_the_rate() -> None:
    """2,000 seeded traces, expected 500; more than 5 standard deviations off would be 100."""
    made = tracer(0.25)
    flags = [trace.flags for _ in range(2000) if (trace := made.begin({})) is not None]
    assert abs(sum(flags) - 500) < 100
    assert len(flags) == 2000
