"""Appending to the event log: one ``write(2)`` per line, never an exception, every lost line counted.

A writer owns the directory ``<node>-<incarnation>-<role>`` and holds a lock on the file ``lock`` in it for
as long as it lives, which is how readers tell a slow writer from a dead one. Segments are
``00000001.jsonl`` and up; only the newest is ever written to.

What is refused when space runs out, least important class first:

- the file system has less than ``reserve_bytes`` free (twice that for ``DETAIL`` lines), so that learned
  state and the routing table can still be saved: ``disk_full``;
- the byte lease is used up: retention, which enforces the log's cap, leaves in ``<log>/lease`` how many
  bytes each writer may still add, and renews it with every sweep. Without an optimizer the leases run out
  and the log stays under its cap (``cap``). ``DETAIL`` lines stop at half the lease. No lease file means no
  cap yet;
- the write itself failed: ``disk_full`` or ``io_error``;
- the disk is slow and the diverted queue is full: ``queue_full``.

Somebody may also remove the file that is being written to, or all of the log. That is noticed within a second and
what was written in that second counts as ``removed``; writing goes on in a new segment. What waits in the queue of a
slow disk when the process is killed is lost without being counted, because nobody is left to count it: at most
``queue_bytes``, and the last report of the process says how much there was.
"""

import errno
import fcntl
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from optimizer.log.node import source_name

# What a line is worth when not all can be kept: requests, feedback and control events; worker statistics.
VITAL: Final = 0
DETAIL: Final = 1

LOCK_NAME: Final = "lock"
LEASE_NAME: Final = "lease"
# Ends a torn line so that it can never be mistaken for a whole one, however much of it reached the disk.
TORN_MARK: Final = b" #torn\n"

_SPACE_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_SPACE_CHECK_S = 1.0
_REMOVAL_CHECK_S = 1.0
_QUICK_WRITES_TO_RECOVER = 8
_NEWLINE = 10


@dataclass(frozen=True, slots=True)
class WriterBounds:
    """How much one writer may do.

    ``segment_bytes`` (at most 2**31) and ``segment_age_s`` close a segment, the latter when something is
    appended. ``reserve_bytes`` of the file system are left to others. A write slower than ``slow_write_s``
    diverts the following lines to a thread, whose queue holds ``queue_bytes`` and ``queue_lines``;
    ``DETAIL`` lines get half of it.
    """

    segment_bytes: int = 64 * 1024 * 1024
    segment_age_s: float = 3600.0
    reserve_bytes: int = 64 * 1024 * 1024
    slow_write_s: float = 0.005
    queue_bytes: int = 8 * 1024 * 1024
    queue_lines: int = 10_000


def _free_bytes(path: Path) -> int:
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


@dataclass(frozen=True, slots=True)
class Disk:
    """The machine below a writer; replaceable to bring about faults that no test machine has.

    ``clock`` gives monotonic seconds, ``write`` is ``os.write``, ``free_bytes`` looks at a path's file
    system.
    """

    clock: Callable[[], float] = time.monotonic
    write: Callable[[int, bytes], int] = os.write
    free_bytes: Callable[[Path], int] = _free_bytes


class LogWriter:
    """The log of one process. ``append`` belongs to one thread and never raises.

    ``lost`` counts lost lines by reason, ``lines_written`` and ``bytes_written`` the others, ``diversions`` how
    often the disk was so slow that lines went through the thread.
    """

    def __init__(
        self,
        log_directory: Path,
        *,
        node: int,
        incarnation: int,
        role: str,
        bounds: WriterBounds | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Open the first segment of process ``incarnation`` below ``StateDirectory.log_directory``.

        Raises:
            ValueError: If ``bounds.segment_bytes`` is out of range. A disk that refuses is no error here
            either.
        """
        bounds = bounds or WriterBounds()
        disk = disk or Disk()
        if not 0 < bounds.segment_bytes <= 2**31:
            raise ValueError(f"segment_bytes must be within 1..2**31, got {bounds.segment_bytes}")
        self.source = source_name(node, incarnation, role)
        self.directory = log_directory / self.source
        self.lost: Counter[str] = Counter()
        self.lines_written = 0
        self.bytes_written = 0
        self.diversions = 0
        self._bounds = bounds
        self._clock = disk.clock
        self._slow_write_s = bounds.slow_write_s
        self._space = _Space(log_directory, bounds, disk)
        self._segment = _Segment(self.directory, bounds, disk)
        self._diverted = False
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._sure_at = disk.clock() + _REMOVAL_CHECK_S
        self._unsure = 0  # lines written since the segment was last seen to be in its place
        self._segment.open(disk.clock())

    @property
    def diverted(self) -> bool:
        """Whether lines currently go through the thread because the disk was slow."""
        return self._diverted

    def state(self) -> dict[str, int]:
        """For reports: ``diverted`` (0 or 1) and ``queued_bytes`` now, ``diversions`` so far."""
        queued = self._queued_bytes
        return {"diverted": int(self._diverted), "diversions": self.diversions, "queued_bytes": queued}

    def append(self, line: bytes, *, priority: int = VITAL) -> None:
        """Add one line, which ends in its only newline; what cannot be kept is counted in ``lost``."""
        if self._diverted and self._enqueue(line, priority):
            return
        began = self._clock()
        if self._write(line, priority, began) - began > self._slow_write_s:
            self._divert()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write out what is queued, waiting at most ``timeout_s``, and let go of the directory."""
        thread = self._thread
        if thread is not None:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            thread.join(timeout_s)
            if thread.is_alive():
                with self._changed:
                    self.lost["queue_full"] += len(self._queue)
                    self._queue.clear()
                return  # The thread still sits in a write; the descriptor is its own until the process ends.
        self._segment.close(release=True)

    def _write(self, lines: bytes, priority: int, now: float, count: int = 1) -> float:
        """Write ``count`` lines if there is room for their class, and count them; returns when that ended."""
        whole, size = count, len(lines)
        if now >= self._sure_at:
            self._look_for_segment(now)
        reason = self._space.refuses(size, priority, now)
        if reason is None:
            reason = self._segment.write(lines, now)
            if reason is not None:
                size = self._segment.accepted
        else:
            size = 0
            if reason == "cap" and priority == VITAL:
                # A closed segment is one that retention may delete, which is what makes room again.
                self._segment.rotate_when_used(now)
        if reason is not None:
            whole = lines.count(b"\n", 0, size)
            self.lost[reason] += count - whole
        self.lines_written += whole
        self._unsure += whole
        self.bytes_written += size
        self._space.used(size)
        return self._clock()

    def _look_for_segment(self, now: float) -> None:
        """Count what went into a file that somebody has removed meanwhile."""
        self._sure_at = now + _REMOVAL_CHECK_S
        if self._segment.was_removed():
            self.lost["removed"] += self._unsure
            self.lines_written -= self._unsure
        self._unsure = 0

    def _divert(self) -> None:
        with self._changed:
            self._diverted = True
            self.diversions += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="log-writer", daemon=True)
                self._thread.start()

    def _enqueue(self, line: bytes, priority: int) -> bool:
        """Hand ``line`` to the thread; False when it has just handed back, so the caller writes itself."""
        with self._changed:
            if not self._diverted:
                return False
            share = 1 if priority == VITAL else 2
            if (
                len(self._queue) >= self._bounds.queue_lines // share
                or self._queued_bytes + len(line) > self._bounds.queue_bytes // share
            ):
                self.lost["queue_full"] += 1
            else:
                self._queue.append(line)
                self._queued_bytes += len(line)
                self._changed.notify()
        return True

    def _drain(self) -> None:
        """The thread: writes what is queued while diverted, and hands back once the disk is quick again.

        All that waits is one write, because after each the thread must wait for its turn to run Python.
        """
        # A busy process adds up to two switch intervals of that waiting to a write.
        quick_s = self._slow_write_s + 2 * sys.getswitchinterval()
        quick = 0
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    if quick >= _QUICK_WRITES_TO_RECOVER:
                        self._diverted, quick = False, 0
                    self._changed.wait()
                if not self._queue:
                    return
                lines = self._take_queue()
                if quick >= _QUICK_WRITES_TO_RECOVER:
                    # Whoever appends now waits for this one write; under load the queue is never found empty.
                    self._write_queued(lines)
                    self._diverted, quick = False, 0
                    continue
            quick = quick + 1 if self._write_queued(lines) <= quick_s else 0

    def _take_queue(self) -> list[bytes]:
        lines = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        return lines

    def _write_queued(self, lines: list[bytes]) -> float:
        """Write what was queued; returns the seconds it took.

        The queue has already chosen by class, so what got in is written while there is any room.
        """
        began = self._clock()
        data = b"".join(lines)
        if self._space.refuses(len(data), VITAL, began) is None:
            return self._write(data, VITAL, began, len(lines)) - began
        for line in lines:
            self._write(line, VITAL, began)
        return self._clock() - began


class _Segment:
    """The open segment of one writer: opening, rotating, torn lines and pauses after errors."""

    def __init__(self, directory: Path, bounds: WriterBounds, disk: Disk) -> None:
        self._directory = directory
        self._limit_bytes = bounds.segment_bytes
        self._limit_age_s = bounds.segment_age_s
        self._os_write = disk.write
        self._lock: int | None = None
        self._descriptor: int | None = None
        self._number = 0
        self._size = 0
        self._close_at = 0.0
        self._torn = False
        self._pause_s = 0.0
        self._resume_at = 0.0
        self.failure = ""
        self.accepted = 0

    def write(self, lines: bytes, now: float) -> str | None:
        """Append whole lines; returns why they are lost, or None when all of them are in the file.

        After a failure ``failure`` is what was returned and ``accepted`` how many bytes are in the file all the same.
        """
        self.accepted = 0
        if self._pause_s and now < self._resume_at:
            return self.failure
        mark = b""
        try:
            descriptor = self._descriptor
            if descriptor is None or self._size >= self._limit_bytes or now >= self._close_at:
                descriptor = self._open_next(now)
            mark = TORN_MARK if self._torn else b""
            written = self._os_write(descriptor, mark + lines if mark else lines)
        except OSError as error:
            return self._failed(error.errno, now)
        self._size += written
        self._torn = False
        if written == len(mark) + len(lines):
            self._pause_s = 0.0
            return None
        self.accepted = max(written - len(mark), 0)
        if self.accepted:
            self._torn = lines[self.accepted - 1] != _NEWLINE
        else:
            # Part of a mark does no harm: the next try adds a whole one to the same bad line.
            self._torn = written < len(mark)
        return self._failed(errno.ENOSPC, now)

    def open(self, now: float) -> None:
        """Open the first segment ahead of the first line; a failure is tried again with that line."""
        try:
            self._open_next(now)
        except OSError as error:
            self._failed(error.errno, now)

    def rotate_when_used(self, now: float) -> None:
        """Close a non-empty segment and open the next, so that retention may take the old one."""
        if self._size and self._descriptor is not None:
            self.open(now)

    def was_removed(self) -> bool:
        """Whether the open segment has lost its name, so that no reader finds it; it is given up then."""
        try:
            if self._descriptor is None or os.fstat(self._descriptor).st_nlink:
                return False
            # Readers take a source whose lock is free for dead, so a lock that still has its name is kept.
            gone = self._lock is not None and not os.fstat(self._lock).st_nlink
        except OSError:
            return False  # The write itself will tell.
        self.close(release=gone)
        return True

    def close(self, *, release: bool = False) -> None:
        """Close the segment; ``release`` gives up the lock too, so readers know that nobody writes here."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if release and self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _failed(self, code: int | None, now: float) -> str:
        reason = "disk_full" if code in _SPACE_ERRORS else "io_error"
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._resume_at = now + self._pause_s
        self.failure = reason
        if code not in (errno.ENOSPC, errno.EDQUOT) and self._size:
            # This file will not take more (a limit on file size, an I/O error); the next one may.
            self._close_at = now
        return reason

    def _open_next(self, now: float) -> int:
        if self._lock is None:
            self._lock = take_lock(self._directory)
            # Cursors may point beyond what is there by now, so numbers never come back.
            self._number = max(self._number, _newest_segment(self._directory))
        number = self._number + 1
        descriptor = os.open(
            self._directory / f"{number:08d}.jsonl",
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
        )
        self.close()
        self._descriptor, self._number = descriptor, number
        self._size = 0
        self._torn = False
        self._close_at = now + self._limit_age_s
        return descriptor


class _Space:
    """Whether a class of lines may still be added; looks at the disk at most once a second."""

    def __init__(self, log_directory: Path, bounds: WriterBounds, disk: Disk) -> None:
        self._log_directory = log_directory
        self._lease_file = log_directory / LEASE_NAME
        self._reserve_bytes = bounds.reserve_bytes
        self._free_bytes = disk.free_bytes
        self._look_at = disk.clock()
        self._free: int | None = None
        self._lease_stamp: tuple[int, int] | None = None
        self._lease: int | None = None
        self._spent = 0

    def refuses(self, size: int, priority: int, now: float) -> str | None:
        if now >= self._look_at:
            self._look_at = now + _SPACE_CHECK_S
            self._look()
        if self._free is not None and self._free < self._reserve_bytes * (priority + 1):
            return "disk_full"
        if self._lease is not None and self._spent + size > self._lease // (priority + 1):
            return "cap"
        return None

    def used(self, size: int) -> None:
        self._spent += size

    def _look(self) -> None:
        try:
            self._free = self._free_bytes(self._log_directory)
        except OSError:
            self._free = None  # Unknown; the write itself will tell.
        try:
            facts = os.stat(self._lease_file)
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._lease_stamp:
                self._lease = int(self._lease_file.read_bytes())
                self._lease_stamp = stamp
                self._spent = 0
        except (OSError, ValueError):
            pass  # Without a readable lease the last one goes on, or none.


def take_lock(directory: Path, *, wait: bool = True) -> int:
    """Create the directory with its lock file and lock it; returns the descriptor that holds the lock.

    Raises ``BlockingIOError`` when somebody else holds it and ``wait`` is False."""
    while True:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # Retention has just removed the empty directory.
        try:
            # A reader that asks whether we live holds this for microseconds.
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # Retention has removed the file that we waited for.


def _newest_segment(directory: Path) -> int:
    """The highest number taken; 0 unless an incarnation is used again, which must not overwrite anything."""
    numbers = (name.partition(".")[0] for name in os.listdir(directory))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


@lru_cache(maxsize=8)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def rfc3339(time_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC with three decimals."""
    second, milliseconds = divmod(time_ms, 1000)
    return f"{_second_text(second)}.{milliseconds:03d}Z"


def encode(
    event_id: str, type_: str, source: str, time_ms: int, data: Mapping[str, Any] | orjson.Fragment
) -> bytes:
    """One log line, newline included: the CloudEvents envelope around ``data``.

    Args:
        event_id: Fixed for ever; a request's is its request id.
        type_: A name from ``optimizer.events``.
        source: ``/<node hex8>/<role>/<incarnation>``; see ``event_source``.
        time_ms: Unix milliseconds.
        data: JSON-ready facts: a ``dict``, or an object that is serialized already.

    Raises:
        TypeError: If ``data`` holds what JSON cannot.
    """
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": type_,
            "time": rfc3339(time_ms),
            "data": data,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def event_source(node: int, role: str, incarnation: int) -> str:
    """The ``source`` attribute of a process's events."""
    return f"/{node:08x}/{role}/{incarnation}"
