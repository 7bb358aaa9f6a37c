"""Where each request's event stands in the log: eight bytes per request, found by its id alone.

Below the index directory every source has a directory with files of 2**20 fixed-width slots; slot
``sequence`` holds (segment u32, offset u32), big-endian. Segments count from 1, so an empty slot says
"missing". Memory follows what is pending until ``flush``, never the number of requests. The index only
repeats what the log says: it can be rebuilt.
"""

import errno
import os
import shutil
import struct
import sys
from array import array
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import orjson

from optimizer.ids import RequestId
from optimizer.log.node import parse_source
from optimizer.log.reader import Cursor, LogReader
from optimizer.log.segment import Position, list_numbers, open_segment

SequenceOf = Callable[[dict[str, Any]], int | None]

SLOTS_PER_FILE: Final = 1 << 20

_SLOT = struct.Struct(">II")
_FILE_SUFFIX = ".positions"
# Half a second is what a power loss may take: at 1 KB an event, a thousand of them.
_TAIL_BYTES = 1024 * 1024


class PositionIndex:
    """The index of one node. One writing process; any number may look up."""

    def __init__(self, index_directory: Path) -> None:
        self._directory = index_directory
        self._pending: dict[str, dict[int, tuple[int, int]]] = {}
        self._sources: dict[tuple[int, int], str] = {}
        self._highest: dict[Path, tuple[int, int]] = {}

    def record(self, position: Position, sequence: int) -> None:
        """Note where the event of the source's request ``sequence`` stands; ``find`` knows it at once."""
        self._pending.setdefault(position.source, {})[sequence] = (position.segment, position.offset)

    def flush(self) -> None:
        """Write what was recorded, so that it outlives this process (call before saving the log cursor).

        ``optimizer.log_sync`` makes it outlive a power loss, as it does for the log.

        Raises:
            OSError: When the disk refuses; everything stays pending.
        """
        for source, slots in self._pending.items():
            for chunk, items in groupby(sorted(slots.items()), key=lambda item: item[0] // SLOTS_PER_FILE):
                self._write(source, chunk, list(items))
        self._pending.clear()

    def find(self, request: RequestId) -> Position | None:
        """Where the request's event stands; None when it is unknown here.

        The event there must still be compared with the id: after a power loss a slot may be newer than the
        log.
        """
        source = self._source(request.node, request.incarnation)
        return None if source is None else self.at(source, request.sequence)

    def at(self, source: str, sequence: int) -> Position | None:
        """Where the event of the source's request ``sequence`` stands; see ``find``."""
        slot = self._pending.get(source, {}).get(sequence)
        if slot is None:
            chunk, number = divmod(sequence, SLOTS_PER_FILE)
            slot = _read_slot(self._path(source, chunk), number)
        return Position(source, *slot) if slot is not None and slot[0] else None

    def prune(self, source: str, first_segment: int | None) -> None:
        """Forget files that only point before ``first_segment`` of ``source``; None forgets the source."""
        directory = self._directory / source
        if first_segment is None:
            shutil.rmtree(directory, ignore_errors=True)
            self._pending.pop(source, None)
            parsed = parse_source(source)
            if parsed is not None:
                self._sources.pop(parsed[:2], None)
            return
        # The newest file is still being filled; the first one that must stay ends the search.
        for path in sorted(directory.glob("*" + _FILE_SUFFIX))[:-1]:
            if self._highest_segment(path) >= first_segment:
                return
            path.unlink(missing_ok=True)
            self._highest.pop(path, None)

    def _highest_segment(self, path: Path) -> int:
        """The largest segment that a file points to, remembered while the file stays as it is."""
        stamp = path.stat().st_mtime_ns
        known = self._highest.get(path)
        if known is None or known[0] != stamp:
            slots = array("Q", path.read_bytes())
            if sys.byteorder == "little":
                slots.byteswap()
            known = self._highest[path] = (stamp, max(slots, default=0) >> 32)
        return known[1]

    def _write(self, source: str, chunk: int, items: list[tuple[int, tuple[int, int]]]) -> None:
        path = self._path(source, chunk)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            base = chunk * SLOTS_PER_FILE
            # Runs of neighbouring sequences, which is nearly always one run, are one write each.
            for _, run in groupby(enumerate(items), key=lambda pair: pair[1][0] - pair[0]):
                slots = [item for _, item in run]
                data = b"".join([_SLOT.pack(*position) for _, position in slots])
                if os.pwrite(descriptor, data, (slots[0][0] - base) * _SLOT.size) != len(data):
                    raise OSError(errno.ENOSPC, "the position index was written in part", str(path))
        finally:
            os.close(descriptor)

    def _source(self, node: int, incarnation: int) -> str | None:
        known = self._sources.get((node, incarnation))
        if known is not None:
            return known
        names = [*self._pending]
        if self._directory.is_dir():
            names += os.listdir(self._directory)
        for name in names:
            parsed = parse_source(name)
            if parsed is not None:
                self._sources[parsed[:2]] = name
        return self._sources.get((node, incarnation))

    def _path(self, source: str, chunk: int) -> Path:
        return self._directory / source / f"{chunk:04x}{_FILE_SUFFIX}"


def find_gaps(index: PositionIndex, log_directory: Path, read: Cursor, sequence_of: SequenceOf) -> list[str]:
    """Sources whose newest events, of those that were read, the index does not have where they stand.

    The index is synced as the log is, but not together with the learned state: after a power loss the cursor may be
    ahead of it, and an index that was removed is behind all of it. What is looked at is more than a power loss takes.
    """
    return [
        source
        for source, (segment, offset) in read.items()
        if not _has_tail(index, log_directory, Position(source, segment, offset), sequence_of)
    ]


def rebuild(
    index: PositionIndex, log_directory: Path, sequence_of: SequenceOf, *, start: Cursor | None = None
) -> int:
    """Record every event of the log again; returns how many were.

    Args:
        index: Where to; existing slots are overwritten.
        log_directory: Whose events.
        sequence_of: The sequence of an event, None for events that need no slot.
        start: Where to begin reading; sources that it lacks are read from their beginning.
    """
    reader = LogReader(log_directory)
    cursor = dict(start or {})
    recorded = 0
    while True:
        batch = reader.poll(cursor)
        for position, event in batch.events():
            sequence = sequence_of(event)
            if sequence is not None:
                index.record(position, sequence)
                recorded += 1
        index.flush()
        cursor = batch.cursor
        if not batch.more:
            return recorded


def _has_tail(index: PositionIndex, log_directory: Path, end: Position, sequence_of: SequenceOf) -> bool:
    directory = log_directory / end.source
    left = _TAIL_BYTES
    for number in reversed([number for number in list_numbers(directory) if number <= end.segment]):
        with open_segment(directory, number) as opened:
            if opened is None:
                return True
            stop = end.offset if number == end.segment else opened.size()
            offset = max(stop - left, 0)
            data = opened.read(offset, stop - offset)
        if not _has_lines(index, Position(end.source, number, offset), data, sequence_of):
            return False
        left -= len(data)
        if left <= 0:
            break
    return True


def _has_lines(index: PositionIndex, start: Position, data: bytes, sequence_of: SequenceOf) -> bool:
    source, segment, offset = start
    if offset:  # Begin with a whole line.
        cut = data.find(b"\n") + 1
        offset, data = offset + cut, data[cut:]
    for line in data.split(b"\n"):
        sequence = _sequence(line, sequence_of)
        if sequence is not None and index.at(source, sequence) != (source, segment, offset):
            return False
        offset += len(line) + 1
    return True


def _sequence(line: bytes, sequence_of: SequenceOf) -> int | None:
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    return sequence_of(event) if isinstance(event, dict) else None


def _read_slot(path: Path, number: int) -> tuple[int, int] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = os.pread(descriptor, _SLOT.size, number * _SLOT.size)
    finally:
        os.close(descriptor)
    if len(data) < _SLOT.size:
        return None
    segment, offset = _SLOT.unpack(data)
    return segment, offset
