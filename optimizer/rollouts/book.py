"""Every optimization that this process knows, each in its newest revision.

Joining records is commutative, associative and idempotent: the highest revision of an id wins, so it does not matter
whether a record is first heard of from the log, the routing table or the database, or how often. Memory is bounded:
records that no traffic depends on are forgotten oldest first; the database still has them.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from optimizer.rollouts.machine import LIVE
from optimizer.rollouts.records import OVERLAYING, SPLITTING, Optimization, Status

CAPACITY: Final = 10_000
RESTART_GAP: Final = 100
"""Revisions that a process leaves out on the first change of a record that it did not make itself: its predecessor may
have reserved some that nobody has heard of yet, and a commit of it may still be under way."""


class Book:
    """Records by id. ``version`` rises with every change, ``overlay_version`` with those that change a route.

    Args:
        capacity: How many records are kept, terminal ones beyond it being forgotten.
    """

    def __init__(self, records: Iterable[Optimization] = (), *, capacity: int = CAPACITY) -> None:
        self.version = 0
        self.overlay_version = 0
        self.forgotten = 0
        self._capacity = capacity
        self._records: dict[str, Optimization] = {}
        self._live: dict[str, Optimization] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._reserved: dict[str, int] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        for record in records:
            self.join(record)

    @property
    def is_full(self) -> bool:
        """Whether there is room for one more that must not be forgotten."""
        return len(self._live) >= self._capacity

    def __len__(self) -> int:
        return len(self._records)

    def join(self, record: Optimization) -> bool:
        """Take a record in unless this or a newer revision is known; whether anything changed."""
        if not self.is_news(record):
            return False
        known = self._records.get(record.id)
        # Taken out first: the order of the dictionary is the order of the last change.
        self._records.pop(record.id, None)
        self._records[record.id] = record
        self._ended.pop(record.id, None)
        if record.status in LIVE:
            self._live[record.id] = record
        else:
            self._live.pop(record.id, None)
            self._ended[record.id] = None
        self.version += 1
        if record.status in OVERLAYING or (known is not None and known.status in OVERLAYING):
            self.overlay_version += 1
        if len(self._records) > self._capacity:
            self._forget()
        return True

    def is_news(self, record: Optimization) -> bool:
        """Whether no revision as high is known, or was before it was forgotten."""
        known = self._records.get(record.id)
        revision = self._gone.get(record.id, 0) if known is None else known.revision
        return record.revision > revision

    def reserve(self, id_: str) -> int:
        """A revision for the next change of a record, higher than every one known or reserved before."""
        record = self._records.get(id_)
        known = record.revision if record is not None else self._gone.get(id_, 0)
        reserved = self._reserved.get(id_)
        first = known + RESTART_GAP if known else 1
        self._reserved[id_] = revision = first if reserved is None else max(known, reserved) + 1
        return revision

    def get(self, id_: str) -> Optimization | None:
        """The record, deleted ones too; None when it is unknown (or forgotten)."""
        return self._records.get(id_)

    def all(self) -> list[Optimization]:
        """Every record that was not deleted, the one changed last at the end."""
        return [record for record in self._records.values() if record.status is not Status.DELETED]

    def live(self) -> list[Optimization]:
        """Those that something may still happen to, in the order of their last change."""
        return list(self._live.values())

    def overlaying(self) -> list[Optimization]:
        """Those that change a route."""
        return [record for record in self._live.values() if record.status in OVERLAYING]

    def on_route(self, route: str) -> list[Optimization]:
        """The live ones of a route."""
        return [record for record in self._live.values() if record.route == route]

    def splitting(self, route: str) -> Optimization | None:
        """The one rollout that divides a route's traffic now."""
        return next((record for record in self.on_route(route) if record.status in SPLITTING), None)

    def with_rollout(self, rollout: str) -> Optimization | None:
        """The live record whose attempt has this id."""
        return next(
            (
                record
                for record in self._live.values()
                if record.rollout is not None and record.rollout.id == rollout
            ),
            None,
        )

    def everything(self) -> list[Optimization]:
        """Every record, deleted ones too."""
        return list(self._records.values())

    def _forget(self) -> None:
        while len(self._records) > self._capacity and self._ended:
            id_, _ = self._ended.popitem(last=False)
            # An old revision that is met again must not make it alive.
            self._gone[id_] = self._records.pop(id_).revision
            self._reserved.pop(id_, None)
            self.forgotten += 1
        while len(self._gone) > 10 * self._capacity:
            self._gone.popitem(last=False)
