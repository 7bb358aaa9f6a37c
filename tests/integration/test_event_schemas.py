"""Every kind of request through a running worker: what it logs is what docs/schemas promise, and nothing more.

The other tests of this folder are held to the same by a fixture; this one sees that each way of ending is among them.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from loadtests.event_schemas import event_schemas
from optimizer import events
from optimizer.context.features import features_of
from optimizer.ingest import Ingest
from optimizer.routing import Resilience, RoutingTable, Sampling
from optimizer.settings import ContextSettings
from proxy.control.journal import Journal

MANY = 40
CHAT = "/v1/chat/completions"
LEXICAL = features_of(ContextSettings(lexical=True))


def _answers(shapes: Any) -> Callable[[web.Request], Any]:
    """An upstream of which ``b`` is broken: what it does is told by the model."""

    async def serve(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        if body.get("model") == "b-id":
            return web.json_response({"error": {"message": "planted"}}, status=503)
        if "input" in body:
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            usage = {"prompt_tokens": 2, "total_tokens": 2}
            return web.json_response({"object": "list", "model": "a-id", "data": data, "usage": usage})
        if not body.get("stream"):
            details = {"prompt_tokens_details": {"cached_tokens": 4}}
            return web.json_response(shapes.completion(body.get("model", "?"), **details))
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        head = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": "a-id"}
        for delta, reason in (({"role": "assistant", "content": "Hel"}, None), ({"content": "lo"}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            await reply.write(b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n")
            await asyncio.sleep(0)
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        await reply.write(b"data: " + orjson.dumps(head | {"choices": [], "usage": usage}) + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    return serve


def _table(source: RoutingTable, shapes: Any) -> RoutingTable:
    """Routes whose requests end in every way: plain, over several arms, looked at, with more arms than a line names."""
    first = source.routes[0]
    many = tuple(replace(shapes.arm("a"), id=f"a{number}") for number in range(MANY))
    crowd = shapes.side(*many)
    failing = shapes.side(shapes.arm("b"))
    retried = Resilience(attempts=3)
    return replace(
        source,
        version=2,
        routes=(
            replace(first, control=shapes.side(shapes.arm("a"), shapes.arm("a", "terse")), match=()),
            replace(
                first,
                name="several",
                match=(),
                control=failing,
                resilience=retried,
                fallbacks=(shapes.arm("a"),),
            ),
            replace(first, name="broken", match=(), control=failing),
            replace(first, name="seen", match=(), features=LEXICAL, sampling=Sampling(1.0, 65536)),
            replace(
                first,
                name="many",
                match=(),
                control=replace(crowd, selector=replace(crowd.selector, id="many")),
            ),
        ),
    )


async def test_every_kind_of_event(proxy: Any, upstream: Any, shapes: Any) -> None:
    """One request of each kind, feedback in both forms, and what a node of a cluster makes of it."""
    upstream.handler = _answers(shapes)
    proxy.publish(_table(proxy.worker.plane.table.source, shapes))
    ids = {}

    async def ask(model: str, path: str = CHAT, **fields: Any) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "What is a sketch?"}], **fields}
        reply = await proxy.client.post(path, json=body)
        ids[model, path, *fields] = reply.headers["x-request-id"]

    for route in ("chat", "several", "broken", "seen", "many"):
        await ask(route)
        await ask(route, stream=True)
    await ask("chat", response_format={"type": "json_object"})
    await ask("chat", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    await ask("nobody-has-this")
    await ask("chat", "/v1/embeddings", input="words")
    await ask("a", "/v1/moderations", input="words")
    rated = [ids["chat", CHAT], ids["several", CHAT], ids["broken", CHAT], ids["seen", CHAT, "stream"]]
    for number, request_id in enumerate(rated):
        item = {"request_id": request_id, "metric": "quality", "value": number / 4, "comment": "fine"}
        reply = await proxy.client.post("/v1/feedback", json=item)
        assert reply.status_code == 200, reply.text
    given = await proxy.client.post(
        "/v1/feedback", json={"request_id": rated[0], "metric": "csat", "value": 4}
    )
    assert given.status_code == 200, given.text
    await _reported(proxy)

    _join(proxy)

    logged = list(proxy.lines())
    kinds = {event["type"] for event in logged}
    assert kinds == {
        events.REQUEST, events.FEEDBACK, events.SELECTOR, events.WORKER_STATS, events.FEEDBACK_JOINED
    }  # fmt: skip
    schemas = event_schemas()
    assert not [problem for event in logged for problem in schemas.problems(event)]
    outcomes = {event["data"]["outcome"] for event in logged if event["type"] == events.REQUEST}
    assert outcomes >= {events.COMPLETED, events.UPSTREAM_FAULT, events.CALLER_FAULT}
    whys = {
        row["why"] for event in proxy.events() for row in event["data"].get("attempts", ()) if "why" in row
    }
    assert whys >= {events.FIRST, events.FALLBACK}


async def _reported(proxy: Any) -> None:
    deadline = time.monotonic() + 5
    while not proxy.events(events.WORKER_STATS):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _join(proxy: Any) -> None:
    """What the deciding node does in a cluster: join ratings with decisions, and log what came of it."""
    journal = Journal(proxy.state, segment_bytes=2**20, now=time.time)

    def joined(event_id: str, request_id: str, signal: str, value: float, decision: Any) -> None:
        data = {
            "request_id": request_id,
            "route": decision["route"],
            "signal": signal,
            "value": value,
            "decision": decision,
        }
        assert journal.write(events.FEEDBACK_JOINED, data, event_id=f"{event_id}:joined")

    ingest = Ingest(proxy.state, joined=joined)
    try:
        while ingest.step():
            pass
    finally:
        ingest.close()
        journal.close()
