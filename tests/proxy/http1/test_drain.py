"""Stopping: nothing that could still be answered is lost, what can't be is ended so that the client can tell."""

import asyncio
import json
import socket

import pytest

GET = b"GET /echo HTTP/1.1\r\nhost: h\r\n\r\n"


async def test_idle_connections_are_closed_and_requests_finish_and_say_close(serve, until):
    served = await serve()
    idle, busy = await served.raw(), await served.raw()
    await idle.send(GET)
    await idle.reply()
    await busy.send(b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: served.app.pending)
    draining = asyncio.create_task(served.server.drain(10))
    assert await idle.rest() == b""
    with pytest.raises(OSError):
        await served.raw()
    served.app.pending[0].reply(200, b"", b"served")
    status, headers, body = await busy.reply()
    assert (status, headers["connection"], body) == (200, "close", b"served")
    idle.close()
    assert await draining == 0


async def test_the_next_request_of_a_connection_that_was_just_busy_is_served(serve, until):
    """Its client is likely to have sent it already; then the connection is closed."""
    served = await serve()
    raw, fresh = await served.raw(), await served.raw()
    await raw.send(GET)
    await raw.reply()
    draining = asyncio.create_task(served.server.drain(10))
    await until(lambda: served.server._state.draining)
    await asyncio.sleep(0.05)
    for connection in (raw, fresh):
        await connection.send(GET)
        status, headers, _ = await connection.reply()
        assert (status, headers["connection"]) == (200, "close")
        assert await connection.rest() == b""
        connection.close()
    assert await draining == 0


async def test_a_long_quiet_connection_is_closed_at_once(serve):
    """With a clock that jumps: a minute without a request."""
    served = await serve()
    raw = await served.raw()
    await raw.send(GET)
    await raw.reply()
    state = served.server._state
    (connection,) = state.connections
    connection.deadline -= 60
    draining = asyncio.create_task(served.server.drain(30))
    async with asyncio.timeout(0.9):
        assert await raw.rest() == b""
        raw.close()
        assert await draining == 0


async def test_listeners_are_told_and_their_last_bytes_arrive(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /begin HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: served.app.pending)
    assert await served.server.drain(0.05) == 1
    assert served.app.heard[0].events == ["stopping"]
    assert (await raw.reply())[2] == b"begunstopping"
    assert served.server.open_connections == 0


async def test_who_ignores_it_is_answered_for_or_cut(serve, until):
    served = await serve()
    unanswered, begun = await served.raw(), await served.raw()
    await unanswered.send(b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n")
    await begun.send(b"GET /begin HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: len(served.app.pending) == 2)
    for heard in served.app.heard:
        heard.server_stopping = lambda: None
    assert await served.server.drain(0) == 2
    status, headers, body = await unanswered.reply()
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body)["error"]["code"] == "overloaded"
    assert not (await begun.rest()).endswith(b"0\r\n\r\n")


async def test_a_request_whose_body_is_still_coming_is_told(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"POST /size HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\nx")
    await until(lambda: served.server.buffered_bytes == 1)
    draining = asyncio.create_task(served.server.drain(0))
    assert (await raw.reply())[0] == 503
    raw.close()
    assert await draining == 1
    assert served.server.buffered_bytes == 0


async def test_last_bytes_that_nobody_reads_take_a_bounded_time(serve, until):
    """A reader that stopped reading can't hold the server up."""
    served = await serve()
    raw = await served.raw()
    raw.writer.transport.pause_reading()
    await raw.send(b"GET /flood/2000 HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: served.app.heard and served.app.heard[0].events[-1:] == ["paused"])
    async with asyncio.timeout(4):
        assert await served.server.drain(0) == 1
    assert served.server.open_connections == 0
    assert served.server.buffered_bytes == 0


async def test_announcing_keeps_serving_but_not_connections(serve):
    served = await serve()
    idle = await served.raw()
    await idle.send(GET)
    assert "connection" not in (await idle.reply())[1]
    served.server.announce_drain()
    for raw in (await served.raw(), await served.raw(), idle):
        await raw.send(GET)
        assert (await raw.reply())[1]["connection"] == "close"


async def test_no_request_is_lost_between_two_servers_on_one_socket(serve):
    """Rolling restart as the supervisor does it: the socket outlives the server that stops."""
    sock = socket.create_server(("127.0.0.1", 0))
    old, new = await serve(), await serve()
    port = await old.server.listen_socket(sock.dup())
    answers: list[int] = []
    stop = asyncio.Event()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not stop.is_set():
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answers.append(int(head[9:12]))
            if b"connection: close" in head:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    clients = [asyncio.create_task(client()) for _ in range(16)]
    await asyncio.sleep(0.1)
    await new.server.listen_socket(sock.dup())
    assert await old.server.drain(5) == 0
    await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*clients)
    sock.close()
    assert set(answers) == {200}
    assert len(answers) == len(old.app.requests) + len(new.app.requests)
    assert len(new.app.requests) > 0
