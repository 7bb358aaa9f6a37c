"""Repetitions in a partition are left out, whatever was shipped again and wherever owners change."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cluster.consuming import Incoming
from optimizer.cluster.marks import Marks
from optimizer.cluster.mirror import Mirror
from optimizer.cluster.outgoing import Outgoing
from optimizer.log.segment import Position

SOURCES = ("0000000a-00000001-worker", "0000000b-00000001-worker", "0000000a-00000002-optimizer")
NOWHERE = Position("", 1, 0)


def record(offset, source, place, *, late=False, name=None):
    """What Kafka has at ``offset``: the line that stands at ``place`` of a source's only segment."""
    out = Outgoing(b"", 0, orjson.dumps({"id": name or f"{source}/{place}"}), ()).placed(
        f"{source}:1:{place}", 0
    )
    out = out.late() if late else out
    return Incoming(offset, None, out.value, out.headers, 0)


def names(lines):
    return [orjson.loads(value)["id"] for _, value in lines]


def take(marks, records):
    fresh = marks.fresh(records)
    marks.taken(fresh)
    return fresh.lines


@given(
    st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 5), st.integers(1, 6)), max_size=30),
    st.integers(1, 7),
)
def test_what_is_shipped_again_counts_once(journeys, portion):
    """Each source ships its lines in order and now and then goes back some; every line counts once, in order."""
    at, log, shipped = dict.fromkeys(SOURCES, 0), [], {source: [] for source in SOURCES}
    for source, back, forward in journeys:
        start = max(at[source] - back, 0)
        for place in range(start, start + forward):
            log.append((source, place))
            if place >= at[source]:
                shipped[source].append(f"{source}/{place}")
        at[source] = max(at[source], start + forward)
    marks = Marks()
    records = [record(offset, source, place) for offset, (source, place) in enumerate(log)]
    found = [
        name
        for start in range(0, len(records), portion)
        for name in names(take(marks, records[start : start + portion]))
    ]
    for source in SOURCES:
        assert [name for name in found if name.startswith(source)] == shipped[source]
    assert marks.repeated == len(log) - len(found)


def test_records_of_one_line_are_no_repetitions_of_each_other():
    out = Outgoing(b"", 0, b'{"id":"a"}', ())
    records = [Incoming(n, None, out.value, out.placed(f"{SOURCES[0]}:1:7", n).headers, 0) for n in range(3)]
    marks = Marks()
    assert len(take(marks, records)) == 3
    assert take(marks, records) == []


def test_a_late_record_is_taken_and_lowers_nothing():
    marks = Marks()
    take(marks, [record(0, SOURCES[0], 5)])
    assert names(take(marks, [record(1, SOURCES[0], 2, late=True)])) == [f"{SOURCES[0]}/2"]
    assert take(marks, [record(2, SOURCES[0], 4)]) == []


def test_what_others_write_is_left_alone():
    marks = Marks()
    foreign = Incoming(3, b"k", b'{"score":1}', (("place", b"nonsense"),), 0)
    assert take(marks, [foreign, foreign]) == [(3, foreign.value), (3, foreign.value)]


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_new_owner_knows_what_the_last_one_had(tmp_path_factory, learned, shipped_again):
    """The next owner has the snapshot at one place of the copy, and reads the rest of the copy."""
    directory = tmp_path_factory.mktemp("log")
    first, mirror = Marks(), Mirror(directory, 3, segment_bytes=1 << 20)
    records = [record(offset, SOURCES[0], offset) for offset in range(12)]
    cursor = {}
    for position, one in enumerate(records):
        if position == learned:
            cursor = {mirror.source: mirror.end} if position else {}
        lines = take(first, [one])
        mirror.append(lines)
        if position < learned:
            first.observe(orjson.loads(lines[0][1]), NOWHERE)
    if learned == 12:
        cursor = {mirror.source: mirror.end}
    second = Marks()
    second.restore(first.snapshot())
    second.begin(directory, cursor)
    again = [record(100 + place, SOURCES[0], place) for place in range(shipped_again, 14)]
    assert names(take(second, again)) == [f"{SOURCES[0]}/12", f"{SOURCES[0]}/13"]
    mirror.close()
