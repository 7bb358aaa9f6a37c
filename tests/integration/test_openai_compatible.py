"""Servers that speak OpenAI's dialect, each with its own habits: paths, key headers, and where usage is told.

Each scripted server answers as the product that it is named after does. What a caller gets through the proxy
must be, byte for byte, what it would have got by asking that server itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Wie geht's?"}]
HELLO = {"model": "chat", "stream": True, "messages": QUESTION}
# Text that looks like what a decoder searches for, and characters that are escaped on the wire.
WORDS = ["Grüße", ' "usage":null}', "]}\n\ndata: [DONE]\n\n", ',"finish_reason":"stop"', "\\", " ☃ 日本", "."]
Chunks = list[dict[str, Any]]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-42",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "served-model",
        "choices": [choice],
        **fields,
    }


def words() -> Chunks:
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": word}) for word in WORDS),
        chunk(finish="stop"),
    ]


def counts(given: int, output: int, **details: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": given,
        "completion_tokens": output,
        "total_tokens": given + output,
        **details,
    }


def openai_chunks(options: dict[str, Any]) -> Chunks:
    """Null usage everywhere and one more event, if asked; padding that hides lengths."""
    chunks = [entry | {"service_tier": "default"} for entry in words()]
    if options.get("include_usage"):
        usage = counts(
            40,
            9,
            prompt_tokens_details={"cached_tokens": 32, "audio_tokens": 0},
            completion_tokens_details={"reasoning_tokens": 4},
        )
        chunks = [entry | {"usage": None} for entry in chunks] + [chunk() | {"choices": [], "usage": usage}]
    return [entry | {"obfuscation": "x" * (3 + at)} for at, entry in enumerate(chunks)]


def azure_chunks(options: dict[str, Any]) -> Chunks:
    """Opens with an event without id, model or choices, which reports on the prompt's content."""
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    opening = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": safe}],
    }
    chunks = [opening, *words()]
    for entry in chunks[2:-1]:
        entry["choices"][0]["content_filter_results"] = safe
    if options.get("include_usage"):
        chunks = [entry | {"usage": None} for entry in chunks]
        chunks.append(chunk() | {"choices": [], "usage": counts(40, 9)})
    return chunks


def vllm_chunks(options: dict[str, Any]) -> Chunks:
    """Usage only with include_usage; then in every event with continuous_usage_stats."""
    chunks = words()
    if not options.get("include_usage"):
        return chunks
    if options.get("continuous_usage_stats"):
        chunks = [entry | {"usage": counts(40, at)} for at, entry in enumerate(chunks)]
    return [*chunks, chunk() | {"choices": [], "usage": counts(40, 9)}]


def groq_chunks(options: dict[str, Any]) -> Chunks:
    """Always tells usage in the last event with a choice, under its own name."""
    chunks = words()
    chunks[0]["x_groq"] = {"id": "req_01abc"}
    chunks[-1]["x_groq"] = {"id": "req_01abc", "usage": counts(40, 9, queue_time=0.01, total_time=0.5)}
    if options.get("include_usage"):
        chunks.append(chunk() | {"choices": [], "usage": counts(40, 9)})
    return chunks


def deepseek_chunks(options: dict[str, Any]) -> Chunks:
    """Always tells usage in the last event with a choice; cache hits have their own member."""
    del options
    chunks = words()
    chunks[-1]["usage"] = counts(40, 9, prompt_cache_hit_tokens=32, prompt_cache_miss_tokens=8)
    return chunks


def mistral_chunks(options: dict[str, Any]) -> Chunks:
    """As DeepSeek, without a cache; events are padded."""
    del options
    chunks = [entry | {"p": "abcdef"[: 1 + at % 6]} for at, entry in enumerate(words())]
    chunks[-1]["usage"] = counts(40, 9)
    return chunks


def silent_chunks(options: dict[str, Any]) -> Chunks:
    """Older Ollama: no usage, whatever is asked."""
    del options
    return [entry | {"system_fingerprint": "fp_ollama"} for entry in words()]


def plain_events(chunks: Chunks) -> bytes:
    return b"".join(b"data: " + orjson.dumps(entry) + b"\n\n" for entry in chunks) + b"data: [DONE]\n\n"


def commented_events(chunks: Chunks) -> bytes:
    """A router's sign of life before the first event, as OpenRouter sends it."""
    return b": OPENROUTER PROCESSING\n\n" * 2 + plain_events(chunks)


def spaced_events(chunks: Chunks) -> bytes:
    """CR LF, ASCII and blanks after colons: Python's json module behind sse-starlette."""
    import json

    return b"".join(b"data: " + text.encode() + b"\r\n\r\n" for text in [*map(json.dumps, chunks), "[DONE]"])


@dataclass(frozen=True)
class Dialect:
    """How a server streams, and what its reply costs at 1 per input, 0.5 per cached, 2 per output token."""

    chunks: Callable[[dict[str, Any]], Chunks]
    micro_usd: float | None = 58.0
    render: Callable[[Chunks], bytes] = plain_events

    def answer(self, body: dict[str, Any]) -> bytes:
        return self.render(self.chunks(body.get("stream_options") or {}))


DIALECTS = {
    "openai": Dialect(openai_chunks, 8 + 16 + 18),
    "openrouter": Dialect(openai_chunks, 8 + 16 + 18, commented_events),
    "azure": Dialect(azure_chunks),
    "vllm": Dialect(vllm_chunks),
    "llama-cpp-python": Dialect(openai_chunks, 8 + 16 + 18, spaced_events),
    "groq": Dialect(groq_chunks),
    "deepseek": Dialect(deepseek_chunks, 8 + 16 + 18),
    "mistral": Dialect(mistral_chunks),
    "ollama": Dialect(silent_chunks, None),
}


def framed(content: bytes, draw: Random) -> bytes:
    """A whole HTTP reply in chunks whose borders fall anywhere."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [head]
    position = 0
    while position < len(content):
        size = draw.randint(1, 400)
        piece = content[position : position + size]
        parts.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        position += size
    return b"".join(parts) + b"0\r\n\r\n"


CONTINUOUS = {"continuous_usage_stats": True}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, None) for name in DIALECTS),
        *((name, {"include_usage": True}) for name in DIALECTS),
        ("vllm", CONTINUOUS),
        ("vllm", CONTINUOUS | {"include_usage": True}),
    ],
)
async def test_streams_are_what_the_server_itself_would_have_sent(raw_proxy, raw_upstream, name, options):
    """However the bytes are cut on their way, the caller gets those that a direct request gets, and usage is known."""
    dialect = DIALECTS[name]
    draw = Random(f"{name} {options}")
    body = HELLO if options is None else HELLO | {"stream_options": options}

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = framed(dialect.answer(orjson.loads(raw_upstream.bodies[-1])), draw)
        while reply:
            size = draw.randint(1, 7) if raw_upstream.bodies[1:] else len(reply)
            writer.write(reply[:size])
            reply = reply[size:]
            await asyncio.sleep(0)

    raw_upstream.script = dribble
    async with httpx.AsyncClient(trust_env=False) as client:
        direct = await client.post(raw_upstream.url + "/chat/completions", json=body)
    through = await raw_proxy.client.post(CHAT, json=body)

    assert through.content == direct.content
    assert through.headers["content-type"] == "text/event-stream"
    asked = orjson.loads(raw_upstream.bodies[-1])
    assert asked["stream_options"]["include_usage"] is True
    logged = await raw_proxy.event()
    assert logged["outcome"] == "completed"
    assert logged["gen_ai.response.finish_reasons"] == ["stop"]
    assert (logged["gen_ai.response.id"], logged["gen_ai.response.model"]) == ("chatcmpl-42", "served-model")
    assert logged["signals"] == {"empty": 0, "refusal": 0}
    assert logged["chunks"] == len(WORDS)
    if dialect.micro_usd is None:
        assert logged["usage_source"] == "estimated"
        assert logged["gen_ai.usage.output_tokens"] >= len(WORDS)
        assert logged["cost_usd"] > 0
    else:
        assert logged["usage_source"] == "reported"
        assert logged["cost_usd"] == pytest.approx(dialect.micro_usd / 1e6, rel=1e-12)


def one_upstream(shapes, upstream, **changes: Any) -> Any:
    """A table whose only arm is ``a`` behind an upstream with ``changes``."""
    table = shapes.table(upstream.url, version=2)
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a")))
    return replace(table, routes=(route,), upstreams=(replace(table.upstreams[0], **changes),))


async def stream_text(sdk, **fields: Any) -> str:
    stream = await sdk.chat.completions.create(model="chat", messages=QUESTION, stream=True, **fields)
    return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])


def streaming(dialect: Dialect, upstream) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=dialect.answer(upstream.bodies[-1]), content_type="text/event-stream")

    return handler


async def test_azure_deployments(proxy, upstream, shapes, sdk):
    """The deployment's name stands in the path, the version in the query, the key in its own header."""
    deployments = "/openai/deployments/{model}"
    version = "?api-version=2024-10-21"
    table = one_upstream(
        shapes,
        upstream,
        base_url=upstream.url.removesuffix("/v1"),
        key_header="api-key",
        headers=(("x-ms-region", "eu"),),
        paths={
            "chat": f"{deployments}/chat/completions{version}",
            "embeddings": f"{deployments}/embeddings{version}",
        },
    )
    model = shapes.model("a", model_id="gpt 4o/eu")
    proxy.publish(replace(table, models=(model, *table.models[1:])))
    upstream.handler = streaming(DIALECTS["azure"], upstream)
    text = await stream_text(sdk)

    assert text == "".join(WORDS)
    assert upstream.paths == ["/openai/deployments/gpt%204o%2Feu/chat/completions?api-version=2024-10-21"]
    assert upstream.headers[0]["api-key"] == shapes.secret
    assert upstream.headers[0]["x-ms-region"] == "eu"
    assert "authorization" not in upstream.headers[0]
    assert (await proxy.event())["cost_usd"] == pytest.approx(58e-6)


async def test_gemini_base_path_and_thinking(proxy, upstream, shapes, sdk):
    """The base path is kept; thinking, which Gemini counts in the total alone, is billed as output."""

    async def handler(request: web.Request) -> web.StreamResponse:
        chunks = words()
        if request.method == "GET":
            return web.json_response({"id": "f1"})
        if "stream_options" in upstream.bodies[-1]:
            chunks[-1]["usage"] = counts(40, 9) | {"total_tokens": 70}
        return web.Response(body=plain_events(chunks), content_type="text/event-stream")

    upstream.handler = handler
    base = upstream.url.removesuffix("/v1") + "/v1beta/openai/"
    proxy.publish(replace(one_upstream(shapes, upstream, base_url=base), passthrough=(("/v1/", "up"),)))
    text = await stream_text(sdk)

    assert text == "".join(WORDS)
    await proxy.client.get("/v1/files/f1")
    assert upstream.paths == ["/v1beta/openai/chat/completions", "/v1beta/openai/files/f1"]
    logged = await proxy.event()
    assert (logged["gen_ai.usage.input_tokens"], logged["gen_ai.usage.output_tokens"]) == (40, 30)
    assert logged["cost_usd"] == pytest.approx(100e-6)


async def test_a_server_that_refuses_stream_options_is_not_asked(proxy, upstream, shapes, sdk):
    """Without the capability nothing is added to the request, and usage is estimated from what was seen."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if "stream_options" in upstream.bodies[-1]:
            problem = {"message": "Unknown field: stream_options", "type": "invalid_request_error"}
            return web.json_response({"error": problem | {"param": None, "code": None}}, status=400)
        return await streaming(DIALECTS["ollama"], upstream)(request)

    upstream.handler = handler
    table = one_upstream(shapes, upstream)
    proxy.publish(table)
    with pytest.raises(openai.BadRequestError, match="Unknown field"):
        await stream_text(sdk)
    plain = shapes.model("a", capabilities=frozenset(("tools",)))
    proxy.publish(replace(table, version=3, models=(plain, *table.models[1:])))
    text = await stream_text(sdk)

    assert text == "".join(WORDS)
    assert set(upstream.bodies[-1]) == {"model", "messages", "stream"}
    logged = await proxy.event(2)
    assert logged["usage_source"] == "estimated"
    assert logged["cost_usd"] > 0


async def test_tool_calls_stream_through_the_sdk(proxy, upstream, sdk):
    """Calls in pieces arrive as they were sent, beside our request for usage."""

    def call(**function: str) -> dict[str, Any]:
        opening = {"id": "call_1", "type": "function"} if "name" in function else {}
        return chunk({"tool_calls": [{"index": 0, **opening, "function": function}]})

    def chunks(options: dict[str, Any]) -> Chunks:
        found = [
            call(name="f", arguments=""),
            call(arguments='{"usage"'),
            call(arguments=":null}"),
            chunk(finish="tool_calls"),
        ]
        assert options == {"include_usage": True}
        return [
            *(entry | {"usage": None} for entry in found),
            chunk() | {"choices": [], "usage": counts(5, 6)},
        ]

    upstream.handler = streaming(Dialect(chunks), upstream)
    stream = await sdk.chat.completions.create(
        model="chat", messages=QUESTION, stream=True, tools=[{"type": "function", "function": {"name": "f"}}]
    )
    parts = [part async for part in stream]

    assert all(part.usage is None and part.choices for part in parts)
    calls = [part.choices[0].delta.tool_calls[0] for part in parts if part.choices[0].delta.tool_calls]
    assert "".join(call.function.arguments for call in calls) == '{"usage":null}'
    logged = await proxy.event()
    assert logged["signals"] == {"empty": 0}
    assert logged["cost_usd"] == pytest.approx(17e-6)


@pytest.mark.parametrize("asks", [False, True])
async def test_legacy_completions(proxy, upstream, sdk, asks):
    """Text completions stream like chat, with usage told to who asked."""

    async def handler(request: web.Request) -> web.StreamResponse:
        entry = {"id": "cmpl-7", "object": "text_completion", "created": 1, "model": "m", "usage": None}
        pieces = [("Hel", None), ("lo", None), ("", "length")]
        chunks = [
            entry | {"choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}]}
            for text, reason in pieces
        ]
        return web.Response(
            body=plain_events([*chunks, entry | {"choices": [], "usage": counts(3, 2)}]),
            content_type="text/event-stream",
        )

    upstream.handler = handler
    options = {"stream_options": {"include_usage": True}} if asks else {}
    stream = await sdk.completions.create(model="chat", prompt="Say", stream=True, max_tokens=2, **options)
    parts = [part async for part in stream]

    assert "".join(part.choices[0].text for part in parts if part.choices) == "Hello"
    assert [part.usage.total_tokens for part in parts if part.usage] == ([5] if asks else [])
    assert upstream.paths == ["/v1/completions"]
    logged = await proxy.event()
    assert (logged["endpoint"], logged["gen_ai.response.finish_reasons"]) == ("completions", ["length"])
    assert logged["cost_usd"] == pytest.approx(7e-6)


@pytest.mark.parametrize("stays", [False, True])
async def test_an_error_inside_a_stream(proxy, upstream, sdk, stays):
    """The SDK raises the server's own error and hangs up; the arm is taught the failure all the same."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        problem = {"message": "The server had an error", "type": "server_error", "code": "engine_dead"}
        await response.write(plain_events(words()[:3]).removesuffix(b"data: [DONE]\n\n"))
        await response.write(b"data: " + orjson.dumps({"error": problem | {"param": None}}) + b"\n\n")
        await asyncio.sleep(30 if stays else 0)
        return response

    upstream.handler = handler
    with pytest.raises(openai.APIError, match="The server had an error") as caught:
        await stream_text(sdk)

    assert caught.value.code == "engine_dead"
    logged = await proxy.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", "engine_dead")
    assert logged["usage_source"] == "estimated"
