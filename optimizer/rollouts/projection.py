"""The book of optimizations as the event log tells it, saved with the learner's cursor.

It follows transitions and audit events. What it saves is what the node must know when it starts without its database:
every live record and whatever the database has not confirmed. ``read_ahead`` reads the part of the log that the cursor
has not reached yet, so that nobody publishes a table from a book that is older than the log.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from optimizer import events
from optimizer.log.segment import Position, list_numbers, list_sources, open_segment
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.history import event_time, record_in, row_of
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.records import Optimization

_VERSION: Final = 1
_MARK: Final = events.TRANSITION.encode()
_WRITERS: Final = ("-optimizer", "-kafka")
_CHUNK: Final = 4 * 1024 * 1024

_Encoded: TypeAlias = tuple[object, bytes]

_log = logging.getLogger(__name__)


class Projection:
    """Joins what the log says into ``book`` and ``outbox``; an ``optimizer.ingest.Consumer``.

    ``unreadable`` counts events that hold no record.
    """

    name = "optimizations"

    def __init__(self, book: Book, outbox: Outbox) -> None:
        self._book = book
        self._outbox = outbox
        self._saved: tuple[int, int] | None = None
        self._bytes = b""
        self._records: dict[str, _Encoded] = {}
        self._rows: dict[str, _Encoded] = {}
        self.unreadable = 0

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        type_ = event["type"]
        if type_ not in (events.TRANSITION, events.AUDIT):
            return
        try:
            is_stored = self._outbox.meet(row_of(event["id"], type_, event["data"], event_time(event)))
            if type_ == events.TRANSITION:
                self._take(record_in(event["data"]), is_stored=is_stored)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.unreadable += 1
            _log.error("event %s says nothing that can be used: %r", event.get("id"), error)

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``. Made anew only when something changed: it is asked for with every step."""
        at = (self._book.version, self._outbox.version)
        if at != self._saved:
            pending = {record.id: self._book.get(record.id) or record for record in self._outbox.records}
            pending.update((record.id, record) for record in self._book.live())
            records = list(pending.values())
            self._bytes = orjson.dumps(
                {
                    "version": _VERSION,
                    "records": self._encode([(record.id, record) for record in records], self._records),
                    "unconfirmed": [record.id for record in self._outbox.records],
                    "rows": self._encode([(row.id, row) for row in self._outbox.rows], self._rows),
                }
            )
            self._saved = at
        return self._bytes

    def _encode(self, items: list[tuple[str, Any]], known: dict[str, _Encoded]) -> list[orjson.Fragment]:
        """As JSON, what is the same as last time from ``known``: a change of one must not cost as much as all."""
        fresh: dict[str, _Encoded] = {}
        for id_, item in items:
            last = known.get(id_)
            same = last is not None and last[0] is item
            fresh[id_] = last if last is not None and same else (item, orjson.dumps(to_plain(item)))
        known.clear()
        known.update(fresh)
        return [orjson.Fragment(data) for _, data in fresh.values()]

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours.
        """
        saved = orjson.loads(data)
        if saved["version"] != _VERSION:
            raise ValueError(f"version {saved['version']!r}")
        unconfirmed = set(saved["unconfirmed"])
        for raw in saved["records"]:
            try:
                record = record_of(raw)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # The others must not be forgotten because of it.
                self.unreadable += 1
                _log.error("an optimization that was saved can not be read: %r", error)
                continue
            self._book.join(record)
            if record.id in unconfirmed:
                self._outbox.add(record)
        for raw in saved["rows"]:
            self._outbox.add(row=AuditRow(**raw))

    def read_ahead(self, log_directory: Path, cursor: Mapping[str, tuple[int, int]]) -> int:
        """Join every transition after ``cursor``; returns how many there were.

        To be called before the first table is published: the log may say that traffic was taken away when neither
        the snapshot nor the database does. Their audit rows come when the learner gets there.

        Raises:
            OSError: The log can't be read.
        """
        found = 0
        for source in list_sources(log_directory):
            for line in _lines_after(log_directory / source, cursor.get(source, (0, 0))):
                try:
                    event = orjson.loads(line)
                    if event["type"] == events.TRANSITION:
                        self._take(record_in(event["data"]), is_stored=False)
                        found += 1
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    self.unreadable += 1
                    _log.error("a transition in %s can not be read: %r", source, error)
        return found

    def _take(self, record: Optimization, *, is_stored: bool) -> None:
        # What has ended is in no later snapshot unless the database is known to lack it.
        self._book.join(record)
        if not is_stored:
            self._outbox.add(record)


def _lines_after(directory: Path, at: tuple[int, int]) -> Iterator[bytes]:
    """Whole lines after a position that look like transitions. Only optimizer processes write them; copies have all."""
    if not directory.name.endswith(_WRITERS):
        return
    segment, offset = at
    for number in list_numbers(directory):
        if number < segment:
            continue
        with open_segment(directory, number) as opened:
            if opened is None:
                continue
            place, rest = (offset if number == segment else 0), b""
            while chunk := opened.read(place, _CHUNK):
                place += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if _MARK in line)
