"""The newest requests of a node in short, in memory: for whoever looks what went where a moment ago.

Nothing of it is saved: the log has it all. After a restart the rows from before it are read from the log's end when
somebody asks for the first time; so a crash loses none that the log still has.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heappush, heappushpop, nlargest
from pathlib import Path
from sys import intern
from typing import Any, Final, NamedTuple

import orjson

from optimizer import events
from optimizer.log.reader import Cursor
from optimizer.log.segment import Position, Segment, list_files, list_numbers, list_sources, open_segment

CAPACITY: Final = 5000
_BLOCK: Final = 256 * 1024
_MARK: Final = b'"' + events.REQUEST.encode("ascii") + b'"'

_log = logging.getLogger(__name__)


class RequestRow(NamedTuple):
    """One request. ``time`` is its beginning in Unix seconds; ``served_by`` only if it is not ``arm``."""

    id: str
    time: float
    route: str | None
    arm: str | None
    served_by: str | None
    model: str | None
    variant: str | None
    side: str | None
    outcome: str
    status: int | None
    error: str | None
    duration_ms: float | None
    ttft_ms: float | None
    cost_usd: float | None
    stream: bool
    attempts: int
    cached: bool
    endpoint: str | None


_Item = tuple[str, int, RequestRow]
"""Of a heap by id. Rows can't be compared, so no two items are equal up to theirs."""


class Page(NamedTuple):
    """Rows, the newest first; ``more``: there are older ones."""

    rows: list[RequestRow]
    more: bool


class RecentRequests:
    """Follows a node's log as an ``ingest.Consumer``.

    Args:
        log_directory: The log.
        cursor: Up to where it was read before: what follows is observed.
        capacity: How many requests are remembered.
    """

    name = "requests"

    def __init__(self, log_directory: Path, cursor: Cursor, *, capacity: int = CAPACITY) -> None:
        self._log_directory = log_directory
        self._cursor = dict(cursor)
        # A heap by id: several sources are not read in the order of their times.
        self._rows: list[_Item] = []
        self._capacity = capacity
        self.is_complete = not cursor
        """Whether the rows from before the start are here, too."""

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        if event["type"] == events.REQUEST:
            _keep(_row(event["id"], event["data"]), self._rows, self._capacity)

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return b""

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``."""

    def earlier(self) -> list[RequestRow]:
        """The rows from before the start, out of the log, the oldest first. For a thread; give them to ``complete``."""
        return read_tail(self._log_directory, self._cursor, self._capacity)

    def complete(self, earlier: Iterable[RequestRow]) -> None:
        """Remember rows from before the start, once."""
        if not self.is_complete:
            for row in earlier:
                _keep(row, self._rows, self._capacity)
            self.is_complete = True

    def page(self, wanted: Callable[[RequestRow], bool], *, limit: int, before: str | None) -> Page:
        """At most ``limit`` rows that are ``wanted``, out of those older than the request ``before``.

        Ids sort by time, so one that nobody remembers any more is as good.
        """
        rows = (row for _, _, row in self._rows if (before is None or row.id < before) and wanted(row))
        found = nlargest(limit + 1, rows, key=lambda row: row.id)
        return Page(found[:limit], len(found) > limit)


def read_tail(log_directory: Path, cursor: Cursor, most: int) -> list[RequestRow]:
    """The newest ``most`` requests of a log before ``cursor``, the oldest first; what can't be read is left out."""
    newest: list[_Item] = []
    for source in _by_age(log_directory, cursor):
        try:
            _read_source(log_directory / source, *cursor[source], most, newest)
        except (OSError, ValueError) as error:
            _log.warning("the newest requests of %s can't be read: %s", source, error)
    return [item[-1] for item in sorted(newest)]


def _read_source(directory: Path, last: int, offset: int, most: int, newest: list[_Item]) -> None:
    """Add what one source has to the heap ``newest``, until all of a block is older than what is there."""
    for number in reversed([number for number in list_numbers(directory) if number <= last]):
        with open_segment(directory, number) as segment:
            if segment is None:
                continue
            for lines in _backwards(segment, offset if number == last else segment.size()):
                rows = [row for line in lines if _MARK in line and (row := _read(line)) is not None]
                kept = sum(_keep(row, newest, most) for row in rows)
                if rows and not kept:
                    return


def _keep(row: RequestRow, newest: list[_Item], most: int) -> bool:
    """Put a row into the heap; False if it is older than all that is there, and that is enough."""
    item = (row.id, id(row), row)
    if len(newest) < most:
        heappush(newest, item)
        return True
    return heappushpop(newest, item) is not item


def _backwards(segment: Segment, end: int) -> Iterator[list[bytes]]:
    """The complete lines before ``end``, in blocks, the last block first."""
    rest = b""
    while end > 0:
        begin = max(end - _BLOCK, 0)
        lines = (segment.read(begin, end - begin) + rest).split(b"\n")
        # The first one began before this block, unless the file does.
        rest = lines.pop(0) if begin > 0 else b""
        yield lines
        end = begin


def _by_age(log_directory: Path, cursor: Cursor) -> list[str]:
    """The sources that were read before, those written last first, so that most of the others end soon."""
    found = []
    for source in list_sources(log_directory):
        files = list_files(log_directory / source) if source in cursor else []
        if files:
            found.append((files[-1].modified_at, source))
    return [source for _, source in sorted(found, reverse=True)]


def _read(line: bytes) -> RequestRow | None:
    try:
        event = orjson.loads(line)
        return _row(event["id"], event["data"]) if event["type"] == events.REQUEST else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _row(request_id: str, data: Mapping[str, Any]) -> RequestRow:
    get = data.get
    return RequestRow(
        request_id,
        1e-3 * data["started_ms"],
        _name(get("route")),
        _name(get("arm")),
        _name(get("served_by")),
        _name(get("model")),
        _name(get("variant")),
        _name(get("side")),
        intern(data["outcome"]),
        get("status"),
        _name(get("error.type")),
        get("duration_ms"),
        get("ttft_ms"),
        get("cost_usd"),
        bool(get("stream")),
        len(get("attempts") or ()),
        bool(get("cached")),
        _name(get("endpoint")),
    )


def _name(text: str | None) -> str | None:
    """The same few names come again and again; one copy of each is enough."""
    return None if text is None else intern(text)
