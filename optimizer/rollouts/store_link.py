"""The way to the database: asked before traffic is given, told everything else afterwards, waited for by nobody.

After every failure, and at the start, what the database holds is read and joined with the book before anything is saved
again, because it may have stored what it did not confirm, or lack what it once confirmed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.records import Optimization

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
BATCH: Final = 500

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Store(Protocol):
    """Where optimizations are kept for good. Every call may raise anything, and then may have worked all the same."""

    async def save(self, record: Optimization, audit: AuditRow) -> None:
        """Store a record and why in one transaction; it is durable on return. Refuses older revisions."""
        ...

    async def load(self) -> list[Optimization]:
        """Every record, deleted ones too."""
        ...

    async def write(self, records: Sequence[Optimization], audit_rows: Sequence[AuditRow]) -> None:
        """Store what is not stored yet; of records the highest revision wins."""
        ...


class StoreFault(Exception):
    """The database did not confirm; what was asked of it may have happened."""


class StoreLink:
    """One store with its outbox and its back-off.

    Args:
        store: The database.
        outbox: What it has not confirmed.
        joined: Gets everything that the store holds, and brings book, outbox and store together.
        now: Unix seconds, for the back-off.
        timeout_s: Bound on every call, beside the store's own.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        joined: Callable[[Sequence[Optimization]], None],
        now: Callable[[], float],
        timeout_s: Callable[[], float],
    ) -> None:
        self.outbox = outbox
        self.is_joined = False
        self.was_joined = False
        self.retries = 0
        self.last_error = ""
        self._store = store
        self._joined = joined
        self._now = now
        self._timeout_s = timeout_s
        self._pause_s = FIRST_PAUSE_S
        self._retry_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to try again. A clock that was set back is no reason to wait longer."""
        return not 0.0 < self._retry_at - self._now() <= LONGEST_PAUSE_S

    @property
    def has_work(self) -> bool:
        """Whether the store has to be read or written."""
        return not self.is_joined or bool(self.outbox)

    async def ready(self) -> None:
        """Read the store unless it is known.

        Raises:
            StoreFault: It does not answer.
        """
        if not self.is_joined:
            records = await self._bounded(self._store.load())
            # Nobody ran between the answer and here, so the join is of what is true now.
            self._joined(records)
            self.is_joined = self.was_joined = True

    async def save(self, record: Optimization, row: AuditRow) -> None:
        """Store a record before it takes effect.

        Raises:
            StoreFault: It may be stored or not.
        """
        await self._bounded(self._store.save(record, row))
        self.outbox.confirm((), (row,))

    async def flush(self) -> bool:
        """Store what is in the outbox; False when that failed, which is tried again after a pause."""
        try:
            await self.ready()
            while self.outbox:
                records, rows = self.outbox.batch(BATCH)
                await self._bounded(self._store.write(records, rows))
                self.outbox.confirm(records, rows)
        except StoreFault:
            self.retries += 1
            self._retry_at = self._now() + self._pause_s
            self._pause_s = min(self._pause_s * 2.0, LONGEST_PAUSE_S)
            return False
        return True

    async def _bounded(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s()):
                answer = await call
        except Exception as error:  # whatever a database may raise
            self.is_joined = False
            said = str(error) or type(error).__name__
            if said != self.last_error:
                _log.warning("the database of optimizations does not answer: %s", said)
            self.last_error = said
            raise StoreFault(said) from error
        if self.last_error:
            _log.info("the database of optimizations answers again")
            self.last_error = ""
        self._pause_s = FIRST_PAUSE_S
        self._retry_at = 0.0
        return answer
