"""The newest requests: from the log as it is read, and after a restart from its end."""

import pytest

from optimizer import events
from optimizer.history_requests import RecentRequests, read_tail
from optimizer.ingest import Ingest
from optimizer.log.compression import compress_segment
from optimizer.log.segment import list_numbers, list_sources
from optimizer.log.writer import WriterBounds


def everything(row):
    return True


def followed(node, **bounds):
    """An ingest that has read all there is, and what it remembers."""
    ingest = Ingest(node.state)
    recent = RecentRequests(node.state.log_directory, ingest.cursor, **bounds)
    ingest.add_consumer(recent)
    while ingest.step():
        pass
    return ingest, recent


def test_rows_say_what_happened_in_short(node, learning):
    """The newest first; what the event lacks is null."""
    node.append("x", events.TABLE_PUBLISHED, {"version": 1}, learning["noon"])
    plain = node.request(at=learning["noon"])
    failed = node.request(
        at=learning["noon"] + 1, outcome=events.UPSTREAM_FAULT, status=502, served_by="large/default",
        cost_usd=None, stream=True, ttft_ms=12.5, endpoint="chat", side="candidate",
        attempts=[{"arm": "small/default"}, {"arm": "large/default"}], **{"error.type": "connect"},
    )  # fmt: skip
    ingest, recent = followed(node)
    ingest.close()

    newest, oldest = recent.page(everything, limit=10, before=None).rows

    assert (oldest.id, newest.id) == (plain, failed)
    assert oldest._asdict() == {
        "id": plain, "time": learning["noon"], "route": "auto", "arm": "small/default", "served_by": None,
        "model": "small", "variant": "default", "side": None, "outcome": "completed", "status": 200,
        "error": None, "duration_ms": 500.0, "ttft_ms": None, "cost_usd": 0.002, "stream": False,
        "attempts": 1, "cached": False, "endpoint": None,
    }  # fmt: skip
    assert (newest.served_by, newest.error, newest.attempts, newest.stream) == (
        "large/default",
        "connect",
        2,
        True,
    )
    assert (newest.cost_usd, newest.ttft_ms, newest.side) == (None, 12.5, "candidate")


def test_pages_follow_each_other(node, learning):
    """In the order of beginning, whatever ended first; also from an id that nobody remembers."""
    ids = [node.mint(learning["noon"] + number) for number in range(10)]
    for request_id in reversed(ids):
        node.request(request_id)
    ingest, recent = followed(node, capacity=8)
    ingest.close()

    first = recent.page(everything, limit=5, before=None)
    rest = recent.page(everything, limit=5, before=first.rows[-1].id)

    assert [row.id for row in (*first.rows, *rest.rows)] == ids[:1:-1]
    assert (first.more, rest.more) == (True, False)
    assert [
        row.id for row in recent.page(everything, limit=2, before=node.mint(learning["noon"] + 5.5)).rows
    ] == [
        ids[5],
        ids[4],
    ]
    assert recent.page(everything, limit=2, before=ids[0]) == ([], False)
    assert recent.page(lambda row: row.arm == "none", limit=5, before=None) == ([], False)


@pytest.mark.parametrize("capacity", [7, 40, 5000])
def test_after_a_restart_the_log_says_what_was_before(make_node, learning, capacity):
    """Of all sources and segments, up to where the log had been read; what comes then is observed."""
    small = WriterBounds(segment_bytes=6000, reserve_bytes=0)
    nodes = [make_node(small) for _ in range(3)]
    ids = [nodes[number % 3].request(at=learning["noon"] + number) for number in range(60)]
    first, before = followed(nodes[0], capacity=capacity)
    first.close()
    log = nodes[0].state.log_directory
    for source in list_sources(log):
        for number in list_numbers(log / source)[:-1]:
            compress_segment(log / source, number)
    later = [nodes[number % 3].request(at=learning["noon"] + 60 + number) for number in range(3)]
    second, recent = followed(nodes[0], capacity=capacity)
    second.close()

    assert before.is_complete
    assert not recent.is_complete
    earlier = recent.earlier()
    assert [row.id for row in earlier] == ids[-capacity:]
    recent.complete(earlier)
    recent.complete(earlier)

    found = recent.page(everything, limit=100, before=None).rows
    assert [row.id for row in reversed(found)] == (ids + later)[-capacity:]
    assert set(before.page(everything, limit=100, before=None).rows) >= set(earlier)


def test_damage_costs_the_damaged_lines_only(node, learning):
    """A log without sources, lines that are no events, a source that is gone."""
    kept = node.request(at=learning["noon"])
    node.append("y", events.REQUEST, {"outcome": "completed"}, learning["noon"])
    last = node.request(at=learning["noon"] + 1)
    ingest, _ = followed(node)
    cursor = dict(ingest.cursor)
    ingest.close()

    rows = read_tail(node.state.log_directory, {**cursor, "00000000-00000009-worker": (1, 50)}, 100)

    assert [row.id for row in rows] == [kept, last]
    assert read_tail(node.state.log_directory / "none", cursor, 100) == []
