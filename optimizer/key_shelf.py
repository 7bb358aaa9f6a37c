"""Where client keys are kept for good: in this node's own file, or in a database that several nodes share."""

from collections.abc import Sequence
from typing import Protocol

from optimizer.keys import ClientKey


class ShelfFault(Exception):
    """The shelf refused or did not answer; what was asked of a shared one may have happened."""


class KeyShelf(Protocol):
    """For threads that may be kept waiting. Every method raises ``ShelfFault``; all may be repeated but ``add``."""

    @property
    def is_shared(self) -> bool:
        """Whether others change it too, and whether one can start without it."""
        ...

    def revision(self) -> int:
        """A number that every change moves."""
        ...

    def load(self) -> Sequence[ClientKey]:
        """Every key, revoked ones too."""
        ...

    def add(self, key: ClientKey) -> None:
        """Keep a new key; it is durable on return."""
        ...

    def restore(self, keys: Sequence[ClientKey]) -> None:
        """Keep those of the keys that are missing."""
        ...

    def revoke(self, key_id: str, at: float) -> None:
        """End a key, if it has not ended and there is such a one."""
        ...
