"""More than there is time or memory for: told at once and in words, while what is under way and the operator go on."""

import asyncio
import gzip
import tracemalloc

import orjson
import pytest
from aiohttp import web

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
MB = 1024 * 1024


async def test_what_there_is_no_time_for_is_refused_where_it_stands(proxy, upstream, clients, limited):
    """Once a standing delay was found. A stream under way, health, models and the admin paths are not touched."""
    proceed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if b'"stream":true' not in upstream.raw[-1]:
            return web.json_response({"object": "list", "data": []})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await proceed.wait()
        await response.write(
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        return response

    upstream.handler = handler
    stream, _ = await clients.connect(
        proxy, clients.post(CHAT, HELLO | {"stream": True}, b"connection: close")
    )
    await stream.readuntil(b'"content":"a"')

    limited(shed_delay_s=10.0)
    shedder = proxy.worker.plane.turn.shedder
    shedder.on, shedder._refused_at = True, shedder._clock()
    data = clients.post("/v1/embeddings", {"model": "chat", "input": "x"})
    crowd = [await clients.connect(proxy) for _ in range(100)]
    answers = []
    for _ in range(6):
        for _, writer in crowd:
            writer.write(data)
        answers += [await clients.reply(reader) for reader, _ in crowd]
    refused = [(headers, body) for status, headers, body in answers if status == 503]
    assert {status for status, _, _ in answers} <= {200, 400, 503}
    assert shedder.refused == len(refused) > 100
    for headers, body in refused:
        assert headers["retry-after"] == "1"
        assert "connection" not in headers
        assert headers["x-request-id"] == headers["x-llm-optimizer-request-id"]
        assert orjson.loads(body)["error"]["code"] == "overloaded"

    assert shedder.on
    shedder._left = 0
    for path in ("/health/live", "/health/ready", "/v1/models"):
        assert (await proxy.client.get(path)).status_code == 200
    assert b"overloaded" not in (await proxy.client.get("/api/v1/routes")).content  # the optimizer is away
    proceed.set()
    assert (await stream.read()).endswith(b"[DONE]\n\n\r\n0\r\n\r\n")
    # Those who were served or refused by the route are in the log, those who were shed are only counted.
    await proxy.event(len(answers) - len(refused) + 1)
    assert len(proxy.events()) == len(answers) - len(refused) + 1


async def test_it_ends_with_the_overload(proxy, clients, limited):
    shedder = proxy.worker.plane.turn.shedder
    shedder.on, shedder._refused_at = True, shedder._clock()
    limited(shed_delay_s=0.05)
    assert (await proxy.client.post(CHAT, json=HELLO)).status_code == 200
    await asyncio.sleep(0.3)
    for _ in range(3):
        assert (await proxy.client.post(CHAT, json=HELLO)).status_code == 200
    assert not shedder.on


async def test_memory_is_for_those_who_came_first_and_the_operator(proxy, upstream, clients, limited):
    """A body that waits for its upstream holds the budget; admin and health paths are answered all the same."""
    proceed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await proceed.wait()
        return web.json_response(
            {
                "id": "c", "object": "chat.completion", "created": 1, "model": "a",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )  # fmt: skip

    upstream.handler = handler
    limited(in_flight_bytes=MB)
    await proxy.client.get("/health/live")
    await clients.until(lambda: proxy.worker.server._state.budget.ceiling <= MB)
    long = HELLO | {"messages": [{"role": "user", "content": "y" * (MB - 500)}]}
    first, _ = await clients.connect(proxy, clients.post(CHAT, long))
    await clients.until(lambda: proxy.worker.plane.in_flight == 1)
    assert MB - 500 < proxy.worker.server.buffered_bytes <= MB

    reader, writer = await clients.connect(proxy, clients.post(CHAT, HELLO | {"user": "z" * 1000}))
    status, headers, body = await clients.reply(reader)
    assert (status, headers["retry-after"]) == (503, "1")
    assert orjson.loads(body)["error"]["code"] == "overloaded"
    assert (await proxy.client.get("/health/ready")).status_code == 200
    admin = await proxy.client.post("/api/v1/rollouts", json={"x": "y" * 2000})
    assert admin.json()["error"]["code"] != "overloaded"
    proceed.set()
    assert (await clients.reply(first))[0] == 200
    writer.write(clients.post(CHAT, HELLO | {"user": "z" * 1000}))
    assert (await clients.reply(reader))[0] == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/responses", "/v1/feedback"])
async def test_a_compressed_request_is_not_unpacked(proxy, upstream, clients, path):
    """Fifty megabytes in fifty kilobytes: refused as what it is, bytes that are not JSON."""
    bomb = gzip.compress(b'{"model":"chat","messages":"' + b"x" * 50 * MB)
    tracemalloc.start()
    reader, _ = await clients.connect(proxy, clients.post(path, bomb, b"content-encoding: gzip"))
    status, _, body = await clients.reply(reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status in (400, 415)
    assert orjson.loads(body)["error"]["code"]
    assert peak < 4 * MB
    assert upstream.raw == []


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_reply_is_unpacked_within_bounds(proxy, upstream, clients, status, stream):
    """Three hundred megabytes in three hundred kilobytes from an upstream that was asked for none."""
    packed = gzip.compress(b'data: {"choices":[{"delta":{"content":"' + b"x" * 300 * MB, 1)

    async def handler(request: web.Request) -> web.Response:
        kind = "text/event-stream" if stream else "application/json"
        return web.Response(
            body=packed, status=status, headers={"content-encoding": "gzip", "content-type": kind}
        )

    upstream.handler = handler
    tracemalloc.start()
    reader, _ = await clients.connect(
        proxy, clients.post(CHAT, HELLO | {"stream": stream}, b"connection: close")
    )
    await asyncio.wait_for(reader.read(), 20)
    event = await proxy.event()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert event["outcome"] in ("upstream_fault", "completed")
    assert peak < 100 * MB, peak


HOSTILE = (b"a\rX-Injected: 1", b"a\nX-Injected: 1", b"a\r\nX-Injected: 1", b"a\x00b", b"a\x0bb")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "name", [b"x-request-id", b"retry-after", b"content-type", b"x-ratelimit-a", b"location"]
)
@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
async def test_no_upstream_header_can_add_a_line_to_our_reply(
    raw_proxy, raw_upstream, clients, name, value, path
):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%b: %b\r\ncontent-length: 2\r\n\r\n{}" % (name, value))

    raw_upstream.script = script
    reader, _ = await clients.connect(raw_proxy, clients.post(path, HELLO, b"connection: close"))
    told = await asyncio.wait_for(reader.read(), 10)
    head = told.partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")
    assert b"\x00" not in head
    assert all(b"\r" not in line and b"\n" not in line for line in lines)
    if value != b"a\r\nX-Injected: 1":  # two well-formed lines are two headers, of which none is passed on
        assert lines[0].startswith(b"HTTP/1.1 502"), head
    assert not any(line.lower().startswith(b"x-injected") for line in lines)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "name", [b"traceparent", b"openai-beta", b"idempotency-key", b"x-llm-optimizer-pin", b"accept"]
)
async def test_no_client_header_can_add_a_line_to_an_upstream_request(
    raw_proxy, raw_upstream, clients, name, value
):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    raw_upstream.script = script
    for path in (CHAT, "/v1/files"):
        data = clients.post(path, HELLO, name + b": " + value, b"connection: close")
        reader, _ = await clients.connect(raw_proxy, data)
        await asyncio.wait_for(reader.read(), 10)
    for head in raw_upstream.heads:
        assert b"injected" not in head.lower()
        assert b"\x00" not in head
        assert all(b"\r" not in line and b"\n" not in line for line in head.split(b"\r\n"))
