"""Feedback from the node that got it to the node that decided, through a Redis that fails in every way."""

import asyncio
import random
import time
from collections import Counter
from functools import partial

import orjson
import pytest

from optimizer import events
from optimizer.cluster.forwarding import Forwarder, ForwardingTuning, Receiver
from optimizer.cluster.types import Away
from optimizer.feedback import parse_feedback, to_event
from optimizer.ids import RequestIds, verify
from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.log.writer import LogWriter, WriterBounds, encode
from optimizer.sinks.base import Sink

KEY = b"k" * 32
LATE_S = 30 * 86400.0
QUICK = ForwardingTuning(repeat_s=0.2, idle_s=0.01, longest_pause_s=0.05, save_every_s=0.02)


class Node:
    """One node's log, forwarder and receiver. Its requests are decided now."""

    def __init__(self, path, link, tuning=QUICK) -> None:
        self.state = StateDirectory(path)
        self.node = self.state.node
        self.link = link
        self.tuning = tuning
        self.ids = RequestIds(node=self.node, incarnation=1, key=KEY)
        self.writer = LogWriter(
            self.state.log_directory, node=self.node, incarnation=1, role="worker",
            bounds=WriterBounds(reserve_bytes=0, segment_bytes=20_000),
        )  # fmt: skip
        self.now = time.time
        self.takes = True
        self.sent: list[str] = []
        self.start()

    def start(self) -> None:
        """Forwarder and receiver as after a restart."""
        self.forwarder = Forwarder(
            self.link,
            LogReader(self.state.log_directory),
            node=self.node,
            verify=partial(verify, key=KEY),
            cursor_file=self.state.path / "feedback.cursor.json",
            late_window_s=LATE_S,
            tuning=self.tuning,
            clock=self.clock,
        )
        self.receiver = Receiver(
            self.link,
            node=self.node,
            verify=partial(verify, key=KEY),
            journal=self.journal,
            tuning=self.tuning,
        )

    def clock(self) -> float:
        return self.now()

    def journal(self, kind, data, event_id) -> bool:
        if self.takes:
            self.writer.append(encode(event_id, kind, "/x/optimizer/1", int(time.time() * 1000), data))
        return self.takes

    def request(self) -> str:
        return self.ids.mint(int(time.time() * 1000), 0)

    def rate(self, request_id: str, source: str = "me", value: float = 1.0) -> str:
        """Feedback that reached this node; returns the event's id."""
        (item,) = parse_feedback({"request_id": request_id, "value": value, "source": source})
        event_id, data = to_event(item, request_id=request_id)
        self.writer.append(encode(event_id, events.FEEDBACK, "/x/worker/1", int(time.time() * 1000), data))
        return event_id

    def logged(self) -> Counter[str]:
        """How often each feedback is in the log."""
        found: Counter[str] = Counter()
        cursor = {}
        reader = LogReader(self.state.log_directory)
        while True:
            batch = reader.poll(cursor)
            found.update(event["id"] for _, event in batch.events() if event["type"] == events.FEEDBACK)
            cursor = batch.cursor
            if not batch.more:
                return found

    def end(self) -> dict[str, tuple[int, int]]:
        """The cursor after everything."""
        cursor = {}
        reader = LogReader(self.state.log_directory)
        while (batch := reader.poll(cursor)).more:
            cursor = batch.cursor
        return batch.cursor


@pytest.fixture
def make_member(tmp_path, redis_server, make_link):
    """``make_member(name, url=...)``: one more node."""
    made: list[Node] = []

    def make(name: str, url: str | None = None, tuning=QUICK, **options) -> Node:
        link = make_link(url or redis_server.url, **{"timeout_s": 5.0, **options})
        made.append(Node(tmp_path / name, link, tuning))
        return made[-1]

    yield make
    for node in made:
        node.writer.close()


async def until(condition, seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, condition
        await asyncio.sleep(0.01)


async def exchange(*nodes: Node, rounds: int = 3) -> None:
    for _ in range(rounds):
        for node in nodes:
            await node.forwarder.step()
        for node in nodes:
            await node.receiver.step()
        await asyncio.sleep(0.015)


async def test_only_what_another_node_decided_is_handed_over(make_member):
    a, b = make_member("a"), make_member("b")
    assert isinstance(a.forwarder, Forwarder)
    sink: Sink = a.forwarder
    assert sink.name == "feedback"
    own = a.rate(a.request())
    given = a.rate(b.request())
    forged = a.rate(RequestIds(node=b.node, incarnation=1, key=b"x" * 32).mint(5, 0))
    await exchange(a, b)
    assert a.logged() == {own: 1, given: 1, forged: 1}
    assert b.logged() == {given: 1}
    assert a.forwarder.stats.delivered == 1
    assert a.forwarder.waiting == 0
    assert a.forwarder.cursor == a.end()
    assert a.forwarder.stats.up
    assert b.receiver.counts == {"received": 1}
    assert await a.link.command("EXISTS", a.link.key("feedback", f"{b.node:08x}")) == 0
    assert 0 < await a.link.command("TTL", a.link.key("acked", given)) <= 300
    # What came from another node is this one's own now.
    await exchange(a, b)
    assert b.forwarder.waiting == 0
    assert b.logged() == {given: 1}


async def test_the_event_is_the_same(make_member):
    a, b = make_member("a"), make_member("b")
    request = b.request()
    a.rate(request, source="x@1", value=0.25)
    await exchange(a, b)
    (first,) = [e for _, e in LogReader(a.state.log_directory).poll({}).events()]
    (second,) = [e for _, e in LogReader(b.state.log_directory).poll({}).events()]
    assert (first["id"], first["type"], first["data"]) == (second["id"], second["type"], second["data"])


async def test_a_redis_that_was_wiped_loses_nothing(make_member, redis_server):
    a, b = make_member("a"), make_member("b")
    given = a.rate(b.request())
    await a.forwarder.step()
    redis_server.flush()
    await b.receiver.step()
    assert b.logged() == {}
    await asyncio.sleep(0.25)
    await exchange(a, b)
    assert b.logged() == {given: 1}
    assert a.forwarder.stats.retried == 1
    assert a.forwarder.waiting == 0


async def test_a_log_that_takes_nothing_leaves_it_in_redis(make_member):
    a, b = make_member("a"), make_member("b")
    given = a.rate(b.request())
    b.takes = False
    await exchange(a, b)
    assert b.receiver.counts["refused"] >= 1
    assert a.forwarder.waiting == 1
    b.takes = True
    for _ in range(100):
        await exchange(a, b)
        if a.forwarder.waiting == 0:
            break
        await asyncio.sleep(0.05)
    assert b.logged() == {given: 1}
    assert a.forwarder.waiting == 0


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_lost_answer_is_no_second_line_but_a_crash_may_be(
    make_member, make_relay, redis_server, restarted
):
    relay = make_relay(redis_server.address)
    a, b = make_member("a"), make_member("b", redis_server.url_by(relay.address), timeout_s=0.1)
    given = a.rate(b.request())
    await a.forwarder.step()
    write = b.receiver._journal

    def write_and_lose_redis(*event) -> bool:
        relay.mode = "cut"
        return write(*event)

    b.receiver._journal = write_and_lose_redis
    with pytest.raises(Away):
        await b.receiver.step()
    relay.mode = "pass"
    await asyncio.sleep(0.06)
    if restarted:
        b.start()
    else:
        b.receiver._journal = write
    await exchange(a, b)
    assert b.logged() == {given: 2 if restarted else 1}
    assert a.forwarder.waiting == 0


async def test_a_dead_node_holds_nobody_up(make_member):
    small = ForwardingTuning(
        unacked=5, unacked_least=5, repeat_s=0.2, idle_s=0.01, longest_pause_s=0.02, save_every_s=0.0
    )
    a, b, dead = make_member("a", tuning=small), make_member("b"), make_member("dead")
    for_b, for_dead = [], []
    for _ in range(60):
        for_b.append(a.rate(b.request()))
        for_dead.append(a.rate(dead.request()))
    for _ in range(30):
        await exchange(a, b, rounds=1)
        assert a.forwarder.waiting <= 10
    assert b.logged() == Counter(for_b)
    assert a.forwarder.waiting == 5
    assert await a.link.command("HLEN", a.link.key("feedback", f"{dead.node:08x}")) == 5
    assert a.forwarder.cursor != a.end()
    await a.forwarder._save_sometimes()
    a.start()
    await exchange(a, b)
    assert b.logged() == Counter(for_b)
    for _ in range(60):
        await exchange(a, dead, rounds=1)
    assert dead.logged() == Counter(for_dead)
    assert a.forwarder.waiting == 0
    assert a.forwarder.cursor == a.end()


async def test_what_nobody_took_in_time_is_given_up(make_member):
    a, b = make_member("a"), make_member("b")
    a.rate(b.request())
    await a.forwarder.step()
    a.now = lambda: time.time() + LATE_S + 1
    await a.forwarder.step()
    assert a.forwarder.stats.dead_lettered == 1
    assert a.forwarder.waiting == 0
    assert a.forwarder.cursor == a.end()
    assert await a.link.command("EXISTS", a.link.key("feedback", f"{b.node:08x}")) == 0


async def test_what_is_none_is_thrown_away(make_member):
    a, b = make_member("a"), make_member("b")
    box = a.link.key("feedback", f"{b.node:08x}")
    line = {"id": "fb_1", "type": events.FEEDBACK, "data": {"request_id": b.request(), "metric": "quality"}}
    wrong = {
        "x": b"\xff",
        "fb_0": orjson.dumps(line),
        b"\xff\xfe": orjson.dumps(line),
        "fb_2": orjson.dumps({**line, "id": "fb_2", "type": events.REQUEST}),
        "fb_3": orjson.dumps({**line, "id": "fb_3", "data": {"request_id": a.request()}}),
        "fb_4": orjson.dumps({**line, "id": "fb_4", "data": []}),
        "fb_5": orjson.dumps({**line, "id": "fb_5", "data": {"request_id": 5}}),
        "fb_6": orjson.dumps({**line, "id": "fb_6", "more": "x" * 70_000}),
        "fb_7": b"[]",
    }
    for name, text in wrong.items():
        await a.link.command("HSET", box, name, text)
    await a.link.command("HSET", box, "fb_1", orjson.dumps({**line, "added later": 1}))
    await b.receiver.step()
    assert b.logged() == {"fb_1": 1}
    assert b.receiver.counts == {"malformed": len(wrong), "received": 1}
    assert await a.link.command("EXISTS", box) == 0


async def test_portions(make_member):
    few = ForwardingTuning(portion=10, idle_s=0.0, repeat_s=60.0, send_bytes=1000, longest_pause_s=0.0)
    a, b = make_member("a", tuning=few), make_member("b", tuning=few)
    given = [a.rate(b.request()) for _ in range(95)]
    await a.forwarder.step()
    steps = 1
    while await b.receiver.step():
        steps += 1
    assert steps == 10
    assert b.logged() == Counter(given)
    await a.forwarder.step()
    assert a.forwarder.stats.delivered == 95


async def strike(fault: str, server, relay) -> None:
    """One fault, over when this returns."""
    if fault == "flush":
        server.flush()
    elif fault == "wipe":
        server.wipe()
        await asyncio.to_thread(server.start)
    elif fault == "freeze":
        server.pause()
        await asyncio.sleep(0.25)
        server.resume()
    else:
        relay.mode = fault
        await asyncio.sleep(0.25)
        relay.mode = "pass"


async def test_nothing_that_redis_does_ends_it(make_member, make_relay, redis_server, within):
    """Three nodes, feedback everywhere, and a Redis that is cut, stalled, flushed, frozen and restarted empty."""
    relay = make_relay(redis_server.address)
    rng = random.Random(3)
    nodes = [make_member(name, redis_server.url_by(relay.address), timeout_s=0.2) for name in "abc"]
    stops: dict[int, asyncio.Event] = {}
    running: dict[int, list[asyncio.Task[None]]] = {}
    expected: dict[int, set[str]] = {node.node: set() for node in nodes}

    def run(node: Node) -> None:
        stop = stops[node.node] = asyncio.Event()
        node.start()
        running[node.node] = [
            asyncio.create_task(node.forwarder.run(stop)), asyncio.create_task(node.receiver.run(stop)),
        ]  # fmt: skip

    async def crash() -> None:
        node = rng.choice(nodes)
        for task in running[node.node]:
            task.cancel()
        await within(0.3, asyncio.gather(*running[node.node], return_exceptions=True))
        run(node)

    for node in nodes:
        run(node)
    faults = ["cut", "flush", "crash", "stall", "wipe", "freeze", "flush", "crash", "refuse"]
    for fault in faults:
        for _ in range(30):
            at, decided = rng.choice(nodes), rng.choice(nodes)
            event_id = at.rate(decided.request())
            expected[decided.node].add(event_id)
            await asyncio.sleep(rng.uniform(0, 0.004))
        if fault == "crash":
            await crash()
        else:
            await strike(fault, redis_server, relay)
    await until(lambda: all(expected[node.node] <= set(node.logged()) for node in nodes))
    await until(lambda: not any(node.forwarder.waiting for node in nodes))
    await until(lambda: all(node.forwarder.cursor == node.end() for node in nodes))
    for node in nodes:
        stops[node.node].set()
    for node in nodes:
        await within(0.6, asyncio.gather(*running[node.node]))
        node.start()
        assert node.forwarder.cursor == node.end()
        assert not node.forwarder.stats.dead_lettered
    assert sum(node.receiver.counts["malformed"] for node in nodes) == 0
