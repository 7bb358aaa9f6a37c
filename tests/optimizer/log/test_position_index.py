"""The position index: O(1) by request id, rebuildable, bounded memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.ids import RequestId, RequestIds, verify
from optimizer.log.position_index import SLOTS_PER_FILE, PositionIndex, rebuild
from optimizer.log.reader import LogReader
from optimizer.log.segment import EventReader, Position
from optimizer.log.writer import LogWriter, encode

MakeWriter = Callable[..., LogWriter]
SOURCE = "000000a1-00000001-worker"


def request(sequence: int, *, node: int = 0xA1, incarnation: int = 1) -> RequestId:
    return RequestId(0, node, incarnation, sequence, 0)


@settings(max_examples=30, deadline=None)
@given(
    slots=st.dictionaries(
        st.integers(0, 200) | st.integers(SLOTS_PER_FILE - 5, SLOTS_PER_FILE + 5) | st.just(2**32 - 1),
        st.tuples(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1)),
        max_size=30,
    )
)
def test_what_is_recorded_is_found(
    tmp_path_factory: pytest.TempPathFactory, slots: dict[int, tuple[int, int]]
) -> None:
    """Before and after flushing, by this process and the next; holes are missing."""
    directory = tmp_path_factory.mktemp("index")
    index = PositionIndex(directory)
    for sequence, place in slots.items():
        index.record(Position(SOURCE, *place), sequence)

    asked = {*slots, 3, 77, SLOTS_PER_FILE}
    pending = {sequence: index.find(request(sequence)) for sequence in asked}
    index.flush()
    flushed = {sequence: PositionIndex(directory).find(request(sequence)) for sequence in asked}

    expected = {s: Position(SOURCE, *slots[s]) if s in slots else None for s in asked}
    assert pending == expected
    assert flushed == expected


def test_other_processes_requests_are_unknown(tmp_path: Path) -> None:
    """Node and incarnation belong to the question."""
    index = PositionIndex(tmp_path)
    index.record(Position(SOURCE, 1, 10), 5)
    index.flush()

    assert index.find(request(5)) == Position(SOURCE, 1, 10)
    assert index.find(request(5, node=0xB2)) is None
    assert index.find(request(5, incarnation=2)) is None


def test_recording_again_changes_nothing(tmp_path: Path) -> None:
    """After a crash between flush and cursor the same events are recorded once more."""
    for _ in range(2):
        index = PositionIndex(tmp_path)
        for sequence in range(100):
            index.record(Position(SOURCE, 1, sequence * 10), sequence)
        index.flush()

    assert PositionIndex(tmp_path).find(request(99)) == Position(SOURCE, 1, 990)
    assert [path.stat().st_size for path in (tmp_path / SOURCE).iterdir()] == [800]


def test_it_is_rebuilt_from_the_log(make_writer: MakeWriter, log_directory: Path, tmp_path: Path) -> None:
    """Every decision is found again, its event is the right one, and other events need no slot."""
    key = b"k" * 32
    writer = make_writer(segment_bytes=2000)
    ids = RequestIds(node=0xA1, incarnation=1, key=key)
    minted = [ids.mint(1000 + i) for i in range(50)]
    for i, text in enumerate(minted):
        writer.append(encode(text, "llm_optimizer.request.v1", "/x", 1000 + i, {"n": i}))
        writer.append(encode(f"f{i}", "llm_optimizer.feedback.v1", "/x", 1000 + i, {}))

    def sequence_of(event: dict[str, Any]) -> int | None:
        known = verify(event["id"], key)
        return None if known is None else known.sequence

    index = PositionIndex(tmp_path / "index")
    recorded = rebuild(index, log_directory, sequence_of)

    assert recorded == 50
    events = EventReader(log_directory)
    for text in minted:
        known = verify(text, key)
        assert known is not None
        position = index.find(known)
        assert position is not None
        event = events.read_event(position)
        assert event is not None
        assert event["id"] == text


def test_the_index_shrinks_with_the_log(tmp_path: Path) -> None:
    """Files that point only to dropped segments go; the file being filled stays."""
    index = PositionIndex(tmp_path)
    for chunk in range(3):
        index.record(Position(SOURCE, chunk + 1, 0), chunk * SLOTS_PER_FILE)
    index.record(Position(SOURCE, 3, 0), 5)  # A long stream: begun early, logged late.
    index.flush()

    index.prune(SOURCE, 3)
    kept = [index.find(request(chunk * SLOTS_PER_FILE)) is not None for chunk in range(3)]
    index.prune(SOURCE, 4)
    later = [index.find(request(chunk * SLOTS_PER_FILE)) is not None for chunk in range(3)]
    index.prune(SOURCE, None)

    assert kept == [True, True, True]
    assert later == [False, False, True]
    assert list(tmp_path.iterdir()) == []
    assert index.find(request(2 * SLOTS_PER_FILE)) is None


def test_a_failed_flush_keeps_everything_pending(tmp_path: Path) -> None:
    """A full disk delays the index; it does not forget."""
    blocked = tmp_path / "index"
    blocked.touch()
    index = PositionIndex(blocked)
    index.record(Position(SOURCE, 1, 10), 5)

    with pytest.raises(OSError, match="index"):
        index.flush()
    blocked.unlink()
    index.flush()

    assert PositionIndex(blocked).find(request(5)) == Position(SOURCE, 1, 10)


def test_positions_fit_the_reader(make_writer: MakeWriter, log_directory: Path) -> None:
    """An entry's position is what the index takes and the event reader understands."""
    writer = make_writer()
    writer.append(b'{"a":1}\n')
    writer.append(b'{"a":2}\n')

    entries = LogReader(log_directory).poll({}).entries

    assert [EventReader(log_directory).read_event(entry.position) for entry in entries] == [
        {"a": 1},
        {"a": 2},
    ]
