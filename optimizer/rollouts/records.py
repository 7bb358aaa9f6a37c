"""The record of one optimization: what was asked for, what is proposed, how far it has reached traffic.

Records are immutable values; every change makes a new one with a higher ``revision``. The same record may be known
to the event log, the routing table and the database, and wherever they differ the highest revision is right. Times
are Unix seconds, percentages are 0..100, so that a record means the same after a restart and on another machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from optimizer.settings import Constraints, Objective, PolicySettings, RolloutPlan

API: Final = "api"
LOOP: Final = "loop"


class Status(StrEnum):
    """Where an optimization stands; ``optimizer.rollouts.machine`` holds the transitions."""

    COLLECTING = "collecting"
    PROPOSED = "proposed"
    RUNNING = "running"
    PAUSED = "paused"
    DEPLOYED = "deployed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    DELETED = "deleted"


SPLITTING: Final = frozenset((Status.RUNNING, Status.PAUSED))
"""Control and candidate both exist, and the stage says who gets how much."""

OVERLAYING: Final = frozenset((*SPLITTING, Status.DEPLOYED))
"""The record changes a route."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to become of a route: the named fields that differ; None means unchanged.

    ``arms`` are ids of arms that the file gives to the route, in order; ``baseline`` is one of them.
    """

    arms: tuple[str, ...] | None = None
    baseline: str | None = None
    policy: PolicySettings | None = None
    objectives: tuple[Objective, ...] | None = None
    constraints: Constraints | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What is expected of one metric. ``low`` and ``high`` bound ``change`` with the proposal's confidence.

    ``change`` is candidate - baseline in the metric's unit; ``unit`` is ``usd``, ``s``, ``ratio`` or the metric's own.
    """

    metric: str
    unit: str
    baseline: float
    candidate: float
    change: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change and its evidence. ``samples`` counts observations per arm id.

    ``quality_ratio`` is the share of quality that the strategy was asked to keep, None for all of it.
    """

    candidate: Candidate
    summary: str
    effects: tuple[Effect, ...]
    samples: Mapping[str, float]
    confidence: float
    made_at: float
    saving_usd_per_day: float | None = None
    quality_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to bring a proposal to traffic.

    ``id`` keys the sticky hash, so an attempt keeps its units through all its stages and a retry draws anew. ``base``
    holds, per named field, a digest of the file's value that the candidate replaces. ``waited_from`` is when the clock
    of ``Stage.max_wait_s`` began. ``expected_s`` is how long the stage will probably take, None while nobody can tell.
    """

    id: str
    attempt: int
    plan: RolloutPlan
    base: Mapping[str, str]
    started_at: float
    stage: int
    stage_started_at: float
    waited_from: float
    reference_ms: float | None = None
    expected_s: float | None = None

    @property
    def percentage(self) -> float:
        """What the present stage gives to the candidate."""
        return self.plan.stages[self.stage].percentage


@dataclass(frozen=True, slots=True)
class Optimization:
    """The resource of the API. ``auto_deploy``: deploy as soon as there is a proposal.

    ``origin`` is ``api`` (a person asked) or ``loop`` (the configuration's strategies did). ``reason`` is a stable word
    for why it is in its status, ``explanation`` the sentence for people. ``measured`` are the last verdicts of the
    guards. ``deployed_at`` orders the overlays of a route. ``plan`` is one that somebody asked for, None takes the
    configuration's. ``config_hash`` names the configuration under which the record got into its status.
    """

    id: str
    name: str
    strategy: str
    route: str
    parameters: Mapping[str, Any]
    status: Status
    revision: int
    origin: str
    created_at: float
    updated_at: float
    reason: str = ""
    explanation: str = ""
    auto_deploy: bool = False
    proposal: Proposal | None = None
    rollout: Rollout | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    deployed_at: float | None = None
    attempts: int = 0
    plan: RolloutPlan | None = None
    config_hash: str = ""

    @property
    def candidate_percentage(self) -> float:
        """Share of the route's traffic that gets the candidate now, 0..100."""
        if self.status is Status.DEPLOYED:
            return 100.0
        return self.rollout.percentage if self.status in SPLITTING and self.rollout is not None else 0.0
