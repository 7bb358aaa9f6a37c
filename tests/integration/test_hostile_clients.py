"""Clients that try what they should not: odd paths, forged headers, huge names, slow reading, leaving at any moment."""

import asyncio
import gc
import logging
import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from aiohttp import web

from proxy.relay import Relay

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


async def until(condition, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


async def connect(proxy):
    return await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))


async def raw(proxy, data: bytes) -> bytes:
    """Everything that comes back for bytes sent as they are; the request should ask to close."""
    reader, writer = await connect(proxy)
    writer.write(data)
    reply = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return reply


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return (
        b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (path.encode(), lines, len(body))
        + body
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/../metrics",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/%252e%252e/admin",
        "/v1/files/..%2f..%2fadmin",
        "/v1/files\\..\\..\\admin",
        "/v1/files/..%5cadmin",
        "/v1/..;/admin",
        "/v1/./files",
        "/v1/files/..",
        "/v1/%25252525252e%2e/x",
        "//v1/files",
        "/api/v1/../../v1/files",
        "/V1/files",
        "/v1",
    ],
)
async def test_nothing_outside_v1_of_an_upstream_can_be_reached(proxy, upstream, path):
    """Dot segments in any spelling are refused here, not interpreted elsewhere."""
    reply = await raw(proxy, b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())

    assert reply.split(b" ", 2)[1] in (b"400", b"404", b"503")
    assert upstream.paths == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat/completions;x=1",
        "/v1/feedback/",
        "/v1//models",
    ],
)
async def test_another_spelling_does_not_get_around_the_decision(proxy, upstream, path):
    """What is served here is served under its own name only."""
    reply = await raw(proxy, post(path, b"{}", b"connection: close"))

    assert reply.startswith(b"HTTP/1.1 404")
    assert upstream.paths == []


async def test_absolute_form_is_refused(proxy, upstream):
    """A proxy request for another host is none of ours."""
    reply = await raw(proxy, b"GET http://evil/v1/files HTTP/1.1\r\nhost: evil\r\nconnection: close\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 400")
    assert upstream.paths == []


async def test_trace_never_shows_our_key(proxy, upstream, shapes):
    """An upstream that answers TRACE would echo our credentials."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=str(request.headers))

    upstream.handler = handler
    reply = await proxy.client.request("TRACE", "/v1/files")

    assert reply.status_code == 405
    assert shapes.secret not in reply.text
    assert upstream.paths == []


async def test_a_passed_through_request_carries_no_credentials_of_the_client(proxy, upstream, shapes):
    """Authorization, cookies, api keys, internal and forwarding headers stay here."""
    await proxy.client.post(
        "/v1/files?purpose=a%2Fb",
        content=b"x",
        headers={
            "authorization": "Bearer client",
            "x-api-key": "client",
            "api-key": "client",
            "cookie": "client=1",
            "proxy-authorization": "client",
            "x-forwarded-for": "1.2.3.4",
            "x-llm-optimizer-worker": "client",
            "x-llm-optimizer-peer": "client",
            "x-llm-optimizer-pin": "client",
        },
    )

    (sent,) = upstream.headers
    assert "client" not in orjson.dumps(sent).decode()
    assert sent["authorization"] == f"Bearer {shapes.secret}"
    assert upstream.paths == ["/v1/files?purpose=a%2Fb"]


@pytest.mark.parametrize(
    ("base", "asked", "sent"),
    [
        ("", "/v1/files", "/v1/files"),
        ("/", "/v1/files?a=1", "/v1/files?a=1"),
        ("/v1", "/v1/files", "/v1/files"),
        ("/openai/v1/", "/v1/files", "/openai/v1/files"),
        ("/apiv1", "/v1/files", "/apiv1/files"),
        ("/openai?api-version=7", "/v1/files?a=1", "/openai/files?api-version=7&a=1"),
    ],
)
async def test_the_upstreams_base_stands_for_v1(proxy, upstream, shapes, base, asked, sent):
    """Pass-through paths are built as the optimized ones are."""
    table = shapes.table(upstream.url.removesuffix("/v1") + base, version=2)
    proxy.publish(table)
    await proxy.client.post(CHAT, json=HELLO)
    await proxy.client.get(asked)

    head, _, _ = sent.partition("/files")
    assert upstream.paths[0].startswith(head + "/chat/completions")
    assert upstream.paths[1] == sent


async def test_a_prefix_ends_with_a_segment(proxy, upstream, shapes):
    """``/v1/audio`` names an upstream for what is below it, not for ``/v1/audiobooks``."""
    proxy.publish(shapes.table(upstream.url, version=2, passthrough=(("/v1/audio", "up"),)))

    assert (await proxy.client.get("/v1/audio")).status_code == 200
    assert (await proxy.client.get("/v1/audio/speech")).status_code == 200
    assert (await proxy.client.get("/v1/audiobooks")).status_code == 404


async def test_models_are_read_only_and_their_names_may_be_encoded(proxy, upstream, shapes):
    """DELETE is no GET; ``org%2Fname`` is ``org/name``."""
    name = "org/näme"
    table = shapes.table(upstream.url, version=2)
    proxy.publish(replace(table, models=(*table.models, shapes.model(name))))
    found = await proxy.client.get("/v1/models/org%2Fn%C3%A4me")
    deleted = await proxy.client.delete("/v1/models/chat")
    served = await proxy.client.post(CHAT, json=HELLO | {"model": name})

    assert found.json()["id"] == name
    assert (deleted.status_code, deleted.headers["allow"]) == (405, "GET, HEAD")
    assert served.headers["x-llm-optimizer-model"] == "org/n?me"


async def test_huge_names_are_neither_kept_nor_echoed(proxy):
    """A megabyte as model, pin or path is a short 4xx and leaves nothing behind."""
    for number in range(5):
        reply = await proxy.client.post(CHAT, json=HELLO | {"model": f"gpt-{number}" + "x" * 1_000_000})
        assert reply.status_code == 404
        assert len(reply.content) < 1000
    pinned = await proxy.client.post(CHAT, json=HELLO, headers={"x-llm-optimizer-pin": "y" * 30_000})

    assert pinned.status_code == 400
    assert len(pinned.content) < 1000
    assert not any(len(name) > 1000 for name in proxy.worker.plane.table._resolved)
    assert all(len(orjson.dumps(event)) < 2000 for event in proxy.events())


async def test_pipelined_requests_are_answered_and_recorded_in_order(proxy, upstream):
    """Five requests in one packet: five replies in order, each with its own event before its reply."""
    bodies = [orjson.dumps(HELLO | {"n": number}) for number in range(5)]
    closing = [b"connection: close"]
    data = b"".join(post(CHAT, body, *(closing if body is bodies[-1] else [])) for body in bodies)
    reply = await raw(proxy, data)

    assert reply.count(b"HTTP/1.1 200") == 5
    assert [body["n"] for body in upstream.bodies] == list(range(5))
    ids = [event["id"].encode() for event in proxy.events()]
    assert len(ids) == 5
    places = [reply.index(b"x-request-id: " + request_id) for request_id in ids]
    assert all(first < second for first, second in pairwise(places))


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
async def test_the_event_is_in_the_log_before_the_reply_has_ended(proxy, upstream, path):
    """Whoever saw a complete answer finds it recorded, without waiting."""
    for number in range(1, 20):
        await proxy.client.post(path, json=HELLO | {"stream": False})
        assert len(proxy.events()) == number


async def test_a_client_that_leaves_while_uploading_takes_nothing_along(proxy, upstream):
    """Half an upload: the upstream's request ends, one event says so, nothing is in flight."""
    _, writer = await connect(proxy)
    writer.write(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1000)
    await until(lambda: proxy.worker.plane.in_flight == 1)
    writer.close()

    event = await proxy.event()
    assert (event["outcome"], event["status"], event["error.type"]) == ("censored", 499, "client_gone")
    assert event["request_bytes"] <= 1000
    assert proxy.worker.plane.in_flight == 0
    assert proxy.worker.plane.table.handles["up"].pool.busy == 0


async def test_uploads_wait_for_a_slow_upstream(raw_proxy, raw_upstream):
    """An upstream that does not read stops the client's upload instead of filling our memory."""
    proceed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proceed.wait()
        await reader.readexactly(40 * 1024 * 1024 - 10)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    raw_upstream.script = script
    table = raw_proxy.worker.plane.table.source
    raw_proxy.publish(replace(table, version=2, limits=replace(table.limits, max_body_bytes=2**30)))
    reader, writer = await connect(raw_proxy)
    # Chunked towards the upstream, so that its head has no length for the fixture to wait for.
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    sent = 0

    async def upload() -> None:
        nonlocal sent
        for _ in range(640):
            writer.write(b"10000\r\n" + b"u" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")

    task = asyncio.ensure_future(upload())
    seen = -1
    while seen != sent:
        seen = sent
        await asyncio.sleep(0.2)
    # What is on the way sits in socket buffers of the kernel.
    assert sent < 24 * 1024 * 1024
    proceed.set()
    await asyncio.wait_for(task, 10)
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"ok")
    assert (await raw_proxy.event())["request_bytes"] == 40 * 1024 * 1024
    writer.close()


async def test_slow_readers_hold_the_upstream_back(proxy, upstream):
    """A fast stream to a client that does not read: memory stays bounded, and reading on gets everything."""
    piece = b"data: " + orjson.dumps({"choices": [{"delta": {"content": "w" * 10_000}}]}) + b"\n\n"
    produced = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal produced
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(4000):
            await response.write(piece)
            produced += len(piece)
        await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        return response

    upstream.handler = handler
    reader, writer = await connect(proxy)
    writer.write(post(CHAT, orjson.dumps(HELLO | {"stream": True}), b"connection: close"))
    seen = -1
    while produced == 0 or seen != produced:
        seen = produced
        await asyncio.sleep(0.2)
    assert produced < 30 * 1024 * 1024
    (connection,) = proxy.worker.server._state.connections
    assert connection.transport.get_write_buffer_size() < 1024 * 1024
    received = 0
    while data := await asyncio.wait_for(reader.read(1 << 20), 10):
        received += len(data)
    assert received > 4000 * len(piece)
    assert (await proxy.event())["outcome"] == "completed"
    writer.close()


async def test_a_prompt_is_let_go_when_its_stream_has_begun(proxy, upstream):
    """Ten open streams of 300 KB prompts hold little of them."""
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        upstream.raw.clear()
        upstream.bodies.clear()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        await release.wait()
        await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        return response

    upstream.handler = handler
    long = HELLO | {"stream": True, "messages": [{"role": "user", "content": "long " * 60_000}]}
    data = post(CHAT, orjson.dumps(long))
    gc.collect()
    tracemalloc.start()
    writers = []
    for _ in range(10):
        reader, writer = await connect(proxy)
        writer.write(data)
        await asyncio.wait_for(reader.readuntil(b'"content"'), 5)
        writers.append(writer)
    held = [
        trace for trace in tracemalloc.take_snapshot().statistics("lineno")
        if trace.size > 1_000_000 and "/proxy/" in trace.traceback[0].filename
    ]  # fmt: skip
    tracemalloc.stop()
    assert not held
    release.set()
    await proxy.event(10)
    assert all(event["data"]["request_bytes"] > 300_000 for event in proxy.events())
    for writer in writers:
        writer.close()


async def test_a_relay_leaves_no_cycle_behind(proxy):
    """Reference counting alone frees it: the collector of a worker is told to wait."""
    await proxy.client.get("/v1/files")
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await proxy.client.get("/v1/files")
        assert sum(isinstance(thing, Relay) for thing in gc.get_objects()) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("variant", ["default", "terse"])
async def test_deep_nesting_is_answered_and_recorded(proxy, upstream, shapes, variant):
    """What our serializer can't write is the caller's mistake, not a silent 500."""
    table = shapes.table(upstream.url, version=2)
    proxy.publish(
        replace(table, routes=(replace(table.routes[0], control=shapes.side(shapes.arm("a", variant))),))
    )
    body = (
        b'{"model":"chat","messages":[{"role":"user","content":"hi"}],"x":' + b"[" * 400 + b"]" * 400 + b"}"
    )
    reply = await proxy.client.post(CHAT, content=body)

    assert reply.status_code in (200, 400)
    assert len(proxy.events()) == 1


@pytest.mark.parametrize(
    "body", [b'{"model":"evil","model":"chat",%b}', b'{"mod\\u0065l":"evil","model":"chat",%b}']
)
async def test_a_second_model_member_can_not_be_smuggled(proxy, upstream, body):
    """Whatever the upstream's parser does with duplicates, it finds the decided model."""
    reply = await proxy.client.post(
        CHAT, content=body % b'"messages":[{"role":"user","content":"hi"}]', headers={"content-type": "x/y"}
    )

    assert reply.status_code == 200
    assert b"evil" not in upstream.raw[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-real-ip": "203.0.113.9"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded": "for=203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
        {"via": "1.1 nginx"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil"},
        {"authorization": "Bearer x"},
        {"x-api-key": "x"},
    ],
)
async def test_the_optimizer_sees_what_it_authorises_by(proxy, headers):
    """A worker passes on every sign of a proxy, a page or a key, and only its own word about the peer."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_unix_server(serve, str(proxy.state.optimizer_socket))
    forged = {"x-llm-optimizer-peer": "127.0.0.1", "x-llm-optimizer-worker": "forged", "cookie": "c"}
    reply = await proxy.client.get("/api/v1/routes", headers=headers | forged)
    server.close()

    assert reply.status_code == 200
    (head,) = heads
    ((name, value),) = headers.items()
    assert f"\r\n{name}: {value}\r\n".encode() in head
    assert head.count(b"x-llm-optimizer-peer: 127.0.0.1\r\n") == 1
    assert head.count(b"x-llm-optimizer-worker: ") == 1
    assert b"forged" not in head
    assert b"cookie" not in head


async def test_a_full_log_stops_nothing_and_is_told(proxy):
    """Requests flow, what is lost is counted in the worker's report, and feedback is not pretended to be kept."""
    request_id = (await proxy.client.post(CHAT, json=HELLO)).headers["x-request-id"]
    (proxy.state.log_directory / "lease").write_bytes(b"0")
    await asyncio.sleep(1.1)  # the writer looks at its lease once a second of its own clock
    reply = await proxy.client.post(CHAT, json=HELLO)
    feedback = await proxy.client.post("/v1/feedback", json={"request_id": request_id, "score": 1})

    assert reply.status_code == 200
    assert feedback.status_code == 503
    assert proxy.worker._writer.lost["cap"] >= 2
    assert len(proxy.events()) == 1


async def test_a_planted_secret_enters_no_log_line_and_no_event(proxy, upstream, caplog):
    """Through every door: headers, query, path, body, user, pin, feedback; only the model's name is kept."""
    caplog.set_level(logging.DEBUG)
    planted = "sk-planted-7b1f93"
    request_id = (await proxy.client.post(CHAT, json=HELLO)).headers["x-request-id"]
    names = (
        "authorization x-api-key cookie x-session-id x-llm-optimizer-pin user-agent idempotency-key "
        "traceparent baggage x-request-id referer openai-organization"
    )
    everywhere = dict.fromkeys(names.split(), planted)
    body = HELLO | {
        "user": planted,
        "metadata": {planted: planted},
        "messages": [{"role": "user", "content": planted}],
        "tools": [{"type": "function", "function": {"name": planted}}],
    }
    await proxy.client.post(f"{CHAT}?key={planted}", json=body, headers=everywhere)
    del everywhere["x-llm-optimizer-pin"]
    for stream in (False, True):
        await proxy.client.post(f"{CHAT}?key={planted}", json=body | {"stream": stream}, headers=everywhere)
    await proxy.client.post(
        f"/v1/files/{planted}?key={planted}", content=planted.encode(), headers=everywhere
    )
    await proxy.client.get(f"/v1/../{planted}")
    await proxy.client.get(f"/{planted}", headers=everywhere)
    await proxy.client.get(f"/api/v1/{planted}?x={planted}", headers=everywhere)
    await proxy.client.get(f"/v1/models/{planted}")
    await proxy.client.post(CHAT, content=f'{{"{planted}'.encode(), headers=everywhere)
    await proxy.client.post(CHAT, json={"model": "chat", "messages": planted})
    for extra in ({"comment": planted}, {planted: 1}, {"source": f"{planted} !"}, {"metric": f"{planted} !"}):
        await proxy.client.post(
            "/v1/feedback", json={"request_id": request_id, "score": 1} | extra, headers=everywhere
        )
    await proxy.client.post("/v1/feedback", json={"request_id": planted, "score": 1})
    await raw(proxy, f"GET /v1/files HTTP/1.1\r\nhost: {planted}\r\nbad header {planted}\r\n\r\n".encode())
    await proxy.event(7)

    assert planted not in orjson.dumps(list(proxy.lines())).decode()
    said = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("http", "aiohttp"))
    ]
    assert planted not in "".join(said)
