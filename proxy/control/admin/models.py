"""What the endpoints of optimizations ask for and answer, as pydantic models: read requests, and the OpenAPI document.

Times are Unix seconds, percentages 0..100, shares 0..1. Answers grow: a client ignores fields that it does not know.
"""

from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, field_validator

from optimizer.rollouts.records import Status
from proxy.config.models_deployment import CanaryBlock

MAX_PARAMETERS_BYTES: Final = 16 * 1024
MAX_REASON: Final = 1000
LISTED: Final = frozenset(Status) - {Status.DELETED}
MOST_LISTED: Final = 200


def _printable(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Reason = Annotated[str, Field(max_length=MAX_REASON), AfterValidator(_printable)]


class Request(BaseModel):
    """Base of everything that callers send."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, protected_namespaces=()
    )


class Answer(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class MissingAnswer(Answer):
    """What could not be asked: a node that did not answer, or (``node`` null) shards that nobody learns at present."""

    node: str | None
    address: str | None
    shards: list[int]
    reason: str


class CreateRequest(Request):
    """An optimization to make."""

    name: Line = Field(description="What people call it.")
    strategy: Line = Field(description="How to look for an improvement, for example `cost_reduction`.")
    route: Line | None = Field(
        default=None, description="The route to improve. Left out: the only one there is, else `auto`."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="The strategy's own; numbers may be written as text."
    )
    deploy: StrictBool = Field(default=False, description="Deploy as soon as there is a proposal.")

    @field_validator("parameters")
    @classmethod
    def _small(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        # They travel in the event log and in the routing table.
        try:
            size = len(orjson.dumps(parameters))
        except (TypeError, ValueError):
            raise ValueError("must be plain values, not nested this deeply") from None
        if size > MAX_PARAMETERS_BYTES:
            raise ValueError(f"must not take more than {MAX_PARAMETERS_BYTES} bytes")
        return parameters


class CommandRequest(Request):
    """Why somebody does it; for the audit."""

    reason: Reason | None = Field(default=None, description="For the record and the audit.")


class PromoteRequest(CommandRequest):
    """How far to promote."""

    full: StrictBool = Field(default=False, description="true: to all traffic, without the other stages.")


class DeployRequest(CommandRequest):
    """How to deploy."""

    canary: CanaryBlock | None = Field(
        default=None, description="This rollout's own plan. Left out: `deployment` of the configuration."
    )


class ListQuery(Request):
    """Which optimizations, and which part of the list (the newest first)."""

    status: str | None = Field(
        default=None,
        description=f"One or several, with commas: {', '.join(Status)}. Left out: all but deleted ones.",
    )
    strategy: str | None = Field(default=None, description="Only this strategy's.")
    route: str | None = Field(default=None, description="Only those of this route.")
    limit: int = Field(default=20, ge=1, le=MOST_LISTED, description="Most that are answered.")
    offset: int = Field(default=0, ge=0, le=10**9, description="How many to leave out first.")

    @field_validator("status")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        for word in text.split(",") if text is not None else ():
            if word.strip() not in tuple(Status):
                raise ValueError(f"must be some of {', '.join(Status)}")
        return text

    def statuses(self) -> frozenset[Status]:
        """What ``status`` selects."""
        if self.status is None:
            return LISTED
        return frozenset(Status(word.strip()) for word in self.status.split(","))


class AuditQuery(Request):
    """Which rows of the audit; the newest first."""

    actor: str | None = Field(default=None, description="Only what this one did.")
    action: str | None = Field(default=None, description="Only this action, for example `keys.create`.")
    target: str | None = Field(default=None, description="Only what was done to this id.")
    limit: int = Field(default=50, ge=1, le=500, description="Most rows.")
    before: str | None = Field(
        default=None, max_length=300, description="`next` of the page before: what is older than that."
    )


class EffectAnswer(Answer):
    """What is expected of one metric. ``change`` is candidate - baseline, within ``low``..``high``."""

    metric: str
    unit: str
    baseline: float
    candidate: float
    change: float
    low: float
    high: float


class PolicyAnswer(Answer):
    """How a route draws among its arms."""

    name: str
    floor: float
    min_pulls: int
    half_life_s: float
    max_memory: float
    prior_strength: float
    epsilon: float
    fixed: dict[str, float]


class ObjectiveAnswer(Answer):
    """One thing that a route pursues."""

    metric: str
    weight: float
    maximize: bool
    scale: float | None


class ConstraintsAnswer(Answer):
    """What a route must keep; null is no bound. ``cost_ratio`` and ``quality_ratio`` are shares of the baseline's."""

    cost_per_request_usd: float | None
    cost_per_day_usd: float | None
    cost_ratio: float | None
    max_request_usd: float | None
    quality_floor: float | None
    quality_ratio: float | None
    latency_p95_ms: float | None


class CandidateAnswer(Answer):
    """What would change of the route; null is unchanged."""

    arms: list[str] | None
    baseline: str | None
    policy: PolicyAnswer | None
    objectives: list[ObjectiveAnswer] | None
    constraints: ConstraintsAnswer | None = None


class ProposalAnswer(Answer):
    """A change and its evidence. ``samples`` counts observations per arm."""

    candidate: CandidateAnswer
    summary: str
    effects: list[EffectAnswer]
    samples: dict[str, float]
    confidence: float
    made_at: float
    saving_usd_per_day: float | None
    quality_ratio: float | None = None


class StageAnswer(Answer):
    """One step of a rollout."""

    percentage: float
    duration_s: float
    min_samples: int
    max_wait_s: float


class ChecksAnswer(Answer):
    """What a candidate is held to besides the comparison with the control."""

    enabled: bool
    interval_s: float
    error_rate: float | None
    latency_p95_ms: float | None
    cost_per_request_usd: float | None
    quality_ratio: float | None
    non_inferiority_margin: float | None


class PlanAnswer(Answer):
    """How a change reaches traffic; without stages all of it at once."""

    stages: list[StageAnswer]
    checks: ChecksAnswer
    approval: bool


class RolloutAnswer(Answer):
    """One attempt to bring the proposal to traffic. ``stage`` counts from 0."""

    id: str
    attempt: int
    plan: PlanAnswer
    base: dict[str, str]
    started_at: float
    stage: int
    stage_started_at: float
    waited_from: float
    reference_ms: float | None
    expected_s: float | None


class VerdictAnswer(Answer):
    """What a guard found last. ``low`` and ``high`` bound the difference to control, or an absolute mean."""

    verdict: Literal["pass", "fail", "insufficient"]
    guard: str
    alpha: float
    control: float | None
    candidate: float | None
    threshold: float | None
    e_value: float | None
    low: float | None
    high: float | None
    control_samples: int
    candidate_samples: int
    control_fails: bool
    samples: int | None


class NeedsAnswer(Answer):
    """What the stage of a rollout still waits for. ``expected_s``: until time and samples are there, at the present
    traffic; ``pauses_in_s``: how long it may go on waiting."""

    waits_for: Literal["", "time", "samples", "margin", "person"]
    explanation: str
    time_s: float
    samples: float | None
    expected_s: float | None
    pauses_in_s: float | None


class MeasuredAnswer(Answer):
    """The guards: as they stand while a rollout is running or paused, as they stood when it ended afterwards."""

    guards: dict[str, VerdictAnswer]
    needs: NeedsAnswer | None = Field(description="Null while no rollout divides the traffic.")


class OptimizationMetrics(Answer):
    """The proposal in three figures. ``cost_reduction`` is a share of the baseline's cost."""

    cost_reduction: float | None
    quality_score: float | None
    deployment_percentage: float


class OptimizationAnswer(Answer):
    """An optimization, as it stands. ``verbs`` are the commands that it takes now."""

    id: str
    name: str
    strategy: str
    route: str
    parameters: dict[str, Any]
    status: Status
    revision: int
    origin: Literal["api", "loop"]
    created_at: float
    updated_at: float
    reason: str
    explanation: str
    auto_deploy: bool
    proposal: ProposalAnswer | None
    rollout: RolloutAnswer | None
    measured: MeasuredAnswer
    deployed_at: float | None
    attempts: int
    candidate_percentage: float = Field(description="Traffic of the route that gets the candidate now.")
    metrics: OptimizationMetrics
    plan: PlanAnswer = Field(description="Of its rollout; without one, what deploying would follow.")
    config_hash: str = Field(description="The configuration under which it got into its status.")
    verbs: list[str]


class DeploymentAnswer(OptimizationAnswer):
    """The optimization and its rollout. ``current_stage`` counts from 1; null before the first and after the last."""

    deployment_id: str | None
    current_stage: int | None


class RollbackAnswer(OptimizationAnswer):
    """The optimization, rolled back."""

    rolled_back_at: float


class DeletionAnswer(OptimizationAnswer):
    """The optimization, deleted; its history stays in the audit."""

    message: str


class OptimizationsAnswer(Answer):
    """A page of optimizations; ``total`` counts all that match."""

    optimizations: list[OptimizationAnswer]
    total: int
    limit: int
    offset: int
    incomplete: list[MissingAnswer] | None = None


class AuditRowAnswer(Answer):
    """One thing that somebody did."""

    id: str
    at: float
    actor: str
    action: str
    target: str
    detail: dict[str, Any]


class AuditAnswer(Answer):
    """A page of the audit. ``next`` is the ``before`` of the next page; null on the last."""

    audit: list[AuditRowAnswer]
    next: str | None


class StrategyParameter(Answer):
    """One parameter of a strategy."""

    name: str
    type: str
    description: str
    default: Any = None
    required: bool
    minimum: float | None
    maximum: float | None
    aliases: list[str]


class StrategyAnswer(Answer):
    """A strategy and what it takes."""

    name: str
    summary: str
    parameters: list[StrategyParameter]


class StrategiesAnswer(Answer):
    """Every strategy."""

    strategies: list[StrategyAnswer]
