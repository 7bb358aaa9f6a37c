"""The store of optimizations, audit, remembered answers, shards and client keys, for an event loop.

Invariant: no call keeps its caller for longer than ``timeout_s``, whatever the database does, and the loop never waits
at all. A call that fails may have been carried out: callers write again, with a higher revision if they changed
their mind, and every write may be repeated.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from optimizer.cluster.types import Fenced, Tenure
from optimizer.control_store.answers import Answer
from optimizer.control_store.errors import StaleRevision, StoreError, UnknownRow
from optimizer.control_store.lane import Lane
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.records import Optimization

if TYPE_CHECKING:
    from optimizer.control_store.database import Database

T = TypeVar("T")
LaneName: TypeAlias = Literal["read", "write", "bulk"]

BULK_S: Final = 60.0
"""Bound on a call that carries what is large."""

_BATCH: Final = 500
_CLOSING_S: Final = 2.0
# A caller with the same bound of its own is to hear from us what happened, not from its clock.
_SHARE_OF_TIME: Final = 0.95

_log = logging.getLogger(__name__)


class SqlStore:
    """A SQLite file in ``directory``, or the database at ``url``. Making one touches nothing.

    On PostgreSQL reads have a connection of their own where ``max_connections`` allows it, and so have snapshots, so
    that no page of the audit and nothing that is large makes a deployment wait.
    """

    def __init__(
        self,
        url: str | None,
        *,
        directory: Path,
        max_connections: int = 20,
        timeout_s: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._directory = directory
        self._timeout_s = timeout_s
        self._now = now
        most = 1 if url is None or url.startswith("sqlite") else max_connections
        write = Lane("optimizations-write", lambda: self._make(timeout_s))
        read = Lane("optimizations-read", lambda: self._make(timeout_s)) if most > 1 else write
        bulk = Lane("optimizations-bulk", lambda: self._make(BULK_S)) if most > 2 else write
        self._lanes: dict[LaneName, Lane[Database]] = {"write": write, "read": read, "bulk": bulk}
        self._answered: bool | None = None
        self._last_error: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the last call was answered; False before the first."""
        return self._answered is True

    @property
    def last_error(self) -> str | None:
        """What the last call that failed ran into, kept while calls succeed again."""
        return self._last_error

    async def open(self) -> None:
        """Connect, and bring the schema up to date; needed by nobody, because every call does. Also a health check.

        Raises:
            StoreError: As every method.
        """
        await self.ask(lambda database: database.open(), "write")

    async def close(self) -> None:
        """Let calls under way end, within two seconds; later ones fail."""
        seconds = min(self._timeout_s, _CLOSING_S)
        ended = await asyncio.gather(*(lane.close(seconds) for lane in set(self._lanes.values())))
        if not all(ended):
            _log.warning("the database does not answer; left without a farewell")

    async def save(self, record: Optimization, audit: AuditRow, *, tenure: Tenure | None = None) -> None:
        """Store a new revision and why, both or neither. Storing the same again is no error.

        Raises:
            StaleRevision: A later revision is stored, or another one with this number.
            Fenced: ``tenure`` is over; nothing was stored.
            StoreError: The database is away; the revision may be stored or not.
        """
        await self.ask(lambda database: database.save(record, audit, tenure), "write")

    async def write(
        self,
        records: Sequence[Optimization],
        audit_rows: Sequence[AuditRow],
        *,
        tenure: Tenure | None = None,
    ) -> None:
        """Store what is missing, in pieces; of each record the highest revision stays.

        Raises:
            Fenced: ``tenure`` is over; of what the last piece held nothing was stored.
            StoreError: The database is away; some may be stored.
        """
        for start in range(0, max(len(records), len(audit_rows)), _BATCH):
            piece = slice(start, start + _BATCH)
            await self._write(records[piece], audit_rows[piece], tenure)

    async def load(self) -> list[Optimization]:
        """Every record, deleted ones too; one that can't be read is left out, loudly.

        Raises:
            StoreError: The database is away.
        """
        return await self.ask(lambda database: database.load(), "read")

    async def audit_page(
        self, wanted: AuditFilter | None = None, *, limit: int = 100, before: str | None = None
    ) -> list[AuditRow]:
        """At most ``limit`` rows, the newest first; ``before`` is the id of the last row of the page before.

        Raises:
            UnknownRow: There is no such row.
            StoreError: The database is away.
        """
        return await self.ask(
            lambda database: database.audit_page(wanted or AuditFilter(), limit, before), "read"
        )

    async def remember(self, key: str, request_hash: str, status: int, body: bytes) -> None:
        """Keep an answer for 24 hours; the first to a key stays. Of the key only a hash is stored.

        Raises:
            StoreError: The database is away.
        """
        answer = Answer(self._now(), request_hash, status, body)
        await self.ask(lambda database: database.remember(key, answer), "write")

    async def recall(self, key: str) -> Answer | None:
        """The answer to ``key`` of the last 24 hours. Whether the request was the same, its hash says.

        Raises:
            StoreError: The database is away.
        """
        now = self._now()
        return await self.ask(lambda database: database.recall(key, now), "read")

    async def ask(self, work: "Callable[[Database], T]", lane: LaneName) -> T:
        """What ``work`` returns or raises, done in a lane of its kind within the bound of that.

        Raises:
            StoreError: The database is away.
        """
        try:
            result = await self._lanes[lane].run(work, self._bound(lane))
        except StoreError as error:
            self._note(error)
            raise
        except Fenced:
            self._note(None)
            raise
        self._note(None)
        return result

    def ask_now(self, work: "Callable[[Database], T]", lane: LaneName) -> T:
        """As ``ask``, for a thread that may be kept waiting; raises the same."""
        try:
            result = self._lanes[lane].wait(work, self._bound(lane))
        except StoreError as error:
            self._note(error)
            raise
        self._note(None)
        return result

    async def _write(
        self, records: Sequence[Optimization], rows: Sequence[AuditRow], tenure: Tenure | None
    ) -> None:
        await self.ask(lambda database: database.write(records, rows, tenure), "write")

    def _bound(self, lane: LaneName) -> float:
        return BULK_S if lane == "bulk" else self._timeout_s * _SHARE_OF_TIME

    def _make(self, timeout_s: float) -> "Database":
        from optimizer.control_store.database import Database  # noqa: PLC0415 - in the thread: it takes 0.3 s

        return Database(self._url, directory=self._directory, timeout_s=timeout_s)

    def _note(self, fault: StoreError | None) -> None:
        """Say it once when the database goes away, and once when it is back; a refusal is an answer."""
        error = None if fault is None or isinstance(fault, StaleRevision | UnknownRow) else str(fault)
        answered = error is None
        if error is not None:
            self._last_error = error
            if self._answered is not False:
                _log.warning("the database of optimizations is away: %s", error)
        elif self._answered is False:
            _log.info("the database of optimizations is back")
        self._answered = answered
