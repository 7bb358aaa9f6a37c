"""Deadlines of every phase of an upstream request: who waits, for how long, and what the caller is told then."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import openai
import orjson
import pytest
from aiohttp import web

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
DONE = b"data: [DONE]\n\n"


def chunk(text: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    entry = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + orjson.dumps(entry) + b"\n\n"


async def test_connect_deadline(failure, reach):
    """A host that does not answer costs ``connect_s``. A full backlog behaves like one."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    await asyncio.sleep(0.05)
    reach(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_s=0.2)
    began = asyncio.get_running_loop().time()
    status, code, message = await failure()
    for opened in (listener, *fillers):
        opened.close()

    assert (status, code) == (504, "upstream_timeout")
    assert "connect" in message
    assert asyncio.get_running_loop().time() - began < 3


@pytest.mark.parametrize("through", ["tls", "proxy"])
async def test_a_peer_that_never_shakes_hands(failure, reach, through):
    """A TLS server or a proxy that accepts and then says nothing is a connect deadline too."""
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if through == "tls":
        reach(f"https://{here}/v1", connect_s=0.2)
    else:
        reach("https://api.invalid/v1", connect_s=0.2, proxy=f"http://{here}")
    status, code, message = await failure()
    count = len(accepted)
    for writer in accepted:
        writer.close()
    server.close()

    assert (status, code, count) == (504, "upstream_timeout", 1)
    assert "connect" in message


@pytest.mark.parametrize("stream", [False, True])
async def test_first_byte_deadline(failure, upstream, reach, stream):
    """An upstream that takes the request and says nothing: 504, and its work is cancelled."""

    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError

    upstream.handler = handler
    reach(upstream.url, first_byte_s=0.2)
    status, code, message = await failure(stream=stream)

    assert (status, code) == (504, "upstream_timeout")
    assert "first_byte" in message
    await asyncio.wait_for(upstream.gone.wait(), 5)
    assert len(upstream.raw) == 1


def drip(seconds: float, *, end: bool) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(4):
            await response.write(chunk("word "))
            await asyncio.sleep(seconds)
        while not end:
            await asyncio.sleep(seconds)
            await response.write(b": still here\n\n")
        await response.write(chunk(None, "stop") + DONE)
        return response

    return handler


async def test_idle_deadline_in_a_stream(proxy, upstream, sdk, reach):
    """Silence in the middle ends the stream with an error event; what came before it stays."""
    upstream.handler = drip(30, end=True)
    reach(upstream.url, idle_s=0.2)
    parts: list[str] = []

    async def read() -> None:
        async for part in await sdk.chat.completions.create(**HELLO, stream=True):
            parts.append(part.choices[0].delta.content)  # noqa: PERF401  (kept although the stream fails)

    with pytest.raises(openai.APIError, match="idle") as caught:
        await read()

    assert parts == ["word "]
    assert caught.value.code == "upstream_timeout"
    await asyncio.wait_for(upstream.gone.wait(), 5)
    logged = await proxy.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", "upstream_timeout")
    assert (logged["usage_source"], logged["chunks"]) == ("estimated", 1)


async def test_a_slow_stream_is_not_an_idle_one(proxy, upstream, sdk, reach):
    """The idle deadline counts from the last byte: a stream may last longer than it."""
    upstream.handler = drip(0.2, end=True)
    reach(upstream.url, idle_s=0.5, first_byte_s=0.5)
    parts = [part async for part in await sdk.chat.completions.create(**HELLO, stream=True)]

    assert len(parts) == 5
    assert (await proxy.event())["outcome"] == "completed"


async def test_total_deadline(proxy, upstream, sdk, reach):
    """With ``total_s`` even a stream that never falls silent ends."""
    upstream.handler = drip(0.01, end=False)
    reach(upstream.url, total_s=0.4)
    with pytest.raises(openai.APIError, match="total"):
        async for _ in await sdk.chat.completions.create(**HELLO, stream=True):
            pass

    await asyncio.wait_for(upstream.gone.wait(), 5)
    assert (await proxy.event())["error.type"] == "upstream_timeout"
