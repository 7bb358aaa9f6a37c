"""Segments on disk: their names, whether their writer lives, and reading them plain or compressed.

``00000007.jsonl`` is a plain segment. ``00000007.jsonl.gz`` is the same bytes as gzip members, with
``00000007.jsonl.gz.idx`` saying where each member starts, so that an offset into the uncompressed bytes
stays good for ever. Where both exist the plain one counts.
"""

import fcntl
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import orjson

from optimizer.log.node import parse_source
from optimizer.log.writer import LOCK_NAME

PLAIN: Final = ".jsonl"
PACKED: Final = ".jsonl.gz"
INDEX: Final = ".jsonl.gz.idx"

_GZIP = 31  # zlib's window bits for "gzip header and trailer"
_LINE_GUESS = 4096


class Position(NamedTuple):
    """Where a line starts: source directory, segment number (1 or more), offset in uncompressed bytes."""

    source: str
    segment: int
    offset: int


class Segment(Protocol):
    """An open segment, readable by offsets into its uncompressed bytes."""

    def size(self) -> int:
        """Uncompressed bytes that are there now."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""
        ...

    def close(self) -> None:
        """Release the descriptor."""
        ...


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """One segment as found in a directory. ``stored_bytes`` is what it takes on disk, its index included."""

    number: int
    packed: bool
    stored_bytes: int
    modified_at: float


def list_sources(log_directory: Path) -> list[str]:
    """Names of all source directories, sorted; empty when there is no log yet."""
    try:
        with os.scandir(log_directory) as found:
            names = [item.name for item in found if parse_source(item.name) and item.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(names)


def list_numbers(directory: Path) -> list[int]:
    """Numbers of the segments in a source directory, ascending; cheap enough for every poll."""
    try:
        return _numbers(os.listdir(directory))
    except FileNotFoundError:
        return []


def list_files(directory: Path) -> list[SegmentFiles]:
    """The segments of a source with their sizes and ages, ascending by number."""
    found: dict[str, os.stat_result] = {}
    try:
        with os.scandir(directory) as items:
            for item in items:
                with suppress(FileNotFoundError):
                    found[item.name] = item.stat()
    except FileNotFoundError:
        return []
    return [_files(number, found) for number in _numbers(found)]


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(
        {int(name[:8]) for name in names if name.endswith((PLAIN, PACKED)) and name[:8].isdecimal()}
    )


def _files(number: int, found: Mapping[str, os.stat_result]) -> SegmentFiles:
    names = [f"{number:08d}{suffix}" for suffix in (PLAIN, PACKED, INDEX)]
    present = [found[name] for name in names if name in found]
    return SegmentFiles(
        number,
        packed=names[0] not in found,
        stored_bytes=sum(max(facts.st_size, facts.st_blocks * 512) for facts in present),
        modified_at=present[0].st_mtime,
    )


def segment_path(directory: Path, number: int, suffix: str = PLAIN) -> Path:
    """Path of one of a segment's files."""
    return directory / f"{number:08d}{suffix}"


def writer_lives(directory: Path) -> bool:
    """Whether the process that owns this source directory still holds its lock."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def open_segment(
    directory: Path, number: int, cache: "MemberCache | None" = None
) -> Iterator[Segment | None]:
    """The segment, plain or compressed; None when retention has dropped it."""
    segment = _find_segment(directory, number, cache)
    try:
        yield segment
    finally:
        if segment is not None:
            segment.close()


def _find_segment(directory: Path, number: int, cache: "MemberCache | None") -> Segment | None:
    # Plain first: compression puts the compressed file in place before it removes the plain one.
    try:
        return PlainSegment(segment_path(directory, number))
    except FileNotFoundError:
        pass
    try:
        return PackedSegment(
            segment_path(directory, number, PACKED), segment_path(directory, number, INDEX), cache
        )
    except FileNotFoundError:
        return None


class PlainSegment:
    """A segment as its writer wrote it, possibly still growing."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        # pread makes room for all it is asked for, so it is asked for what is there.
        size = min(size, self.size() - offset)
        if size <= 0:
            return b""
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing and (data := os.pread(self._descriptor, missing, offset + size - missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class MemberIndex:
    """Where gzip members start: uncompressed and compressed offsets, ascending; ``size`` uncompressed."""

    starts: tuple[int, ...]
    stored: tuple[int, ...]
    size: int

    def encode(self) -> bytes:
        """The index file's bytes."""
        return orjson.dumps({"starts": self.starts, "stored": self.stored, "size": self.size}) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an index file.

        Raises:
            ValueError: If the bytes are no index.
        """
        try:
            raw = orjson.loads(data)
            index = cls(tuple(raw["starts"]), tuple(raw["stored"]), int(raw["size"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no member index: {error!r}") from error
        if len(index.starts) != len(index.stored):
            raise ValueError("a member index with columns of different length")
        for column in (index.starts, index.stored):
            if not all(type(offset) is int and offset >= 0 for offset in column) or list(column) != sorted(
                set(column)
            ):
                raise ValueError("a member index whose offsets do not ascend")
        return index


class MemberCache:
    """The most recently read members, uncompressed, by file and number."""

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._members: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def get(self, path: Path, number: int) -> bytes | None:
        """The member's bytes if they are here."""
        data = self._members.get((path, number))
        if data is not None:
            self._members.move_to_end((path, number))
        return data

    def put(self, path: Path, number: int, data: bytes) -> None:
        """Keep the member's bytes, forgetting the one unused for longest."""
        self._members[path, number] = data
        if len(self._members) > self._limit:
            self._members.popitem(last=False)


class PackedSegment:
    """A compressed segment; a read decompresses only the members that it touches.

    A missing or damaged index is made up for by decompressing the file once. A damaged member reads as the
    end of the segment's data.
    """

    def __init__(self, path: Path, index_path: Path, cache: MemberCache | None = None) -> None:
        self._path = path
        self._cache = cache
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                self.index = MemberIndex.decode(index_path.read_bytes())
            except (FileNotFoundError, ValueError):
                self.index = scan_members(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def size(self) -> int:
        return self.index.size

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size > 0 and offset < self.index.size:
            number = bisect_right(self.index.starts, offset) - 1
            data = self._member(number)[offset - self.index.starts[number] :][:size]
            if not data:
                break
            parts.append(data)
            offset += len(data)
            size -= len(data)
        return b"".join(parts)

    def _member(self, number: int) -> bytes:
        """One member's uncompressed bytes; empty when it is damaged."""
        if self._cache is not None and (known := self._cache.get(self._path, number)) is not None:
            return known
        stored = self.index.stored
        begin = stored[number]
        in_file = os.fstat(self._descriptor).st_size
        end = min(stored[number + 1], in_file) if number + 1 < len(stored) else in_file
        # An index that is damaged may point anywhere, far beyond the file too.
        if not begin < end:
            return b""
        try:
            data = zlib.decompress(os.pread(self._descriptor, end - begin, begin), wbits=_GZIP)
        except zlib.error:
            return b""
        if self._cache is not None:
            self._cache.put(self._path, number, data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


def scan_members(path: Path) -> MemberIndex:
    """Find the members of a gzip file by decompressing it; stops at the first damage."""
    data = path.read_bytes()
    starts: list[int] = []
    stored: list[int] = []
    size = position = 0
    while position < len(data):
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            length = len(member.decompress(memoryview(data)[position:]))
        except zlib.error:
            break
        if not member.eof:
            break
        starts.append(size)
        stored.append(position)
        size += length
        position = len(data) - len(member.unused_data)
    return MemberIndex(tuple(starts), tuple(stored), size)


class EventReader:
    """Reads single events by position, also from compressed segments; keeps a few members in memory."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._cache = MemberCache()

    def read_line(self, position: Position) -> bytes | None:
        """The line at ``position`` without its newline; None when it is gone, torn or was never there."""
        directory = self._log_directory / position.source
        with open_segment(directory, position.segment, self._cache) as segment:
            if segment is None:
                return None
            size = _LINE_GUESS
            while True:
                data = segment.read(position.offset, size)
                end = data.find(b"\n")
                if end >= 0:
                    return data[:end]
                if len(data) < size:
                    return None
                size *= 8

    def read_event(self, position: Position) -> dict[str, Any] | None:
        """The event at ``position``; None when it is gone or no JSON object starts there."""
        line = self.read_line(position)
        if line is None:
            return None
        try:
            event = orjson.loads(line)
        except ValueError:
            return None
        return event if isinstance(event, dict) else None
