"""What somebody did, as one row: every change made by a person, the optimizer or a program of theirs leaves one.

Rows are written once and never changed; ``id`` is the id of the event that carries the same facts, so writing a row
again changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditRow:
    """``at`` in Unix seconds. ``detail`` is plain JSON and holds no secret.

    ``actor`` says who (``admin key 1a2b3c4d``, ``local``, ``optimizer``), ``action`` what (``optimization.deploy``,
    ``keys.create``) and ``target`` to which thing, by its id.
    """

    id: str
    at: float
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows are meant: those with every word that is given."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None

    def matches(self, row: AuditRow) -> bool:
        """Whether ``row`` is meant."""
        return all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.actor, row.actor),
                (self.action, row.action),
                (self.target, row.target),
            )
        )
