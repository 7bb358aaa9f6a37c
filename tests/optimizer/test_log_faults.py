"""Faults of the log as the learner meets them: an index that is gone, clocks that jump, a log that is damaged."""

import random
import shutil

import pytest

from optimizer.ingest import Ingest
from optimizer.log.position_index import PositionIndex, find_gaps
from optimizer.log.retention import Retention
from optimizer.log.writer import WriterBounds
from optimizer.settings import RetentionSettings

NOW = 1_795_000_000.0
HOUR = 3600.0
DAY = 86_400.0


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self, now=NOW + 60):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_ingest(learning, clock):
    """``open_ingest(node)``: opens the node's learned state, as after a restart."""
    opened = []

    def open_(node):
        while opened:
            opened.pop().close()
        ingest = Ingest(node.state, clock=clock)
        ingest.configure(learning["settings"]())
        opened.append(ingest)
        return ingest

    yield open_
    for ingest in opened:
        ingest.close()


def drain(ingest):
    while ingest.step():
        pass
    return ingest


def pulls(ingest, learning, now):
    arm = learning["arm"](learning["settings"]())
    return ingest.statistics.evidence("auto", arm, now=now, half_life_s=1.0).pulls


def remove(directory):
    shutil.rmtree(directory)


def shorten(directory):
    for path in directory.rglob("*.positions"):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def punch(directory):
    for path in directory.rglob("*.positions"):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(bytes(64))


@pytest.mark.parametrize("harm", [remove, shorten, punch])
def test_an_index_that_lost_positions_is_made_again(make_node, open_ingest, learning, harm):
    """After a repair feedback finds every decision as before; without gaps nothing is read again."""
    bounds = WriterBounds(reserve_bytes=0, segment_bytes=20_000)
    nodes = [make_node(bounds), make_node(bounds)]
    ids = [nodes[n % 2].request(at=NOW + n) for n in range(300)]
    state = nodes[0].state
    assert drain(open_ingest(nodes[0])).repair_index() == 0
    harm(state.index_directory)

    ingest = open_ingest(nodes[0])
    repaired = ingest.repair_index()
    again = ingest.repair_index()
    for request_id in ids:
        nodes[0].feedback(request_id, value=1.0, at=NOW + 400)
    drain(ingest)

    assert repaired == 300
    assert again == 0
    assert ingest.learner.counts["feedback_learned"] == 300
    assert ingest.learner.waiting == 0


def test_only_sources_with_gaps_are_read_again(make_node, open_ingest):
    """The others are not parsed a second time, however much there is of them."""
    nodes = [make_node(), make_node()]
    for n in range(100):
        nodes[n % 2].request(at=NOW + n)
    ingest = drain(open_ingest(nodes[0]))
    source = nodes[0].writer.source
    remove(nodes[0].state.index_directory / source)

    gaps = find_gaps(
        PositionIndex(nodes[0].state.index_directory),
        nodes[0].state.log_directory,
        ingest.cursor,
        ingest._sequence_of,
    )

    assert gaps == [source]
    assert ingest.repair_index() == 50


def test_what_the_reader_leaves_out_is_counted_for_good(make_node, open_ingest):
    """Torn and damaged lines are in the totals once, also after restarts."""
    node = make_node()
    node.request()
    node.writer.append(b"rubbish\n")
    node.writer.append(b'{"cut #torn\n')
    node.request()
    drain(open_ingest(node))

    ingest = drain(open_ingest(node))

    assert {kind: ingest.counts[kind] for kind in ("events", "invalid", "torn", "malformed")} == {
        "events": 2,
        "invalid": 1,
        "torn": 1,
        "malformed": 0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_log_is_learned_from_as_far_as_it_is_whole(make_node, open_ingest, learning, seed):
    """Bits flip all over the log: learning stops for none, takes no line twice, and loses only what was hit."""
    rng = random.Random(seed)
    node = make_node()
    for n in range(400):
        node.request(at=NOW + n)
    path = node.writer.directory / "00000001.jsonl"
    node.writer.close()
    data = bytearray(path.read_bytes())
    hit = set()
    for _ in range(60):
        at = rng.randrange(len(data))
        hit.add(data.count(b"\n", 0, at))
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)

    ingest = drain(open_ingest(node))
    learned = pulls(ingest, learning, NOW + 500)

    merged = 2 * len(hit)
    assert 400 - merged <= learned <= 400
    assert ingest.cursor[node.writer.source] == (1, len(data))
    assert ingest.step() == 0


@pytest.mark.parametrize("jump_s", [HOUR, 3 * DAY, -HOUR, -3 * DAY])
def test_learning_survives_a_clock_that_jumps_and_jumps_back(make_node, open_ingest, learning, clock, jump_s):
    """Evidence from before the jump, during it and after it counts, feedback finds its decision, ids stay one."""
    node = make_node()
    ids = [node.request(at=NOW + n) for n in range(50)]
    ingest = drain(open_ingest(node))
    clock.now += jump_s
    ids += [node.request(at=NOW + 60 + jump_s + n) for n in range(50)]
    drain(ingest)
    during = pulls(ingest, learning, clock.now)
    clock.now = NOW + 200
    ingest = open_ingest(node)  # a restart in between
    ids += [node.request(at=NOW + 130 + n) for n in range(50)]
    drain(ingest)
    for request_id in ids:
        node.feedback(request_id, value=1.0, at=NOW + 190)
    drain(ingest)

    assert len(set(ids)) == 150
    assert during == 100
    assert pulls(ingest, learning, clock.now) == 150
    assert ingest.learner.counts["feedback_learned"] == 150


@pytest.mark.parametrize("jump_s", [2 * DAY, 3650 * DAY, -3650 * DAY])
def test_retention_takes_nothing_unread_because_of_the_time(make_node, open_ingest, jump_s):
    """A clock set years ahead ages everything at once: what was learned may go, the rest waits for its reader."""
    node = make_node(WriterBounds(reserve_bytes=0, segment_bytes=2_000))
    for n in range(10):
        node.request(at=NOW + n)
    ingest = drain(open_ingest(node))
    for n in range(10):
        node.request(at=NOW + n)
    settings = RetentionSettings(max_age_s=30 * DAY)
    retention = Retention(node.state.log_directory, settings, index=PositionIndex(node.state.index_directory))
    newest = max(path.stat().st_mtime for path in node.writer.directory.glob("*.jsonl"))

    sweep = retention.sweep(newest + jump_s, read=ingest.cursor)
    drain(ingest)

    assert sweep.lost_events == 0
    assert bool(sweep.dropped) == (jump_s > 30 * DAY)
    assert ingest.counts["events"] == 20
    assert ingest.counts["dropped_segments"] == 0


def test_a_backlog_of_minutes_is_read_to_the_end_once(make_node, open_ingest, learning):
    """20,000 requests and 5,000 ratings that piled up while nobody read, over several segments and a restart."""
    nodes = [make_node(WriterBounds(reserve_bytes=0, segment_bytes=2_000_000)) for _ in range(2)]
    for n in range(20_000):
        node = nodes[n % 2]
        request_id = node.request(at=NOW + n * 0.01)
        if n % 4 == 0:
            node.feedback(request_id, value=1.0, at=NOW + n * 0.01)
    ingest = open_ingest(nodes[0])
    for _ in range(5):
        ingest.step()
    ingest = drain(open_ingest(nodes[0]))

    assert ingest.counts == {"events": 25_000}
    assert ingest.learner.counts["feedback_learned"] == 5_000
    assert pulls(ingest, learning, NOW + 300) == 20_000
    assert ingest.lag_bytes() == 0


def test_events_of_a_removed_log_are_lost_aloud_and_learning_goes_on(make_node, open_ingest, learning):
    """`rm -r log` under a running product: what was learned stays, what comes is learned, nothing twice."""
    node = make_node()
    for n in range(20):
        node.request(at=NOW + n)
    ingest = drain(open_ingest(node))
    shutil.rmtree(node.state.log_directory)
    drain(ingest)
    node.writer._sure_at = 0.0  # a second has passed since the writer looked
    for n in range(20, 30):
        node.request(at=NOW + n)
    drain(ingest)

    assert pulls(ingest, learning, NOW + 60) == 30
    assert node.writer.lost["removed"] == 20  # they were learned, but the second in question can't know
    assert ingest.counts["events"] == 30
