"""A scripted Messages API, and a proxy whose route has an OpenAI arm and an Anthropic arm.

The server refuses requests that break the real one's rules. Test modules cannot import from here, so the builders
hang on the server that the fixture hands out.
"""

import asyncio
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import openai
import orjson
import pytest
from aiohttp import web

ANTHROPIC_KEY = "sk-ant-planted-9f2c"
PIN = {"x-llm-optimizer-pin": "claude"}
QUESTION = [{"role": "user", "content": "hi"}]
USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
    "output_tokens": 7,
    "service_tier": "standard",
}
# 20 fresh at 3, 1000 read at 0.3, 150 written at 3.75, 50 written for an hour at 6, 7 out at 15, per million.
COST = (20 * 3 + 1000 * 0.3 + 150 * 3.75 + 50 * 6 + 7 * 15) / 1e6
TOP_LEVEL = frozenset(
    (
        *("model", "max_tokens", "messages", "system", "stream", "temperature", "top_p", "top_k", "tools"),
        *("stop_sequences", "metadata", "tool_choice", "thinking", "output_config", "cache_control"),
    )
)
TEXT = ({"type": "text", "text": 'Grüße, "Welt"\n'},)


def message(
    content: Sequence[dict[str, Any]] = TEXT, stop_reason: str = "end_turn", **changes: Any
) -> dict[str, Any]:
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
        **changes,
    }


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def events(reply: dict[str, Any]) -> list[bytes]:
    """The message as the API streams it: opened empty, a block at a time, settled at the end."""
    opened = {**reply, "content": [], "stop_reason": None, "usage": {**reply["usage"], "output_tokens": 1}}
    found = [event("message_start", message=opened)]
    for index, block in enumerate(reply["content"]):
        found += block_events(index, block)
        if index == 0:
            found.insert(2, event("ping"))
    usage = {key: value for key, value in reply["usage"].items() if type(value) is int}
    delta = {"stop_reason": reply["stop_reason"], "stop_sequence": reply["stop_sequence"]}
    return [*found, event("message_delta", delta=delta, usage=usage), event("message_stop")]


def block_events(index: int, block: dict[str, Any]) -> list[bytes]:
    kind = block["type"]
    if kind == "tool_use":
        start = {**block, "input": {}}
        text = orjson.dumps(block["input"]).decode() if block["input"] else ""
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *halves(text))]
    elif kind == "thinking":
        start = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": part} for part in halves(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": part} for part in halves(block["text"])]
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def halves(text: str) -> list[str]:
    half = len(text) // 2
    return [part for part in (text[:half], text[half:]) if part]


def objection(body: dict[str, Any]) -> str | None:
    """What the real API would refuse the request for, None when it is right."""
    if extra := set(body) - TOP_LEVEL:
        return f"{extra.pop()}: Extra inputs are not permitted"
    if type(body.get("max_tokens")) is not int or body["max_tokens"] < 1:
        return "max_tokens: Field required"
    if not 0 <= body.get("temperature", 1) <= 1:
        return "temperature: range: 0..1"
    if any(not stop.strip() for stop in body.get("stop_sequences", [])):
        return "stop_sequences: each stop sequence must contain non-whitespace"
    if not body["messages"] or body["messages"][0]["role"] != "user":
        return "messages: first message must use the user role"
    open_calls: set[str] = set()
    for turn in body["messages"]:
        if turn["role"] not in ("user", "assistant") or set(turn) != {"role", "content"}:
            return "messages: Input should be 'user' or 'assistant'"
        blocks = turn["content"]
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if answered != open_calls:
            return "messages: `tool_use` ids must have corresponding `tool_result` blocks in the next message"
        open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return "messages: text content blocks must be non-empty"
        if any(not re.fullmatch(r"[a-zA-Z0-9_-]+", call) for call in open_calls):
            return "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    last = body["messages"][-1]
    if last["role"] == "assistant" and last["content"][-1].get("text", ".")[-1].isspace():
        return "messages: final assistant content cannot end with trailing whitespace"
    return None


# Of a scripted stream: bytes to send, seconds to pause, or what to wait for.
Step = bytes | float | asyncio.Event


@dataclass
class MessagesServer:
    """``replies`` are served in turn, the last one for ever; ``status`` not 200 makes them errors."""

    key: ClassVar[str] = ANTHROPIC_KEY
    cost: ClassVar[float] = COST
    text: ClassVar[str] = TEXT[0]["text"]
    url: str = ""
    replies: list[dict[str, Any]] = field(default_factory=lambda: [message()])
    status: int = 200
    encoding: str = ""
    stream: list[Step] | None = None
    cut: bool = False
    ignores_stream: bool = False
    piece_bytes: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    event = staticmethod(event)
    events = staticmethod(events)
    message = staticmethod(message)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path_qs)
        said = self.refusal(request, body)
        if said is not None:
            return self.whole({"type": "error", "error": said[1], "request_id": "req_011C"}, said[0])
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        if self.status != 200 or reply["type"] == "error" or self.ignores_stream or not body.get("stream"):
            return self.whole(reply, self.status)
        try:
            return await self.streamed(request, self.stream or list(events(reply)))
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    def refusal(self, request: web.Request, body: dict[str, Any]) -> tuple[int, dict[str, str]] | None:
        if request.headers.get("x-api-key") != ANTHROPIC_KEY or "authorization" in request.headers:
            return 401, {"type": "authentication_error", "message": "invalid x-api-key"}
        if request.headers.get("anthropic-version") != "2023-06-01":
            return 400, {"type": "invalid_request_error", "message": "anthropic-version: header is required"}
        problem = objection(body)
        return None if problem is None else (400, {"type": "invalid_request_error", "message": problem})

    def whole(self, document: dict[str, Any], status: int) -> web.Response:
        headers = {
            "content-type": "application/json",
            "request-id": "req_011CSHoEeqs5C35K2UUqR7Fy",
            "anthropic-ratelimit-requests-remaining": "99",
        }
        payload = orjson.dumps(document)
        if status in (429, 529):
            headers |= {"retry-after": "7", "x-should-retry": "true"}
        if self.encoding:
            payload = gzip.compress(payload) if self.encoding == "gzip" else zlib.compress(payload)
            headers["content-encoding"] = self.encoding
        return web.Response(body=payload, status=status, headers=headers)

    async def streamed(self, request: web.Request, script: list[Step]) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_011CSHoE"}
        packer = None
        if self.encoding:
            headers["content-encoding"] = self.encoding
            packer = zlib.compressobj(wbits=31 if self.encoding == "gzip" else 15)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for step in script:
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            data = step if packer is None else packer.compress(step) + packer.flush(zlib.Z_SYNC_FLUSH)
            size = self.piece_bytes or len(data)
            for at in range(0, len(data), size):
                await response.write(data[at : at + size])
        if packer is not None:
            await response.write(packer.flush())
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.fixture
async def messages(serve) -> MessagesServer:
    server = MessagesServer()
    server.url = await serve(server.serve)
    return server


@pytest.fixture
def claude(proxy, upstream, messages, shapes):
    """The proxy with a route ``chat`` of the arms ``a`` (OpenAI) and ``claude`` (Anthropic), half each."""
    table = shapes.table(upstream.url, version=2)
    price = replace(table.models[0].price, input=3.0, output=15.0, cached_input=0.3)
    model = shapes.model(
        "claude",
        upstream="anthropic",
        model_id="claude-sonnet-4-5",
        price=replace(price, cache_write=3.75, cache_write_1h=6.0),
        capabilities=frozenset(("tools", "vision", "json_schema", "stream_usage")),
        endpoints=frozenset(("chat",)),
        max_output_tokens=64_000,
    )
    proxy.worker.learn_secrets({"literal:anthropic": ANTHROPIC_KEY})
    there = replace(
        table.upstreams[0],
        name="anthropic",
        provider="anthropic",
        base_url=messages.url,
        secret="literal:anthropic",
    )
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a"), shapes.arm("claude")))
    proxy.publish(
        replace(table, upstreams=(*table.upstreams, there), models=(table.models[0], model), routes=(route,))
    )
    return proxy


@dataclass
class Caller:
    """The official client, pinned to the Anthropic arm."""

    sdk: openai.AsyncOpenAI

    async def ask(self, **fields: Any) -> Any:
        """One call."""
        fields = {"model": "chat", "messages": QUESTION, "extra_headers": PIN} | fields
        return await self.sdk.chat.completions.create(**fields)

    async def assembled(self, **fields: Any) -> Any:
        """The same as a stream, put together by the SDK; raises what it raises."""
        fields = {"model": "chat", "messages": QUESTION, "extra_headers": PIN} | fields
        async with self.sdk.chat.completions.stream(
            **fields, stream_options={"include_usage": True}
        ) as stream:
            async for _ in stream:
                pass
            return await stream.get_final_completion()


@pytest.fixture
def caller(claude, sdk) -> Caller:
    return Caller(sdk)
