"""The reading loop: log in, knowledge saved with the cursor."""

import ast
import asyncio
import logging
import sqlite3

import pytest

from optimizer import events
from optimizer.ingest import Ingest
from optimizer.log.writer import WriterBounds
from optimizer.store import StoreCorrupt

NOW = 1_795_000_000.0


class Clock:
    """A wall clock that stands still until it is set."""

    def __init__(self, now=NOW + 60):
        self.now = now

    def __call__(self):
        return self.now


class Tally:
    """A consumer that counts events by type."""

    def __init__(self, name="tally"):
        self.name = name
        self.seen = {}

    def observe(self, event, where):
        assert where.segment >= 1
        self.seen[event["type"]] = self.seen.get(event["type"], 0) + 1

    def snapshot(self):
        return repr(sorted(self.seen.items())).encode()

    def restore(self, data):
        self.seen = dict(ast.literal_eval(data.decode()))


@pytest.fixture
def open_ingest(node, learning):
    """Opens the node's learned state, as after a restart."""
    opened = []

    def open_(*consumers, configure=True):
        while opened:
            opened.pop().close()
        ingest = Ingest(node.state, clock=Clock())
        for consumer in consumers:
            ingest.add_consumer(consumer)
        if configure:
            ingest.configure(learning["settings"]())
        opened.append(ingest)
        return ingest

    yield open_
    for ingest in opened:
        ingest.close()


def drain(ingest):
    """Step until nothing is new; returns the number of events."""
    total = 0
    while count := ingest.step():
        total += count
    return total


def quality(ingest, learning):
    arm = learning["arm"](learning["settings"]())
    return ingest.statistics.evidence("auto", arm, now=NOW + 60, half_life_s=1.0).signals.get("quality")


def pulls(ingest, learning):
    arm = learning["arm"](learning["settings"]())
    return ingest.statistics.evidence("auto", arm, now=NOW + 60, half_life_s=1.0).pulls


def test_events_become_knowledge(node, open_ingest, learning):
    """Requests and feedback, joined through the log."""
    ingest = open_ingest()
    first = node.request()
    node.request(at=NOW + 1)
    node.feedback(first, thumbs="up")

    assert drain(ingest) == 3

    assert pulls(ingest, learning) == 2.0
    assert quality(ingest, learning).mean == pytest.approx(1.0)
    assert ingest.take_dirty_routes() == {"auto"}
    assert ingest.take_dirty_routes() == set()
    assert ingest.counts["events"] == 3
    assert ingest.lag_bytes() == 0


def test_a_restart_repeats_nothing(node, open_ingest, learning):
    """Statistics and cursor were saved together."""
    ids = [node.request() for _ in range(20)]
    node.feedback(ids[3], value=0.5)
    drain(open_ingest())
    before = sorted(open_ingest().statistics.rows())

    again = open_ingest()

    assert again.step() == 0
    assert sorted(again.statistics.rows()) == before
    assert again.counts["events"] == 21
    assert again.learner.counts["feedback_learned"] == 1
    node.feedback(ids[3], value=0.9)
    node.feedback(ids[4], value=0.9)
    drain(again)
    assert quality(again, learning).mean == pytest.approx(0.7)


def test_feedback_finds_decisions_of_long_ago(make_node, learning):
    """By position in the log: after a restart, in an earlier segment, of another process."""
    first, second = make_node(WriterBounds(reserve_bytes=0, segment_bytes=4096)), make_node()
    ids = [first.request() for _ in range(30)]
    ingest = Ingest(first.state, clock=Clock())
    ingest.configure(learning["settings"]())
    drain(ingest)
    ingest.close()

    ingest = Ingest(first.state, clock=Clock())
    ingest.configure(learning["settings"]())
    for request_id in ids:
        second.feedback(request_id, value=0.25)
    drain(ingest)

    assert quality(ingest, learning).weight == pytest.approx(30.0, rel=1e-3)
    assert ingest.learner.waiting == 0
    ingest.close()


def test_waiting_feedback_survives_a_restart(node, open_ingest, learning):
    """It was saved with the cursor that passed it."""
    request_id = node.mint()
    node.feedback(request_id, value=0.5)
    ingest = open_ingest()
    drain(ingest)
    assert ingest.learner.waiting == 1

    again = open_ingest()
    node.request(request_id)
    drain(again)

    assert again.learner.waiting == 0
    assert quality(again, learning).mean == pytest.approx(0.5)
    assert open_ingest().learner.waiting == 0


def test_response_ids_are_indexed(node, open_ingest):
    """Also after a restart."""
    request_id = node.request(**{"gen_ai.response.id": "chatcmpl-1"})
    drain(open_ingest())

    assert open_ingest().responses.lookup("chatcmpl-1") == request_id


def test_what_other_systems_write_into_a_shard_is_no_fault(node, open_ingest, caplog) -> None:
    """Ratings may come by the topic of the events; the owner's copy has them all, and what is no object as a gap."""
    for line in (b'{"kafkaoffset":7,"request_id":"req_1","score":1}', b'{"kafkaoffset":8}'):
        node.writer.append(line + b"\n")
    ingest = open_ingest()

    with caplog.at_level(logging.WARNING):
        drain(ingest)

    assert ingest.counts["malformed"] == 0
    assert not caplog.records


def test_what_is_no_event_teaches_nothing_and_stops_nothing(node, open_ingest, learning, caplog):
    """Malformed lines are counted."""
    for line in (b"{}", b'{"type": 5}', b'{"type": "llm_optimizer.request.v1"}', b"nonsense", b"{nonsense}"):
        node.writer.append(line + b"\n")
    node.append(node.mint(), events.REQUEST, {"route": "auto", "outcome": "completed"}, NOW)
    node.append("x", events.FEEDBACK, {"request_id": 5}, NOW)
    node.request(duration_ms="long")
    node.request()
    ingest = open_ingest()

    with caplog.at_level(logging.WARNING):
        drain(ingest)

    assert pulls(ingest, learning) == 1.0
    assert ingest.counts["malformed"] >= 5


def test_consumers_see_every_event_once(node, open_ingest):
    """Their snapshots are saved with the cursor."""
    node.request()
    drain(open_ingest(Tally()))
    node.request()
    node.append("s", events.SELECTOR, {}, NOW)

    tally = Tally()
    drain(open_ingest(tally))

    assert tally.seen == {events.REQUEST: 2, events.SELECTOR: 1}


class Faulty:
    """Fails at everything."""

    name = "faulty"

    def observe(self, event, where):
        raise RuntimeError("observe")

    def snapshot(self):
        raise RuntimeError("snapshot")

    def restore(self, data):
        raise RuntimeError("restore")


def test_a_faulty_consumer_hurts_nobody(node, open_ingest, learning, caplog):
    """Learning and the other consumers go on; the fault is logged and counted."""
    tally = Tally()
    ingest = open_ingest(Faulty(), tally)
    node.request()

    with caplog.at_level(logging.ERROR):
        drain(ingest)

    assert pulls(ingest, learning) == 1.0
    assert tally.seen == {events.REQUEST: 1}
    assert ingest.counts["consumer_errors"] == 3  # two snapshots, one observation
    assert "faulty" in caplog.text


def test_a_consumer_with_a_damaged_snapshot_starts_afresh(node, open_ingest, caplog):
    """Its own state is its own."""
    drain(open_ingest(Tally("faulty")))
    node.request()
    drain(open_ingest(Tally("faulty")))

    with caplog.at_level(logging.ERROR):
        ingest = open_ingest(Faulty())

    assert ingest.counts["consumer_errors"] == 1


def test_nothing_is_read_while_nothing_can_be_saved(node, open_ingest, learning):
    """A locked or full disk stops reading, loses nothing, and learning goes on afterwards."""
    ingest = open_ingest()
    ingest.step()
    node.request()
    blocker = sqlite3.connect(node.state.database_file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            ingest.step()
    node.request()
    blocker.execute("ROLLBACK")
    blocker.close()

    assert drain(ingest) == 1
    assert pulls(open_ingest(), learning) == 2.0


def test_a_damaged_database_is_learned_again_from_the_log(node, open_ingest, learning):
    """Everything, feedback and consumers included."""
    ids = [node.request() for _ in range(10)]
    node.feedback(ids[0], value=0.5)
    drain(open_ingest(Tally()))
    before = sorted(open_ingest().statistics.rows())
    ingest = open_ingest()
    ingest.store.checkpoint()
    ingest.close()
    node.state.database_file.write_bytes(b"garbage" * 1000)

    tally = Tally()
    again = open_ingest(tally)
    drain(again)

    assert again.store.moved_aside is not None
    assert sorted(again.statistics.rows()) == before
    assert tally.seen == {events.REQUEST: 10, events.FEEDBACK: 1}


def test_a_reset_is_saved_and_forgets(node, open_ingest, learning):
    """Only what happens from now on counts."""
    node.request()
    ingest = open_ingest()
    drain(ingest)

    ingest.reset("auto", model_key="key-small", variant_key="key-default")
    ingest.step()

    assert pulls(ingest, learning) == 0.0
    assert pulls(open_ingest(), learning) == 0.0
    assert "auto" in ingest.take_dirty_routes()


def test_a_long_backlog_is_read_in_short_steps(node, open_ingest):
    """So that whoever shares the loop is not kept waiting."""
    for _ in range(1500):
        node.request()
    ingest = open_ingest()

    counts = []
    while count := ingest.step():
        counts.append(count)

    assert sum(counts) == 1500
    assert max(counts) < 1500


async def until(holds):
    """Wait for a real thread or file to catch up."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def stop(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_follows_the_log(node, open_ingest, learning):
    """The task learns what is appended while it runs."""
    ingest = open_ingest()
    task = asyncio.create_task(ingest.run(interval_s=0.005, checkpoint_s=0.01))

    for number in range(1, 4):
        node.request()
        await until(lambda number=number: pulls(ingest, learning) == number)

    await stop(task)


async def test_run_waits_out_a_disk_that_refuses(node, open_ingest, learning, caplog):
    """What was read is saved as soon as it can be."""
    ingest = open_ingest()
    blocker = sqlite3.connect(node.state.database_file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    node.request()
    task = asyncio.create_task(ingest.run(interval_s=0.005))

    await until(lambda: ingest.counts["step_errors"])
    blocker.execute("ROLLBACK")
    await until(lambda: blocker.execute("SELECT count(*) FROM cells").fetchone()[0])

    blocker.close()
    await stop(task)
    assert "can not be saved" in caplog.text
    assert pulls(open_ingest(), learning) == 1.0


async def test_run_ends_on_a_damaged_database(node, open_ingest):
    """The supervisor's restart repairs it."""
    ingest = open_ingest()
    node.request()
    ingest.step()
    ingest.store.checkpoint()
    ingest.store.connection.execute("PRAGMA cache_size = 0")
    with node.state.database_file.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (node.state.database_file.stat().st_size - 4096))
    node.request()

    with pytest.raises(StoreCorrupt):
        await ingest.run()


class Parts(Tally):
    """A consumer that counts by route and saves every route apart."""

    def observe(self, event, where):
        route = event["data"]["route"]
        self.seen[route] = self.seen.get(route, 0) + 1

    def snapshot_parts(self):
        return {"": b"all", **{route: f"{route} {n}".encode() for route, n in self.seen.items()}}

    def restore(self, data):
        assert data == b"all"
        self.seen = {}

    def restore_part(self, data):
        route, count = data.decode().split()
        self.seen[route] = int(count)


def test_a_consumer_that_saves_itself_in_parts_comes_back_whole(node):
    """Its parts belong to the same transaction as the cursor."""
    for route in ("a", "b", "a"):
        node.request(at=NOW, route=route)
    ingest = Ingest(node.state, clock=Clock())
    ingest.add_consumer(Parts())
    while ingest.step():
        pass
    node.request(at=NOW, route="b")
    while ingest.step():
        pass
    ingest.store.close()  # as a kill would leave it

    again, parts = Ingest(node.state, clock=Clock()), Parts()
    again.add_consumer(parts)

    assert parts.seen == {"a": 2, "b": 2}
    again.close()
