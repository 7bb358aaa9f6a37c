"""Whatever the order of writing, reading, acknowledging and crashing: nothing is forgotten and memory is bounded."""

import tempfile
from pathlib import Path

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.cluster.outbox import Outbox, Parcel
from optimizer.log.reader import Entry, LogReader
from optimizer.log.writer import LogWriter, WriterBounds

ROOM, IN_ALL, LEAST = 3, 6, 2
# A reader takes 16 KiB of a source at least, so that a poll has a few of these lines.
PADDING = "x" * 5000

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("front"), st.integers(1, 60_000)),
    st.tuples(st.just("again"), st.integers(1, 60_000)),
    st.tuples(st.just("ack"), st.integers(0, 3)),
    st.tuples(st.just("save")),
    st.tuples(st.just("crash")),
)


def parse(entry: Entry) -> Parcel | None:
    """Node 0 is this one."""
    event = orjson.loads(entry.line)
    if not event["node"]:
        return None
    return Parcel(event["id"], event["node"], entry.line, entry.source, (entry.segment, entry.offset), 0.0)


class World:
    """A log of two processes, and an outbox over it that may be lost."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        bounds = WriterBounds(segment_bytes=30_000, reserve_bytes=0)
        self.writers = [
            LogWriter(directory, node=0, incarnation=i, role="worker", bounds=bounds) for i in range(2)
        ]
        self.unacked: dict[str, int] = {}
        self.saved: dict[str, tuple[int, int]] = {}
        self.written = 0
        self.crash()

    def crash(self) -> None:
        self.outbox = Outbox(self.saved, parse, room=ROOM, room_in_all=IN_ALL, least_room=LEAST)
        self.reader = LogReader(self.directory)

    def write(self, writer: int, node: int) -> None:
        self.written += 1
        event = {"id": f"e{self.written}", "node": node, "padding": PADDING}
        self.writers[writer].append(orjson.dumps(event) + b"\n")
        if node:
            self.unacked[event["id"]] = node

    def front(self, size: int) -> bool:
        batch = self.reader.poll(self.outbox.front, size)
        self.outbox.take(batch)
        return batch.more

    def again(self, size: int) -> None:
        for node, cursor in list(self.outbox.hungry()):
            self.outbox.take_again(node, self.reader.poll(cursor, size))

    def ack(self, node: int) -> None:
        arrived = [parcel for parcel in self.outbox.parcels() if parcel.node == node]
        self.outbox.remove(arrived)
        for parcel in arrived:
            self.unacked.pop(parcel.event_id, None)

    def save(self) -> None:
        # As the file has it.
        self.saved = {
            name: tuple(place) for name, place in orjson.loads(orjson.dumps(self.outbox.to_save())).items()
        }

    def check(self) -> None:
        for target in self.outbox.targets.values():
            assert len(target.parcels) <= ROOM
            assert target.parcels or target.behind is not None
        cursor = self.outbox.cursor()
        for parcel in self.outbox.parcels():
            assert cursor.get(parcel.source, (0, 0)) <= parcel.at

    def drain(self) -> None:
        """As long as nodes take what is theirs, everything arrives, in a bounded number of steps."""
        self.close()  # A writer on a slow disk lets lines wait; now they are there.
        for _ in range(10 + 3 * self.written):
            more = self.front(100_000)
            self.again(100_000)
            for node in (1, 2, 3):
                self.ack(node)
            self.check()
            if not more and not self.outbox.targets:
                break
        assert not self.outbox.targets
        assert not self.unacked

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=60))
def test_nothing_is_forgotten(order):
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            for verb, *arguments in order:
                getattr(world, verb)(*arguments)
                world.check()
            world.drain()
            assert world.outbox.cursor() == world.outbox.front == world.outbox.to_save()
        finally:
            world.close()


def test_a_dead_node_holds_nobody_up(tmp_path):
    world = World(tmp_path)
    arrived = 0
    for _ in range(100):
        world.write(0, 1)
        world.write(1, 2)
        world.front(100_000)
        world.again(100_000)
        before = len(world.unacked)
        world.ack(2)
        arrived += before - len(world.unacked)
        world.check()
    assert arrived == 100
    assert len(world.outbox) == ROOM
    # Only what is for the dead node is read again after a crash.
    world.save()
    world.crash()
    for _ in range(20):
        world.front(100_000)
        world.again(100_000)
    assert {parcel.node for parcel in world.outbox.parcels()} == {1}
    world.drain()
    world.close()


def test_many_nodes_have_less_room_each(tmp_path):
    world = World(tmp_path)
    for node in range(1, 50):
        for _ in range(2):
            world.write(0, node)
    while world.front(100_000):
        pass
    assert len(world.outbox) <= 49 * LEAST + ROOM
    world.close()


def test_a_saved_state_that_is_none_begins_anew(tmp_path):
    world = World(tmp_path)
    world.write(0, 1)
    world.saved = {"worker": (9, 9), "no hex/worker": (9, 9)}
    world.crash()
    assert world.outbox.front == {}
    world.front(100_000)
    assert len(world.outbox) == 1
    world.close()


def test_sources_that_are_gone_do_not_keep_a_node_behind(tmp_path):
    world = World(tmp_path)
    for _ in range(10):
        world.write(0, 1)
    world.front(100_000)
    world.front(100_000)
    assert world.outbox.targets[1].behind is not None
    world.writers[0].close()
    (source,) = [
        path
        for path in tmp_path.iterdir()
        if path.is_dir() and list(path.glob("*.jsonl")) and path.name in world.outbox.front
    ][:1]
    for path in source.iterdir():
        path.unlink()
    source.rmdir()
    world.unacked.clear()
    world.drain()
    world.close()
