"""Upstreams that break their word: whatever they send, the caller gets an end, the log one event, the pool its slot."""

import asyncio
import gzip
import socket
import time
import zlib
from contextlib import suppress

import httpx
import orjson
import pytest

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
STREAM = HELLO | {"stream": True}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def piece(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A reply with content-length."""
    lines = b"".join(header + b"\r\n" for header in (headers or (b"content-type: application/json",)))
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n" % (status, lines, len(body)) + body


def delta(text: str = "word", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if finish is None else {}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "c", "model": "m", "choices": [choice]}) + b"\n\n"


def saying(data: bytes):
    """A script that answers every request with these bytes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return script


def closing(data: bytes):
    """A script that writes and then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()
        raise ConnectionError

    return script


async def until(condition, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


def pool_of(proxy):
    return proxy.worker.plane.table.handles["up"].pool


async def settled(proxy) -> None:
    """Nothing of a request is left behind."""
    await until(lambda: pool_of(proxy).busy == 0 and pool_of(proxy).waiting == 0)
    assert proxy.worker.plane.in_flight == 0


@pytest.mark.parametrize("flood", [True, False])
async def test_talking_on_after_the_terminal_event_costs_no_slot(raw_proxy, raw_upstream, flood):
    """An upstream that never stops after [DONE], fast or slowly, is cut; the reply ended with [DONE]."""
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + piece(delta()) + piece(delta(finish="stop")) + piece(DONE))
        try:
            while True:
                await writer.drain()
                writer.write(piece(b": " + b"x" * (60_000 if flood else 1) + b"\n\n"))
                await asyncio.sleep(0 if flood else 0.01)
        except ConnectionError:
            gone.set()
            raise

    raw_upstream.script = script
    replies = [await raw_proxy.client.post(CHAT, json=STREAM) for _ in range(3)]

    assert all(reply.content.endswith(DONE) for reply in replies)
    await asyncio.wait_for(gone.wait(), 5)
    await settled(raw_proxy)
    assert [event["data"]["outcome"] for event in raw_proxy.events()] == ["completed"] * 3


async def test_back_pressure_at_the_terminal_event_does_not_park_the_connection(raw_proxy, raw_upstream):
    """The client stops reading while the last bytes are written: the upstream's connection is free all the same."""
    text = b"".join(delta("w" * 1000) for _ in range(100))
    release = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + piece(text + delta(finish="stop") + DONE))
        await release.wait()
        writer.write(b"0\r\n\r\n")

    raw_upstream.script = script
    listening = raw_proxy.worker.server._servers[0].sockets[0]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", int(raw_proxy.url.rpartition(":")[2])))
    body = orjson.dumps(STREAM)
    await loop.sock_sendall(
        client,
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body,
    )
    await raw_proxy.event()
    release.set()
    await until(lambda: pool_of(raw_proxy).idle == 1)
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += await asyncio.wait_for(loop.sock_recv(client, 65536), 3)
    assert DONE in received
    client.close()


@pytest.mark.parametrize(
    ("request_body", "reply", "status", "outcome"),
    [
        (HELLO, whole(b""), 502, "upstream_fault"),
        (HELLO, whole(b"", b"x: y", status=b"204 No Content"), 502, "upstream_fault"),
        (HELLO, b"HTTP/1.1 204 No Content\r\n\r\n", 502, "upstream_fault"),
        (HELLO, whole(b"<html>login</html>", b"content-type: text/html"), 502, "upstream_fault"),
        (HELLO, whole(b'{"error":{"message":"m","type":"t"}}'), 502, "upstream_fault"),
        (STREAM, whole(b'{"error":{"message":"m","type":"t"}}'), 502, "upstream_fault"),
        (HELLO, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(b'{"choices":[]}'), 200, "completed"),
        (HELLO, whole(b'{"choices":[]}', b"x-no: content-type"), 200, "completed"),
        (STREAM, whole(b'{"choices":[]}'), 502, "upstream_fault"),
        (STREAM, whole(delta() + delta(finish="stop") + DONE, b"x-no: content-type"), 200, "completed"),
        (STREAM, whole(delta(finish="stop") + DONE, b"content-type: Text/Event-Stream"), 200, "completed"),
        (
            HELLO,
            whole(delta(finish="stop") + DONE, b"content-type: text/event-stream"),
            502,
            "upstream_fault",
        ),
        (STREAM, whole(delta() + DONE), 502, "upstream_fault"),
        (HELLO, whole(b"{}" * 10, b"content-type: a", status=b"999 Odd"), 503, "upstream_fault"),
        (HELLO, whole(b'{"a":' + b"1" * 300_000 + b',"usage": {nonsense}}'), 502, "upstream_fault"),
    ],
)
async def test_odd_replies_end_and_are_recorded_once(
    raw_proxy, raw_upstream, request_body, reply, status, outcome
):
    """A reply of the wrong kind is an answer with a content type, one event, and a free connection."""
    raw_upstream.script = saying(reply)
    answer = await raw_proxy.client.post(CHAT, json=request_body)

    assert (answer.status_code, (await raw_proxy.event())["outcome"]) == (status, outcome)
    assert answer.headers["content-type"]
    assert len(raw_proxy.events()) == 1
    await settled(raw_proxy)


async def test_a_giant_error_reply_is_not_buffered(raw_proxy, raw_upstream):
    """100 MB of error: the caller hears of it after the first part, and the rest is never taken."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\ncontent-length: 104857600\r\n\r\n")
        for _ in range(1600):
            writer.write(b"e" * 65536)
            await writer.drain()
            sent += 65536

    raw_upstream.script = script
    reply = await raw_proxy.client.post(CHAT, json=HELLO)

    assert reply.status_code == 500
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert len(reply.content) < 10_000
    assert (await raw_proxy.event())["outcome"] == "upstream_fault"
    await settled(raw_proxy)
    assert sent < 20 * 1024 * 1024


async def test_a_compressed_error_reply_is_told_in_words(raw_proxy, raw_upstream):
    """The caller reads the provider's message even if it came compressed."""
    body = gzip.compress(
        b'{"error":{"message":"too many tokens","type":"invalid_request_error","code":"ctx"}}'
    )
    raw_upstream.script = saying(
        whole(body, b"content-type: application/json", b"content-encoding: gzip", status=b"400 Bad")
    )
    reply = await raw_proxy.client.post(CHAT, json=HELLO)

    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "too many tokens"


async def test_an_error_event_that_ends_the_stream_is_told_once(raw_proxy, raw_upstream):
    """The upstream's own error event is the end; no second one is appended, and its type is recorded."""
    error = b'data: {"error":{"message":"m","type":"server_error","code":"c"}}\n\n'
    seen = asyncio.Event()

    async def script(reader, writer):
        writer.write(SSE + piece(delta()))
        await seen.wait()
        writer.write(piece(error) + b"0\r\n\r\n")

    raw_upstream.script = script
    async with raw_proxy.client.stream("POST", CHAT, json=STREAM) as reply:
        content = b""
        async for data in reply.aiter_raw():
            content += data
            seen.set()

    assert content == delta() + error
    event = await raw_proxy.event()
    assert (event["outcome"], event["error.type"]) == ("upstream_fault", "c")


async def test_an_error_event_before_anything_was_passed_on_is_a_plain_error(raw_proxy, raw_upstream):
    """Nothing reached the client yet, so it gets a status that its SDK understands, with the upstream's words."""
    error = b'data: {"error":{"message":"m","type":"server_error","code":"c"}}\n\n'
    raw_upstream.script = saying(SSE + piece(delta() + error) + b"0\r\n\r\n")
    reply = await raw_proxy.client.post(CHAT, json=STREAM)

    assert (reply.status_code, reply.json()["error"]["message"]) == (502, "m")
    event = await raw_proxy.event()
    assert (event["outcome"], event["error.type"]) == ("upstream_fault", "c")


@pytest.mark.parametrize("cut", [b"", b'data: {"id":"c","choices":[{"delta":{"con'])
async def test_a_stream_that_breaks_off_ends_in_an_error_event_of_its_own(raw_proxy, raw_upstream, cut):
    """Half an event before the cut must not swallow the error event."""
    raw_upstream.script = closing(SSE + piece(delta()) + (piece(cut) if cut else b""))
    reply = await raw_proxy.client.post(CHAT, json=STREAM)

    blocks = reply.content.strip().split(b"\n\n")
    assert orjson.loads(blocks[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_reset"
    assert (await raw_proxy.event())["error.type"] == "upstream_reset"
    await settled(raw_proxy)


async def test_a_compressed_stream_that_is_cut_short_is_no_success(raw_proxy, raw_upstream):
    """The pieces decode, the terminal event never came: a failure, and the client can see it."""
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(delta() * 3) + packer.flush()
    head = SSE.replace(b"transfer", b"content-encoding: gzip\r\ntransfer")
    raw_upstream.script = saying(head + piece(packed) + b"0\r\n\r\n")
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|closed|peer"):
        await raw_proxy.client.post(CHAT, json=STREAM)

    assert (await raw_proxy.event())["outcome"] == "upstream_fault"


@pytest.mark.parametrize("encoding", [b"br", b"gzip"])
async def test_what_could_not_be_decoded_says_nothing_about_quality(raw_proxy, raw_upstream, encoding):
    """An undecodable reply is passed on; it is neither empty nor priced."""
    body = b"\x1b\x00\xff" * 1000
    raw_upstream.script = saying(
        whole(body, b"content-type: application/json", b"content-encoding: " + encoding)
    )
    async with raw_proxy.client.stream("POST", CHAT, json=HELLO) as reply:
        assert b"".join([part async for part in reply.aiter_raw()]) == body

    event = await raw_proxy.event()
    assert "signals" not in event
    assert event["cost_usd"] is None


@pytest.mark.parametrize("megabytes", [2, 8.1, 9, 17])
async def test_usage_of_a_large_reply_is_read_whatever_its_size(raw_proxy, raw_upstream, shapes, megabytes):
    """Only its ends are kept aside, and they suffice."""
    body = orjson.dumps(shapes.completion("m", "x" * int(megabytes * 1024 * 1024)))
    raw_upstream.script = saying(whole(body))
    reply = await raw_proxy.client.post(CHAT, json=HELLO)

    assert reply.content == body
    event = await raw_proxy.event()
    assert event["gen_ai.usage.input_tokens"] == 10
    assert event["signals"]["empty"] == 0
    assert event["gen_ai.response.model"] == "m"


async def test_what_an_upstream_says_enters_the_log_only_as_short_words(raw_proxy, raw_upstream, shapes):
    """Error codes, finish reasons, ids: none can carry a text or a key into the event."""
    planted = "sk-planted-by-upstream and a whole sentence of the prompt"
    refusal = {"error": {"message": planted, "type": planted, "code": planted}}
    raw_upstream.script = saying(whole(orjson.dumps(refusal), status=b"400 Bad"))
    await raw_proxy.client.post(CHAT, json=HELLO)
    odd = shapes.completion("m")
    odd["choices"][0]["finish_reason"] = planted
    odd["model"] = "m" * 100_000
    odd["id"] = "i" * 100_000
    raw_upstream.script = saying(whole(orjson.dumps(odd)))
    await raw_proxy.client.post(CHAT, json=HELLO)
    stream = b'data: {"error":{"message":"m","type":"%b"}}\n\n' % planted.encode()
    raw_upstream.script = saying(SSE + piece(stream) + b"0\r\n\r\n")
    await raw_proxy.client.post(CHAT, json=STREAM)
    await raw_proxy.event(3)

    text = orjson.dumps(raw_proxy.events())
    assert b"planted" not in text
    assert len(text) < 8000
    assert raw_proxy.events()[0]["data"]["error.type"] == "upstream_refused"


async def test_waiting_for_the_end_of_a_stream_is_the_upstreams_time(raw_proxy, raw_upstream):
    """A pause between the last content and [DONE] is not our overhead."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + piece(delta()) + piece(delta(finish="stop")))
        await writer.drain()
        await asyncio.sleep(0.35)
        writer.write(piece(DONE) + b"0\r\n\r\n")

    raw_upstream.script = script
    await raw_proxy.client.post(CHAT, json=STREAM)

    event = await raw_proxy.event()
    assert event["duration_ms"] >= 300
    assert event["upstream_ms"] >= 300
    assert event["overhead_ms"] < 100
    assert event["ttft_ms"] < 250


async def test_odd_header_bytes_are_passed_or_refused_but_never_split(raw_proxy, raw_upstream, shapes):
    """High bytes reach the caller as they are; our own names cannot be forged; only listed headers cross."""
    body = orjson.dumps(shapes.completion("m"))
    raw_upstream.script = saying(
        whole(
            body,
            b"content-type: application/json",
            b"x-request-id: caf\xc3\xa9\xff\x80 \tx",
            b"x-llm-optimizer-arm: forged",
            b"set-cookie: upstream=1",
            b"connection: x-ratelimit-limit",
            b"x-ratelimit-limit: \xfe",
        )
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(raw_proxy.url.rpartition(":")[2]))
    asked = orjson.dumps(HELLO)
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(asked)) + asked
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)
    writer.close()

    assert b"x-llm-optimizer-upstream-request-id: caf\xc3\xa9\xff\x80 \tx\r\n" in head
    assert head.count(b"x-llm-optimizer-arm:") == 1
    assert b"forged" not in head
    assert b"set-cookie" not in head.lower()
    assert (await raw_proxy.event())["upstream_request_id"].startswith("caf")


async def test_the_ids_of_every_provider_are_recorded(raw_proxy, raw_upstream, shapes):
    """Anthropic calls its id ``request-id``."""
    raw_upstream.script = saying(
        whole(orjson.dumps(shapes.completion("m")), b"content-type: application/json", b"request-id: req_9")
    )
    reply = await raw_proxy.client.post(CHAT, json=HELLO)

    assert reply.headers["x-llm-optimizer-upstream-request-id"] == "req_9"
    assert (await raw_proxy.event())["upstream_request_id"] == "req_9"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        SSE,
        SSE + piece(delta()),
        SSE + b"zz\r\n",
        b"HTTP/1.1 500 No\r\ncontent-length: 10\r\n\r\n{",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_no_way_of_failing_leaks_a_connection(raw_proxy, raw_upstream, data):
    """Three failures with two connections allowed, then a good reply: unary, streamed and passed through."""
    raw_upstream.script = closing(data)
    # A reply that is cut is a fair answer here.
    for request in (HELLO, STREAM, HELLO):
        with suppress(httpx.RemoteProtocolError):
            await raw_proxy.client.post(CHAT, json=request)
    for _ in range(3):
        with suppress(httpx.RemoteProtocolError):
            await raw_proxy.client.post("/v1/files", content=b"abc")
    await raw_proxy.event(6)
    await settled(raw_proxy)
    raw_upstream.script = saying(whole(b'{"choices":[]}'))

    assert (await raw_proxy.client.post(CHAT, json=HELLO)).status_code == 200
    outcomes = [event["data"]["outcome"] for event in raw_proxy.events()]
    assert outcomes == ["upstream_fault"] * 6 + ["completed"]


async def test_our_credentials_are_not_quoted_on_a_passed_through_refusal(raw_proxy, raw_upstream, shapes):
    """A 401 for our key becomes a 502 in our words, because providers quote keys."""
    raw_upstream.script = saying(
        whole(b'{"error":"bad key ' + shapes.secret.encode() + b'"}', status=b"401 Unauthorized")
    )
    reply = await raw_proxy.client.post("/v1/files", content=b"abc")

    assert reply.status_code == 502
    assert shapes.secret not in reply.text
    assert (await raw_proxy.event())["outcome"] == "censored"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "completed"), (404, "caller_fault"), (429, "censored"), (503, "upstream_fault")],
)
async def test_passed_through_statuses_are_blamed_like_all_others(raw_proxy, raw_upstream, status, outcome):
    """The status decides who is to blame; the event names upstream, status and sizes."""
    raw_upstream.script = saying(whole(b"{}", status=b"%d X" % status))
    reply = await raw_proxy.client.post("/v1/files", content=b"abcdef")

    assert reply.status_code == status
    event = await raw_proxy.event()
    assert event["outcome"] == outcome
    assert event["request_bytes"] == 6
    assert event["response_bytes"] == 2
    (attempt,) = event["attempts"]
    assert (attempt["arm"], attempt["upstream"], attempt["status"]) == (None, "up", status)
