"""The owner's copy of one partition, as segments of the event log that everything which reads a log can read.

A line is the record with the CloudEvents extension attribute ``kafkaoffset`` put first. What a file holds depends on
the records and on where the file began, never on how they arrived: two owners that began at the same place have the
same bytes, so a place in one's copy is a place in the other's. A crash may leave part of a line, which is cut off when
the copy is opened; the broker has the record still.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from optimizer.cluster.types import Snapshot
from optimizer.log.node import source_name
from optimizer.log.segment import INDEX, PACKED, PLAIN, Segment, list_numbers, open_segment, segment_path
from optimizer.log.writer import take_lock

_log = logging.getLogger(__name__)

ROLE: Final = "kafka"
_HEAD = re.compile(rb'\{"kafkaoffset":(\d{1,19})[,}]')
_HEAD_BYTES: Final = 64
_CHUNK: Final = 256 * 1024
_LOCK_TRIES: Final = 20
_LOCK_PAUSE_S: Final = 0.005


class Mirror:
    """One partition's records as segment files; belongs to one thread.

    ``left_out`` counts records that can't be a line of the log (no JSON object, or a line break in it), ``skipped``
    those that were there already. A reader must be started after this was opened, because opening may cut the end.
    """

    def __init__(
        self,
        log_directory: Path,
        shard: int,
        *,
        segment_bytes: int,
        resume: Snapshot | None = None,
    ) -> None:
        """Open the copy below ``log_directory`` and go on where it ends.

        Args:
            log_directory: The log of the shard's own state directory.
            shard: The partition.
            segment_bytes: A segment that has as many bytes gets no further line; the same for all owners.
            resume: Where somebody else's copy ended, or ours once. What is here is kept if the place is in it;
                otherwise it is another history, and is thrown away, and the file begins with a hole up to the place.

        Raises:
            OSError: If the disk refuses, or another process has the copy open (``BlockingIOError``).
        """
        self.source = source_name(shard, 1, ROLE)
        self.directory = log_directory / self.source
        self.left_out = 0
        self.skipped = 0
        self._segment_bytes = segment_bytes
        self._next: int | None = None
        self._number = 0
        self._size = 0
        self._torn = False
        self._descriptor: int | None = None
        self._lock: int | None = _lock(self.directory)
        try:
            self._recover()
            if resume is not None and not self._holds(resume):
                self._begin_at(resume)
        except BaseException:
            self.close()
            raise

    @property
    def next_offset(self) -> int | None:
        """The first offset that is not here yet; None when nothing is known."""
        return self._next

    @property
    def end(self) -> tuple[int, int]:
        """Segment and byte after the last line; (0, 0) without a segment."""
        return self._number, self._size

    def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Add records, which are (offset, value) with ascending offsets; those that are here already are skipped.

        Raises:
            OSError: The disk refuses, or somebody removed the file. Some may have been added; giving the same ones
                again adds the rest.
        """
        lines: list[bytes] = []
        offsets: list[int] = []
        left_out = 0
        size, upto = self._size, self._next
        for offset, value in records:
            if upto is not None and offset < upto:
                self.skipped += 1
                continue
            line = _line(offset, value)
            if line is None:
                left_out += 1
            else:
                if size >= self._segment_bytes:
                    self._write(lines, offsets)
                    self._open(self._number + 1)
                    lines, offsets, size = [], [], 0
                lines.append(line)
                offsets.append(offset)
                size += len(line)
            upto = offset + 1
        self._write(lines, offsets)
        self._next = upto
        self.left_out += left_out

    def offset_at(self, segment: int, byte: int) -> int:
        """The offset of the first record that stands at or after the place, or that will stand there.

        Raises:
            OSError: The disk refuses.
        """
        following = self._next or 0  # before looking: what is added meanwhile is then found
        for number in list_numbers(self.directory):
            if number < segment:
                continue
            with open_segment(self.directory, number) as opened:
                found = None if opened is None else _first(opened, byte if number == segment else 0)
            if found is not None:
                return found
        return following

    def close(self) -> None:
        """Let go of the copy; readers then take its end for final."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = None

    def _write(self, lines: Sequence[bytes], offsets: Sequence[int]) -> None:
        """Append to the open segment with one write; after a failure what is there ends with a whole line."""
        if not lines:
            return
        if self._descriptor is None:
            self._open(self._number or 1)
        descriptor = self._descriptor
        assert descriptor is not None
        if not os.fstat(descriptor).st_nlink:
            raise OSError(errno.ESTALE, "the copy of the partition was removed", str(self.directory))
        if self._torn:
            os.ftruncate(descriptor, self._size)
            self._torn = False
        data = b"".join(lines)
        done = 0
        try:
            while done < len(data):
                done += os.write(descriptor, memoryview(data)[done:] if done else data)
        finally:
            # Whole lines stay: a reader may have taken them already.
            whole = len(data) if done == len(data) else data.rfind(b"\n", 0, done) + 1
            if whole:
                self._size += whole
                self._next = offsets[data.count(b"\n", 0, whole) - 1] + 1
            self._torn = whole < done

    def _open(self, number: int) -> None:
        descriptor = os.open(
            segment_path(self.directory, number),
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._number = descriptor, number
        self._size = os.fstat(descriptor).st_size

    def _recover(self) -> None:
        """Cut what is no whole line off the end, and find the last record."""
        numbers = list_numbers(self.directory)
        if not numbers:
            return
        self._number = numbers[-1]
        for number in reversed(numbers):
            with open_segment(self.directory, number) as segment:
                size, last = (0, None) if segment is None else _end(segment, segment.size())
            if number == numbers[-1]:
                self._open_last(size)
            if last is not None:
                self._next = last + 1
                return

    def _open_last(self, size: int) -> None:
        if not segment_path(self.directory, self._number).exists():
            # Retention has compressed it while nobody had it open.
            self._open(self._number + 1)
            return
        self._open(self._number)
        if self._size > size and self._descriptor is not None:
            _log.warning("%s/%08d: cutting %d torn bytes", self.source, self._number, self._size - size)
            os.ftruncate(self._descriptor, size)
            self._size = size

    def _holds(self, resume: Snapshot) -> bool:
        """Whether ``resume`` names a place in this copy with the same records around it."""
        numbers = list_numbers(self.directory)
        if resume.segment not in numbers:
            return False
        before: int | None = None
        for number in reversed([number for number in numbers if number <= resume.segment]):
            with open_segment(self.directory, number) as segment:
                if segment is None:
                    return False
                end = resume.byte if number == resume.segment else segment.size()
                if end > segment.size() or (end and segment.read(end - 1, 1) != b"\n"):
                    return False
                before = _end(segment, end)[1]
            if before is not None:
                break
        if before is not None and before >= resume.offset:
            return False
        if (self._number, self._size) == (resume.segment, resume.byte):
            self._next = resume.offset
            return True
        return self.offset_at(resume.segment, resume.byte) >= resume.offset

    def _begin_at(self, resume: Snapshot) -> None:
        """Have one segment with a hole up to the place, whose last byte ends a line, as it did in the other copy."""
        if self._descriptor is not None:
            _log.warning("%s: %r is not in this copy, which begins again there", self.source, resume.offset)
            os.close(self._descriptor)
            self._descriptor = None
        for name in os.listdir(self.directory):
            if name.endswith((PLAIN, PACKED, INDEX)):
                (self.directory / name).unlink()
        path = segment_path(self.directory, resume.segment)
        making = path.with_suffix(".making")
        with making.open("wb") as file:
            if resume.byte:
                file.truncate(resume.byte - 1)
                file.seek(resume.byte - 1)
                file.write(b"\n")
        making.chmod(0o600)
        making.rename(path)
        self._open(resume.segment)
        self._next = resume.offset


def _lock(directory: Path) -> int:
    """The writer's lock; a reader that asks whether somebody has it holds it for microseconds."""
    for _ in range(_LOCK_TRIES):
        try:
            return take_lock(directory, wait=False)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
    return take_lock(directory, wait=False)


def _line(offset: int, value: bytes) -> bytes | None:
    """The line of a record, None when it can't be one."""
    value = value.strip()
    if not (value.startswith(b"{") and value.endswith(b"}")) or b"\n" in value:
        return None
    rest = value[1:]
    if rest[:1] != b'"' and rest.lstrip() == b"}":
        return b'{"kafkaoffset":%d}\n' % offset
    return b'{"kafkaoffset":%d,%b\n' % (offset, rest)


def _end(segment: Segment, end: int) -> tuple[int, int | None]:
    """Where the last line of ours before ``end`` ends, and its offset; None when there is only a hole, or nothing."""
    while whole := _last_newline(segment, end) + 1:
        start = _last_newline(segment, whole - 1) + 1
        head = segment.read(start, _HEAD_BYTES)
        match = _HEAD.match(head)
        if match is not None:
            return whole, int(match[1])
        if not head.strip(b"\0\n"):
            return whole, None
        end = start
    return 0, None


def _last_newline(segment: Segment, end: int) -> int:
    """Place of the last newline before ``end``, -1 without one."""
    while end > 0:
        start = max(end - _CHUNK, 0)
        found = segment.read(start, end - start).rfind(b"\n")
        if found >= 0:
            return start + found
        end = start
    return -1


def _first(segment: Segment, byte: int) -> int | None:
    """The offset of the first whole line of ours at or after ``byte``, None without one."""
    while True:
        match = _HEAD.match(segment.read(byte, _HEAD_BYTES))
        newline = _next_newline(segment, byte)
        if newline < 0:
            return None
        if match is not None:
            return int(match[1])
        byte = newline + 1


def _next_newline(segment: Segment, start: int) -> int:
    while data := segment.read(start, _CHUNK):
        found = data.find(b"\n")
        if found >= 0:
            return start + found
        start += len(data)
    return -1
