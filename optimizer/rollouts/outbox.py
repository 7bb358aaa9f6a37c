"""What the database has not confirmed yet: the newest revision of records, and audit rows.

Everything here is in the event log too, and writing something twice changes nothing, so losing the box costs at most
that some rows are written again or, beyond its bound, are missing from the database's audit though not from the log.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.records import Optimization

CAPACITY: Final = 10_000


class Outbox:
    """Records by id and rows by id, oldest first. ``lost`` counts rows that found no room, ``version`` changes.

    Args:
        capacity: How many rows are kept; beyond it the oldest go.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.lost = 0
        self.version = 0
        self._capacity = capacity
        self._records: dict[str, Optimization] = {}
        self._rows: OrderedDict[str, AuditRow] = OrderedDict()
        # Rows that are stored but were not met in the log yet, and those met there before they were stored.
        self._stored: OrderedDict[str, None] = OrderedDict()
        self._met: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._records or self._rows)

    @property
    def records(self) -> Sequence[Optimization]:
        """Records to be stored."""
        return tuple(self._records.values())

    @property
    def rows(self) -> Sequence[AuditRow]:
        """Rows to be stored."""
        return tuple(self._rows.values())

    @property
    def pending_rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    @property
    def pending_records(self) -> int:
        """How many records there are."""
        return len(self._records)

    def add(self, record: Optimization | None = None, row: AuditRow | None = None) -> None:
        """Keep a record, unless a newer revision of it is kept, and a row."""
        if record is not None:
            known = self._records.get(record.id)
            if known is None or known.revision < record.revision:
                self._records[record.id] = record
                self.version += 1
        if row is not None and row.id not in self._rows:
            self._rows[row.id] = row
            self.version += 1
            while len(self._rows) > self._capacity:
                dropped, _ = self._rows.popitem(last=False)
                self._met.discard(dropped)
                self.lost += 1

    def meet(self, row: AuditRow) -> bool:
        """A row as read in the log: kept unless it is known to be stored, which is returned."""
        if row.id in self._stored:
            del self._stored[row.id]
            return True
        self.add(row=row)
        self._met.add(row.id)
        return False

    def batch(self, most: int) -> tuple[list[Optimization], list[AuditRow]]:
        """The oldest ``most`` records and rows."""
        return list(self._records.values())[:most], list(self._rows.values())[:most]

    def confirm(self, records: Iterable[Optimization], rows: Iterable[AuditRow]) -> None:
        """These are stored."""
        self.version += 1
        for record in records:
            known = self._records.get(record.id)
            if known is not None and known.revision <= record.revision:
                del self._records[record.id]
        for row in rows:
            self._rows.pop(row.id, None)
            if row.id in self._met:
                self._met.discard(row.id)
                continue
            self._stored[row.id] = None
            if len(self._stored) > self._capacity:
                self._stored.popitem(last=False)
