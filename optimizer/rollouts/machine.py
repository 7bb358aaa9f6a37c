"""The state machine of an optimization: what a verb makes of a record, and what the optimizer does by itself.

Pure: no clock, no files, no traffic. What is allowed stands in ``optimizer.rollouts.transitions`` and nowhere else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from optimizer.rollouts.records import SPLITTING, Optimization, Proposal, Rollout, Status
from optimizer.rollouts.transitions import (
    ABORT,
    ABORT_REQUESTED,
    ADVANCE,
    APPROVAL,
    COMPLETE,
    COVERED,
    CREATE,
    DELETE,
    DEPLOY,
    EITHER,
    GUARD_PREFIX,
    HARD_STOP,
    LIVE,
    MANUAL,
    NOTE,
    OPTIMIZER,
    PAUSE,
    PERSON,
    PROMOTE,
    PROPOSE,
    RECOVER,
    REQUEST,
    RESUME,
    RETRY,
    ROLLBACK,
    ROLLBACK_REQUESTED,
    ROUTE_TAKEN,
    SUPERSEDE,
    TERMINAL,
    TRANSITIONS,
    WITHDRAW,
    WITHHOLD,
    Ask,
    Direction,
    Transition,
    first_stage,
    is_all_at_once,
    next_stage,
    wait_limit_s,
)
from optimizer.rollouts.verdicts import (
    BASELINE_FAILING,
    BASELINE_OVER_THRESHOLD,
    FAILED,
    INSUFFICIENT,
    PASSED,
    SRM,
    Decision,
)
from optimizer.settings import RolloutPlan

__all__ = (
    "ABORT",
    "ABORT_REQUESTED",
    "ADVANCE",
    "APPROVAL",
    "COMPLETE",
    "COVERED",
    "CREATE",
    "DELETE",
    "DEPLOY",
    "EITHER",
    "GUARD_PREFIX",
    "HARD_STOP",
    "LIVE",
    "MANUAL",
    "NOTE",
    "OPTIMIZER",
    "PAUSE",
    "PERSON",
    "PROMOTE",
    "PROPOSE",
    "RECOVER",
    "REQUEST",
    "RESUME",
    "RETRY",
    "ROLLBACK",
    "ROLLBACK_REQUESTED",
    "ROUTE_TAKEN",
    "SUPERSEDE",
    "TERMINAL",
    "TRANSITIONS",
    "WITHDRAW",
    "WITHHOLD",
    "Change",
    "Direction",
    "NotAllowed",
    "Refusal",
    "Step",
    "Transition",
    "allowed",
    "apply_verb",
    "find",
    "first_stage",
    "is_all_at_once",
    "next_stage",
    "next_step",
    "verbs_for",
    "wait_limit_s",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a verb is not allowed now, in a sentence; ``verbs`` are those that a person may use instead."""

    message: str
    verbs: tuple[str, ...]


class NotAllowed(Exception):
    """The table has no row for this verb on this record."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Step:
    """What the optimizer does by itself, and why."""

    verb: str
    reason: str
    explanation: str


def find(
    record: Optimization, verb: str, *, rollout: Rollout | None = None, full: bool = False
) -> Transition:
    """The row that applies.

    Args:
        record: What it is now.
        verb: What is to be done.
        rollout: The attempt that ``deploy`` and ``retry`` begin.
        full: ``promote`` without the remaining stages.

    Raises:
        NotAllowed: There is none; the refusal says why and what is possible instead.
    """
    ask = Ask(record, rollout, full)
    rows = [row for row in TRANSITIONS if row.verb == verb and record.status in row.sources]
    for row in rows:
        if row.condition is None or row.condition.holds(ask):
            return row
    why = next((row.condition.refusal for row in rows if row.condition and row.condition.refusal), "")
    raise NotAllowed(_refusal(record, verb, why))


def allowed(
    record: Optimization, verb: str, *, rollout: Rollout | None = None, full: bool = False
) -> Refusal | None:
    """Why ``verb`` is not possible now, None when it is; see ``find``."""
    try:
        find(record, verb, rollout=rollout, full=full)
    except NotAllowed as error:
        return error.refusal
    return None


def verbs_for(record: Optimization) -> tuple[str, ...]:
    """What a person may say to the record now, in the order of the table."""
    verbs: list[str] = []
    for row in TRANSITIONS:
        name = DEPLOY if row.verb == REQUEST else row.verb
        if record.status not in row.sources or row.who == OPTIMIZER or name in verbs:
            continue
        if row.verb in (DEPLOY, RETRY) or row.condition is None or row.condition.holds(Ask(record)):
            verbs.append(name)
    return tuple(verbs)


def _refusal(record: Optimization, verb: str, why: str) -> Refusal:
    verbs = verbs_for(record)
    instead = f"possible now: {', '.join(verbs)}" if verbs else "nothing more can be done with it"
    state = str(record.status) + (f" ({record.reason})" if record.reason else "")
    return Refusal(f"{verb} is not possible while {record.id} is {state}; {why or instead}", verbs)


@dataclass(frozen=True, slots=True)
class Change:
    """What comes with a verb. ``revision`` must be higher than the record's; None takes the next.

    ``rollout`` is the new attempt of ``deploy`` and ``retry``, in its first stage; ``reference_ms`` and ``expected_s``
    are facts of the stage that begins. ``measured`` None keeps what was measured last.
    """

    now: float
    revision: int | None = None
    reason: str = ""
    explanation: str = ""
    measured: Mapping[str, Any] | None = None
    proposal: Proposal | None = None
    rollout: Rollout | None = None
    plan: RolloutPlan | None = None
    full: bool = False
    reference_ms: float | None = None
    expected_s: float | None = None
    config_hash: str | None = None


def apply_verb(record: Optimization, verb: str, change: Change) -> Optimization:
    """The record after ``verb``.

    Raises:
        NotAllowed: See ``find``.
        ValueError: The revision is not a newer one, or what the verb needs is missing.
    """
    row = find(record, verb, rollout=change.rollout, full=change.full)
    revision = record.revision + 1 if change.revision is None else change.revision
    if revision <= record.revision:
        raise ValueError(f"revision {revision} of {record.id} is not newer than {record.revision}")
    changed = replace(
        record,
        status=record.status if row.target is None else row.target,
        revision=revision,
        updated_at=change.now,
        reason=change.reason,
        explanation=change.explanation,
        measured=record.measured if change.measured is None else change.measured,
        plan=record.plan if change.plan is None else change.plan,
        config_hash=record.config_hash if change.config_hash is None else change.config_hash,
    )
    effect = _EFFECTS.get(verb)
    return changed if effect is None else effect(changed, record, row, change)


def _propose(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    del record, row
    if change.proposal is None:
        raise ValueError("propose needs a proposal")
    return replace(changed, proposal=change.proposal)


def _withdraw(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    del record, row, change
    return replace(changed, proposal=None)


def _request(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    del row
    return replace(
        changed, auto_deploy=True, reason=record.reason, explanation=change.explanation or record.explanation
    )


def _begin(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    if row.target is Status.COLLECTING:
        return changed
    rollout = change.rollout
    if rollout is None or record.proposal is None:
        raise ValueError(f"{row.verb} needs a proposal and a rollout")
    if row.target is Status.DEPLOYED:
        rollout = replace(rollout, stage=max(len(rollout.plan.stages) - 1, 0))
    return replace(
        changed,
        rollout=rollout,
        attempts=rollout.attempt,
        measured={},
        deployed_at=change.now if row.target is Status.DEPLOYED else None,
    )


def _move(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    rollout = record.rollout
    if rollout is None:
        raise ValueError(f"{row.verb} needs a rollout")
    if row.target is Status.DEPLOYED:
        return replace(changed, deployed_at=change.now)
    stage = next_stage(rollout.plan, rollout.stage)
    if stage is None:
        raise ValueError("no stage follows")
    return replace(
        changed,
        rollout=replace(
            rollout,
            stage=stage,
            stage_started_at=change.now,
            waited_from=change.now,
            reference_ms=rollout.reference_ms if change.reference_ms is None else change.reference_ms,
            expected_s=change.expected_s,
        ),
    )


def _resume(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    del row
    if record.rollout is None:
        raise ValueError("resume needs a rollout")
    return replace(changed, rollout=replace(record.rollout, waited_from=change.now))


def _same(changed: Optimization, record: Optimization, row: Transition, change: Change) -> Optimization:
    del row, change
    return replace(record, revision=changed.revision, updated_at=changed.updated_at)


_Effect = Callable[[Optimization, Optimization, Transition, Change], Optimization]
_EFFECTS: Final[Mapping[str, _Effect]] = {
    PROPOSE: _propose,
    WITHDRAW: _withdraw,
    REQUEST: _request,
    DEPLOY: _begin,
    RETRY: _begin,
    ADVANCE: _move,
    PROMOTE: _move,
    COMPLETE: _move,
    RESUME: _resume,
    WITHHOLD: _same,
}


def next_step(record: Optimization, decision: Decision, *, now: float) -> Step | None:
    """What the optimizer does by itself about a rollout, None to leave it.

    Args:
        record: A running or paused one; for all others there is nothing to do.
        decision: What the guards say of its present stage.
        now: Unix seconds.
    """
    rollout = record.rollout
    if rollout is None or record.status not in SPLITTING:
        return None
    if decision.kind == FAILED:
        reason = HARD_STOP if decision.guard == HARD_STOP else f"{GUARD_PREFIX}{decision.guard}"
        return Step(ROLLBACK, reason, decision.explanation)
    if record.status is not Status.RUNNING:
        return None
    if decision.kind in (BASELINE_OVER_THRESHOLD, BASELINE_FAILING, SRM):
        return Step(PAUSE, decision.kind, decision.explanation)
    if decision.kind == PASSED:
        return _passed(record, rollout, decision)
    limit = wait_limit_s(rollout.plan.stages[rollout.stage])
    if decision.why == "time":
        return None  # Nobody has asked yet whether it passed.
    if limit is not None and now - rollout.waited_from >= limit:
        waited = f"after {now - rollout.waited_from:.0f} s, of {limit:.0f} s at most: "
        return Step(PAUSE, INSUFFICIENT, waited + (decision.explanation or "not enough data"))
    return None


def _passed(record: Optimization, rollout: Rollout, decision: Decision) -> Step:
    stages = rollout.plan.stages
    following = next_stage(rollout.plan, rollout.stage)
    is_last_below = following is None or stages[following].percentage >= 100.0
    if rollout.plan.approval and is_last_below and rollout.percentage < 100.0:
        said = f"stage {rollout.stage + 1} of {len(stages)} passed; all traffic needs somebody's approval"
        return Step(PAUSE, APPROVAL, said)
    return Step(COMPLETE if following is None else ADVANCE, "", decision.explanation)
