"""Reading a log directory for a replay: one pass, every line looked at once, feedback joined by request id.

The log is only read. What can not be used is counted by reason, never guessed at; lines that are damaged are skipped
like everywhere else.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from optimizer import events
from optimizer.feedback import QUALITY_METRICS
from optimizer.log.reader import LogReader
from optimizer.log.segment import list_sources
from optimizer.replaying.gathering import Gathering, Ratings
from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.rows import Decisions

MAX_ROWS = 1_000_000
MAX_CELLS = 50_000_000
_PORTION = 4 * 1024 * 1024
_TYPES = frozenset((events.REQUEST, events.FEEDBACK, events.SELECTOR))
_WANTED = tuple(name.encode() for name in sorted(_TYPES))


def log_directory(given: Path) -> Path:
    """The directory with the sources: ``given``, or ``log`` in it when ``given`` is a state directory.

    Raises:
        ReplayRefused: If neither has a log.
    """
    for path in (given, given / "log"):
        if list_sources(path):
            return path
    raise ReplayRefused(
        f"There is no event log in {given}. Give the state directory of a node, or the `log` directory in it."
    )


def read_decisions(
    directory: Path,
    *,
    route: str | None = None,
    since: float = 0.0,
    until: float = float("inf"),
    rater: str | None = None,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Decisions]:
    """Decisions by route, of requests that began in ``since`` <= t < ``until`` (Unix seconds).

    Args:
        directory: What ``log_directory`` gave.
        route: Only this one; None for all.
        since: First moment.
        until: First moment that is too late.
        rater: Whose ratings count as quality: ``users``, or a judge as ``NAME@VERSION``; None takes the judge with the
            most ratings, and users where there is no judge.
        max_rows: Most rows to hold in memory.
        progress: Told how many bytes are done, and how many there are.

    Raises:
        ReplayRefused: If the log holds more than ``max_rows`` or too many vectors, or nothing of the route.
        OSError: If it can not be read.
    """
    found = _Pass(route, since, until, max_rows)
    for event in _events(directory, progress):
        found.take(event)
    if route is not None and route not in found.gathered:
        others = ", ".join(sorted(found.others)) or "none at all"
        raise ReplayRefused(f"The log has no request of route {route!r} in that time; it has: {others}.")
    return {name: rows.finish(found.ratings, rater) for name, rows in sorted(found.gathered.items())}


class _Pass:
    """What one pass over the log has gathered so far. ``others`` are routes that were not asked for."""

    def __init__(self, route: str | None, since: float, until: float, max_rows: int) -> None:
        self.gathered: dict[str, Gathering] = {}
        self.ratings = Ratings()
        self.others: set[str] = set()
        self._route, self._since, self._until, self._max_rows = route, since, until, max_rows
        self._selectors: dict[str, Mapping[str, Any]] = {}
        self._rows = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Add an event; one that is not what its type promises is left out.

        Raises:
            ReplayRefused: If it is one too many.
        """
        kind, data, event_id = event["type"], event["data"], event.get("id")
        if not isinstance(event_id, str):
            return
        if kind == events.FEEDBACK:
            if str(data.get("metric")) in QUALITY_METRICS:
                self.ratings.add(data)
            return
        name, started = data.get("route"), data.get("started_ms", 0)
        if not isinstance(name, str) or not isinstance(started, int | float):
            return
        if self._route is not None and name != self._route:
            self.others.add(name)
        elif kind == events.SELECTOR:
            self._selectors[event_id] = data
        elif self._since <= started * 1e-3 < self._until:
            self._add(name, event_id, data)

    def _add(self, name: str, request_id: str, data: Mapping[str, Any]) -> None:
        gathering = self.gathered.get(name)
        if gathering is None:
            gathering = self.gathered[name] = Gathering(name)
        self._rows += gathering.take(request_id, data, self._selectors)
        if self._rows > self._max_rows or sum(each.cells for each in self.gathered.values()) > MAX_CELLS:
            raise ReplayRefused(
                f"The log has more decisions than fit ({self._rows:,} were read); "
                "ask for less with --since, --until or --route."
            )


def _events(directory: Path, progress: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    """Every event that matters here; malformed ones are left out."""
    reader = LogReader(directory)
    cursor: Mapping[str, tuple[int, int]] = {}
    total, done, more = reader.lag_bytes(cursor), 0, True
    while more:
        batch = reader.poll(cursor, _PORTION)
        for entry in batch.entries:
            done += len(entry.line) + 1
            if not any(mark in entry.line for mark in _WANTED):
                continue
            try:
                event = orjson.loads(entry.line)
            except ValueError:
                continue
            if event.get("type") in _TYPES and isinstance(event.get("data"), dict):
                yield event
        progress(min(done, total), total)
        cursor, more = batch.cursor, batch.more
