"""A request leaves nothing behind that only the collector of cycles would find.

Workers collect seldom, so that no request waits for it. A cycle keeps the bodies of its request until then: at a
hundred requests a second that is hundreds of megabytes.
"""

import asyncio
import gc
from collections import Counter
from itertools import count

import pytest
from aiohttp import web

CHAT = "/v1/chat/completions"


async def _stream(request):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for text in (b'"content":"a"', b'"content":"b"'):
        await response.write(
            b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
            b'[{"index":0,"delta":{%b},"finish_reason":null}]}\n\n' % text
        )
    await response.write(
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    return response


async def _torn(request):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    )
    request.transport.abort()
    return response


async def _huge(request):
    return web.json_response({"id": "c", "choices": [], "padding": "x" * 2_000_000})


async def _endless(request):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(
            b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
            b'[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
        )
        await asyncio.sleep(0.01)


async def _silent(request):
    await asyncio.sleep(30)
    return web.Response()


async def _objecting(request):
    del request
    return web.json_response({"error": {"message": "no", "type": "x", "code": None}}, status=400)


async def _cut(request):
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "100"})
    await response.prepare(request)
    await response.write(b"{")
    request.transport.abort()
    return response


async def _refusing(request):
    del request
    return web.json_response({"error": {"message": "no", "type": "x", "code": None}}, status=503)


def _unsteady():
    """Fails every other time, so that a second attempt serves."""
    calls = count()

    async def answer(request):
        if next(calls) % 2 == 0:
            return await _refusing(request)
        return web.json_response({"id": "c", "choices": [{"index": 0, "message": {"content": "x"}}]})

    return answer


def _ours():
    """Unreachable objects of our own that the collector finds now."""
    gc.collect()
    found = Counter(
        f"{type(item).__module__}.{type(item).__qualname__}"
        for item in gc.garbage
        if type(item).__module__.startswith(("proxy.", "optimizer."))
    )
    gc.garbage.clear()
    return found


async def _unary(proxy):
    await proxy.client.post(CHAT, json={"model": "chat", "messages": [{"role": "user", "content": "hi"}]})


async def _streamed(proxy):
    reply = await proxy.client.post(
        CHAT, json={"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    )
    assert reply.status_code == 200


async def _given_up(proxy):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await proxy.client.post(
                CHAT, json={"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
            )


async def _big(proxy):
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "user": "x" * 1_000_000}
    assert (await proxy.client.post(CHAT, json=body)).status_code == 200


async def _left(proxy):
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with proxy.client.stream("POST", CHAT, json=body) as reply:
        async for _ in reply.aiter_raw():
            break


async def _told(proxy):
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    reply = await proxy.client.post(CHAT, json=body)
    assert b"error" in reply.content


async def _invalid(proxy):
    await proxy.client.post(CHAT, content=b"{")


async def _passed_through(proxy):
    await proxy.client.post("/v1/moderations", json={"model": "x"})


@pytest.mark.parametrize(
    ("handler", "ask"),
    [
        (None, _unary),
        (_stream, _streamed),
        (_refusing, _unary),
        (_objecting, _unary),
        (_cut, _unary),
        (_unsteady(), _unary),
        (_silent, _given_up),
        (None, _big),
        (_huge, _unary),
        (_torn, _told),
        (_endless, _left),
        (None, _invalid),
        (None, _passed_through),
    ],
)
async def test_no_cycles_are_left(proxy, upstream, handler, ask):
    """Of twenty requests nothing of ours remains when they are over."""
    upstream.handler = handler
    await ask(proxy)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(20):
            await ask(proxy)
        await asyncio.sleep(0.3)
        left = _ours()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    assert not left
