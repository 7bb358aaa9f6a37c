"""Traces through a real worker: what the upstream is told and what is logged, with tracing on and off."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from optimizer.routing import Resilience
from optimizer.spans import spans_of
from proxy.trace import parse

CHAT = "/v1/chat/completions"
REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "baggage": "user=7"}
FIELDS = {"trace_id", "trace_flags", "span_id", "parent_span_id"}


def told(upstream: Any, number: int = -1) -> Any:
    """What the upstream was told of its parent."""
    return parse(upstream.headers[number]["traceparent"].encode())


async def test_without_tracing_a_trace_goes_through_and_is_noted(proxy: Any, upstream: Any) -> None:
    assert (await proxy.client.post(CHAT, json=REQUEST, headers=CONTEXT)).status_code == 200
    logged = await proxy.event()
    assert CONTEXT.items() <= upstream.headers[0].items()
    assert {name: logged.get(name) for name in FIELDS} == {
        "trace_id": TRACE, "trace_flags": 1, "parent_span_id": PARENT, "span_id": None
    }  # fmt: skip
    assert not spans_of({"id": "x", "data": logged}, {})


async def test_without_tracing_and_a_trace_nothing_is_said(proxy: Any, upstream: Any) -> None:
    assert (await proxy.client.post(CHAT, json=REQUEST)).status_code == 200
    assert (
        await proxy.client.post(CHAT, json=REQUEST, headers={"traceparent": "nonsense"})
    ).status_code == 200
    for number in (1, 2):
        assert not FIELDS & set(await proxy.event(number))
    assert "traceparent" not in upstream.headers[0]
    assert upstream.headers[1]["traceparent"] == "nonsense"


@pytest.fixture
def traced(proxy: Any, upstream: Any, shapes: Any) -> Any:
    """The worker with tracing on, all of its own traces sampled, and a second attempt."""
    table = shapes.table(upstream.url, version=2, trace_rate=1.0)
    route = replace(table.routes[0], resilience=Resilience(attempts=3, backoff_s=0.001))
    proxy.publish(replace(table, routes=(route,)))
    return proxy


async def test_with_tracing_the_upstream_is_a_child_of_its_attempt(traced: Any, upstream: Any) -> None:
    assert (await traced.client.post(CHAT, json=REQUEST, headers=CONTEXT)).status_code == 200
    logged = await traced.event()
    (row,) = logged["attempts"]
    assert told(upstream) == (TRACE, row["span_id"], 1)
    assert upstream.headers[0]["tracestate"] == "vendor=1"
    assert upstream.headers[0]["baggage"] == "user=7"
    assert (logged["trace_id"], logged["parent_span_id"]) == (TRACE, PARENT)
    request, attempt = spans_of({"id": "x", "data": logged}, {})
    assert attempt["parentSpanId"] == request["spanId"] == logged["span_id"]
    assert request["startTimeUnixNano"] <= attempt["startTimeUnixNano"]
    assert attempt["endTimeUnixNano"] <= request["endTimeUnixNano"]


async def test_every_attempt_is_told_a_span_of_its_own(traced: Any, upstream: Any) -> None:
    async def fail_once(request: web.Request) -> web.StreamResponse:
        if len(upstream.headers) == 1:
            return web.json_response({"error": {"message": "planted"}}, status=503)
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m",
             "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        )  # fmt: skip

    upstream.handler = fail_once
    assert (await traced.client.post(CHAT, json=REQUEST)).status_code == 200
    logged = await traced.event()
    first, second = logged["attempts"]
    assert "parent_span_id" not in logged
    assert told(upstream, 0) == (logged["trace_id"], first["span_id"], 1)
    assert told(upstream, 1) == (logged["trace_id"], second["span_id"], 1)
    assert 0 <= first["at_ms"] <= second["at_ms"]
    spans = spans_of({"id": "x", "data": logged}, {})
    assert len({span["spanId"] for span in spans}) == 3
    assert spans[2]["links"][0]["spanId"] == first["span_id"]


async def test_what_is_passed_through_or_refused_has_a_place_too(traced: Any, upstream: Any) -> None:
    assert (await traced.client.get("/v1/files", headers=CONTEXT)).status_code == 200
    refused = await traced.client.post(CHAT, json={"model": "nobody", "messages": []}, headers=CONTEXT)
    assert refused.status_code >= 400
    passed, undecided = await traced.event(1), await traced.event(2)
    assert told(upstream) == (TRACE, passed["attempts"][0]["span_id"], 1)
    assert undecided["trace_id"] == TRACE
    assert len(spans_of({"id": "x", "data": passed}, {})) == 2
    (span,) = spans_of({"id": "x", "data": undecided}, {})
    assert span["status"] == {}


async def test_requests_at_once_share_no_ids(traced: Any) -> None:
    await asyncio.gather(*(traced.client.post(CHAT, json=REQUEST) for _ in range(20)))
    found = [await traced.event(number) for number in range(1, 21)]
    assert len({event["trace_id"] for event in found}) == 20
    assert len({event["span_id"] for event in found}) == 20
