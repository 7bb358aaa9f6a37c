"""The next revision of a record, made but not yet written anywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optimizer.rollouts import machine
from optimizer.rollouts.book import Book
from optimizer.rollouts.evaluation import expected_stage_s
from optimizer.rollouts.faults import Conflict
from optimizer.rollouts.fitting import ill_fitting
from optimizer.rollouts.machine import Change, Direction, NotAllowed
from optimizer.rollouts.overlays import digests, named
from optimizer.rollouts.records import SPLITTING, Optimization, Proposal, Rollout, Status
from optimizer.settings import RolloutPlan, Settings


@dataclass(frozen=True, slots=True)
class Order:
    """A verb and what was said with it."""

    verb: str
    actor: str
    reason: str = ""
    explanation: str = ""
    measured: Mapping[str, Any] | None = None
    full: bool = False
    plan: RolloutPlan | None = None

    @property
    def begins(self) -> bool:
        """Whether a new attempt begins with it."""
        return self.verb in (machine.DEPLOY, machine.RETRY)


class Drafts:
    """Makes records; the arguments are the controller's."""

    def __init__(
        self,
        book: Book,
        *,
        settings: Callable[[], Settings],
        now: Callable[[], float],
        new_id: Callable[[], str],
        requests_per_s: Callable[[str], float],
        reference_ms: Callable[[str], float | None],
        measured_of: Callable[[Optimization], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._book = book
        self._settings = settings
        self._now = now
        self._new_id = new_id
        self._requests_per_s = requests_per_s
        self._reference_ms = reference_ms
        self._measured_of = measured_of

    def direction(self, record: Optimization, order: Order) -> Direction:
        """Of the row that will apply.

        Raises:
            Conflict: None does.
        """
        rollout = None
        if order.begins and record.proposal is not None:
            rollout = self._attempt(record, order, base={})
        try:
            return machine.find(record, order.verb, rollout=rollout, full=order.full).direction
        except NotAllowed as error:
            raise Conflict(str(error), record) from error

    def changed(
        self,
        record: Optimization,
        order: Order,
        *,
        proposal: Proposal | None = None,
        rollout: Rollout | None = None,
    ) -> Optimization:
        """The record after ``order``, with a revision that nobody else has.

        Raises:
            Conflict: The table does not allow it.
        """
        reference, expected = None, None
        if record.rollout is not None and order.verb in (machine.ADVANCE, machine.PROMOTE) and not order.full:
            following = machine.next_stage(record.rollout.plan, record.rollout.stage)
            if following is not None:
                reference = self._reference_ms(record.route)
                expected = self._expected_s(record.route, record.rollout.plan, following)
        change = Change(
            now=self._now(),
            revision=self._book.reserve(record.id),
            reason=order.reason,
            explanation=order.explanation,
            measured=self._measured(record, order),
            proposal=proposal,
            rollout=rollout,
            plan=order.plan,
            full=order.full,
            reference_ms=reference,
            expected_s=expected,
            config_hash=self._settings().config_hash,
        )
        try:
            return machine.apply_verb(record, order.verb, change)
        except NotAllowed as error:
            raise Conflict(str(error), record) from error

    def given(self, record: Optimization, order: Order) -> Optimization:
        """The record after an order that gives traffic, with the new attempt if one begins.

        Raises:
            Conflict: It can not be laid upon the route as it is.
        """
        rollout = None
        if order.begins:
            route = self._settings().route(record.route)
            if route is None or record.proposal is None:
                raise Conflict(f"there is no route {record.route!r} any more, or no proposal", record)
            base = digests(route, named(record.proposal.candidate))
            rollout = self._attempt(record, order, base=base)
        changed = self.changed(record, order, rollout=rollout)
        self.must_fit(changed)
        return changed

    def must_fit(self, changed: Optimization) -> None:
        """See that a change fits its route now.

        Raises:
            Conflict: It does not.
        """
        why = ill_fitting(changed, self._book.overlaying(), self._settings())
        if why is not None:
            raise Conflict(f"{changed.id} can not be deployed: {why}", self._book.get(changed.id))

    def plan(self, record: Optimization, order: Order | None = None) -> RolloutPlan:
        """The plan of the next attempt: asked for now, asked for before, or the configuration's.

        What its strategy was asked to keep of the quality goes before what holds for all; a health check's own share
        goes before both.
        """
        settings = self._settings()
        asked = order.plan if order is not None else None
        plan = asked or record.plan or settings.deployment.plan
        kept = record.proposal.quality_ratio if record.proposal is not None else None
        if kept is None or plan.checks.quality_ratio not in (None, settings.optimization.quality_ratio):
            return plan
        return replace(plan, checks=replace(plan.checks, quality_ratio=kept))

    def _measured(self, record: Optimization, order: Order) -> Mapping[str, Any] | None:
        """What the guards say at this moment: a change must not be explained with the values of an earlier one."""
        if order.measured is not None:
            return order.measured
        if record.status is Status.DEPLOYED:
            return {}  # Nobody compares any more.
        if record.status in SPLITTING and self._measured_of is not None:
            return self._measured_of(record)
        return None

    def _attempt(self, record: Optimization, order: Order, *, base: Mapping[str, str]) -> Rollout:
        now, plan = self._now(), self.plan(record, order)
        return Rollout(
            id=f"ro_{self._new_id()[:16]}",
            attempt=record.attempts + 1,
            plan=plan,
            base=base,
            started_at=now,
            stage=0,
            stage_started_at=now,
            waited_from=now,
            reference_ms=self._reference_ms(record.route),
            expected_s=self._expected_s(record.route, plan, 0),
        )

    def _expected_s(self, route: str, plan: RolloutPlan, stage: int) -> float | None:
        if stage >= len(plan.stages):
            return None
        share = plan.stages[stage].percentage / 100.0
        return expected_stage_s(plan, stage, share, self._requests_per_s(route))
