"""A scripted Messages API, and a proxy whose route has an OpenAI arm and an Anthropic arm.

The official SDK calls it. Test modules cannot import from here, so the builders hang on the server that the fixture
hands out.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import anthropic
import orjson
import pytest
from aiohttp import web

ANTHROPIC_KEY = "sk-ant-planted-77aa"
USAGE = {
    "input_tokens": 20,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 0,
    "output_tokens": 7,
}


def message(*content: dict[str, Any], stop_reason: str = "end_turn") -> dict[str, Any]:
    return {
        "id": "msg_01ABC",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-1",
        "content": list(content) or [{"type": "text", "text": 'Grüße, "Welt"'}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
        "member_of_tomorrow": {"a": 1.50},
    }


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def events(text: str = "Hello there", stop_reason: str = "end_turn") -> list[bytes]:
    opened = {**message(), "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    return [
        event("message_start", message=opened),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": part})
            for part in (text[:5], text[5:])
        ),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None},
            usage={"output_tokens": 7},
        ),
        event("message_stop"),
    ]


@dataclass
class MessagesServer:
    """Answers with ``reply`` (a document or raw bytes) or, when a stream is asked for, with ``stream``.

    ``cut`` ends a stream by ending the connection, ``endless`` not at all; ``status`` not 200 makes ``reply`` an error.
    """

    url: str = ""
    reply: dict[str, Any] | bytes = field(default_factory=message)
    stream: list[bytes] = field(default_factory=events)
    status: int = 200
    cut: bool = False
    endless: bool = False
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    event = staticmethod(event)
    events = staticmethod(events)
    message = staticmethod(message)

    @property
    def body(self) -> Any:
        """The last body it was sent."""
        return orjson.loads(self.raw[-1])

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.raw.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path_qs)
        if request.path.endswith("/count_tokens"):
            return web.json_response({"input_tokens": 1234})
        if "/batches" in request.path:
            return web.json_response({"id": "msgbatch_1", "type": "message_batch"})
        if self.status == 200 and b'"stream":true' in self.raw[-1].replace(b" ", b""):
            return await self.streamed(request)
        data = self.reply if isinstance(self.reply, bytes) else orjson.dumps(self.reply)
        headers = {"content-type": "application/json", "request-id": "req_upstream"}
        return web.Response(body=data, status=self.status, headers=headers)

    async def streamed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for part in self.stream:
            await response.write(part)
        while self.endless:
            await asyncio.sleep(0.05)
            await response.write(event("ping"))
        if self.cut:
            await asyncio.sleep(0)
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.fixture
async def claude(serve) -> MessagesServer:
    server = MessagesServer()
    server.url = await serve(server.serve)
    return server


@pytest.fixture
def both(proxy, upstream, claude, shapes):
    """The proxy with a route ``chat`` of the arms ``a`` (OpenAI, the baseline) and ``claude`` (Anthropic)."""
    table = shapes.table(upstream.url, version=2)
    model = shapes.model("claude", upstream="anthropic", model_id="claude-x", endpoints=frozenset(("chat",)))
    proxy.worker.learn_secrets({"literal:anthropic": ANTHROPIC_KEY})
    there = replace(
        table.upstreams[0],
        name="anthropic",
        provider="anthropic",
        base_url=claude.url,
        secret="literal:anthropic",
    )
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a"), shapes.arm("claude")))
    proxy.publish(
        replace(
            table,
            upstreams=(*table.upstreams, there),
            models=(table.models[0], model),
            routes=(route,),
            passthrough=(("/v1/", "up"), ("/v1/messages/", "anthropic")),
        )
    )
    return proxy


@pytest.fixture
async def sdk(both) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official client, pointed at the proxy and otherwise as it comes; failures are not retried."""
    async with anthropic.AsyncAnthropic(base_url=both.url, api_key="caller-key", max_retries=0) as client:
        yield client


@pytest.fixture
def blocking(both) -> Iterator[anthropic.Anthropic]:
    """The same without asyncio; to be used in a thread."""
    with anthropic.Anthropic(base_url=both.url, api_key="caller-key", max_retries=0) as client:
        yield client
