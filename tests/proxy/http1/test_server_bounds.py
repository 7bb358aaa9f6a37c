"""Bounds in bytes, counts and seconds; disconnects in every phase; back-pressure; drain."""

import asyncio
import json

import pytest

HOST = b"host: h\r\n"


async def refused(raw, status):
    got, headers, body = await raw.reply()
    assert got == status
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["message"]
    assert await raw.rest() == b""


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 500 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"a" * 2000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: h\r\n" + b"a" * 2000 + b": x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: h\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(30)) + b"\r\n", 431),
        (b"POST /size HTTP/1.1\r\nhost: h\r\ncontent-length: 2001\r\n\r\n", 413),
        (b"POST /stream HTTP/1.1\r\nhost: h\r\ncontent-length: 2001\r\n\r\n", 413),
        (b"POST /size HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2001\r\n\r\n", 413),
        (b"POST /size HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n7d1\r\n" + b"x" * 2001, 413),
        (b"POST /stream HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n7d1\r\n" + b"x" * 2001, 413),
    ],
)
async def test_too_much_is_refused(serve, head, status, split):
    served = await serve(max_line_bytes=400, max_header_bytes=1500, max_headers=20, max_body_bytes=2000)
    raw = await served.raw()
    if split:
        for at in range(0, len(head), 97):
            await raw.send(head[at : at + 97])
            await asyncio.sleep(0)
    else:
        await raw.send(head)
    await refused(raw, status)
    assert served.server.inflight == 0


@pytest.mark.parametrize(
    ("endless", "status"),
    [
        (b"GET /", 414),
        (b"GET / HTTP/1.1\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: ", 431),
        (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1;", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ", 400),
    ],
)
async def test_an_endless_element_is_cut_off_while_it_is_incomplete(serve, endless, status):
    served = await serve(max_line_bytes=4000, max_header_bytes=8000)
    raw = await served.raw()
    await raw.send(endless)
    await raw.send(b"a" * 2_000_000)
    got, _, _ = await raw.reply()
    assert got == status


async def test_limits_reload_without_a_restart(serve):
    served = await serve()
    raw = await served.raw()
    post = b"POST /size HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n0123456789"
    await raw.send(post)
    assert (await raw.reply())[0] == 200
    served.limits = type(served.limits)(max_body_bytes=5)
    await raw.send(post)
    await refused(raw, 413)


@pytest.mark.parametrize("drip", [b"GET /echo HTTP/1.1\r\n", b"GET /echo HTTP/1.1\r\nhost: h\r\nx: y", b"G"])
async def test_a_dripped_head_is_reaped_in_total_time(serve, drip):
    served = await serve(header_s=0.2)
    raw = await served.raw()
    await raw.send(drip)

    async def go_on_dripping():
        while True:
            await asyncio.sleep(0.03)
            raw.writer.write(b"T" if drip == b"" else b"a")

    dripping = asyncio.create_task(go_on_dripping())
    reply = await raw.rest()
    dripping.cancel()
    assert reply.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))


@pytest.mark.parametrize("path", [b"/echo", b"/stream"])
async def test_a_dripped_body_is_reaped_in_total_time(serve, path):
    served = await serve(body_s=0.2)
    raw = await served.raw()
    await raw.send(b"POST %b HTTP/1.1\r\nhost: h\r\nContent-Length: 1000\r\n\r\n" % path)

    async def drip():
        while True:
            await asyncio.sleep(0.03)
            raw.writer.write(b"x")

    dripping = asyncio.create_task(drip())
    status, _, _ = await raw.reply()
    dripping.cancel()
    assert status == 408
    assert served.server.inflight == 0
    if path == b"/stream":
        assert served.app.heard[0].events[-1] == "gone"


async def test_idle_connections_end_after_keepalive_s_and_silent_ones_after_header_s(serve):
    served = await serve(keepalive_s=0.2, header_s=0.2)
    raw, silent = await served.raw(), await served.raw()
    await raw.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await raw.reply())[0] == 200
    assert await raw.rest() == b""
    assert await silent.rest() == b""
    assert served.server.open_connections == 0


async def test_one_connection_too_many_is_told_so(serve, until):
    served = await serve(max_connections=2)
    first, second = await served.raw(), await served.raw()
    await until(lambda: served.server.open_connections == 2)
    third = await served.raw()
    await refused(third, 503)
    third.close()
    first.close()
    await until(lambda: served.server.open_connections == 1)
    fourth = await served.raw()
    for raw in (second, fourth):
        await raw.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await raw.reply())[0] == 200


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET /hang HTTP/1.1\r\n" + HOST + b"\r\n", True),
        (b"GET /begin HTTP/1.1\r\n" + HOST + b"\r\n", True),
        (b"POST /stream HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\nx", True),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\nx", False),
        (b"POST /echo HTTP/1.1\r\n", False),
    ],
)
async def test_a_disconnect_is_heard_at_once_in_every_phase(serve, until, sent, told, how):
    served = await serve()
    raw = await served.raw()
    await raw.send(sent)
    await until(lambda: served.server.open_connections == 1)
    if told:
        await until(lambda: served.app.heard)
    else:
        await asyncio.sleep(0.02)
    if how == "close":
        raw.close()
    elif how == "reset":
        raw.reset()
    else:
        raw.writer.write_eof()
    await until(lambda: served.server.open_connections == 0)
    assert served.server.inflight == 0
    if told:
        assert served.app.heard[0].events.count("gone") == 1
        served.app.heard[0].responder.write(b"too late")  # harmless


async def test_a_client_that_left_after_the_reply_is_not_gone(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
    await raw.reply()
    raw.close()
    await until(lambda: served.server.open_connections == 0)
    assert served.app.heard[0].events == []


async def test_a_slow_reader_pauses_the_application_and_gets_everything(serve, until):
    served = await serve()
    raw = await served.raw()
    raw.reader._limit = 1024
    await raw.send(b"GET /flood/2000 HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: served.app.heard and served.app.heard[0].events[-1:] == ["paused"])
    heard = served.app.heard[0]
    assert heard.left > 0
    _, _, body = await raw.reply()
    assert len(body) == 2000 * 16384
    assert "resumed" in heard.events


async def test_a_client_that_never_reads_is_cut(serve, until):
    served = await serve(write_stall_s=0.3)
    raw = await served.raw()
    raw.writer.transport.pause_reading()
    await raw.send(b"GET /flood/2000 HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: served.app.heard and served.app.heard[0].events[-1:] == ["paused"])
    await until(lambda: served.server.open_connections == 0)
    assert served.app.heard[0].events[-1] == "gone"


async def test_a_finished_reply_that_nobody_reads_is_cut(serve, until):
    served = await serve(write_stall_s=0.3)
    raw = await served.raw()
    raw.writer.transport.pause_reading()
    await raw.send(b"GET /sized/30000000 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    await until(lambda: served.app.heard)
    await until(lambda: served.server.open_connections == 0)
