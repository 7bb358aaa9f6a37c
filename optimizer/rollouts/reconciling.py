"""Bringing together with the book what others decide: the file, the database, the other layers of a route."""

from collections.abc import Callable, Sequence
from typing import Final

from optimizer.rollouts import machine
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.draft import Order
from optimizer.rollouts.fitting import covered, ill_fitting, unfit
from optimizer.rollouts.giving import Giving
from optimizer.rollouts.machine import OPTIMIZER
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.overlays import ARM_VANISHED, ROUTE_VANISHED
from optimizer.rollouts.records import OVERLAYING, SPLITTING, Optimization, Status
from optimizer.rollouts.scribe import Scribe
from optimizer.settings import Settings

MAX_TOMBSTONES: Final = 100


def table_records(book: Book, outbox: Outbox) -> list[Optimization]:
    """What a table should carry: what changes routes, and what the database does not know yet.

    The latter are not in effect; they remind the next process that traffic was taken away even if the log could not be
    written. Of them the newest few are enough.
    """
    pending = [book.get(record.id) or record for record in outbox.records]
    taken = [record for record in pending if record.rollout is not None and record.status not in OVERLAYING]
    found = {record.id: record for record in taken[-MAX_TOMBSTONES:]}
    found.update((record.id, record) for record in book.overlaying())
    return list(found.values())


class Reconciler:
    """See the module; ``apply`` carries out an order that takes traffic or moves none."""

    def __init__(
        self,
        book: Book,
        outbox: Outbox,
        scribe: Scribe,
        giving: Giving,
        *,
        settings: Callable[[], Settings],
        apply: Callable[[Optimization, Order], Optimization],
    ) -> None:
        self._book = book
        self._outbox = outbox
        self._scribe = scribe
        self._giving = giving
        self._settings = settings
        self._apply = apply
        self._looked_at = -1

    def follow(self, settings: Settings) -> list[Optimization]:
        """End what the file no longer allows; returns the superseded ones, as they are then."""
        ended = []
        for record in self._book.live():
            why = unfit(record, settings)
            if why is None or self._book.get(record.id) is not record:
                continue
            said = f"the configuration changed: {why.replace('_', ' ')}"
            if record.status is Status.PROPOSED and why != ROUTE_VANISHED:
                self._apply(record, Order(machine.WITHDRAW, OPTIMIZER, why, said))
            else:
                ended.append(self._apply(record, Order(machine.SUPERSEDE, OPTIMIZER, why, said)))
        return ended + self.end_misfits(settings)

    def end_misfits(self, settings: Settings) -> list[Optimization]:
        """End rollouts whose candidate no longer fits what lies below it."""
        ended = []
        for record in self._book.overlaying():
            if record.status in SPLITTING and self._book.get(record.id) is record:
                why = ill_fitting(record, self._book.overlaying(), settings)
                if why is not None:
                    order = Order(machine.SUPERSEDE, OPTIMIZER, ARM_VANISHED, why)
                    ended.append(self._apply(record, order))
        return ended

    def end_covered(self) -> None:
        """End deployed overlays that newer ones hide, but for a few, so that they do not pile up for ever."""
        if self._looked_at == self._book.overlay_version:
            return
        for record in covered(self._book.overlaying()):
            if self._book.get(record.id) is record:
                said = "newer deployments on the route change all that it changes"
                self._apply(record, Order(machine.SUPERSEDE, OPTIMIZER, machine.COVERED, said))
        self._looked_at = self._book.overlay_version

    def join_stored(self, records: Sequence[Optimization]) -> None:
        """Bring book and database together; see ``StoreLink``."""
        known_to_store = {record.id: record for record in records}
        for stored in sorted(records, key=lambda record: record.updated_at):
            known = self._book.get(stored.id)
            if self._giving.is_under_way(stored.id):
                continue
            if known is None or known.revision < stored.revision:
                if (known is not None or stored.status in machine.LIVE) and self._book.is_news(stored):
                    self._scribe.log(known, stored, machine.RECOVER, OPTIMIZER)
                self._book.join(stored)
            elif (
                known.revision == stored.revision and known != stored and to_plain(known) != to_plain(stored)
            ):
                self._giving.withhold(known, known)
        for record in self._book.everything():
            stored_one = known_to_store.get(record.id)
            if stored_one is None or stored_one.revision < record.revision:
                self._outbox.add(record)
        self.follow(self._settings())
        self._part_rivals()
        if not self._scribe.is_published:
            self._scribe.publish(taking=self._scribe.unpublished_takes)

    def _part_rivals(self) -> None:
        """Two rollouts on a route can only come from two databases; the one that began first goes on."""
        first: dict[str, Optimization] = {}
        splitting = [record for record in self._book.overlaying() if record.status in SPLITTING]
        for record in sorted(
            splitting, key=lambda one: (one.rollout.started_at if one.rollout else 0.0, one.id)
        ):
            rival = first.setdefault(record.route, record)
            if rival is not record:
                said = f"route {record.route} is taken by the rollout of {rival.id}"
                self._apply(record, Order(machine.SUPERSEDE, OPTIMIZER, machine.ROUTE_TAKEN, said))
