"""Compressed segments: readable by zcat, seekable by offset, safe at every moment of a crash."""

import gzip
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer.log.compression import compress_segment
from optimizer.log.reader import LogReader
from optimizer.log.segment import EventReader, MemberIndex, PackedSegment, open_segment, scan_members
from optimizer.log.writer import LogWriter

MakeWriter = Callable[..., LogWriter]


def filled(make_writer: MakeWriter, lines: int = 3000) -> tuple[Path, bytes]:
    """A closed segment with its content."""
    rng = random.Random(1)
    writer = make_writer()
    for i in range(lines):
        writer.append(b'{"n":%d,"r":"%x"}\n' % (i, rng.getrandbits(200)))
    writer.close()
    return writer.directory, (writer.directory / "00000001.jsonl").read_bytes()


def test_zcat_reads_it_and_the_plain_one_is_gone(make_writer: MakeWriter) -> None:
    """Operators can look into old segments with the tools they have; age and mode are kept."""
    directory, content = filled(make_writer)
    os.utime(directory / "00000001.jsonl", (1000, 2000))

    stored = compress_segment(directory, 1)

    packed = directory / "00000001.jsonl.gz"
    unpacked = subprocess.run(["gzip", "-dc", packed], capture_output=True, check=True, timeout=20)
    assert unpacked.stdout == content
    assert sorted(os.listdir(directory)) == ["00000001.jsonl.gz", "00000001.jsonl.gz.idx", "lock"]
    assert packed.stat().st_size == stored < len(content)
    assert packed.stat().st_mtime == 2000
    assert packed.stat().st_mode & 0o777 == 0o600


def test_any_offset_reads_the_same_as_before(make_writer: MakeWriter) -> None:
    """Seeking touches members, results do not show it."""
    directory, content = filled(make_writer)
    rng = random.Random(2)
    compress_segment(directory, 1, member_bytes=5000)

    with open_segment(directory, 1) as segment:
        assert isinstance(segment, PackedSegment)
        assert segment.size() == len(content)
        assert segment.read(0, 10**7) == content
        for _ in range(200):
            offset, size = rng.randrange(len(content) + 10), rng.randrange(12_000)
            assert segment.read(offset, size) == content[offset : offset + size]


@pytest.mark.parametrize("index", [None, b"", b"{}", b'{"starts":[0],"stored":[],"size":1}'])
def test_a_lost_index_is_made_up_for(make_writer: MakeWriter, index: bytes | None) -> None:
    """The index is only a shortcut; without it the file is scanned."""
    directory, content = filled(make_writer)
    compress_segment(directory, 1, member_bytes=5000)
    path = directory / "00000001.jsonl.gz.idx"
    path.unlink()
    if index is not None:
        path.write_bytes(index)

    with open_segment(directory, 1) as segment:
        assert segment is not None
        assert segment.read(0, 10**7) == content


@pytest.mark.parametrize("stored", [10**9, 2**62])
def test_an_index_that_points_beyond_the_file_ends_the_segment(make_writer: MakeWriter, stored: int) -> None:
    """Found by fuzzing: reading there must not fail with what only a broken disk would explain."""
    directory, content = filled(make_writer)
    compress_segment(directory, 1, member_bytes=5000)
    path = directory / "00000001.jsonl.gz.idx"
    index = MemberIndex.decode(path.read_bytes())
    path.write_bytes(MemberIndex(index.starts, (*index.stored[:-1], stored), index.size).encode())

    with open_segment(directory, 1) as segment:
        assert segment is not None
        kept = segment.read(0, 10**7)
    assert content.startswith(kept)
    assert len(kept) < len(content)


def test_a_damaged_member_costs_the_rest_of_its_segment_only(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """The reader counts it and goes on with the next segment."""
    first = make_writer(1)
    for i in range(1000):
        first.append(b'{"n":%d}\n' % i)
    first.close()
    second = make_writer(2)
    second.append(b'{"n":-1}\n')
    compress_segment(first.directory, 1, member_bytes=2000)
    packed = first.directory / "00000001.jsonl.gz"
    data = bytearray(packed.read_bytes())
    middle = scan_members(packed).stored[2]
    data[middle : middle + 40] = b"\0" * 40
    packed.write_bytes(data)
    reader = LogReader(log_directory)

    batch = reader.poll({})

    numbers = [event["n"] for _, event in batch.events()]
    assert numbers[-1] == -1
    assert numbers[:-1] == list(range(len(numbers) - 1))
    assert 300 < len(numbers) < 1000
    assert reader.invalid == 1
    assert reader.poll(batch.cursor).entries == []


def test_an_empty_segment_compresses_too(make_writer: MakeWriter) -> None:
    """A process that never logged leaves one; zcat must not stumble over it."""
    writer = make_writer()
    writer.close()

    compress_segment(writer.directory, 1)

    assert gzip.decompress((writer.directory / "00000001.jsonl.gz").read_bytes()) == b""
    with open_segment(writer.directory, 1) as segment:
        assert segment is not None
        assert (segment.size(), segment.read(0, 10)) == (0, b"")


@pytest.mark.parametrize("left_behind", ["temporary", "index", "both files"])
def test_a_crash_at_any_moment_leaves_the_segment_readable_once(
    make_writer: MakeWriter, log_directory: Path, left_behind: str
) -> None:
    """What each step leaves on disk reads the same, and compressing again finishes the work."""
    directory, content = filled(make_writer, lines=50)
    plain, packed = directory / "00000001.jsonl", directory / "00000001.jsonl.gz"
    compress_segment(directory, 1)
    match left_behind:
        case "temporary":
            packed.rename(directory / ".00000001.jsonl.gz.tmp")
            (directory / "00000001.jsonl.gz.idx").unlink()
        case "index":
            packed.unlink()
    plain.write_bytes(content)

    before = LogReader(log_directory).poll({}).entries
    compress_segment(directory, 1)
    after = LogReader(log_directory).poll({}).entries

    assert len(before) == 50
    assert after == before
    assert EventReader(log_directory).read_line(before[-1].position) == before[-1].line
    assert sorted(os.listdir(directory)) == ["00000001.jsonl.gz", "00000001.jsonl.gz.idx", "lock"]
