"""What workers counted for the guards, read from their reports in the log and from nothing else.

The feed has a cursor of its own and looks only at ``worker.stats.v1`` lines, so neither a learner that is behind nor
a busy route delays a rollback. Invariant: each report is given out once per cursor; whoever saves the cursor together
with what was made of the observations counts every request once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import orjson

from optimizer import events
from optimizer.log.reader import Cursor, LogReader
from optimizer.log.segment import list_numbers, list_sources, open_segment
from optimizer.rollouts.guards import SideCounts

Seen = tuple[str, str, int, str, SideCounts]

_MARK: Final = f'"{events.WORKER_STATS}"'.encode()
# The envelope's fields come first; a longer search would find what a caller named.
_MARK_WITHIN: Final = 512
_POLL_BYTES: Final = 1024 * 1024
_TOO_MANY: Final = 1e15
_TYPES: Final = {field.name: float if field.type in (float, "float") else int for field in fields(SideCounts)}


@dataclass(slots=True)
class Feed:
    """What one poll found.

    ``observations`` are [route, rollout, stage, side, counts] and may be of rollouts that are over. ``stops`` are
    [route, rollout, reason], each once per poll; a worker repeats ``hard_stop`` for as long as it holds. ``requests``
    counts those that ended, by route. ``acknowledged`` is the table version in use by worker, of those that reported.
    ``caught_up``: there is nothing more to read now.
    """

    observations: list[Seen] = field(default_factory=list)
    stops: list[tuple[str, str, str]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[int, int] = field(default_factory=dict)
    caught_up: bool = True


class GuardFeed:
    """Follows the reports below a log directory. ``invalid`` counts rows that are none."""

    def __init__(self, log_directory: Path, *, cursor: Cursor | None) -> None:
        """Start at ``cursor``; without one, at the present end: old reports say nothing about a new evaluation."""
        self.invalid = 0
        self._reader = LogReader(log_directory)
        self._cursor = dict(cursor) if cursor is not None else _end(log_directory)

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Where the next poll starts."""
        return self._cursor

    @property
    def missed(self) -> Mapping[str, int]:
        """What of the log could not be read so far, by kind."""
        return self._reader.counts

    def poll(self, max_bytes: int = _POLL_BYTES) -> Feed:
        """Read on, about ``max_bytes`` of the log."""
        batch = self._reader.poll(self._cursor, max_bytes)
        feed = Feed(caught_up=not batch.more)
        for entry in batch.entries:
            line = entry.line
            if line.find(_MARK, 0, _MARK_WITHIN) >= 0:
                self._read(line, feed)
        self._cursor = batch.cursor
        feed.stops = list(dict.fromkeys(feed.stops))
        return feed

    def _read(self, line: bytes, feed: Feed) -> None:
        try:
            event = orjson.loads(line)
        except ValueError:
            self.invalid += 1
            return
        data = event.get("data")
        if event.get("type") != events.WORKER_STATS or not isinstance(data, dict):
            return
        worker, version = data.get("worker"), data.get("table_version")
        if isinstance(worker, int) and isinstance(version, int):
            feed.acknowledged[worker] = version
        for row in _rows(data, "routes"):
            match row:
                case [str(route), _, _, _, int(count)]:
                    feed.requests[route] += count
                case _:
                    self.invalid += 1
        for row in _rows(data, "guards"):
            match row:
                case [str(route), str(rollout), int(stage), ("control" | "candidate") as side, {**counts}]:
                    feed.observations.append((route, rollout, stage, side, self._counts(counts)))
                case _:
                    self.invalid += 1
        for row in _rows(data, "stops"):
            match row:
                case [str(route), str(rollout), str(reason)]:
                    feed.stops.append((route, rollout, reason))
                case _:
                    self.invalid += 1

    def _counts(self, raw: Mapping[Any, Any]) -> SideCounts:
        """A newer worker's counts that are not known here are left out."""
        known: dict[str, Any] = {}
        for name, value in raw.items():
            kind = _TYPES.get(name)
            if kind is None:
                continue
            if isinstance(value, int | float) and 0 <= value < _TOO_MANY:
                known[name] = kind(value)
            else:
                self.invalid += 1
        counts = SideCounts(**known)
        if not counts.is_possible:
            self.invalid += 1
            return SideCounts(assigned=counts.assigned)
        return counts


def _rows(data: Mapping[str, Any], name: str) -> list[Any]:
    rows = data.get(name)
    return rows if isinstance(rows, list) else []


def _end(log_directory: Path) -> dict[str, tuple[int, int]]:
    """The present end of every source."""
    found = {}
    for source in list_sources(log_directory):
        directory = log_directory / source
        for number in list_numbers(directory)[-1:]:
            with open_segment(directory, number) as segment:
                if segment is not None:
                    found[source] = (number, segment.size())
    return found
