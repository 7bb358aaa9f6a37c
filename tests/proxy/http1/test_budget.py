"""Bytes held for all clients together: counted exactly, bounded, and given back however a request ends."""

import asyncio
import json

import pytest

from optimizer.routing import Limits
from proxy.http1 import server_connection
from proxy.http1.budget import Budget

MB = 1024 * 1024


def post(path: bytes, length: int, body: bytes = b"", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: h\r\n%bcontent-length: %d\r\n\r\n" % (path, more, length) + body


class SlowReader:
    """What the budget sees of a connection."""

    def __init__(self, size):
        self.size = size
        self.killed = False

    def unsent(self):
        return self.size

    def kill(self):
        self.killed = True
        return True


def test_the_longest_slow_reader_goes_first_and_only_as_many_as_needed():
    budget = Budget(1000)
    readers = [SlowReader(300), SlowReader(300), SlowReader(300)]
    for number, reader in enumerate(readers):
        budget.slow(reader, float(number))
    assert (budget.unsent, budget.ceiling) == (900, 100)
    assert budget.make_room(100, 10.0)
    assert budget.make_room(400, 10.0)
    assert [reader.killed for reader in readers] == [True, False, False]
    assert budget.evicted == 1
    assert budget.held == 600


def test_a_reader_that_just_got_slow_is_spared():
    budget = Budget(1000)
    reader = SlowReader(900)
    budget.slow(reader, 5.0)
    assert not budget.make_room(200, 5.5)
    assert not reader.killed
    assert budget.make_room(200, 6.5)
    assert reader.killed


def test_growing_buffers_are_seen_at_the_next_look():
    budget = Budget(1000)
    slow, small = SlowReader(100), SlowReader(10)
    budget.slow(slow, 0.0)
    slow.size = 2000
    for _ in range(10):
        budget.look(1000, 0.5, [slow, small])
    assert budget.held == 2010
    budget.look(1000, 2.0, [slow, small])
    assert slow.killed
    assert budget.unsent == 0
    budget.caught_up(slow)
    assert budget.unsent == 0


@pytest.mark.parametrize(
    "how", ["replied", "client left", "aborted", "client left early", "too large", "slow"]
)
async def test_bodies_are_counted_while_they_are_held(serve, until, how):
    served = await serve(max_body_bytes=2 * MB, body_s=0.3 if how == "slow" else 60.0)
    raw = await served.raw()
    if how == "too large":
        await raw.send(b"POST /hang HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n100000\r\n")
        await raw.send(b"x" * MB + b"\r\n200000\r\n")
        await until(lambda: served.server.buffered_bytes == MB)
        await raw.send(b"x" * 2 * MB)
        assert (await raw.reply())[0] == 413
    elif how in ("client left early", "slow"):
        await raw.send(post(b"/hang", 2 * MB, b"x" * MB))
        await until(lambda: served.server.buffered_bytes == MB)
        if how == "slow":
            assert (await raw.reply())[0] == 408
        raw.close()
    else:
        await raw.send(post(b"/hang", MB, b"x" * MB))
        await until(lambda: served.app.pending)
        assert served.server.buffered_bytes == MB
        if how == "replied":
            served.app.pending[0].reply(200, b"", b"ok")
        elif how == "aborted":
            served.app.pending[0].abort()
        else:
            raw.close()
    await until(lambda: served.server.buffered_bytes == 0)


async def test_pipelined_and_held_bytes_are_counted_and_let_go(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n" + post(b"/size", 300_000, b"y" * 300_000))
    await until(lambda: served.server.buffered_bytes > 250_000)
    served.app.pending[0].reply(200, b"", b"first")
    assert (await raw.reply())[2] == b"first"
    assert (await raw.reply())[2] == b"300000"
    assert served.server.buffered_bytes == 0
    await raw.send(b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n" + post(b"/size", 3000, b"y" * 3000))
    await until(lambda: len(served.app.pending) == 2)
    raw.reset()
    await until(lambda: served.server.open_connections == 0)
    assert served.server.buffered_bytes == 0


async def test_what_follows_the_last_reply_is_let_go(serve, until):
    """A reply that ends the connection is written while the next request is in the same read."""
    served = await serve()
    served.server.announce_drain()
    raw = await served.raw()
    await raw.send(post(b"/size", 5, b"first") + post(b"/size", 500, b"y" * 500))
    assert (await raw.reply())[2] == b"5"
    raw.close()
    await until(lambda: served.server.open_connections == 0)
    assert served.server.buffered_bytes == 0


async def test_a_body_is_let_go_when_the_application_drops_it_and_streams(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(post(b"/hang", MB, b"x" * MB))
    await until(lambda: served.app.pending)
    served.app.requests[0].body = b""
    served.app.pending[0].start(200, b"", None)
    assert served.server.buffered_bytes == 0
    served.app.pending[0].finish(b"end")
    assert (await raw.reply())[2] == b"end"
    assert served.server.buffered_bytes == 0


async def test_over_budget_new_bodies_are_told_to_come_back(serve, until):
    served = await serve(in_flight_bytes=MB)
    holder = await served.raw()
    await holder.send(post(b"/hang", MB - 10, b"x" * (MB - 10)))
    await until(lambda: served.app.pending)

    small = await served.raw()
    for _ in range(2):  # the connection survives a small one
        await small.send(post(b"/size", 20, b"y" * 20))
        status, headers, body = await small.reply()
        assert (status, headers["retry-after"], headers["x-refusal"]) == (503, "1", "yes")
        assert json.loads(body)["error"]["code"] == "overloaded"
    await small.send(b"GET /echo HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (await small.reply())[0] == 200
    await small.send(post(b"/essential", 20, b"y" * 20))
    assert (await small.reply())[2] == b"served"

    for refused in (
        post(b"/size", 500_000),
        post(b"/size", 20, more=b"expect: 100-continue\r\n"),
        b"POST /size HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n100\r\n" + b"z" * 256,
        post(b"/essential", 2 * MB),
    ):
        raw = await served.raw()
        await raw.send(refused)
        status, headers, _ = await raw.reply()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        raw.close()

    served.app.pending[0].reply(200, b"", b"ok")
    await until(lambda: served.server.buffered_bytes == 0)
    await small.send(post(b"/size", 20, b"y" * 20))
    assert (await small.reply())[2] == b"20"


async def test_bodies_that_grow_over_it_together_are_cut_short(serve, until):
    """Each is within the limit when it begins: 16 announced megabytes against a budget of 4."""
    served = await serve(in_flight_bytes=4 * MB)
    raws = [await served.raw() for _ in range(16)]
    for raw in raws:
        await raw.send(post(b"/hang", MB, b"x"))
    await until(lambda: served.server.buffered_bytes == 16)
    for raw in raws:
        raw.writer.write(b"x" * (MB - 1))
    replied = []

    def settled() -> bool:
        replied[:] = [raw for raw in raws if raw.reader._buffer]
        return len(served.app.pending) + len(replied) == 16

    await until(settled)
    assert served.server.buffered_bytes <= 4 * MB
    assert len(served.app.pending) in (3, 4)
    for raw in replied:
        assert (await raw.reply())[0] == 503


async def test_slow_readers_go_when_memory_is_short(serve, until):
    """Nobody else suffers: their place is taken by bodies that somebody waits for."""
    served = await serve(in_flight_bytes=MB)
    slow = await served.raw()
    slow.writer.transport.pause_reading()
    await slow.send(b"GET /sized/20000000 HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: served.server.buffered_bytes > MB)
    await until(lambda: served.server.evicted == 1)
    await until(lambda: served.server.open_connections == 0)
    assert served.server.buffered_bytes == 0
    raw = await served.raw()
    await raw.send(post(b"/size", 1000, b"y" * 1000))
    assert (await raw.reply())[2] == b"1000"


async def test_a_declined_request_costs_its_body_and_keeps_its_connection(serve):
    served = await serve()
    raw = await served.raw()
    body = b"GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n"
    await raw.send((post(b"/decline", len(body), body) + b"GET /decline HTTP/1.1\r\nhost: h\r\n\r\n") * 2)
    for _ in range(4):
        status, headers, reply = await raw.reply()
        assert (status, headers["retry-after"], headers["x-refusal"]) == (503, "1", "yes")
        assert json.loads(reply)["error"]["code"] == "overloaded"
    assert served.app.requests == []
    assert served.server.buffered_bytes == 0
    await raw.send(b"GET /decline HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    assert (await raw.reply())[1]["connection"] == "close"
    assert await raw.rest() == b""


async def test_a_body_must_keep_coming(serve, monkeypatch):
    """Five kilobytes in ten seconds are asked for; here with smaller figures."""
    monkeypatch.setattr(server_connection, "_BODY_WINDOW_S", 0.3)
    served = await serve(body_s=60.0)
    dripping, steady = await served.raw(), await served.raw()
    await dripping.send(post(b"/size", 100_000))
    await steady.send(post(b"/size", 100_000))

    async def drip() -> None:
        for _ in range(20):
            dripping.writer.write(b"x")
            await steady.send(b"y" * 5000)
            await asyncio.sleep(0.05)

    dripper = asyncio.create_task(drip())
    assert (await dripping.reply())[0] == 408
    assert (await steady.reply())[2] == b"100000"
    await dripper


async def test_quiet_connections_make_room_for_new_ones(serve, until):
    """Over the limit the longest quiet go, but none that was busy a moment ago, and none with a request."""
    served = await serve(max_connections=4)
    raws = [await served.raw() for _ in range(4)]
    for raw in raws[:3]:
        await raw.send(b"GET /echo HTTP/1.1\r\nhost: h\r\n\r\n")
        await raw.reply()
    await raws[3].send(b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n")
    await until(lambda: served.app.pending)
    refused = await served.raw()
    assert (await refused.reply())[0] == 503
    refused.close()
    await until(lambda: served.server.open_connections == 4)
    oldest = min(served.server._state.connections, key=lambda connection: connection.quiet_since())
    oldest.deadline -= 30
    await asyncio.sleep(0.25)  # looking for room is not tried again before the next sweep
    welcome = await served.raw()
    await welcome.send(b"GET /echo HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (await welcome.reply())[0] == 200
    await until(lambda: sum(raw.reader.at_eof() or raw.reader._eof for raw in raws[:3]) == 1)


async def test_a_flood_of_connections_is_bounded(serve, until, monkeypatch):
    """So many over the limit that telling each is not worth it: they are cut, and descriptors come back."""
    monkeypatch.setattr("proxy.http1.server_state._LINGERING", 5)
    served = await serve(max_connections=2)
    raws = [await served.raw() for _ in range(40)]
    await until(lambda: served.server.open_connections <= 2 + 5)
    assert served.limits == Limits(max_connections=2)
    for raw in raws:
        raw.close()
    await until(lambda: served.server.open_connections == 0)
