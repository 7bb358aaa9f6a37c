"""Faults of the log that need the real file system: taken away, refused, cut, damaged."""

import gzip
import os
import random
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import orjson
import pytest

from optimizer.log.compression import compress_segment
from optimizer.log.reader import LogReader
from optimizer.log.writer import Disk, LogWriter, WriterBounds

NOBODY = 65534


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line(n: int) -> bytes:
    return b'{"n":%d}\n' % n


def read_all(
    reader: LogReader, cursor: dict[str, tuple[int, int]]
) -> tuple[list[int], dict[str, tuple[int, int]]]:
    found = []
    while True:
        batch = reader.poll(cursor)
        found += [event["n"] for _, event in batch.events()]
        if batch.cursor == cursor:
            return found, cursor
        cursor = batch.cursor


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def writer(log_directory: Path, hand: Hand) -> Iterator[LogWriter]:
    made = LogWriter(
        log_directory, node=1, incarnation=1, role="worker",
        bounds=WriterBounds(reserve_bytes=0), disk=Disk(clock=hand),
    )  # fmt: skip
    yield made
    made.close()


def remove_log(log_directory: Path, source: Path) -> None:
    del source
    shutil.rmtree(log_directory)


def remove_source(log_directory: Path, source: Path) -> None:
    del log_directory
    shutil.rmtree(source)


def remove_segment(log_directory: Path, source: Path) -> None:
    del log_directory
    (source / "00000001.jsonl").unlink()


@pytest.mark.parametrize("remove", [remove_log, remove_source, remove_segment])
def test_a_log_that_is_taken_away_goes_on_and_what_went_with_it_is_counted(
    writer: LogWriter, hand: Hand, log_directory: Path, remove: Callable[[Path, Path], None]
) -> None:
    """Every line is either read or counted as lost, and a cursor into what is gone hides nothing new."""
    reader = LogReader(log_directory)
    for n in range(10):
        writer.append(line(n))
    before, cursor = read_all(reader, {})
    hand.now = 1.0
    writer.append(line(10))  # the last look that finds everything in place, and a line after it
    writer.append(line(11))
    remove(log_directory, writer.directory)
    writer.append(line(12))

    hand.now = 2.5
    for n in range(13, 20):
        writer.append(line(n))
    after, _ = read_all(reader, cursor)

    assert before == list(range(10))
    assert after == list(range(13, 20))
    assert writer.lost == {"removed": 3}
    assert writer.lines_written == 17
    assert (log_directory / writer.source / "00000002.jsonl").exists()


def test_a_source_that_lost_only_a_segment_is_never_taken_for_dead(
    writer: LogWriter, hand: Hand, log_directory: Path
) -> None:
    """The lock stays held: a reader that looks in between does not write the source off."""
    reader = LogReader(log_directory)
    writer.append(line(0))
    (writer.directory / "00000001.jsonl").unlink()
    _, cursor = read_all(reader, {})
    hand.now = 2.0
    writer.append(line(1))

    found, _ = read_all(reader, cursor)

    assert found == [1]


@contextmanager
def unprivileged_directory() -> Iterator[Path]:
    """A directory whose permissions bind this process, also when it is root's."""
    root = Path(tempfile.mkdtemp(prefix="log-faults-"))
    user = os.geteuid()
    if user == 0:
        os.chown(root, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield root
    finally:
        root.chmod(0o700)
        os.seteuid(user)
        shutil.rmtree(root)


def test_a_read_only_directory_is_survived_and_recovered_from() -> None:
    """While nothing can be created lines are lost and counted; with the permission writing comes back."""
    with unprivileged_directory() as root:
        hand = Hand()
        root.chmod(0o500)
        writer = LogWriter(
            root / "log", node=1, incarnation=1, role="worker",
            bounds=WriterBounds(reserve_bytes=0), disk=Disk(clock=hand),
        )  # fmt: skip
        for n in range(5):
            hand.now += 10
            writer.append(line(n))
        refused = dict(writer.lost)
        root.chmod(0o700)
        hand.now += 10
        writer.append(line(5))
        writer.close()
        found, _ = read_all(LogReader(root / "log"), {})

    assert refused == {"io_error": 5}
    assert found == [5]


def test_a_file_system_that_turns_read_only_is_survived(tmp_path: Path) -> None:
    """The descriptor is open, writes fail (EROFS on the next file), and nothing raises."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False, timeout=20
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    hand = Hand()
    try:
        writer = LogWriter(
            disk / "log", node=1, incarnation=1, role="worker",
            bounds=WriterBounds(reserve_bytes=0, segment_bytes=20), disk=Disk(clock=hand),
        )  # fmt: skip
        writer.append(line(0))
        writer.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True, timeout=20)
        for n in range(1, 6):
            hand.now += 10
            writer.append(line(n))
        refused = dict(writer.lost)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True, timeout=20)
        hand.now += 10
        writer.append(line(6))
        writer.close()
        found, _ = read_all(LogReader(disk / "log"), {})
    finally:
        subprocess.run(["umount", disk], check=False, timeout=20)

    assert refused == {"io_error": 5}
    assert found == [0, 6]


def test_a_segment_that_is_cut_while_it_is_written_hides_nothing_new(
    writer: LogWriter, log_directory: Path
) -> None:
    """Somebody empties the file (`: > file`): what comes later is read, and that it happened is counted."""
    reader = LogReader(log_directory)
    for n in range(10):
        writer.append(line(n))
    _, cursor = read_all(reader, {})
    os.truncate(writer.directory / "00000001.jsonl", 0)
    cut, cursor = read_all(reader, cursor)
    writer.append(line(10))

    found, _ = read_all(reader, cursor)

    assert cut == []
    assert found == [10]
    assert reader.counts["invalid"] == 1


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_cost_the_lines_they_hit(log_directory: Path, seed: int) -> None:
    """Every line that was not hit is read once, in order; those that were are no objects, or other numbers."""
    rng = random.Random(seed)
    writer = LogWriter(
        log_directory, node=1, incarnation=1, role="worker", bounds=WriterBounds(reserve_bytes=0)
    )
    lines = [b'{"n":%d,"p":"%s"}\n' % (n, b"x" * rng.randrange(80)) for n in range(500)]
    for text in lines:
        writer.append(text)
    writer.close()
    path = writer.directory / "00000001.jsonl"
    data = bytearray(path.read_bytes())
    hit = set()
    for _ in range(40):
        at = rng.randrange(len(data))
        hit.add(data.count(b"\n", 0, at))
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    reader = LogReader(log_directory)

    entries = []
    cursor: dict[str, tuple[int, int]] = {}
    while (batch := reader.poll(cursor, 2000)).cursor != cursor:
        entries += batch.entries
        cursor = batch.cursor

    starts = [0, *accumulate(len(text) for text in lines)]
    # A newline that was hit merges its line with the next one.
    untouched = [n for n in range(500) if not hit & {n, n - 1}]
    found = {entry.offset: entry.line for entry in entries}
    assert [found.get(starts[n]) for n in untouched] == [lines[n][:-1] for n in untouched]
    assert len(found) == len(entries)
    assert cursor[writer.source] == (1, len(data))


@pytest.mark.parametrize("where", [0.0, 0.5, 0.99])
def test_a_damaged_compressed_segment_ends_there_and_the_next_goes_on(
    log_directory: Path, where: float
) -> None:
    """What the damage hides is counted and logged; the following segment is read from its beginning."""
    writer = LogWriter(
        log_directory, node=1, incarnation=1, role="worker",
        bounds=WriterBounds(reserve_bytes=0, segment_bytes=300_000),
    )  # fmt: skip
    for n in range(30_000):
        writer.append(b'{"n":%d,"p":"%d"}\n' % (n, n * 7919))
    writer.close()
    compress_segment(writer.directory, 1)
    packed = writer.directory / "00000001.jsonl.gz"
    data = bytearray(packed.read_bytes())
    at = min(int(len(data) * where) + 12, len(data) - 1)
    data[at : at + 8] = b"\0" * len(data[at : at + 8])
    packed.write_bytes(data)
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(bytes(data))
    second = int(orjson.loads((writer.directory / "00000002.jsonl").read_bytes().split(b"\n", 1)[0])["n"])
    reader = LogReader(log_directory)

    found, _ = read_all(reader, {})

    head = [n for n in found if n < second]
    assert head == list(range(len(head)))
    assert len(head) < second
    assert [n for n in found if n >= second] == list(range(second, 30_000))
    assert reader.counts["invalid"] == 1
