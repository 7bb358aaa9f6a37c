"""One pass over a log from its beginning: what was there before its files begin, then these, up to a cursor.

Invariant: every line before the cursor comes once; none at or after it comes.
"""

from typing import Protocol

from optimizer.log.reader import Cursor, Entry, LogReader


class Earlier(Protocol):
    """What a log had before its files begin, where that is kept elsewhere: in a cluster, by Kafka."""

    def fetched(self) -> bool:
        """Whether it is here; if not, it is asked for."""
        ...

    def reader(self) -> LogReader | None:
        """Reads it, once it is here; None when there is nothing."""
        ...

    def forget(self) -> None:
        """Nobody needs it any more."""
        ...


class Walk:
    """One pass; belongs to whoever made it.

    Args:
        reader: Reads the files.
        until: Where it ends.
        earlier: Reads what was there before, if there was anything.
    """

    def __init__(self, reader: LogReader, until: Cursor, earlier: LogReader | None = None) -> None:
        self._until = dict(until)
        self._parts = [(reader, True)] if earlier is None else [(earlier, False), (reader, True)]
        self._at: Cursor = {}

    @property
    def is_over(self) -> bool:
        """Whether everything has come."""
        return not self._parts

    def poll(self, max_bytes: int) -> list[Entry]:
        """The next lines; also when there are none it may not be over.

        Raises:
            OSError: If the log can not be read now; call again.
        """
        reader, is_bounded = self._parts[0]
        batch = reader.poll(self._at, max_bytes)
        self._at = batch.cursor
        if not batch.more or (is_bounded and self._is_there()):
            del self._parts[0]
            self._at = {}
        if not is_bounded:
            return batch.entries
        return [
            entry
            for entry in batch.entries
            if (entry.segment, entry.offset) < self._until.get(entry.source, (0, 0))
        ]

    def _is_there(self) -> bool:
        return all(self._at.get(source, until) >= until for source, until in self._until.items())
