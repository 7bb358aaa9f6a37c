"""Which records of a partition are repetitions: a node ships again what was not confirmed, and kills leave that open.

A record says where its line stands in the log that it was shipped from: source, segment and offset. A node ships each
source's lines in that order, so for one partition whatever stands no higher than the highest place of its source is a
repetition. A record that had to be sent apart from its neighbours, because they were too large together, says so and
is taken wherever it stands. What is remembered is one place for each source, saved with what was learned up to there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from optimizer.cluster.consuming import Incoming
from optimizer.cluster.outgoing import LATE, PLACE
from optimizer.log.reader import Cursor, LogReader
from optimizer.log.segment import Position

Place: TypeAlias = tuple[int, int, int]  # segment, offset, number among the records of one line

_ATTRIBUTE: Final = "place"
_SHAPE: Final = re.compile(r"([0-9a-f]{8}-[0-9a-f]{8}-[a-z]{1,16}):(\d{1,18}):(\d{1,18}):(\d{1,9})")
_MOST_SOURCES: Final = 20_000
"""Every start of a process is a source; the ones that were heard of longest ago are forgotten first."""
_POLL_BYTES: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class Fresh:
    """What is new of some records: offset and line, which has the place in it for the next owner."""

    lines: list[tuple[int, bytes]] = field(default_factory=list)
    marks: dict[str, Place] = field(default_factory=dict)
    repeated: int = 0


class Marks:
    """The highest place of every source; an ``optimizer.ingest.Consumer`` of the owner's copy of the partition.

    ``repeated`` counts records that were left out.
    """

    name = "shipped"

    def __init__(self) -> None:
        self.repeated = 0
        self._learned: dict[str, Place] = {}
        self._taken: dict[str, Place] = {}
        self._saved: bytes | None = None

    # --- before the copy is written -------------------------------------------------------------------

    def begin(self, log_directory: Path, cursor: Cursor) -> None:
        """Go on where the copy ends, of which everything up to ``cursor`` was learned from.

        Raises:
            OSError: It can't be read.
        """
        self._taken = dict(self._learned)
        reader = LogReader(log_directory)
        more = True
        while more:
            batch = reader.poll(cursor, _POLL_BYTES)
            for _, event in batch.events():
                _note(self._taken, event.get(_ATTRIBUTE))
            cursor, more = batch.cursor, batch.more

    def fresh(self, records: Iterable[Incoming]) -> Fresh:
        """Those that are no repetitions; to be followed by ``taken`` once the copy has them."""
        found = Fresh()
        for record in records:
            headers = dict(record.headers)
            text = headers.get(PLACE, b"").decode("ascii", "replace")
            shape = _read(text)
            if shape is None or not record.value.startswith(b"{") or LATE in headers:
                found.lines.append((record.offset, record.value))
                continue
            source, place = shape
            last = found.marks.get(source) or self._taken.get(source)
            if last is not None and place <= last:
                found.repeated += 1
                continue
            found.marks[source] = place
            line = b'{"%b":"%b",%b' % (_ATTRIBUTE.encode(), text.encode(), record.value[1:])
            found.lines.append((record.offset, line))
        return found

    def taken(self, fresh: Fresh) -> None:
        """The copy has them."""
        self.repeated += fresh.repeated
        self._taken.update(fresh.marks)

    # --- as a consumer of the copy --------------------------------------------------------------------

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``Consumer``."""
        del where
        if _note(self._learned, event.get(_ATTRIBUTE)):
            self._saved = None

    def snapshot(self) -> bytes:
        """See ``Consumer``."""
        if self._saved is None:
            for source in list(self._learned)[: max(len(self._learned) - _MOST_SOURCES, 0)]:
                del self._learned[source]
            self._saved = orjson.dumps(self._learned)
        return self._saved

    def restore(self, data: bytes) -> None:
        """See ``Consumer``."""
        self._learned = {
            str(source): (int(s), int(o), int(n)) for source, (s, o, n) in orjson.loads(data).items()
        }


def _note(marks: dict[str, Place], text: object) -> bool:
    """Raise the mark of a source, which is then the one that was heard of last; False if there is nothing to raise."""
    shape = _read(text)
    if shape is None:
        return False
    source, place = shape
    last = marks.pop(source, None)
    marks[source] = place if last is None else max(last, place)
    return True


def _read(text: object) -> tuple[str, Place] | None:
    shape = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    return (shape[1], (int(shape[2]), int(shape[3]), int(shape[4]))) if shape is not None else None
