"""Following the log: each complete line once per cursor, whatever happens to writers and files."""

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.log.compression import compress_segment
from optimizer.log.reader import Batch, LogReader, least
from optimizer.log.segment import EventReader, Position
from optimizer.log.writer import LogWriter, WriterBounds

MakeWriter = Callable[..., LogWriter]


def line(source: int, i: int, padding: int = 0) -> bytes:
    return orjson.dumps({"s": source, "n": i, "p": "x" * padding}) + b"\n"


def pairs(batch: Batch) -> list[tuple[int, int]]:
    return [(event["s"], event["n"]) for _, event in batch.events()]


def read_all(
    reader: LogReader, max_bytes: int = 1 << 20
) -> tuple[list[tuple[int, int]], dict[str, tuple[int, int]]]:
    found: list[tuple[int, int]] = []
    cursor: dict[str, tuple[int, int]] = {}
    while True:
        batch = reader.poll(cursor, max_bytes)
        found += pairs(batch)
        cursor = batch.cursor
        if not batch.more:
            return found, cursor


def test_a_log_that_does_not_exist_yet_is_empty(log_directory: Path) -> None:
    """The optimizer may start before any worker."""
    batch = LogReader(log_directory).poll({})

    assert (batch.entries, batch.cursor, batch.more) == ([], {}, False)


def test_lines_come_once_and_in_order_across_rotations(make_writer: MakeWriter, log_directory: Path) -> None:
    """Following while it is being written sees every line of every source once."""
    writers = [make_writer(i, segment_bytes=300) for i in (1, 2, 3)]
    reader = LogReader(log_directory)
    cursor: dict[str, tuple[int, int]] = {}
    seen: list[tuple[int, int]] = []

    for i in range(200):
        for source, writer in enumerate(writers):
            writer.append(line(source, i))
        if i % 7 == 0:
            batch = reader.poll(cursor)
            seen += pairs(batch)
            cursor = batch.cursor
    seen += pairs(reader.poll(cursor))

    for source in range(3):
        assert [n for s, n in seen if s == source] == list(range(200))
    assert (reader.torn, reader.invalid, reader.dropped_segments, reader.errors) == (0, 0, 0, 0)
    assert reader.lag_bytes(reader.poll(cursor).cursor) == 0


def test_the_same_cursor_gives_the_same_batch(make_writer: MakeWriter, log_directory: Path) -> None:
    """Replay after a crash sees what was seen before, in the same order."""
    writers = [make_writer(i, segment_bytes=1000) for i in (1, 2)]
    for i in range(500):
        writers[i % 2].append(line(i % 2, i))
    first = LogReader(log_directory).poll({}, 20_000)

    again = LogReader(log_directory).poll({}, 20_000)
    onwards = [LogReader(log_directory).poll(first.cursor, 20_000) for _ in range(2)]

    assert again == first
    assert onwards[0] == onwards[1]


def test_a_busy_source_does_not_starve_a_quiet_one(make_writer: MakeWriter, log_directory: Path) -> None:
    """Every source gets its share of a poll, and what one leaves the other takes."""
    busy, quiet = make_writer(1), make_writer(2)
    for i in range(2000):
        busy.append(line(1, i, padding=100))
    quiet.append(line(2, 0))

    batch = LogReader(log_directory).poll({}, 100_000)

    assert (2, 0) in pairs(batch)
    assert 90_000 < sum(len(entry.line) + 1 for entry in batch.entries) < 120_000
    assert batch.more


def test_a_line_longer_than_the_budget_is_still_read(make_writer: MakeWriter, log_directory: Path) -> None:
    """A huge event slows a poll down, it does not stop it; what follows it is not lost either."""
    writer = make_writer()
    writer.append(line(1, 0, padding=300_000))
    for i in range(1, 5):
        writer.append(line(1, i))

    found, _ = read_all(LogReader(log_directory), 1000)

    assert found == [(1, i) for i in range(5)]


def test_an_unfinished_line_is_left_until_it_is_finished(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """A living writer's tail is read when its newline is there."""
    writer = make_writer()
    writer.append(line(1, 0))
    writer.append(line(1, 1)[:-3])
    reader = LogReader(log_directory)

    before = reader.poll({})
    writer.append(line(1, 1)[-3:])
    after = reader.poll(before.cursor)

    assert pairs(before) == [(1, 0)]
    assert pairs(after) == [(1, 1)]
    assert reader.torn == 0


def test_a_dead_writers_torn_tail_is_skipped_and_counted(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """Nobody will finish it, and the dead source is not looked at any more."""
    writer = make_writer()
    writer.append(line(1, 0))
    writer.append(line(1, 1)[:-1])
    writer.close()
    reader = LogReader(log_directory)

    first = reader.poll({})
    second = reader.poll(first.cursor)

    assert pairs(first) == [(1, 0)]
    assert (second.entries, second.more) == ([], False)
    assert second.cursor == {writer.source: (1, len(line(1, 0)) + len(line(1, 1)) - 1)}
    assert reader.torn == 1


def test_a_torn_tail_before_a_newer_segment_is_skipped(make_writer: MakeWriter, log_directory: Path) -> None:
    """A segment with a successor gets no more bytes, though its writer lives."""
    writer = make_writer(segment_bytes=1)
    writer.append(line(1, 0))
    writer.append(line(1, 1)[:-1])
    writer.append(line(1, 2))
    reader = LogReader(log_directory)

    found, _ = read_all(reader)

    assert found == [(1, 0), (1, 2)]
    assert reader.torn == 1


def test_rubbish_is_skipped_and_counted(make_writer: MakeWriter, log_directory: Path) -> None:
    """Power loss leaves zeros and halves; none of it stops the reader or reaches it as an event."""
    writer = make_writer()
    for piece in (
        b"\0" * 5000 + b"\n",
        b"\n",
        b"[1]\n",
        b'{"half": #torn\n',
        b"{not json}\n",
        b"\xff\xfe{}\n",
    ):
        writer.append(piece)
        writer.append(line(1, len(piece)))
    reader = LogReader(log_directory)

    batch = reader.poll({})

    assert pairs(batch) == [(1, n) for n in (5001, 1, 4, 15, 11, 5)]
    assert (reader.invalid, reader.torn) == (4, 1)


def test_a_cursor_beyond_the_end_is_harmless(make_writer: MakeWriter, log_directory: Path) -> None:
    """Power loss may shorten a segment below what was read of it; the rest goes on."""
    dead = make_writer(1)
    dead.append(line(1, 0))
    dead.close()
    living = make_writer(2)
    living.append(line(2, 0))

    batch = LogReader(log_directory).poll({dead.source: (1, 10_000)})

    assert pairs(batch) == [(2, 0)]
    assert batch.cursor[dead.source] == (1, 10_000)


def test_dropped_segments_are_stepped_over_and_counted(make_writer: MakeWriter, log_directory: Path) -> None:
    """A reader that slept too long goes on with the oldest segment that is left."""
    writer = make_writer(segment_bytes=1)
    for i in range(6):
        writer.append(line(1, i))
    reader = LogReader(log_directory)
    for number in (1, 2, 3):
        (writer.directory / f"{number:08d}.jsonl").unlink()

    batch = reader.poll({writer.source: (2, 0)})

    assert pairs(batch) == [(1, 3), (1, 4), (1, 5)]
    assert reader.dropped_segments == 2


def test_a_source_that_is_gone_leaves_the_cursor(make_writer: MakeWriter, log_directory: Path) -> None:
    """Cursors do not grow with the number of restarts for ever."""
    writer = make_writer()
    writer.append(line(1, 0))

    batch = LogReader(log_directory).poll({writer.source: (1, 0), "000000a1-00000063-worker": (5, 5)})

    assert list(batch.cursor) == [writer.source]


def test_a_source_that_cannot_be_read_does_not_stop_the_others(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """The error is counted, the cursor stays, and the source is tried again."""
    make_writer(1).append(line(1, 0))
    other = make_writer(2)
    other.append(line(2, 0))
    broken = log_directory / "000000a1-00000001-worker" / "00000001.jsonl"
    broken.rename(broken.with_suffix(".kept"))
    broken.mkdir()
    reader = LogReader(log_directory)

    first = reader.poll({})
    broken.rmdir()
    broken.with_suffix(".kept").rename(broken)
    second = reader.poll(first.cursor)

    assert pairs(first) == [(2, 0)]
    assert pairs(second) == [(1, 0)]
    assert reader.errors == 1


@settings(max_examples=15, deadline=None)
@given(
    paddings=st.lists(st.integers(0, 3000), min_size=1, max_size=15),
    segment_bytes=st.integers(1, 5000),
    member_bytes=st.integers(1, 4000),
    max_bytes=st.integers(1, 50_000),
    packed=st.sets(st.integers(1, 15), max_size=3),
)
def test_compressed_or_not_the_log_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    paddings: list[int],
    segment_bytes: int,
    member_bytes: int,
    max_bytes: int,
    packed: set[int],
) -> None:
    """Positions and lines do not depend on what was compressed or on how much is read at a time."""
    log_directory = tmp_path_factory.mktemp("log")
    bounds = WriterBounds(segment_bytes=segment_bytes, reserve_bytes=0)
    writer = LogWriter(log_directory, node=1, incarnation=1, role="w", bounds=bounds)
    for i, padding in enumerate(paddings):
        writer.append(line(1, i, padding))
    writer.close()
    before = LogReader(log_directory).poll({}, 1 << 30)
    for number in packed:
        if (writer.directory / f"{number:08d}.jsonl").exists():
            compress_segment(writer.directory, number, member_bytes=member_bytes)

    found, cursor = read_all(LogReader(log_directory), max_bytes)

    assert found == [(1, i) for i in range(len(paddings))]
    assert cursor == before.cursor
    events = EventReader(log_directory)
    for entry in before.entries:
        assert events.read_line(entry.position) == entry.line
    assert LogReader(log_directory).lag_bytes({}) == sum(len(entry.line) + 1 for entry in before.entries)


def test_single_events_are_read_by_position(make_writer: MakeWriter, log_directory: Path) -> None:
    """What is not there, is unfinished or is no event reads as None."""
    writer = make_writer()
    writer.append(line(1, 0, padding=20_000))
    writer.append(b"rubbish\n")
    writer.append(b'{"unfinished":1')
    events = EventReader(log_directory)
    first = len(line(1, 0, padding=20_000))

    read = [events.read_event(Position(writer.source, 1, offset)) for offset in (0, first, first + 8, 10**6)]

    assert [event and event["n"] for event in read] == [0, None, None, None]
    assert events.read_event(Position(writer.source, 2, 0)) is None
    assert events.read_event(Position("000000a1-00000063-worker", 1, 0)) is None


def test_reading_leaves_no_descriptor_open(make_writer: MakeWriter, log_directory: Path) -> None:
    """Polling twenty times a second for a year must not run out of descriptors."""
    writer = make_writer(segment_bytes=500)
    for i in range(50):
        writer.append(line(1, i))
    compress_segment(writer.directory, 1)
    reader, events = LogReader(log_directory), EventReader(log_directory)
    open_before = len(os.listdir("/proc/self/fd"))

    read_all(reader)
    reader.lag_bytes({})
    events.read_event(Position(writer.source, 1, 0))

    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_least_of_several_cursors_is_what_all_have_read() -> None:
    """A source that one of them has not begun is not in it, so nothing of it counts as read."""
    one = {"a": (1, 10), "b": (2, 0), "c": (1, 1)}
    assert least(one) == one
    assert least(one, {"a": (1, 5), "b": (3, 0)}, {"a": (2, 0), "b": (2, 7)}) == {"a": (1, 5), "b": (2, 0)}
