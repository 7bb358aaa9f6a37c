"""The store as the owner of one shard has it: its own routes, and its own writes for as long as its tenure lasts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optimizer.cluster.types import Fenced, Tenure
from optimizer.control_store.answers import Answer
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.records import Optimization

if TYPE_CHECKING:
    from optimizer.control_store.store import SqlStore


class ShardStore:
    """As ``SqlStore``; every method raises ``StoreError`` when the database is away.

    Args:
        store: The node's.
        tenure: The right to write.
        is_mine: Whether the shard has a route.
        fenced: Called once, when the database says that the tenure is over.

    Attributes:
        is_fenced: It has said so: nothing will be stored any more.
    """

    def __init__(
        self,
        store: "SqlStore",
        tenure: Tenure,
        is_mine: Callable[[str], bool],
        *,
        fenced: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_fenced = False
        self._store = store
        self._tenure = tenure
        self._is_mine = is_mine
        self._fenced = fenced

    @property
    def healthy(self) -> bool:
        """Whether the last call was answered; False before the first."""
        return self._store.healthy

    @property
    def last_error(self) -> str | None:
        """What the last call that failed ran into, kept while calls succeed again."""
        return self._store.last_error

    async def open(self) -> None:
        """As ``SqlStore.open``."""
        await self._store.open()

    async def close(self) -> None:
        """Nothing: the store is the node's."""

    async def save(self, record: Optimization, audit: AuditRow) -> None:
        """As ``SqlStore.save``.

        Raises:
            Fenced: The tenure is over; nothing was stored.
        """
        try:
            await self._store.save(record, audit, tenure=self._tenure)
        except Fenced:
            self._say()
            raise

    async def write(self, records: Sequence[Optimization], audit_rows: Sequence[AuditRow]) -> None:
        """As ``SqlStore.write``.

        Raises:
            Fenced: The tenure is over.
        """
        try:
            await self._store.write(records, audit_rows, tenure=self._tenure)
        except Fenced:
            self._say()
            raise

    async def load(self) -> list[Optimization]:
        """Every record of the shard's routes, deleted ones too."""
        return [record for record in await self._store.load() if self._is_mine(record.route)]

    async def audit_page(
        self, wanted: AuditFilter | None = None, *, limit: int = 100, before: str | None = None
    ) -> list[AuditRow]:
        """As ``SqlStore.audit_page``: of all nodes."""
        return await self._store.audit_page(wanted, limit=limit, before=before)

    async def remember(self, key: str, request_hash: str, status: int, body: bytes) -> None:
        """As ``SqlStore.remember``."""
        await self._store.remember(key, request_hash, status, body)

    async def recall(self, key: str) -> Answer | None:
        """As ``SqlStore.recall``."""
        return await self._store.recall(key)

    def _say(self) -> None:
        if not self.is_fenced:
            self.is_fenced = True
            self._fenced()
