"""A client that leaves takes its upstream request along and gives its slot back, at whatever point it leaves.

The upstream takes two connections at most: two clients leave, and a third must be served.
"""

import asyncio
import socket
from dataclasses import replace

import pytest

CHAT = "/v1/chat/completions"
HELLO = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
OK = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"a","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"x"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# What the upstream has said when the client leaves, and what of it the client has seen by then.
POINTS = {
    "before the reply": (b"", b""),
    "in its head": (b"HTTP/1.1 200 OK\r\ncontent-", b""),
    "in an early reply": (b"HTTP/1.1 103 Early Hints\r\n\r\n", b""),
    "in a whole reply": (JSON_HEAD % len(OK) + OK[:40], b""),
    "after the head": (STREAM_HEAD, b""),
    "between tokens": (STREAM_HEAD + chunk(TOKEN), b'"content":"a"'),
    "within a token": (STREAM_HEAD + chunk(TOKEN + TOKEN[:20]), b'"content":"a"'),
    "after the finish reason": (STREAM_HEAD + chunk(TOKEN + LAST), b'"finish_reason":"stop"'),
    "after the last event": (STREAM_HEAD + chunk(TOKEN + LAST + b"data: [DONE]\n\n"), b"[DONE]"),
    "after a chunk of a file": (
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 9000\r\n\r\n" + b"f" * 4000,
        b"f" * 4000,
    ),
}


async def served(proxy, raw_upstream) -> None:
    """A third client gets its answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(JSON_HEAD % len(OK) + OK)

    raw_upstream.script = answer
    reply = await proxy.client.post(CHAT, json=HELLO)
    assert reply.status_code == 200, reply.text


def pool_of(proxy):
    return proxy.worker.plane.table.handles["up"].pool


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("point", POINTS)
async def test_leaving_while_being_answered(raw_proxy, raw_upstream, clients, point, reset):
    said, seen = POINTS[point]
    streamed, file = said.startswith(STREAM_HEAD), "file" in point

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()
        raise ConnectionError

    raw_upstream.script = script
    data = (
        b"GET /v1/files/f HTTP/1.1\r\nhost: x\r\n\r\n"
        if file
        else clients.post(CHAT, HELLO | ({"stream": True} if streamed else {}))
    )
    pool = pool_of(raw_proxy)
    leaving = [await clients.connect(raw_proxy, data) for _ in range(2)]
    await clients.until(lambda: len(raw_upstream.heads) == 2)
    for reader, writer in leaving:
        if seen:
            await asyncio.wait_for(reader.readuntil(seen), 5)
        elif said:
            await asyncio.sleep(0.03)
        if reset:
            writer.transport.abort()
        else:
            writer.close()

    await clients.until(lambda: raw_upstream.lost == 2)
    await clients.until(lambda: pool.busy == 0)
    assert pool.waiting == 0
    await clients.until(lambda: raw_proxy.worker.plane.in_flight == 0)
    await served(raw_proxy, raw_upstream)
    assert len(raw_upstream.heads) == 3
    assert raw_proxy.worker.server.buffered_bytes == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_the_line_for_a_connection(raw_proxy, raw_upstream, clients, stream):
    proceed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proceed.wait()
        writer.write(JSON_HEAD % len(OK) + OK)

    raw_upstream.script = script
    pool = pool_of(raw_proxy)
    held = [await clients.connect(raw_proxy, clients.post(CHAT, HELLO)) for _ in range(2)]
    await clients.until(lambda: pool.busy == 2)
    queued = [
        await clients.connect(raw_proxy, clients.post(CHAT, HELLO | {"stream": stream})) for _ in range(3)
    ]
    await clients.until(lambda: pool.waiting == 3)
    for _, writer in queued:
        writer.close()
    await clients.until(lambda: pool.waiting == 0)
    assert pool.busy == 2
    proceed.set()
    for reader, _ in held:
        assert (await clients.reply(reader))[0] == 200
    await served(raw_proxy, raw_upstream)
    assert len(raw_upstream.heads) == 3  # nothing was sent for who left


async def test_leaving_while_the_connection_is_made(raw_proxy, raw_upstream, clients):
    """An upstream that lets nobody in: its queue of connections is full."""
    black_hole = socket.socket()
    black_hole.bind(("127.0.0.1", 0))
    black_hole.listen(0)
    port = black_hole.getsockname()[1]
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        fillers.append(filler)
    table = raw_proxy.worker.plane.table.source
    away = replace(table.upstreams[0], base_url=f"http://127.0.0.1:{port}/v1", connect_s=30.0)
    raw_proxy.publish(replace(table, version=2, upstreams=(away,)))
    pool = pool_of(raw_proxy)
    leaving = [await clients.connect(raw_proxy, clients.post(CHAT, HELLO)) for _ in range(2)]
    await clients.until(lambda: pool.busy == 2)
    assert pool.made == 0
    for _, writer in leaving:
        writer.close()
    await clients.until(lambda: pool.busy == 0)
    raw_proxy.publish(replace(table, version=3))
    await served(raw_proxy, raw_upstream)
    for sock in (*fillers, black_hole):
        sock.close()


async def test_leaving_in_the_middle_of_an_upload(raw_proxy, raw_upstream, clients):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("no upload was complete")

    raw_upstream.script = script
    pool = pool_of(raw_proxy)
    head = b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
    leaving = [await clients.connect(raw_proxy, head + b"x" * 5000) for _ in range(2)]
    await clients.until(lambda: pool.busy == 2)
    for _, writer in leaving:
        writer.close()
    await clients.until(lambda: pool.busy == 0)
    await served(raw_proxy, raw_upstream)


async def test_leaving_in_the_middle_of_a_prompt_reaches_no_upstream(raw_proxy, raw_upstream, clients):
    whole = clients.post(CHAT, HELLO)
    for cut in (10, 40, len(whole) - 5):
        _, writer = await clients.connect(raw_proxy, whole[:cut])
        await writer.drain()
        writer.close()
    await clients.until(lambda: raw_proxy.worker.server.open_connections == 0)
    assert raw_upstream.heads == []
    await served(raw_proxy, raw_upstream)
