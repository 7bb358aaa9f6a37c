"""The transitions of an optimization as one table: who may do what, where it leads, and which writes come first.

``TRANSITIONS`` is the only place that says what is allowed; the machine obeys it and ``docs/rollouts.md`` is drawn from
it. A verb that **gives** traffic to a candidate waits until everything that must remember it has it; one that **takes**
traffic away waits for nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optimizer.rollouts.records import Optimization, Rollout, Status
from optimizer.settings import RolloutPlan, Stage

CREATE: Final = "create"
PROPOSE: Final = "propose"
WITHDRAW: Final = "withdraw"
NOTE: Final = "note"
REQUEST: Final = "request"
DEPLOY: Final = "deploy"
ADVANCE: Final = "advance"
PROMOTE: Final = "promote"
COMPLETE: Final = "complete"
PAUSE: Final = "pause"
RESUME: Final = "resume"
ROLLBACK: Final = "rollback"
ABORT: Final = "abort"
RETRY: Final = "retry"
SUPERSEDE: Final = "supersede"
DELETE: Final = "delete"
WITHHOLD: Final = "withhold"
RECOVER: Final = "recover"

MANUAL: Final = "manual"
APPROVAL: Final = "approval"
HARD_STOP: Final = "hard_stop"
ROLLBACK_REQUESTED: Final = "rollback_requested"
ABORT_REQUESTED: Final = "abort_requested"
ROUTE_TAKEN: Final = "route_taken"
COVERED: Final = "covered"
GUARD_PREFIX: Final = "guard:"


class Direction(StrEnum):
    """What a transition does to the candidate's traffic; it decides the order of writes."""

    GIVE = "give"
    TAKE = "take"
    NEUTRAL = "neutral"


PERSON: Final = "person"
OPTIMIZER: Final = "optimizer"
EITHER: Final = "either"

_NEW: Final = (Status.COLLECTING, Status.PROPOSED)
_SPLIT: Final = (Status.RUNNING, Status.PAUSED)
_ENDED: Final = (Status.ROLLED_BACK, Status.ABORTED, Status.SUPERSEDED)
LIVE: Final = frozenset((*_NEW, *_SPLIT, Status.DEPLOYED))
"""Something may still happen by itself, or traffic depends on it."""
TERMINAL: Final = frozenset((*_ENDED, Status.DELETED))
"""No traffic depends on it; only a person can bring it back, and nobody a deleted one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a condition may look at: the record, the rollout that is to begin, and whether ``full`` was said."""

    record: Optimization
    rollout: Rollout | None = None
    full: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """When a row of the table applies. ``refusal`` tells a person why it does not."""

    text: str
    holds: Callable[[Ask], bool]
    refusal: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One row. ``target`` None: the status stays what it is. ``who``: person, optimizer or either."""

    verb: str
    sources: tuple[Status, ...]
    target: Status | None
    direction: Direction
    who: str
    meaning: str
    condition: Condition | None = None


def is_all_at_once(stage: Stage) -> bool:
    """A stage that is no stage: all traffic, and nothing to wait for."""
    return stage.percentage >= 100.0 and stage.duration_s <= 0.0


def first_stage(plan: RolloutPlan) -> int | None:
    """The stage a rollout begins with, None when the plan gives all traffic at once."""
    return None if not plan.stages or is_all_at_once(plan.stages[0]) else 0


def next_stage(plan: RolloutPlan, stage: int) -> int | None:
    """The stage after ``stage``, None when what follows is all traffic for good."""
    following = stage + 1
    return None if following >= len(plan.stages) or is_all_at_once(plan.stages[following]) else following


def wait_limit_s(stage: Stage) -> float | None:
    """How long a stage may wait for its samples: ten times its duration unless it says otherwise; None for ever."""
    limit = stage.max_wait_s if stage.max_wait_s > 0.0 else 10.0 * stage.duration_s
    return limit if limit > 0.0 else None


def _has_more(ask: Ask) -> bool:
    rollout = ask.record.rollout
    return rollout is not None and next_stage(rollout.plan, rollout.stage) is not None


def _begins_with_a_stage(ask: Ask) -> bool:
    return ask.rollout is not None and first_stage(ask.rollout.plan) is not None


_STAGED: Final = Condition("the plan has stages", _begins_with_a_stage, "")
_AT_ONCE: Final = Condition(
    "the plan has no stages", lambda ask: ask.rollout is not None and not _begins_with_a_stage(ask), ""
)
_MORE: Final = Condition(
    "a stage follows", lambda ask: not ask.full and _has_more(ask), "it is in its last stage"
)
_LAST: Final = Condition(
    "no stage follows", lambda ask: not ask.full and not _has_more(ask), "a stage follows this one"
)
_FULL: Final = Condition("`full`", lambda ask: ask.full, "")
_NO_PROPOSAL: Final = Condition("there is no proposal", lambda ask: ask.record.proposal is None, "")
_NOT_APPROVAL: Final = Condition(
    "not paused for approval",
    lambda ask: ask.record.reason != APPROVAL,
    "it waits for approval; promote it (or roll it back) instead",
)

TRANSITIONS: Final[tuple[Transition, ...]] = (
    Transition(
        CREATE, (), Status.COLLECTING, Direction.NEUTRAL, EITHER, "An optimization of one route is asked for."
    ),
    Transition(
        PROPOSE,
        _NEW,
        Status.PROPOSED,
        Direction.NEUTRAL,
        OPTIMIZER,
        "The strategy has enough evidence for a change, or better evidence than before.",
    ),
    Transition(
        WITHDRAW,
        (Status.PROPOSED,),
        Status.COLLECTING,
        Direction.NEUTRAL,
        OPTIMIZER,
        "The evidence no longer supports the proposal, or the file no longer allows it.",
    ),
    Transition(
        NOTE,
        (Status.COLLECTING,),
        None,
        Direction.NEUTRAL,
        OPTIMIZER,
        "The strategy says anew why it proposes nothing yet.",
    ),
    Transition(
        REQUEST,
        _NEW,
        None,
        Direction.NEUTRAL,
        PERSON,
        "`deploy` before it can be done: it deploys as soon as there is a proposal and the route is free.",
    ),
    Transition(
        DEPLOY,
        (Status.PROPOSED,),
        Status.RUNNING,
        Direction.GIVE,
        EITHER,
        "The first stage of the plan begins.",
        _STAGED,
    ),
    Transition(
        DEPLOY,
        (Status.PROPOSED,),
        Status.DEPLOYED,
        Direction.GIVE,
        EITHER,
        "All traffic gets the candidate.",
        _AT_ONCE,
    ),
    Transition(
        ADVANCE,
        (Status.RUNNING,),
        Status.RUNNING,
        Direction.GIVE,
        OPTIMIZER,
        "The stage passed; the next one begins.",
        _MORE,
    ),
    Transition(
        COMPLETE,
        (Status.RUNNING,),
        Status.DEPLOYED,
        Direction.GIVE,
        OPTIMIZER,
        "The last stage passed.",
        _LAST,
    ),
    Transition(
        PROMOTE,
        _SPLIT,
        Status.RUNNING,
        Direction.GIVE,
        PERSON,
        "Somebody takes the decision: on to the next stage.",
        _MORE,
    ),
    Transition(
        PROMOTE,
        _SPLIT,
        Status.DEPLOYED,
        Direction.GIVE,
        PERSON,
        "Somebody takes the decision: no stage is left.",
        _LAST,
    ),
    Transition(
        PROMOTE,
        _SPLIT,
        Status.DEPLOYED,
        Direction.GIVE,
        PERSON,
        "Somebody skips what is left of the plan.",
        _FULL,
    ),
    Transition(
        PAUSE,
        (Status.RUNNING,),
        Status.PAUSED,
        Direction.TAKE,
        EITHER,
        "The share stays what the stage gives, and nothing rises; guards go on and may still roll back.",
    ),
    Transition(
        RESUME,
        (Status.PAUSED,),
        Status.RUNNING,
        Direction.GIVE,
        PERSON,
        "The same stage goes on, and its waiting time begins again.",
        _NOT_APPROVAL,
    ),
    Transition(
        ROLLBACK,
        (*_NEW, *_SPLIT, Status.DEPLOYED),
        Status.ROLLED_BACK,
        Direction.TAKE,
        EITHER,
        "The candidate gets no traffic any more; a proposal is refused.",
    ),
    Transition(
        ABORT,
        _SPLIT,
        Status.ABORTED,
        Direction.TAKE,
        PERSON,
        "Stop at once, latched: only `retry` leads out.",
    ),
    Transition(
        RETRY,
        _ENDED,
        Status.COLLECTING,
        Direction.NEUTRAL,
        PERSON,
        "It looks for a proposal again.",
        _NO_PROPOSAL,
    ),
    Transition(
        RETRY,
        _ENDED,
        Status.RUNNING,
        Direction.GIVE,
        PERSON,
        "A new attempt begins with the first stage and draws its units anew.",
        _STAGED,
    ),
    Transition(
        RETRY,
        _ENDED,
        Status.DEPLOYED,
        Direction.GIVE,
        PERSON,
        "A new attempt gives all traffic to the candidate.",
        _AT_ONCE,
    ),
    Transition(
        SUPERSEDE,
        (*_NEW, *_SPLIT, Status.DEPLOYED),
        Status.SUPERSEDED,
        Direction.TAKE,
        OPTIMIZER,
        "The file changed below it, and the operator's word wins; or newer deployments hide it.",
    ),
    Transition(
        DELETE,
        (*_NEW, *_ENDED),
        Status.DELETED,
        Direction.NEUTRAL,
        PERSON,
        "It leaves every list; its history stays.",
    ),
    Transition(
        WITHHOLD,
        (Status.PROPOSED, *_SPLIT, *_ENDED),
        None,
        Direction.TAKE,
        OPTIMIZER,
        "Traffic was to be given and could not be remembered for certain: what it was before is written again, newer.",
    ),
    Transition(
        RECOVER,
        tuple(Status),
        None,
        Direction.NEUTRAL,
        OPTIMIZER,
        "After a restart the database knew a newer record than the log did.",
    ),
)
