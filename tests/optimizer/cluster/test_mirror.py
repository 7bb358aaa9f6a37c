import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.cluster.mirror import Mirror
from optimizer.cluster.types import Snapshot
from optimizer.log.compression import compress_segment
from optimizer.log.node import parse_source
from optimizer.log.reader import Entry, LogReader
from optimizer.log.segment import list_numbers, open_segment, writer_lives

LIMIT = 200


def _value(number: int, room: int = 0) -> bytes:
    return orjson.dumps({"id": f"e{number}", "data": "x" * room})


def _snapshot(offset: int, segment: int, byte: int) -> Snapshot:
    return Snapshot(offset, segment, byte, b"", 0.0)


def _files(mirror: Mirror) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in mirror.directory.glob("*.jsonl")}


def _read(reader: LogReader, cursor: dict[str, tuple[int, int]], step: int = 1 << 20) -> list[Entry]:
    entries = []
    while True:
        batch = reader.poll(cursor, step)
        cursor = batch.cursor
        entries += batch.entries
        if not batch.more:
            return entries


def _offsets(entries: Sequence[Entry]) -> list[int]:
    return [orjson.loads(entry.line)["kafkaoffset"] for entry in entries]


def test_a_line_is_the_record_with_its_offset_in_front(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 11, segment_bytes=LIMIT)
    mirror.append([(7, b'{"id":"a"}'), (8, b"{}"), (9, b'{ "b" : 1 }\n'), (12, b"{ }")])
    assert mirror.source == "0000000b-00000001-kafka"
    assert parse_source(mirror.source) == (11, 1, "kafka")
    assert writer_lives(mirror.directory)
    assert _files(mirror) == {
        "00000001.jsonl": b'{"kafkaoffset":7,"id":"a"}\n{"kafkaoffset":8}\n'
        b'{"kafkaoffset":9, "b" : 1 }\n{"kafkaoffset":12}\n'
    }
    assert mirror.next_offset == 13
    assert mirror.end == (1, len(_files(mirror)["00000001.jsonl"]))
    mirror.close()
    assert not writer_lives(mirror.directory)


def test_what_is_no_line_is_left_out_and_passed(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    mirror.append(
        [(0, b""), (1, b'["a"]'), (2, b'{"a":\n1}'), (3, b"{torn"), (4, _value(4)), (5, b"nonsense")]
    )
    assert mirror.left_out == 5
    assert mirror.next_offset == 6
    assert _offsets(_read(LogReader(tmp_path), {})) == [4]
    mirror.close()


def test_records_that_come_again_are_skipped(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    assert mirror.next_offset is None
    mirror.append([(5, _value(5)), (6, _value(6))])
    before = _files(mirror)
    mirror.append([(5, _value(5)), (6, _value(6))])
    assert _files(mirror) == before
    assert mirror.skipped == 2
    mirror.append([(6, _value(6)), (9, _value(9))])
    assert _offsets(_read(LogReader(tmp_path), {})) == [5, 6, 9]
    mirror.close()


def test_nobody_else_may_have_it_open(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    with pytest.raises(BlockingIOError):
        Mirror(tmp_path, 0, segment_bytes=LIMIT)
    mirror.close()
    Mirror(tmp_path, 0, segment_bytes=LIMIT).close()


def test_places_are_found_as_offsets(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    mirror.append([(offset, _value(offset, 40)) for offset in range(10, 40, 2)])
    assert mirror.end[0] > 2
    for entry in _read(LogReader(tmp_path), {}):
        offset = _offsets([entry])[0]
        assert mirror.offset_at(entry.segment, entry.offset) == offset
        after = entry.offset + len(entry.line) + 1
        assert mirror.offset_at(entry.segment, after) == (offset + 2 if offset < 38 else 39)
    assert mirror.offset_at(0, 0) == 10
    assert mirror.offset_at(*mirror.end) == 39
    mirror.close()


@pytest.mark.parametrize("byte", [0, 1, 5, 300, 1_000_000])
def test_another_owner_goes_on_behind_a_hole(tmp_path: Path, byte: int) -> None:
    mirror = Mirror(tmp_path, 3, segment_bytes=2_000_000, resume=_snapshot(100, 4, byte))
    assert mirror.next_offset == 100
    assert mirror.end == (4, byte)
    assert mirror.offset_at(4, byte) == 100
    cursor = {mirror.source: (4, byte)}
    reader = LogReader(tmp_path)
    assert _read(reader, cursor) == []
    mirror.append([(98, _value(98)), (99, _value(99)), (100, _value(100)), (103, _value(103))])
    batch = reader.poll(cursor)
    assert _offsets(batch.entries) == [100, 103]
    assert batch.entries[0].offset == byte
    mirror.append([(104, _value(104))])
    batch = reader.poll(batch.cursor)
    assert _offsets(batch.entries) == [104]
    assert reader.counts == dict.fromkeys(reader.counts, 0)
    # Somebody who reads all there is takes the hole for one bad line, and loses none that follows.
    assert _offsets(_read(LogReader(tmp_path), {})) == [100, 103, 104]
    path = mirror.directory / "00000004.jsonl"
    assert path.stat().st_blocks * 512 < 64 * 1024  # a hole takes no room
    mirror.close()


def test_a_hole_without_records_is_opened_again(tmp_path: Path) -> None:
    resume = _snapshot(100, 4, 500)
    Mirror(tmp_path, 3, segment_bytes=2000, resume=resume).close()
    without = Mirror(tmp_path, 3, segment_bytes=2000)
    assert without.next_offset is None
    assert without.end == (4, 500)
    without.close()
    mirror = Mirror(tmp_path, 3, segment_bytes=2000, resume=resume)
    assert mirror.next_offset == 100
    mirror.append([(100, _value(100))])
    mirror.close()
    again = Mirror(tmp_path, 3, segment_bytes=2000, resume=resume)
    assert again.next_offset == 101
    again.close()


def test_a_place_in_the_own_copy_keeps_the_copy(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    mirror.append([(offset, _value(offset, 40)) for offset in range(20)])
    files = _files(mirror)
    entries = _read(LogReader(tmp_path), {})
    end = mirror.end
    mirror.close()
    for entry, offset in zip(entries, range(20), strict=True):
        again = Mirror(
            tmp_path, 0, segment_bytes=LIMIT, resume=_snapshot(offset, entry.segment, entry.offset)
        )
        assert _files(again) == files
        assert again.next_offset == 20
        again.close()
    # The end of it, with records behind it that were left out.
    again = Mirror(tmp_path, 0, segment_bytes=LIMIT, resume=_snapshot(25, *end))
    assert again.next_offset == 25
    assert _files(again) == files
    again.close()


@pytest.mark.parametrize(
    ("offset", "segment", "byte"),
    [(3, 1, 5), (30, 1, 0), (30, 9, 100), (50, 1, 10_000)],
    ids=["no line begins there", "another record is there", "no such segment", "beyond the end"],
)
def test_another_history_is_thrown_away(tmp_path: Path, offset: int, segment: int, byte: int) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=LIMIT)
    mirror.append([(number, _value(number, 40)) for number in range(20)])
    mirror.close()
    again = Mirror(tmp_path, 0, segment_bytes=20_000, resume=_snapshot(offset, segment, byte))
    assert again.next_offset == offset
    assert list_numbers(again.directory) == [segment]
    again.append([(60, _value(60))])
    assert _offsets(_read(LogReader(tmp_path), {again.source: (segment, byte)})) == [60]
    again.close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=10_000)
    mirror.append([(0, _value(0))])
    write = os.write
    room = [45]

    def short(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left")
        taken = write(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    records = [(offset, _value(offset)) for offset in range(1, 6)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(OSError, match="no space"):
            mirror.append(records)
    reader = LogReader(tmp_path)
    first = reader.poll({})
    assert _offsets(first.entries) == [0, 1]
    assert mirror.next_offset == 2
    mirror.append(records)
    assert _offsets(reader.poll(first.cursor).entries) == [2, 3, 4, 5]
    assert reader.counts == dict.fromkeys(reader.counts, 0)
    mirror.close()


def test_a_removed_copy_is_noticed(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=10_000)
    mirror.append([(0, _value(0))])
    (mirror.directory / "00000001.jsonl").unlink()
    with pytest.raises(OSError, match="removed"):
        mirror.append([(1, _value(1))])
    mirror.close()


def test_a_copy_whose_end_was_compressed_goes_on_in_the_next_segment(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, 0, segment_bytes=10_000)
    mirror.append([(offset, _value(offset)) for offset in range(5)])
    mirror.close()
    compress_segment(mirror.directory, 1)
    assert not (mirror.directory / "00000001.jsonl").exists()
    again = Mirror(tmp_path, 0, segment_bytes=10_000)
    assert again.next_offset == 5
    again.append([(5, _value(5))])
    assert _offsets(_read(LogReader(tmp_path), {})) == [0, 1, 2, 3, 4, 5]
    assert again.offset_at(1, 0) == 0
    again.close()


RECORDS = st.lists(
    st.tuples(st.integers(1, 3), st.one_of(st.integers(0, 150), st.just(-1))), min_size=1, max_size=40
).map(
    lambda steps: [
        (sum(step for step, _ in steps[: index + 1]), b"no line" if room < 0 else _value(index, room))
        for index, (_, room) in enumerate(steps)
    ]
)


@settings(max_examples=50, deadline=None)
@given(records=RECORDS, data=st.data())
def test_batching_and_crashes_change_nothing(records: list[tuple[int, bytes]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        whole = Mirror(Path(first), 0, segment_bytes=LIMIT)
        whole.append(records)
        mirror = Mirror(Path(second), 0, segment_bytes=LIMIT)
        index = 0
        while index < len(records):
            size = data.draw(st.integers(1, 10))
            mirror.append(records[index : index + size])
            index += size
            if data.draw(st.booleans()):
                mirror.close()
                numbers = list_numbers(mirror.directory)
                if numbers:
                    path = mirror.directory / f"{numbers[-1]:08d}.jsonl"
                    os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
                mirror = Mirror(Path(second), 0, segment_bytes=LIMIT)
                wanted = mirror.next_offset or 0
                index = next((i for i, (offset, _) in enumerate(records) if offset >= wanted), len(records))
        assert {name: text for name, text in _files(mirror).items() if text} == _files(whole)
        assert _read(LogReader(Path(second)), {}) == _read(LogReader(Path(first)), {})
        whole.close()
        mirror.close()


@settings(max_examples=50, deadline=None)
@given(records=RECORDS, cut=st.integers(0, 39), step=st.integers(1, 400))
def test_two_owners_copies_read_the_same_from_a_place(
    records: list[tuple[int, bytes]], cut: int, step: int
) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        former = Mirror(Path(first), 0, segment_bytes=LIMIT)
        former.append(records)
        reader = LogReader(Path(first))
        places = [(entry.segment, entry.offset) for entry in _read(reader, {})] + [former.end]
        segment, byte = places[cut % len(places)]
        if segment == 0:
            former.close()
            return
        resume = _snapshot(former.offset_at(segment, byte), segment, byte)
        later = Mirror(Path(second), 0, segment_bytes=LIMIT, resume=resume)
        later.append(records)
        cursor = {later.source: (segment, byte)}
        assert _read(LogReader(Path(second)), cursor, step) == _read(LogReader(Path(first)), cursor, step)
        assert later.next_offset == former.next_offset
        for number in list_numbers(later.directory):
            begin = byte if number == segment else 0
            with (
                open_segment(former.directory, number) as mine,
                open_segment(later.directory, number) as other,
            ):
                assert mine is not None
                assert other is not None
                assert other.read(begin, 1 << 20) == mine.read(begin, 1 << 20)
        former.close()
        later.close()
