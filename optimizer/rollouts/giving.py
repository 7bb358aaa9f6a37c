"""Giving traffic to a candidate: database, event log, disk, book, table, in this order, or not at all.

Between any two of these somebody may take the traffic away; then the gift is dropped, and the higher revision of what
took it wins wherever the gift had got to. Whatever does not confirm may have stored it all the same, so the state
before is written again with a higher revision. At most one gift per record and one per route are under way.
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from optimizer.rollouts import machine
from optimizer.rollouts.book import Book
from optimizer.rollouts.draft import Drafts, Order
from optimizer.rollouts.faults import Conflict, StoreAway
from optimizer.rollouts.fitting import overtaken
from optimizer.rollouts.machine import OPTIMIZER, TERMINAL, Step
from optimizer.rollouts.records import LOOP, Optimization, Status
from optimizer.rollouts.scribe import Scribe
from optimizer.rollouts.store_link import StoreFault, StoreLink

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

_log = logging.getLogger(__name__)


class Giving:
    """Gifts under way and gifts that the optimizer itself wants to make; the arguments are the controller's."""

    def __init__(
        self,
        book: Book,
        drafts: Drafts,
        scribe: Scribe,
        link: StoreLink,
        *,
        sync_log: Callable[[], Awaitable[object]],
        now: Callable[[], float],
        obstacle: Callable[[], str | None],
    ) -> None:
        self._book = book
        self._drafts = drafts
        self._scribe = scribe
        self._link = link
        self._sync_log = sync_log
        self._now = now
        self._obstacle = obstacle
        self._under_way: dict[str, str] = {}
        self._wanted: dict[str, tuple[int, Order]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}

    def is_under_way(self, id_: str) -> bool:
        """Whether a gift to this record is being made."""
        return id_ in self._under_way

    def is_wanted(self, id_: str) -> bool:
        """Whether the optimizer wants to give and has not yet."""
        return id_ in self._wanted

    def must_be_quiet(self, record: Optimization) -> None:
        """See that no gift to a record is under way.

        Raises:
            Conflict: One is.
        """
        if record.id in self._under_way:
            raise Conflict(f"another change of {record.id} is under way", self._book.get(record.id))

    async def give(self, record: Optimization, order: Order) -> Optimization:
        """Carry out a transition that gives traffic.

        Raises:
            Conflict: It changed meanwhile, its route is taken, or it does not fit.
            StoreAway: Nothing was given.
        """
        self.must_be_quiet(record)
        self._must_be_free(record, order)
        if (obstacle := self._obstacle()) is not None:
            raise StoreAway(f"nothing was given: {obstacle}")
        self._under_way[record.id] = record.route
        try:
            try:
                await self._link.ready()
            except StoreFault as error:
                raise StoreAway(f"nothing was given: the database does not answer ({error})") from error
            self._must_still_be(record)
            self._must_be_free(record, order)
            changed = self._drafts.given(record, order)
            await self._remember(record, changed, order)
            self._enter(record, changed)
            return changed
        finally:
            del self._under_way[record.id]

    def withhold(self, record: Optimization, changed: Optimization) -> None:
        """Make what was before ``changed`` the newest again, wherever ``changed`` may have got to."""
        current = self._book.get(record.id)
        if current is not None and current.revision > changed.revision:
            return
        before = replace(record, revision=self._book.reserve(record.id), updated_at=self._now())
        self._scribe.write_down(changed, before, machine.WITHHOLD, OPTIMIZER)

    def drop(self, record: Optimization, order: Order) -> Optimization | None:
        """Drop a gift under way to an attempt that is over, because somebody changed their mind; None if it is not.

        Such a record has ended already, so no row of the table says what takes back a ``retry`` that is being made.
        """
        if record.status not in TERMINAL:
            return None
        before = replace(record, revision=self._book.reserve(record.id), updated_at=self._now())
        self._scribe.write_down(record, before, machine.WITHHOLD, order.actor)
        return before

    # --- by itself ----------------------------------------------------------------------------------

    def want(self, record: Optimization, step: Step, measured: Mapping[str, Any] | None) -> None:
        """Remember what is to be given as soon as it can be, unless the record changes first."""
        order = Order(step.verb, OPTIMIZER, step.reason, step.explanation, measured)
        self._wanted[record.id] = (record.revision, order)

    def due(self, record: Optimization) -> Order | None:
        """What the optimizer should try to give to a record now."""
        if record.id in self._under_way or self._is_pausing(record.id):
            return None
        order = None
        wanted = self._wanted.get(record.id)
        if wanted is not None and wanted[0] != record.revision:
            del self._wanted[record.id]
        elif wanted is not None:
            order = wanted[1]
        elif record.status is Status.PROPOSED and record.auto_deploy and self._may_deploy(record):
            order = Order(machine.DEPLOY, OPTIMIZER, explanation=record.explanation)
        return order if self._link.is_joined or self._link.is_due else None

    async def attempt(self, record: Optimization, order: Order) -> None:
        """Give, and after a failure leave it for a while."""
        if order.verb == machine.DEPLOY and not self._may_deploy(record):
            return  # Another one of the same tick was quicker.
        try:
            await self.give(record, order)
            self._pauses.pop(record.id, None)
        except (StoreAway, Conflict) as error:
            _, pause = self._pauses.get(record.id, (0.0, FIRST_PAUSE_S / 2.0))
            pause = min(pause * 2.0, LONGEST_PAUSE_S)
            self._pauses[record.id] = (self._now() + pause, pause)
            _log.info("%s of %s is tried again in %.0f s: %s", order.verb, record.id, pause, error)

    def forget(self) -> None:
        """Drop what is remembered about records that nothing can happen to any more."""
        live = {record.id for record in self._book.live()}
        for table in (self._wanted, self._pauses):
            for id_ in [id_ for id_ in table if id_ not in live]:
                del table[id_]

    def _may_deploy(self, record: Optimization) -> bool:
        plan = self._drafts.plan(record)
        if record.origin == LOOP and plan.approval and machine.first_stage(plan) is None:
            return False  # Nobody has asked for it, and a person is to be asked before all traffic moves.
        if record.origin == LOOP and overtaken(record, self._book.all()):
            return False  # The next round of the loop asks its strategy anew, about the route as it is now.
        return self._book.splitting(record.route) is None and record.route not in self._under_way.values()

    def _is_pausing(self, id_: str) -> bool:
        until, _ = self._pauses.get(id_, (0.0, 0.0))
        return 0.0 < until - self._now() <= LONGEST_PAUSE_S

    # --- inside -------------------------------------------------------------------------------------

    async def _remember(self, record: Optimization, changed: Optimization, order: Order) -> None:
        """Database, log, disk.

        Raises:
            StoreAway: One of them did not confirm; what may be stored was overwritten.
            Conflict: Somebody was quicker, and has the last word.
        """
        try:
            await self._link.save(changed, self._scribe.row(record, changed, order.verb, order.actor))
        except StoreFault as error:
            self.withhold(record, changed)
            raise StoreAway(f"nothing was given: the database does not answer ({error})") from error
        self._must_still_be(record)
        try:
            self._drafts.must_fit(changed)
        except Conflict:
            self.withhold(record, changed)
            raise
        try:
            await self._log(record, changed, order)
        except OSError as error:
            self.withhold(record, changed)
            raise StoreAway(f"nothing was given: the event log can not be made durable ({error})") from error
        # The log's reader may have entered the change itself already.
        self._must_still_be(record, changed)
        try:
            self._drafts.must_fit(changed)
        except Conflict:
            # The file changed while the disk was writing.
            self.withhold(record, changed)
            raise

    async def _log(self, record: Optimization, changed: Optimization, order: Order) -> None:
        if not self._scribe.log(record, changed, order.verb, order.actor):
            raise OSError(errno.ENOSPC, "it takes no events")
        await self._sync_log()

    def _enter(self, record: Optimization, changed: Optimization) -> None:
        try:
            self._scribe.enter(changed)
        except ValueError as error:
            self.withhold(record, changed)
            raise Conflict(f"no routing table can be built with it: {error}", record) from error
        self._wanted.pop(record.id, None)

    def _must_still_be(self, record: Optimization, changed: Optimization | None = None) -> None:
        current = self._book.get(record.id)
        known = {record.revision} if changed is None else {record.revision, changed.revision}
        if current is None or current.revision not in known:
            raise Conflict(f"{record.id} changed meanwhile", current)

    def _must_be_free(self, record: Optimization, order: Order) -> None:
        """One rollout per route."""
        if not order.begins:
            return
        first = self._book.splitting(record.route)
        if first is not None and first.id != record.id:
            raise Conflict(
                f"route {record.route} is taken by the rollout of {first.id} ({first.name})", first
            )
        for id_, route in self._under_way.items():
            if route == record.route and id_ != record.id:
                raise Conflict(
                    f"route {route} is taken by {id_}, which is being deployed", self._book.get(id_)
                )
