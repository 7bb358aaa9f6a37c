"""Keeping the log within its bounds: compress what is closed, drop what is too old or too much, lease out
the rest.

The cap always wins, and an open segment is never touched. Shipped segments go first, then the oldest. What
the learner has not read yet goes only for the cap, and is counted when it does. Each sweep leaves behind how
many bytes every living writer may add before the next one, so that the cap holds even when no sweep comes
any more.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizer.log.compression import compress_segment
from optimizer.log.position_index import PositionIndex
from optimizer.log.reader import Cursor
from optimizer.log.segment import (
    INDEX,
    PACKED,
    PLAIN,
    SegmentFiles,
    list_files,
    list_sources,
    open_segment,
    segment_path,
    writer_lives,
)
from optimizer.log.writer import LEASE_NAME, LOCK_NAME
from optimizer.settings import RetentionSettings

# Sweeping stops a little below the cap; the difference is what the writers' leases are made of.
FILL_FRACTION: Final = 0.9

_log = logging.getLogger(__name__)
_COUNT_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Dropped:
    """A segment that is gone. ``reason`` is ``age`` or ``bytes``; ``unread_events`` the learner never saw."""

    source: str
    segment: int
    stored_bytes: int
    reason: str
    unread_events: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did, and the state it left: bytes on disk, their cap, and each writer's lease."""

    dropped: tuple[Dropped, ...]
    compressed: int
    stored_bytes: int
    cap_bytes: int
    lease_bytes: int

    @property
    def lost_events(self) -> int:
        """Events that were dropped before the learner read them."""
        return sum(segment.unread_events for segment in self.dropped)


@dataclass(frozen=True, slots=True)
class _Closed:
    source: str
    files: SegmentFiles
    shipped: bool


def _disk_bytes(path: Path) -> int:
    facts = os.statvfs(path)
    return facts.f_blocks * facts.f_frsize


class Retention:
    """Sweeps one log directory, in one process only. A sweep may take a second: run it in a thread."""

    def __init__(
        self,
        log_directory: Path,
        settings: RetentionSettings,
        *,
        index: PositionIndex | None = None,
        compress_after_s: float = 600.0,
        disk_bytes: Callable[[Path], int] = _disk_bytes,
    ) -> None:
        """Sweep ``log_directory`` by ``settings``.

        Args:
            log_directory: ``StateDirectory.log_directory``.
            settings: Bounds by bytes, share of the disk and age.
            index: Position index to be pruned with the log.
            compress_after_s: How long a closed segment stays plain, because feedback mostly looks up recent
            events. disk_bytes: Total size of a path's file system.
        """
        self._log_directory = log_directory
        self._settings = settings
        self._index = index
        self._compress_after_s = compress_after_s
        self._disk_bytes = disk_bytes

    def sweep(
        self, now: float, *, read: Cursor, shipped: Cursor | None = None, compress_limit: int = 4
    ) -> Sweep:
        """Compress, drop and lease.

        Args:
            now: Unix seconds.
            read: How far the learner is.
            shipped: How far the slowest sink is; None when nothing is shipped.
            compress_limit: Segments to compress at most, to bound the time this takes.

        Raises:
            OSError: If the log directory cannot be read. What cannot be compressed or removed is logged and
            left.
        """
        compressed = self._compress(now, compress_limit)
        closed, stored, living = self._survey(shipped)
        cap = min(
            self._settings.max_bytes,
            int(self._disk_bytes(self._log_directory) * self._settings.max_disk_fraction),
        )
        dropped = []
        for segment in sorted(closed, key=lambda item: (not item.shipped, item.files.modified_at)):
            # A clock that jumps ahead makes everything old at once; what nobody has learned from waits.
            too_old = now - segment.files.modified_at > self._settings.max_age_s and self._is_behind(
                segment.source, segment.files.number, read
            )
            if too_old or stored > cap * FILL_FRACTION:
                gone = self._drop(segment, "age" if too_old else "bytes", read)
                if gone is not None:
                    stored -= gone.stored_bytes
                    dropped.append(gone)
        self._tidy(living, {segment.source for segment in dropped})
        lease = max(cap - stored, 0) // max(len(living), 1)
        self._publish_lease(lease)
        return Sweep(tuple(dropped), compressed, stored, cap, lease)

    def _compress(self, now: float, limit: int) -> int:
        done = 0
        for source in list_sources(self._log_directory):
            for files in self._closed_files(source):
                if done >= limit:
                    return done
                if files.packed or now - files.modified_at < self._compress_after_s:
                    continue
                try:
                    compress_segment(self._log_directory / source, files.number)
                except OSError as error:
                    _log.warning("cannot compress %s/%08d: %s", source, files.number, error)
                    return done
                done += 1
        return done

    def _closed_files(self, source: str) -> Sequence[SegmentFiles]:
        directory = self._log_directory / source
        files = list_files(directory)
        return files[:-1] if writer_lives(directory) else files

    def _survey(self, shipped: Cursor | None) -> tuple[list[_Closed], int, set[str]]:
        closed: list[_Closed] = []
        living: set[str] = set()
        stored = 0
        for source in list_sources(self._log_directory):
            directory = self._log_directory / source
            files = list_files(directory)
            stored += sum(segment.stored_bytes for segment in files)
            if writer_lives(directory):
                living.add(source)
                files = files[:-1]
            for segment in files:
                done = shipped is not None and self._is_behind(source, segment.number, shipped)
                closed.append(_Closed(source, segment, done))
        return closed, stored, living

    def _is_behind(self, source: str, number: int, cursor: Cursor) -> bool:
        """Whether ``cursor`` has left all of a segment behind."""
        segment, offset = cursor.get(source, (0, 0))
        if segment != number:
            return segment > number
        with open_segment(self._log_directory / source, number) as opened:
            return opened is None or offset >= opened.size()

    def _drop(self, closed: _Closed, reason: str, read: Cursor) -> Dropped | None:
        source, number = closed.source, closed.files.number
        directory = self._log_directory / source
        unread = self._unread_events(source, number, read)
        try:
            # The index last: without the others it is only a leftover, while the compressed file needs it.
            for suffix in (PLAIN, PACKED, INDEX):
                segment_path(directory, number, suffix).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot remove segment %s/%08d: %s", source, number, error)
            return None
        if unread:
            _log.error("retention dropped %d unread events of %s/%08d", unread, source, number)
        return Dropped(source, number, closed.files.stored_bytes, reason, unread)

    def _unread_events(self, source: str, number: int, read: Cursor) -> int:
        segment, offset = read.get(source, (0, 0))
        if segment > number:
            return 0
        if segment < number:
            offset = 0
        events = 0
        with open_segment(self._log_directory / source, number) as opened:
            while opened is not None and (data := opened.read(offset, _COUNT_CHUNK)):
                events += data.count(b"\n")
                offset += len(data)
        return events

    def _tidy(self, living: set[str], touched: set[str]) -> None:
        """Remove what dead processes left once their last segment is gone, and prune the index."""
        for source in list_sources(self._log_directory):
            directory = self._log_directory / source
            files = list_files(directory)
            if not files and source not in living and _remove_source(directory):
                if self._index is not None:
                    self._index.prune(source, None)
            elif source in touched and files and self._index is not None:
                self._index.prune(source, files[0].number)

    def _publish_lease(self, lease_bytes: int) -> None:
        path = self._log_directory / LEASE_NAME
        temporary = path.with_name(f".{LEASE_NAME}.tmp")
        # Not durable on purpose: after a restart the next sweep leases anew.
        with suppress(OSError):
            temporary.write_bytes(b"%d\n" % lease_bytes)
            temporary.chmod(0o600)
            temporary.replace(path)


def _remove_source(directory: Path) -> bool:
    """Remove a source directory without segments, unless a writer has just taken it."""
    lock = directory / LOCK_NAME
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if list_files(directory):
            return False
        # A writer that waits for the lock sees that the file has gone and starts over.
        for name in os.listdir(directory):
            (directory / name).unlink()
        directory.rmdir()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
