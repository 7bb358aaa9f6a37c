"""Following the log of every process at once, each complete line exactly once per cursor.

A cursor maps source directories to (segment, offset of the next byte). The reader keeps no position of its
own: the caller saves the cursor of a batch together with what it made of the batch. A line counts once its
newline is there. The last bytes of a segment that nobody writes to any more (a newer one exists, or the
writer is dead) and that lack their newline are a torn tail: skipped and counted. Lines that cannot be JSON
objects are counted and skipped too; nothing in a file can stop the reader.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from optimizer.log.segment import (
    Position,
    Segment,
    list_numbers,
    list_sources,
    open_segment,
    writer_lives,
)
from optimizer.log.writer import TORN_MARK

Cursor = Mapping[str, tuple[int, int]]

_log = logging.getLogger(__name__)
_TORN_ENDING = TORN_MARK[:-1]
_LEAST_SHARE = 16 * 1024


def least(first: Cursor, *others: Cursor) -> dict[str, tuple[int, int]]:
    """Up to where all of several readers have read."""
    return {
        source: min([at, *(other[source] for other in others)])
        for source, at in first.items()
        if all(source in other for other in others)
    }


class Entry(NamedTuple):
    """One line, without its newline, and where it starts."""

    source: str
    segment: int
    offset: int
    line: bytes

    @property
    def position(self) -> Position:
        """Where ``EventReader`` finds this line again."""
        return Position(self.source, self.segment, self.offset)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll found. ``cursor`` is where the next one starts; ``more``: it would find more at once."""

    entries: list[Entry]
    cursor: dict[str, tuple[int, int]]
    more: bool

    def events(self) -> Iterator[tuple[Position, dict[str, Any]]]:
        """The entries' JSON, leaving out what turns out not to be an object."""
        for entry in self.entries:
            try:
                event = orjson.loads(entry.line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield entry.position, event


@dataclass(slots=True)
class _Place:
    """A source's position while a poll moves it."""

    source: str
    segment: int
    offset: int


class LogReader:
    """Reads all sources below a log directory.

    ``torn`` and ``invalid`` count skipped pieces, ``dropped_segments`` those that retention took before
    they were read, ``errors`` attempts that the disk refused; ``counts`` has all of them.
    """

    def __init__(self, log_directory: Path) -> None:
        self.torn = 0
        self.invalid = 0
        self.dropped_segments = 0
        self.errors = 0
        self._log_directory = log_directory
        # Sources whose writer is dead and whose end was reached; they are not looked at again.
        self._finished: dict[str, tuple[int, int]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """What was not read, by kind, since this reader was made."""
        return {
            "torn": self.torn,
            "invalid": self.invalid,
            "dropped_segments": self.dropped_segments,
            "read_errors": self.errors,
        }

    def poll(self, cursor: Cursor, max_bytes: int = 1024 * 1024) -> Batch:
        """Read on from ``cursor``, about ``max_bytes`` in all and at least one line if there is one.

        Sources come in the order of their names and get equal shares; what some leave unused goes to the
        others. The same files and cursor give the same batch. Sources that are gone leave the cursor.
        """
        sources = list_sources(self._log_directory)
        moved = {source: cursor[source] for source in sources if source in cursor}
        hungry = [
            _Place(source, *moved.get(source, (0, 0)))
            for source in sources
            if source not in self._finished or self._finished[source] != moved.get(source)
        ]
        if len(self._finished) > len(sources):
            self._finished = {name: end for name, end in self._finished.items() if name in moved}
        entries: list[Entry] = []
        left = max_bytes
        while hungry and left > 0:
            share = max(left // len(hungry), _LEAST_SHARE)
            still_hungry = []
            for place in hungry:
                taken, more = self._try_advance(place, share, entries)
                left -= taken
                if place.segment:
                    moved[place.source] = (place.segment, place.offset)
                if more:
                    still_hungry.append(place)
            hungry = still_hungry
        return Batch(entries, moved, more=bool(hungry))

    def lag_bytes(self, cursor: Cursor) -> int:
        """Uncompressed bytes after ``cursor``."""
        total = 0
        for source in list_sources(self._log_directory):
            segment, offset = cursor.get(source, (0, 0))
            if self._finished.get(source) == (segment, offset):
                continue
            directory = self._log_directory / source
            for number in list_numbers(directory):
                if number < segment:
                    continue
                with open_segment(directory, number) as opened:
                    if opened is not None:
                        total += max(opened.size() - (offset if number == segment else 0), 0)
        return total

    def _try_advance(self, place: _Place, budget: int, entries: list[Entry]) -> tuple[int, bool]:
        """One source that cannot be read must not keep the others from being read."""
        before = len(entries), place.segment, place.offset
        try:
            return self._advance(place, budget, entries)
        except OSError as error:
            self.errors += 1
            _log.warning("cannot read %s at the moment: %s", place.source, error)
            del entries[before[0] :]
            _, place.segment, place.offset = before
            return 0, False

    def _advance(self, place: _Place, budget: int, entries: list[Entry]) -> tuple[int, bool]:
        """Move ``place`` by about ``budget`` bytes; returns the bytes taken and whether there may be more."""
        directory = self._log_directory / place.source
        taken = 0
        dead = False
        while True:
            # Listed before reading: a segment that already has a successor gets no more bytes.
            numbers = list_numbers(directory)
            if not self._enter(place, numbers):
                return taken, False
            is_last = place.segment == numbers[-1]
            with open_segment(directory, place.segment) as segment:
                if segment is None:  # Gone since it was listed; the next poll lists anew.
                    return taken, False
                if is_last and place.offset > segment.size() and writer_lives(directory):
                    self._step_back(place, segment)
                size, tail = self._read(place, segment, budget - taken, entries)
                taken += size
                if tail is None:
                    return taken, True
                if is_last and not dead:
                    if writer_lives(directory):
                        return taken, False
                    # It may have written on, or rotated, before it died; look once more.
                    dead = True
                    continue
                self._skip_rest(place, segment, tail)
            if is_last:
                self._finished[place.source] = (place.segment, place.offset)
                return taken, False
            place.segment, place.offset = numbers[numbers.index(place.segment) + 1], 0
            if taken >= budget:
                return taken, True

    def _enter(self, place: _Place, numbers: list[int]) -> bool:
        """Make ``place`` name an existing segment; False when there is none at or after it."""
        if place.segment in numbers:
            return True
        later = next((number for number in numbers if number > place.segment), None)
        if later is None:
            return False
        if place.segment:
            self.dropped_segments += later - place.segment
            _log.warning("segment %s/%08d was dropped before it was read", place.source, place.segment)
        place.segment, place.offset = later, 0
        return True

    def _step_back(self, place: _Place, segment: Segment) -> None:
        """Somebody has cut a file that is still written to: what comes now stands before the old position."""
        self.invalid += 1
        _log.error("segment %s/%08d was cut while it was in use", place.source, place.segment)
        place.offset = segment.size()

    def _skip_rest(self, place: _Place, segment: Segment, tail: int) -> None:
        """Go to the end of a segment that gets no more bytes, past a torn tail or unreadable data."""
        size = segment.size()
        if place.offset + tail < size:
            self.invalid += 1
            _log.error("segment %s/%08d is damaged at %d", place.source, place.segment, place.offset)
        elif tail:
            self.torn += 1
        place.offset = max(place.offset, size)

    def _read(
        self, place: _Place, segment: Segment, budget: int, entries: list[Entry]
    ) -> tuple[int, int | None]:
        """Take complete lines; returns the bytes taken and the length of what follows the last newline.

        The latter is None when the end of the data was not reached.
        """
        size = max(budget, 1)
        data = segment.read(place.offset, size)
        end = data.rfind(b"\n") + 1
        while not end and len(data) == size:  # One line longer than the budget.
            size *= 4
            data = segment.read(place.offset, size)
            end = data.rfind(b"\n") + 1
        if end:
            self._split(place, data[: end - 1], entries)
        return end, None if len(data) == size else len(data) - end

    def _split(self, place: _Place, data: bytes, entries: list[Entry]) -> None:
        """Turn complete lines into entries, moving ``place`` past them."""
        source, segment, offset = place.source, place.segment, place.offset
        for line in data.split(b"\n"):
            if line.startswith(b"{") and line.endswith(b"}"):
                entries.append(Entry(source, segment, offset, line))
            elif line.endswith(_TORN_ENDING):
                self.torn += 1
            else:
                self.invalid += 1
            offset += len(line) + 1
        place.offset = offset
