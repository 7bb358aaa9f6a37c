"""Client keys that several nodes have in common: a ``KeyShelf`` over the database."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimizer.control_store.errors import StoreError
from optimizer.key_shelf import ShelfFault
from optimizer.keys import ClientKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from optimizer.control_store.database import Database
    from optimizer.control_store.store import LaneName, SqlStore

    T = TypeVar("T")


class SharedKeys:
    """See ``KeyShelf``; for threads that may be kept waiting for the store's time-out."""

    is_shared = True

    def __init__(self, store: "SqlStore") -> None:
        self._store = store

    def revision(self) -> int:
        """A number that every change moves."""
        return self._ask(lambda database: database.key_revision(), "read")

    def load(self) -> list[ClientKey]:
        """Every key."""
        return self._ask(lambda database: database.load_keys(), "read")

    def add(self, key: ClientKey) -> None:
        """Keep a new key."""
        self._ask(lambda database: database.add_key(key), "write")

    def restore(self, keys: Sequence[ClientKey]) -> None:
        """Keep those that are missing."""
        self._ask(lambda database: database.restore_keys(keys), "write")

    def revoke(self, key_id: str, at: float) -> None:
        """End a key."""
        self._ask(lambda database: database.revoke_key(key_id, at), "write")

    def _ask(self, work: "Callable[[Database], T]", lane: "LaneName") -> "T":
        try:
            return self._store.ask_now(work, lane)
        except StoreError as error:
            raise ShelfFault(str(error)) from error
