"""The guards' own reading of the log: every report once, nothing else, whatever else is in there."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import events
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds, encode, event_source
from optimizer.rollouts.feed import Feed, GuardFeed
from optimizer.rollouts.guards import SideCounts

ROW = ["chat", "ro", 0, "candidate", {"assigned": 2, "resolved": 1, "priced": 1, "cost_usd": 0.5}]
COUNTS = SideCounts(assigned=2, resolved=1, priced=1, cost_usd=0.5)


class Node:
    """A log with workers in it."""

    def __init__(self, path: Path) -> None:
        self.state = StateDirectory(path / "state")
        self.directory = self.state.log_directory
        self.number = 0

    def worker(self, **bounds: Any) -> "Reporter":
        return Reporter(self, WriterBounds(reserve_bytes=0, slow_write_s=60.0, **bounds))


class Reporter:
    """One worker's log."""

    def __init__(self, node: Node, bounds: WriterBounds) -> None:
        self.node = node
        self.incarnation = node.state.allocate_incarnation()
        self.source = event_source(node.state.node, "worker", self.incarnation)
        self.writer = LogWriter(
            node.directory, node=node.state.node, incarnation=self.incarnation, role="worker", bounds=bounds
        )

    def write(self, kind: str, data: dict[str, Any]) -> None:
        self.node.number += 1
        self.writer.append(encode(f"id-{self.node.number}", kind, self.source, 1000, data))

    def report(self, *guards: Any, version: int = 1, **data: Any) -> None:
        fields = {"worker": self.incarnation, "table_version": version, "guards": list(guards)}
        self.write(events.WORKER_STATS, fields | data)

    def request(self, text: str = "x") -> None:
        self.write(events.REQUEST, {"route": "chat", "requested_model": text})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def read(feed: GuardFeed) -> Feed:
    """All that there is now, as one."""
    total = Feed()
    while True:
        found = feed.poll()
        total.observations += found.observations
        total.stops += found.stops
        total.requests += found.requests
        total.acknowledged |= found.acknowledged
        if found.caught_up:
            return total


def test_a_report_as_a_worker_writes_it(node):
    """Counts by side, stops, requests by route over arms and outcomes, and the table in use."""
    feed = GuardFeed(node.directory, cursor=None)
    worker = node.worker()
    worker.report(
        ROW,
        version=7,
        routes=[["chat", "a", "control", "completed", 5], ["chat", "b", "candidate", "upstream_fault", 2]],
        stops=[["chat", "ro", "hard_stop"]],
    )
    found = feed.poll()

    assert found == Feed(
        observations=[("chat", "ro", 0, "candidate", COUNTS)],
        stops=[("chat", "ro", "hard_stop")],
        requests=found.requests,
        acknowledged={worker.incarnation: 7},
        caught_up=True,
    )
    assert found.requests == {"chat": 7}
    assert feed.poll() == Feed()


def test_all_workers_are_read_and_a_standing_stop_comes_once_per_poll(node):
    """Counts are given out as they are, report by report; what a worker repeats is one fact."""
    feed = GuardFeed(node.directory, cursor=None)
    workers = [node.worker() for _ in range(3)]
    for version in (1, 2):
        for worker in workers:
            worker.report(ROW, version=version, stops=[["chat", "ro", "hard_stop"]])
    found = read(feed)

    assert [counts for *_, counts in found.observations] == [COUNTS] * 6
    assert found.stops == [("chat", "ro", "hard_stop")]
    assert found.acknowledged == {worker.incarnation: 2 for worker in workers}


def test_a_new_feed_starts_at_the_end_and_reads_new_workers_whole(node):
    """What was before says nothing about a new evaluation; a worker that comes later is read from its first line."""
    old = node.worker()
    old.report(ROW)
    feed = GuardFeed(node.directory, cursor=None)
    assert read(feed) == Feed()
    old.report(ROW)
    node.worker().report(ROW)

    assert len(read(feed).observations) == 2


def test_a_saved_cursor_goes_on_where_it_stood(node):
    """Over restarts every report counts once, also across segments."""
    worker = node.worker(segment_bytes=700)
    first = GuardFeed(node.directory, cursor={})
    for _ in range(10):
        worker.report(ROW)
    assert len(read(first).observations) == 10
    for _ in range(10):
        worker.report(ROW)
    second = GuardFeed(node.directory, cursor=dict(first.cursor))

    assert len(read(second).observations) == 10
    assert len(read(first).observations) == 10
    assert read(GuardFeed(node.directory, cursor=dict(second.cursor))) == Feed()


def test_an_unsaved_cursor_repeats(node):
    """Who crashed before saving reads the same again: the cursor is saved with what was made of it, or not at all."""
    worker = node.worker()
    feed = GuardFeed(node.directory, cursor={})
    before = dict(feed.cursor)
    worker.report(ROW)
    seen = read(feed).observations

    assert read(GuardFeed(node.directory, cursor=before)).observations == seen


def test_a_name_that_looks_like_a_report_is_none(node):
    """A caller may call its model what it likes; only the event's own type counts."""
    feed = GuardFeed(node.directory, cursor={})
    worker = node.worker()
    for text in (events.WORKER_STATS, f'"{events.WORKER_STATS}"'):
        worker.request(text)
    worker.write("x" * 10, {"type": events.WORKER_STATS, "guards": [ROW]})

    assert read(feed).observations == []
    assert feed.invalid == 0


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        "chat",
        ["chat", "ro", 0, "candidate"],
        ["chat", "ro", "0", "candidate", {}],
        ["chat", "ro", 0, "third", {}],
        ["chat", 1, 0, "control", {}],
        ["chat", "ro", 0, "control", []],
        ["chat", "ro", 0, "control", {}, 1],
    ],
)
def test_a_row_that_is_none_is_counted_and_left_out(node, row):
    """One broken row costs itself, not the report."""
    feed = GuardFeed(node.directory, cursor={})
    node.worker().report(row, ROW)

    assert read(feed).observations == [("chat", "ro", 0, "candidate", COUNTS)]
    assert feed.invalid == 1


def test_counts_of_newer_workers_are_ignored_and_impossible_ones_refused(node):
    """Evolution is additive; a negative or missing number can only be damage."""
    feed = GuardFeed(node.directory, cursor={})
    counts = {"assigned": 3, "weather": "fine", "errors": -1, "cost_usd": None}
    node.worker().report(["chat", "ro", 0, "control", counts])

    assert read(feed).observations == [("chat", "ro", 0, "control", SideCounts(assigned=3))]
    assert feed.invalid == 2


@pytest.mark.parametrize(
    "counts",
    [
        {"resolved": 1, "errors": 2},
        {"errors": 1},
        {"resolved": 2, "errors": 1, "invalid": 2},
        {"resolved": 1, "timed": 1, "slow": 2},
        {"resolved": 1, "timed": 1, "late": 2},
        {"rated": 1, "quality": 1.5},
    ],
)
def test_counts_that_cannot_be_are_refused(node, counts):
    """More events than outcomes would stop every guard of the rollout."""
    feed = GuardFeed(node.directory, cursor={})
    node.worker().report(["chat", "ro", 0, "candidate", counts | {"assigned": 9}])

    assert read(feed).observations == [("chat", "ro", 0, "candidate", SideCounts(assigned=9))]
    assert feed.invalid == 1


@pytest.mark.parametrize(
    "data", [{"guards": 3, "stops": None, "routes": {}}, {"stops": [1], "routes": [["r"]]}]
)
def test_a_report_of_another_shape_stops_nothing(node, data):
    """Whatever is in there, the next report is read."""
    feed = GuardFeed(node.directory, cursor={})
    worker = node.worker()
    worker.report(**data)
    worker.write(events.WORKER_STATS, {"worker": "me", "table_version": None})
    worker.report(ROW)

    assert len(read(feed).observations) == 1


def test_a_torn_report_is_skipped(node):
    """A worker was killed within a write: what is complete counts, and its successor is read."""
    feed = GuardFeed(node.directory, cursor={})
    worker = node.worker()
    worker.report(ROW)
    worker.writer.close()
    (segment,) = worker.writer.directory.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(encode("torn", events.WORKER_STATS, worker.source, 1, {"guards": [ROW]})[:-20])
    node.worker().report(ROW)

    assert len(read(feed).observations) == 2
    assert feed.missed["torn"] == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(("report", "request", "poll", "restart", "worker")), max_size=60))
def test_every_report_is_given_out_exactly_once(tmp_path_factory, steps):
    """Whatever is written, read and restarted in which order, with segments of a few lines."""
    node = Node(tmp_path_factory.mktemp("feed"))
    feed = GuardFeed(node.directory, cursor={})
    worker = node.worker(segment_bytes=900)
    written = seen = 0
    for step in [*steps, "poll"]:
        match step:
            case "report":
                worker.report(ROW)
                written += 1
            case "request":
                worker.request()
            case "worker":
                worker.writer.close()
                worker = node.worker(segment_bytes=900)
            case "restart":
                feed = GuardFeed(node.directory, cursor=dict(feed.cursor))
            case "poll":
                seen += len(read(feed).observations)
                assert seen == written
    worker.writer.close()


@pytest.mark.slow
def test_a_backlog_is_read_in_portions(node):
    """However long the absence was, one poll reads so much and no more: the loop has others to serve."""
    worker = node.worker()
    feed = GuardFeed(node.directory, cursor={})
    for number in range(6_000):
        worker.request("x" * 1000)
        if number % 500 == 0:
            worker.report(ROW)
    polls, seen = 0, 0
    while True:
        found = feed.poll(1024 * 1024)
        polls += 1
        seen += len(found.observations)
        if found.caught_up:
            break

    assert seen == 12
    assert polls >= 6
