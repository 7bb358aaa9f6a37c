"""The pool's flow control: pausing replies, streamed uploads, early replies, flushes."""

import asyncio

import pytest

from proxy.errors import TimeoutFault

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:  b \r\n\r\nok"


async def test_pause_stops_reading_and_the_idle_deadline(
    scripted, read_request, pool_for, make_sink, request_bytes
):
    sent = 0

    async def script(reader, writer):
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
        for _ in range(400):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000
        await reader.read()

    pool = pool_for(await scripted(script), idle_s=0.2)
    sink = make_sink()
    call = pool.send(*request_bytes(), sink)
    sink.on_head = call.pause
    await asyncio.sleep(0.6)
    assert len(sink.body) < 1_000_000
    assert sent < 20_000_000
    assert not sink.done.is_set()
    call.resume()
    await sink.wait()
    assert len(sink.body) == 40_000_000
    call.resume()
    call.pause()
    again = make_sink()
    assert pool.idle == 1
    pool.send(*request_bytes(), again).cancel()


async def test_an_early_reply_to_a_large_request_is_delivered(
    scripted, pool_for, make_sink, request_bytes, until
):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(0.2)

    pool = pool_for(await scripted(script))
    sink = make_sink()
    pool.send(*request_bytes(body=b"x" * 30_000_000), sink)
    await sink.wait()
    assert (sink.status, sink.body) == (413, b"big")
    assert (pool.idle, pool.busy) == (0, 0)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_streamed_request_body(scripted, pool_for, make_sink, until, chunked):
    got = bytearray()

    async def script(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if chunked:
                while size := int(await reader.readline(), 16):
                    got.extend(await reader.readexactly(size))
                    await reader.readexactly(2)
                await reader.readexactly(2)
            else:
                got.extend(await reader.readexactly(10))
            writer.write(OK)

    pool = pool_for(await scripted(script))
    declared = b"Transfer-Encoding: chunked" if chunked else b"content-length: 10"
    head = b"POST / HTTP/1.1\r\nhost: u\r\n" + declared + b"\r\n\r\n"
    for number in range(2):
        sink = make_sink()
        call = pool.open(head, sink)
        call.write(b"01234")
        await until(lambda: pool.made == 1)
        await asyncio.sleep(0.02)
        call.write(b"56789")
        call.end()
        call.write(b"ignored")
        await sink.wait()
        assert sink.body == b"ok"
        assert call.reused is (number == 1)
    assert bytes(got) == b"0123456789" * 2


async def test_a_slow_upstream_pauses_a_streamed_upload(scripted, pool_for, make_sink, until):
    go = asyncio.Event()

    async def script(reader, writer):
        await go.wait()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(30_000_000)
        writer.write(OK)

    pool = pool_for(await scripted(script))
    sink = make_sink()
    told = []
    call = pool.open(b"POST / HTTP/1.1\r\nhost: u\r\ncontent-length: 30000000\r\n\r\n", sink)
    call.on_pause = lambda: told.append("pause")
    call.on_resume = lambda: told.append("resume")
    for _ in range(300):
        call.write(b"x" * 100_000)
    await until(lambda: told.count("pause") == 2)  # while connecting, and by the socket
    call.end()
    go.set()
    await sink.wait()
    assert sink.body == b"ok"
    assert told[-1] == "resume"


async def test_an_upstream_that_takes_no_upload_is_an_idle_timeout(scripted, pool_for, make_sink):
    async def script(reader, writer):
        await asyncio.sleep(30)

    pool = pool_for(await scripted(script), idle_s=0.3)
    sink = make_sink()
    call = pool.open(b"POST / HTTP/1.1\r\nhost: u\r\ncontent-length: 90000000\r\n\r\n", sink)
    for _ in range(300):
        call.write(b"x" * 100_000)
    await sink.wait()
    assert isinstance(sink.faults[0], TimeoutFault)
    assert sink.faults[0].phase == "idle"


async def test_flush_comes_once_per_read_and_not_at_the_end(
    scripted, read_request, pool_for, make_sink, request_bytes, until
):
    step = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
        await step.wait()
        writer.write(b"1\r\nc\r\n0\r\n\r\n")

    pool = pool_for(await scripted(script))
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await until(lambda: sink.body == b"ab")
    assert sink.flushes == 1
    step.set()
    await sink.wait()
    assert sink.flushes == 1
