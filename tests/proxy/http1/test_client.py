"""The pool against scripted upstreams: framing, races, faults, deadlines, back-pressure, cancellation."""

import asyncio
import gc

import pytest

from proxy.errors import ConnectFault, Overloaded, ProtocolFault, ResetFault, TimeoutFault

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:  b \r\n\r\nok"


def answering(read_request, *replies, close=False):
    """Upstream that answers each request of a connection with the next of ``replies`` (the last repeats)."""
    seen = []

    async def script(reader, writer):
        number = 0
        while True:
            seen.append((await read_request(reader), id(writer)))
            writer.write(replies[min(number, len(replies) - 1)])
            await writer.drain()
            number += 1
            if close:
                return

    return script, seen


@pytest.fixture
def upstream(scripted, read_request, pool_for):
    """``pool, seen = await upstream(*replies, close=..., **upstream fields)``."""

    async def start(*replies, close=False, **fields):
        script, seen = answering(read_request, *replies, close=close)
        return pool_for(await scripted(script), **fields), seen

    return start


async def test_a_connection_is_reused_and_counted(upstream, make_sink, request_bytes):
    pool, seen = await upstream(OK)
    for number in range(3):
        sink = make_sink()
        call = pool.send(*request_bytes("/x", b"body"), sink)
        await sink.wait()
        assert sink.status == 200
        assert sink.heads[0][1] == [(b"content-length", b"2"), (b"x-a", b"b")]
        assert sink.body == b"ok"
        assert call.reused is (number > 0)
        assert (call.connect_ms > 0) is (number == 0)
    assert seen[0][0][1] == b"body"
    assert len({connection for _, connection in seen}) == 1
    assert (pool.made, pool.reused, pool.idle, pool.busy) == (1, 2, 1, 0)


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nT: v\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
            b"ok",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00",
            b"\x1f\x8b\x00",
        ),
        (b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_framings_that_keep_the_connection(upstream, make_sink, request_bytes, reply, body):
    pool, _ = await upstream(reply)
    for _ in range(2):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert not sink.faults
        assert sink.body == body
    assert pool.made == 1


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            b"x",
        ),
    ],
)
async def test_framings_that_end_the_connection(upstream, make_sink, request_bytes, reply, body):
    pool, _ = await upstream(reply, close=True)
    for _ in range(2):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert not sink.faults
        assert sink.body == body
    assert pool.made == 2
    assert pool.idle == 0


@pytest.mark.parametrize("more", [b"H", OK, b"\x00", b"HTTP/1.1 200 OK\r\n"])
async def test_bytes_after_a_reply_cost_the_connection(upstream, make_sink, request_bytes, more):
    pool, _ = await upstream(OK + more)
    for number in range(2):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert sink.body == b"ok"
        assert pool.made == number + 1
        assert pool.idle == 0


async def test_unasked_bytes_on_an_idle_connection_close_it(
    scripted, read_request, pool_for, make_sink, request_bytes, until
):
    speak = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await speak.wait()
        writer.write(OK)
        await reader.read()

    pool = pool_for(await scripted(script))
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert pool.idle == 1
    speak.set()
    await until(lambda: pool.idle == 0)
    assert pool.busy == 0


async def test_head_has_no_body(upstream, make_sink, request_bytes):
    pool, _ = await upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", OK)
    for method, body in (("HEAD", b""), ("GET", b"ok")):
        sink = make_sink()
        pool.send(*request_bytes(method=method), sink)
        await sink.wait()
        assert not sink.faults
        assert sink.body == body
    assert pool.made == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: " + b"a" * 400_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 400_000,
    ],
)
async def test_malformed_replies_are_protocol_faults(upstream, make_sink, request_bytes, reply):
    pool, seen = await upstream(reply)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert [type(fault) for fault in sink.faults] == [ProtocolFault]
    assert (pool.idle, pool.busy) == (0, 0)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    ],
)
async def test_truncated_replies_are_reset_faults(upstream, make_sink, request_bytes, reply):
    pool, seen = await upstream(reply, close=True)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert [type(fault) for fault in sink.faults] == [ResetFault]
    assert len(seen) == 1  # a fresh connection is never retried


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_keepalive_race_is_retried_once_on_a_fresh_connection(
    scripted, read_request, pool_for, make_sink, request_bytes, wanted
):
    connections = []

    async def script(reader, writer):
        connections.append(writer)
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # and close without a word

    pool = pool_for(await scripted(script))
    first, second = make_sink(), make_sink()
    pool.send(*request_bytes(), first)
    await first.wait()
    call = pool.send(*request_bytes(), second, idempotent_retry=wanted)
    await second.wait()
    if wanted:
        assert second.body == b"ok"
        assert len(connections) == 2
        assert not call.reused
    else:
        assert [type(fault) for fault in second.faults] == [ResetFault]
        assert len(connections) == 1


async def test_no_retry_once_a_byte_of_the_reply_came(
    scripted, read_request, pool_for, make_sink, request_bytes
):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        writer.write(b"H")
        await writer.drain()

    pool = pool_for(await scripted(script))
    for faults in (0, 1):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert len(sink.faults) == faults
    assert pool.made == 1


async def test_connection_refused_and_unknown_host(pool_for, make_sink, request_bytes):
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        sink = make_sink()
        pool = pool_for(url)
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert [type(fault) for fault in sink.faults] == [ConnectFault]
        assert pool.busy == 0


async def phases(reader, writer, read_request):
    """Stalls where the path says."""
    head, _ = await read_request(reader)
    path = head.split(b" ")[1]
    if path == b"/fine":
        writer.write(OK)
    if path == b"/head":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    if path == b"/body":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    if path == b"/drip":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)
    await reader.read()


@pytest.mark.parametrize(
    ("path", "phase"), [("/silent", "first_byte"), ("/head", "idle"), ("/body", "idle"), ("/drip", "total")]
)
async def test_deadlines(scripted, read_request, pool_for, make_sink, request_bytes, path, phase):
    url = await scripted(lambda r, w: phases(r, w, read_request))
    pool = pool_for(url, first_byte_s=0.2, idle_s=0.2, total_s=0.6 if path == "/drip" else None)
    sink = make_sink()
    pool.send(*request_bytes(path), sink)
    await sink.wait()
    (fault,) = sink.faults
    assert isinstance(fault, TimeoutFault)
    assert fault.phase == phase
    assert pool.busy == 0


async def test_connect_deadline(pool_for, make_sink, request_bytes):
    # a listener whose backlog is full does not answer further connections
    listener = await asyncio.get_running_loop().run_in_executor(None, full_listener)
    pool = pool_for(f"http://127.0.0.1:{listener[0].getsockname()[1]}", connect_s=0.2)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    for sock in listener:
        sock.close()
    (fault,) = sink.faults
    assert isinstance(fault, TimeoutFault)
    assert fault.phase == "connect"
    assert pool.busy == 0


def full_listener():
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return [listener, *fillers]


@pytest.mark.parametrize(
    "phase", ["waiting", "connecting", "silent", "head", "in-head", "body", "in-body", "drip"]
)
async def test_a_cancelled_call_frees_its_slot_in_every_phase(
    scripted, read_request, pool_for, make_sink, request_bytes, until, phase
):
    url = await scripted(lambda r, w: phases(r, w, read_request))
    pool = pool_for(url, max_connections=2)
    kept = [make_sink() for _ in range(2)]
    calls = []
    if phase == "waiting":
        blockers = [pool.send(*request_bytes("/silent"), make_sink()) for _ in range(2)]
        calls = [pool.send(*request_bytes("/silent"), sink) for sink in kept]
        assert pool.waiting == 2
    else:
        blockers = []
        for sink in kept:
            call = pool.send(*request_bytes("/" + phase.removeprefix("in-")), sink)
            sink.on_head = call.cancel if phase == "in-head" else None
            sink.on_body = call.cancel if phase == "in-body" else None
            calls.append(call)
        if phase in ("head", "body", "drip"):
            await until(lambda: all(sink.heads for sink in kept))
        elif phase == "silent":
            await until(lambda: pool.made == 2)
            await asyncio.sleep(0.02)
        elif phase != "connecting":
            await until(lambda: pool.busy == 0)
    for call in calls:
        call.cancel()
        call.cancel()
    if phase == "waiting":
        assert pool.waiting == 0
        for blocker in blockers:
            blocker.cancel()
    assert pool.busy == 0
    events = [(sink.flushes, sink.body) for sink in kept]
    third = make_sink()
    pool.send(*request_bytes("/fine"), third)
    await third.wait()
    assert third.body == b"ok"
    await asyncio.sleep(0.05)
    assert events == [(sink.flushes, sink.body) for sink in kept]
    assert not any(sink.ended or sink.faults for sink in kept)


async def test_a_sink_that_fails_gets_its_end_and_costs_the_connection(upstream, make_sink, request_bytes):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    pool, _ = await upstream(OK)

    def boom():
        raise RuntimeError("boom")

    for where in ("on_head", "on_body"):
        sink = make_sink()
        setattr(sink, where, boom)
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert len(sink.faults) == 1
        assert pool.busy == pool.idle == 0
    assert len(reports) == 2


async def test_over_max_connections_calls_wait_in_a_bounded_line(
    scripted, read_request, pool_for, make_sink, request_bytes
):
    gate = asyncio.Event()
    most = now = 0

    async def script(reader, writer):
        nonlocal most, now
        while True:
            await read_request(reader)
            now += 1
            most = max(most, now)
            await gate.wait()
            now -= 1
            writer.write(OK)

    pool = pool_for(await scripted(script), max_connections=3)
    sinks = [make_sink() for _ in range(30)]
    for sink in sinks:
        pool.send(*request_bytes(), sink)
    assert (pool.busy, pool.waiting) == (3, 16)
    await asyncio.sleep(0.05)
    gate.set()
    for sink in sinks:
        await sink.wait()
    assert most == 3
    assert pool.made == 3
    refused = [sink for sink in sinks if sink.faults]
    assert len(refused) == 30 - 3 - 16
    assert all(isinstance(sink.faults[0], Overloaded) for sink in refused)


async def test_waiting_too_long_is_our_own_bound_and_not_the_upstreams_fault(
    scripted, read_request, pool_for, make_sink, request_bytes
):
    url = await scripted(lambda r, w: phases(r, w, read_request))
    pool = pool_for(url, max_connections=1, connect_s=0.1, first_byte_s=0.2, idle_s=30)
    holder = pool.send(*request_bytes("/drip"), make_sink())
    sink = make_sink()
    pool.send(*request_bytes("/fine"), sink)
    await sink.wait()
    (fault,) = sink.faults
    assert isinstance(fault, Overloaded)
    holder.cancel()


async def test_idle_connections_are_closed_after_keepalive_s(upstream, make_sink, request_bytes, until):
    pool, _ = await upstream(OK, keepalive_s=0.15)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert pool.idle == 1
    await until(lambda: pool.idle == 0)


async def test_close_fails_who_waits_and_lets_others_finish(
    scripted, read_request, pool_for, make_sink, request_bytes
):
    gate = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        await gate.wait()
        writer.write(OK)
        await reader.read()

    pool = pool_for(await scripted(script), max_connections=1)
    busy, waiting, late = make_sink(), make_sink(), make_sink()
    pool.send(*request_bytes(), busy)
    pool.send(*request_bytes(), waiting)
    await asyncio.sleep(0.05)
    pool.close()
    await waiting.wait()
    assert isinstance(waiting.faults[0], Overloaded)
    pool.send(*request_bytes(), late)
    assert isinstance((await late.wait()).faults[0], Overloaded)
    gate.set()
    await busy.wait()
    assert busy.body == b"ok"
    assert (pool.idle, pool.busy) == (0, 0)


async def test_nothing_is_left_behind(upstream, make_sink, request_bytes, until):
    pool, _ = await upstream(OK, close=True)
    for _ in range(20):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
    await until(lambda: pool.idle == pool.busy == 0)
    await asyncio.sleep(0.15)
    gc.collect()
    kinds = [type(thing).__name__ for thing in gc.get_objects()]
    assert kinds.count("ClientConnection") == 0
