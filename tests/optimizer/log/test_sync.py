"""Syncing the log: what changed is flushed once, what did not is left alone."""

from collections.abc import Callable
from pathlib import Path

from optimizer.log.compression import compress_segment
from optimizer.log.sync import LogSync
from optimizer.log.writer import LogWriter

MakeWriter = Callable[..., LogWriter]


def test_only_what_grew_is_flushed(make_writer: MakeWriter, log_directory: Path) -> None:
    """An idle log costs no disk access."""
    first, second = make_writer(1), make_writer(2)
    first.append(b"{}\n")
    second.append(b"{}\n")
    syncer = LogSync(log_directory)

    counts = [syncer.sync(), syncer.sync()]
    first.append(b"{}\n")
    counts.append(syncer.sync())

    assert counts == [2, 0, 1]


def test_rotated_segments_are_flushed_to_their_end(make_writer: MakeWriter, log_directory: Path) -> None:
    """The segment that was open at the last sync is finished, and its plain successors too."""
    writer = make_writer(segment_bytes=1)
    writer.append(b"{}\n")
    syncer = LogSync(log_directory)
    syncer.sync()
    for _ in range(4):
        writer.append(b"{}\n")
    compress_segment(writer.directory, 3)

    assert syncer.sync() == 3
    assert syncer.sync() == 0


def test_a_dead_writers_last_lines_are_flushed_and_it_is_forgotten(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """The end of a process is not the end of its lines."""
    writer = make_writer()
    writer.append(b"{}\n")
    syncer = LogSync(log_directory)
    writer.close()

    assert [syncer.sync(), syncer.sync()] == [1, 0]


def test_no_log_is_no_error(log_directory: Path) -> None:
    """The optimizer may start before any worker."""
    assert LogSync(log_directory).sync() == 0
