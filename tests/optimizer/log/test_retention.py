"""Retention: the cap always wins, the open segment never goes, and nothing unread goes uncounted."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer.ids import RequestId
from optimizer.log.position_index import PositionIndex
from optimizer.log.reader import LogReader
from optimizer.log.retention import Retention
from optimizer.log.segment import Position
from optimizer.log.writer import Disk, LogWriter
from optimizer.settings import RetentionSettings

MakeWriter = Callable[..., LogWriter]

NOW = 2_000_000_000.0
BLOCK = 4096
LINE = b'{"p":"' + b"x" * (BLOCK - 9) + b'"}\n'  # One line fills one block of a usual file system.


def aged(writer: LogWriter, *ages_s: float) -> None:
    """Set the modification times of a writer's segments, oldest number first."""
    for path, age in zip(sorted(writer.directory.glob("*.jsonl")), ages_s, strict=True):
        os.utime(path, (NOW - age, NOW - age))


def left(writer: LogWriter) -> list[int]:
    """Numbers of the segments that are still there."""
    return sorted({int(path.name[:8]) for path in writer.directory.glob("0*")})


def retention(log_directory: Path, **bounds: float) -> Retention:
    settings = RetentionSettings(**{"max_bytes": 10**9, "max_disk_fraction": 1.0, **bounds})  # type: ignore[arg-type]
    return Retention(log_directory, settings, compress_after_s=10**9, disk_bytes=lambda path: 10**12)


def test_old_segments_go_and_the_open_one_stays(make_writer: MakeWriter, log_directory: Path) -> None:
    """Age counts from the last event of a segment."""
    writer = make_writer(segment_bytes=1)
    for _ in range(4):
        writer.append(LINE)
    aged(writer, 500, 400, 50, 500)

    sweep = retention(log_directory, max_age_s=100).sweep(NOW, read={writer.source: (5, 0)})

    assert left(writer) == [3, 4]
    assert [(gone.segment, gone.reason, gone.unread_events) for gone in sweep.dropped] == [
        (1, "age", 0),
        (2, "age", 0),
    ]


def test_over_the_cap_the_oldest_of_all_sources_goes_first(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """Sources are one log; the dead one's last segment is closed, too."""
    dead, living = make_writer(1, segment_bytes=1), make_writer(2, segment_bytes=1)
    for writer in (dead, living):
        for _ in range(3):
            writer.append(LINE)
    dead.close()
    aged(dead, 60, 30, 10)
    aged(living, 50, 40, 20)

    sweep = retention(log_directory, max_bytes=3 * BLOCK).sweep(NOW, read={})

    assert (left(dead), left(living)) == ([3], [3])
    assert sweep.stored_bytes == 2 * BLOCK
    assert sweep.cap_bytes == 3 * BLOCK


def test_shipped_segments_go_before_older_unshipped_ones(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """What Kafka has acknowledged is the least needed here."""
    old, new = make_writer(1, segment_bytes=1), make_writer(2, segment_bytes=1)
    for writer in (old, new):
        for _ in range(3):
            writer.append(LINE)
    aged(old, 60, 50, 40)
    aged(new, 30, 20, 10)

    retention(log_directory, max_bytes=5 * BLOCK).sweep(NOW, read={}, shipped={new.source: (2, len(LINE))})

    assert (left(old), left(new)) == ([1, 2, 3], [3])


def test_the_cap_wins_over_the_unread_which_is_counted(make_writer: MakeWriter, log_directory: Path) -> None:
    """A learner that is behind loses events by number, not silently."""
    writer = make_writer(segment_bytes=3 * len(LINE))
    for _ in range(7):
        writer.append(LINE)

    sweep = retention(log_directory, max_bytes=2 * BLOCK).sweep(NOW, read={writer.source: (1, 2 * len(LINE))})

    assert left(writer) == [3]
    assert [gone.unread_events for gone in sweep.dropped] == [1, 3]
    assert sweep.lost_events == 4


def test_a_share_of_a_small_disk_is_the_smaller_cap(make_writer: MakeWriter, log_directory: Path) -> None:
    """10 GiB or 20 % of the disk, whichever is less."""
    make_writer().append(LINE)
    swept = Retention(
        log_directory, RetentionSettings(), compress_after_s=10**9, disk_bytes=lambda path: 1000 * BLOCK
    )

    assert swept.sweep(NOW, read={}).cap_bytes == 200 * BLOCK


def test_closed_segments_are_compressed_some_time_after(make_writer: MakeWriter, log_directory: Path) -> None:
    """Recent ones stay plain for look-ups, the open one always; a sweep does a bounded number."""
    writer = make_writer(segment_bytes=1)
    for _ in range(5):
        writer.append(LINE)
    aged(writer, 100, 100, 100, 5, 100)
    sweeper = Retention(log_directory, RetentionSettings(), compress_after_s=60)

    counts = [sweeper.sweep(NOW, read={}, compress_limit=2).compressed for _ in range(3)]

    assert counts == [2, 1, 0]
    assert sorted(path.name for path in writer.directory.glob("*.jsonl")) == [
        "00000004.jsonl",
        "00000005.jsonl",
    ]
    assert len(LogReader(log_directory).poll({}).entries) == 5


def test_leases_keep_the_log_under_its_cap_without_an_optimizer(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """After the last sweep each writer may add its share; together they stay below the cap."""
    now = [100.0]
    writers = [make_writer(i, disk=Disk(clock=lambda: now[0])) for i in (1, 2)]
    for writer in writers:
        writer.append(LINE)

    sweep = retention(log_directory, max_bytes=22 * BLOCK).sweep(NOW, read={})
    now[0] += 2
    for _ in range(100):
        for writer in writers:
            writer.append(LINE)

    assert sweep.lease_bytes == 10 * BLOCK
    assert [writer.lost["cap"] for writer in writers] == [90, 90]
    stored = sum(path.stat().st_size for path in log_directory.rglob("*.jsonl"))
    assert stored == 22 * len(LINE)


def test_a_writer_goes_on_after_a_sweep_made_room(make_writer: MakeWriter, log_directory: Path) -> None:
    """The refused writer has closed its segment, so the sweep can drop it and lease anew."""
    now = [100.0]
    writer = make_writer(disk=Disk(clock=lambda: now[0]))
    sweeper = retention(log_directory, max_bytes=10 * BLOCK)
    written = []

    for _ in range(4):
        sweeper.sweep(NOW, read={writer.source: (1000, 0)})
        now[0] += 2
        before = writer.lines_written
        for _ in range(20):
            writer.append(LINE)
        written.append(writer.lines_written - before)

    assert min(written) > 0
    assert sum(path.stat().st_size for path in log_directory.rglob("*.jsonl")) <= 10 * BLOCK


def test_a_dead_source_disappears_with_its_last_segment(make_writer: MakeWriter, log_directory: Path) -> None:
    """Directories and index do not pile up with restarts; a living source keeps its own."""
    dead, living = make_writer(1), make_writer(2)
    for writer in (dead, living):
        writer.append(LINE)
        aged(writer, 1000)
    dead.close()
    index = PositionIndex(log_directory.parent / "index")
    for writer in (dead, living):
        index.record(Position(writer.source, 1, 0), 7)
    index.flush()
    sweeper = Retention(log_directory, RetentionSettings(max_age_s=100), index=index, compress_after_s=10**9)

    sweeper.sweep(NOW, read={dead.source: (2, 0)})

    assert not dead.directory.exists()
    assert living.directory.exists()
    assert index.find(RequestId(0, 0xA1, 1, 7, 0)) is None
    assert index.find(RequestId(0, 0xA1, 2, 7, 0)) is not None


def test_a_new_writer_in_a_directory_being_removed_gets_one_of_its_own(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """Removal and start of a writer may cross; the writer ends up in a directory that exists."""
    first = make_writer(1)
    first.append(LINE)
    aged(first, 1000)
    first.close()
    sweeper = retention(log_directory, max_age_s=100)

    sweeper.sweep(NOW, read={first.source: (2, 0)})
    second = make_writer(1)
    second.append(LINE)
    sweeper.sweep(NOW, read={})

    assert left(second) == [1]
    assert not second.lost


def test_sweeping_an_absent_log_is_fine(log_directory: Path) -> None:
    """The optimizer may start first."""
    log_directory.mkdir()

    sweep = retention(log_directory).sweep(NOW, read={})

    assert (sweep.dropped, sweep.stored_bytes) == ((), 0)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_unread_events_are_counted_in_compressed_segments_too(
    make_writer: MakeWriter, log_directory: Path, suffix: str
) -> None:
    """Counting does not depend on the form."""
    writer = make_writer(segment_bytes=3 * len(LINE))
    for _ in range(4):
        writer.append(LINE)
    aged(writer, 1000, 0)
    sweeper = Retention(
        log_directory,
        RetentionSettings(max_bytes=1),
        compress_after_s=0 if suffix == ".jsonl.gz" else 10**9,
    )

    sweep = sweeper.sweep(NOW, read={writer.source: (1, len(LINE))})

    assert sweep.lost_events == 2
