"""A route with an OpenAI arm and an Anthropic arm: the official ``openai`` SDK must not notice which one answers.

The scripted server speaks the Messages API and, like the real one, refuses requests that break its rules.
"""

import asyncio
import base64
import gzip
import re
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

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
TEXT = [{"type": "text", "text": 'Grüße, "Welt"\n'}]
THOUGHT = [{"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"}, *TEXT]
CALLS = [
    {"type": "text", "text": "I look it up."},
    {"type": "tool_use", "id": "toolu_01A", "name": "weather", "input": {"city": "Zürich", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_01B", "name": "now", "input": {}},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {name}.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }
    for name, properties in (
        ("weather", {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}}),
        ("now", {}),
    )
]


def message(content: list[dict[str, Any]], stop_reason: str = "end_turn", **changes: Any) -> dict[str, Any]:
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


@dataclass
class MessagesServer:
    """``replies`` are served in turn, the last one for ever; ``status`` not 200 makes them errors."""

    url: str = ""
    replies: list[dict[str, Any]] = field(default_factory=lambda: [message(TEXT)])
    status: int = 200
    encoding: str = ""
    stream: list[bytes | float] | None = None
    cut: bool = False
    piece_bytes: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path_qs)
        said = self.refusal(request, body)
        if said is not None:
            return self.whole({"type": "error", "error": said[1], "request_id": "req_011C"}, said[0])
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        if self.status != 200 or reply["type"] == "error" or not body.get("stream"):
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

    async def streamed(self, request: web.Request, script: list[bytes | float]) -> web.StreamResponse:
        """Numbers in the script are pauses in seconds."""
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


async def ask(sdk, **fields: Any) -> Any:
    """One call that is pinned to the Anthropic arm."""
    fields = {"model": "chat", "messages": QUESTION, "extra_headers": PIN} | fields
    return await sdk.chat.completions.create(**fields)


async def assembled(sdk, **fields: Any) -> Any:
    """The same as a stream, put together by the SDK; raises what it raises."""
    fields = {"model": "chat", "messages": QUESTION, "extra_headers": PIN} | fields
    async with sdk.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_completion()


async def test_both_arms_answer_one_route_with_their_own_credentials(claude, messages, upstream, sdk):
    """Callers see one shape; neither key, nor the caller's, reaches the other provider."""
    shapes_seen = set()
    for _ in range(16):
        raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4", messages=QUESTION)
        answer = raw.parse()
        shapes_seen.add((raw.headers["x-llm-optimizer-arm"], answer.object, answer.choices[0].finish_reason))

    assert shapes_seen == {("a", "chat.completion", "stop"), ("claude", "chat.completion", "stop")}
    assert all(sent["authorization"].startswith("Bearer sk-planted-upstream") for sent in upstream.headers)
    assert all("x-api-key" not in sent for sent in upstream.headers)
    sent = orjson.dumps([messages.headers, upstream.headers]).decode()
    assert "caller-key" not in sent
    assert "sk-planted-upstream" not in orjson.dumps(messages.headers).decode()


async def test_unary_answer_usage_cost_and_headers(claude, messages, sdk):
    """Cached tokens are priced once each, and the caller gets the ids of both sides."""
    raw = await sdk.chat.completions.with_raw_response.create(
        model="chat", messages=QUESTION, extra_headers=PIN
    )
    answer = raw.parse()

    assert messages.paths == ["/v1/messages"]
    assert answer.choices[0].message.content == TEXT[0]["text"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        1220,
        7,
        1227,
    )
    assert answer.usage.prompt_tokens_details.cached_tokens == 1000
    shown = {name: raw.headers[f"x-llm-optimizer-{name}"] for name in ("route", "arm", "model", "variant")}
    assert shown == {"route": "chat", "arm": "claude", "model": "claude", "variant": "default"}
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-llm-optimizer-upstream-request-id"] == "req_011CSHoEeqs5C35K2UUqR7Fy"
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "99"
    assert float(raw.headers["x-llm-optimizer-cost-usd"]) == pytest.approx(COST)
    logged = await claude.event()
    assert logged["cost_usd"] == pytest.approx(COST, rel=1e-12)
    assert logged["gen_ai.provider.name"] == "anthropic"
    assert logged["gen_ai.request.model"] == "claude-sonnet-4-5"
    assert logged["gen_ai.response.model"] == "claude-sonnet-4-5-20250929"
    assert logged["gen_ai.response.id"] == "msg_01XFDUDYJgAACzvnptvVoYEL"
    assert logged["gen_ai.response.finish_reasons"] == ["stop"]
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["gen_ai.usage.output_tokens"] == 7
    assert logged["gen_ai.usage.cache_read.input_tokens"] == 1000
    assert logged["gen_ai.usage.cache_creation.input_tokens"] == 200
    assert logged["cache_write_1h_tokens"] == 50
    assert logged["usage_source"] == "reported"
    assert logged["upstream_request_id"] == "req_011CSHoEeqs5C35K2UUqR7Fy"


@pytest.mark.parametrize(
    ("content", "stop", "reason"),
    [
        (TEXT, "end_turn", "stop"),
        (TEXT, "stop_sequence", "stop"),
        (TEXT, "max_tokens", "length"),
        (TEXT, "model_context_window_exceeded", "length"),
        (TEXT, "refusal", "content_filter"),
        (THOUGHT, "end_turn", "stop"),
        (CALLS, "tool_use", "tool_calls"),
        ([], "end_turn", "stop"),
    ],
    ids=["text", "stop", "length", "window", "refusal", "thinking", "tools", "empty"],
)
@pytest.mark.parametrize("piece_bytes", [0, 5], ids=["whole", "pieces"])
async def test_a_stream_assembles_to_the_unary_answer(
    claude, messages, sdk, content, stop, reason, piece_bytes
):
    """What the SDK assembles from the stream equals the whole reply, event and cost included."""
    messages.replies = [message(content, stop)]
    messages.piece_bytes = piece_bytes
    tools = {"tools": TOOLS} if stop == "tool_use" else {}
    whole = (await ask(sdk, **tools)).model_dump()
    # The SDK's own helper refuses to hand out cut or filtered answers, so those are put together here.
    if reason in ("length", "content_filter"):
        parts = [part async for part in await ask(sdk, stream=True) if part.choices]
        assert "".join(part.choices[0].delta.content or "" for part in parts) == TEXT[0]["text"]
        assert parts[-1].choices[0].finish_reason == reason
    else:
        built = (await assembled(sdk, **tools)).model_dump()
        ours, theirs = built["choices"][0]["message"], whole["choices"][0]["message"]
        assert (ours["content"] or "") == (theirs["content"] or "")
        assert ours.get("reasoning_content") == theirs.get("reasoning_content")
        calls = [
            [
                (call["id"], call["function"]["name"], orjson.loads(call["function"]["arguments"]))
                for call in found
            ]
            for found in (ours["tool_calls"] or [], theirs["tool_calls"] or [])
        ]
        assert calls[0] == calls[1]
        assert built["usage"]["prompt_tokens"] == 1220
        assert built["usage"]["completion_tokens"] == 7
    assert whole["choices"][0]["finish_reason"] == reason
    first, second = await claude.event(1), await claude.event(2)
    same = ("cost_usd", "gen_ai.response.finish_reasons", "gen_ai.usage.input_tokens", "outcome", "signals")
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert second["cost_usd"] == pytest.approx(COST, rel=1e-12)
    assert second["upstream_request_id"] == "req_011CSHoE"
    if content:
        assert second["ttft_ms"] <= second["duration_ms"]


async def test_first_text_is_sent_on_at_once_and_pings_are_no_content(claude, messages, sdk):
    """Text reaches the caller while the provider still thinks; time to first token is the text's, not a ping's."""
    whole = events(message(TEXT))
    messages.stream = [b"".join(whole[:3]), 0.15, whole[3], 0.15, *whole[4:]]
    loop = asyncio.get_running_loop()
    times = []
    async for part in await ask(sdk, stream=True):
        if part.choices and part.choices[0].delta.content:
            times.append(loop.time())

    assert len(times) == 2
    assert times[1] - times[0] > 0.1
    logged = await claude.event()
    assert logged["ttft_ms"] >= 150
    assert logged["chunks"] == 2


async def test_tools_round_trip(claude, messages, sdk):
    """Tool calls go out to the caller, and its results back, as the Messages API wants them paired."""
    messages.replies = [message(CALLS, "tool_use"), message(TEXT)]
    turns = [{"role": "system", "content": "Use tools."}, *QUESTION]
    first = await ask(sdk, messages=turns, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    said = first.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} is fine"}
        for call in said.tool_calls
    ]
    second = await ask(sdk, messages=[*turns, said.model_dump(), *results], tools=TOOLS)

    assert second.choices[0].message.content == TEXT[0]["text"]
    one, two = messages.bodies
    assert one["system"] == [{"type": "text", "text": "Use tools."}]
    assert [tool["name"] for tool in one["tools"]] == ["weather", "now"]
    assert one["tools"][0]["input_schema"] == TOOLS[0]["function"]["parameters"]
    assert one["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert two["messages"][1] == {"role": "assistant", "content": CALLS}
    assert [block["content"] for block in two["messages"][2]["content"]] == ["weather is fine", "now is fine"]
    assert (await claude.event())["signals"]["empty"] == 0


async def test_pictures_prompts_and_limits(claude, messages, sdk):
    """Pictures, system text, stop words and limits arrive in Anthropic's words; what it lacks is left out."""
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    await ask(
        sdk,
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/png;base64,{png}", "detail": "low"},
                    },
                    {"type": "image_url", "image_url": {"url": "https://example.org/cat.jpg"}},
                ],
            },
            {"role": "assistant", "content": "It is "},
        ],
        max_completion_tokens=100,
        temperature=1.7,
        stop=["END", " "],
        seed=3,
        presence_penalty=0.5,
        logit_bias={"5": 1},
        user="user-77",
        metadata={"team": "x"},
        extra_body={"reasoning_effort": "low"},
    )

    (sent,) = messages.bodies
    assert sent == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "temperature": 1,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "user-77"},
        "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.jpg"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "It is"}]},
        ],
    }


@pytest.mark.parametrize(("answer", "valid"), [('{"n": 4}', 1), ('{"n": "four"}', 0)])
@pytest.mark.parametrize("stream", [False, True])
async def test_structured_output(claude, messages, sdk, answer, valid, stream):
    """A schema is passed on, and the answer is checked against it; plain JSON mode stays with the other arm."""
    messages.replies = [message([{"type": "text", "text": answer}])]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema, "strict": True}}
    reply = await ask(sdk, response_format=wanted, stream=stream)
    if stream:
        assert "".join([part.choices[0].delta.content or "" async for part in reply]) == answer
    else:
        assert reply.choices[0].message.content == answer

    assert messages.bodies[0]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert (await claude.event())["signals"]["json_valid"] == valid
    raw = await sdk.chat.completions.with_raw_response.create(
        model="chat", messages=QUESTION, response_format={"type": "json_object"}
    )
    assert raw.headers["x-llm-optimizer-arm"] == "a"


@pytest.mark.parametrize(
    ("status", "kind", "raised", "shown", "code", "outcome"),
    [
        (400, "invalid_request_error", openai.BadRequestError, 400, "invalid_request", "caller_fault"),
        (401, "authentication_error", openai.InternalServerError, 502, "upstream_auth_error", "censored"),
        (413, "request_too_large", openai.APIStatusError, 413, "request_too_large", "caller_fault"),
        (429, "rate_limit_error", openai.RateLimitError, 429, "rate_limit_exceeded", "censored"),
        (500, "api_error", openai.InternalServerError, 500, "api_error", "upstream_fault"),
        (529, "overloaded_error", openai.InternalServerError, 503, "overloaded", "upstream_fault"),
    ],
)
@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_errors_in_the_sdks_own_classes(
    claude, messages, sdk, status, kind, raised, shown, code, outcome, encoding
):
    """Each refusal of the API becomes the exception that OpenAI's would be, with the provider's words."""
    messages.status = status
    messages.encoding = encoding
    messages.replies = [{"type": "error", "error": {"type": kind, "message": "the provider's words"}}]
    with pytest.raises(raised) as caught:
        await ask(sdk, stream=True)

    error = caught.value
    assert (error.status_code, error.code) == (shown, code)
    if status != 401:
        assert "the provider's words" in error.message
    if status in (429, 529):
        assert error.response.headers["retry-after"] == "7"
    assert ANTHROPIC_KEY not in error.response.text
    logged = await claude.event()
    assert (logged["outcome"], logged["attempts"][0]["status"]) == (outcome, status)
    assert len(messages.bodies) == 1


async def test_overloaded_in_mid_stream(claude, messages, sdk):
    """An error event ends the stream with that error, told once and recorded under its own name."""
    messages.stream = [
        *events(message(TEXT))[:4],
        event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    ]
    with pytest.raises(openai.APIError, match="Overloaded") as caught:
        await assembled(sdk)
    assert caught.value.code == "overloaded"
    raw = await claude.client.post(
        "/v1/chat/completions", json={"model": "chat", "messages": QUESTION, "stream": True}, headers=PIN
    )

    assert raw.content.count(b'"error"') == 1
    assert b"[DONE]" not in raw.content
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", "overloaded")
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["cost_usd"] > 0


@pytest.mark.parametrize("cut", [True, False], ids=["connection cut", "clean end"])
@pytest.mark.parametrize("keep", [2, 4, -2], ids=["before text", "in text", "before stop reason"])
async def test_a_truncated_stream_is_an_error(claude, messages, sdk, cut, keep):
    """Without stop reason nothing looks like success; what was billed so far is recorded."""
    messages.stream = list(events(message(TEXT))[:keep])
    messages.cut = cut
    with pytest.raises(openai.APIError) as caught:
        await assembled(sdk)

    assert caught.value.code == ("upstream_reset" if cut else "upstream_protocol_error")
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", caught.value.code)
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["usage_source"] == "estimated"


async def test_client_gone_in_mid_stream(claude, messages, sdk):
    """The provider is told at once; input is what it reported, output what was seen."""
    messages.stream = [*events(message(TEXT))[:5], 30.0]
    stream = await ask(sdk, stream=True)
    async for part in stream:
        if part.choices[0].delta.content:
            break
    await stream.close()

    await asyncio.wait_for(messages.gone.wait(), 5)
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"], logged["status"]) == ("censored", "client_gone", 499)
    assert logged["usage_source"] == "estimated"
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["gen_ai.usage.cache_read.input_tokens"] == 1000
    assert logged["gen_ai.usage.output_tokens"] >= 1
    assert logged["cost_usd"] > 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_replies_are_still_translated(claude, messages, sdk, encoding, stream):
    """A reply compressed against our wish is decoded, translated and sent on plain."""
    messages.encoding = encoding
    messages.piece_bytes = 9
    answer = await (assembled(sdk) if stream else ask(sdk))

    assert messages.headers[0]["accept-encoding"] == "identity"
    assert answer.choices[0].message.content == TEXT[0]["text"]
    logged = await claude.event()
    assert logged["cost_usd"] == pytest.approx(COST, rel=1e-12)
    assert logged["outcome"] == "completed"


async def test_a_200_with_an_error_inside_is_a_502(claude, messages, sdk):
    """Success is judged by the body, not by the status line."""
    messages.replies = [{"type": "error", "error": {"type": "api_error", "message": "m"}}]
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(sdk)

    assert caught.value.status_code == 502
    assert (await claude.event())["outcome"] == "upstream_fault"
