"""What the other endpoints ask for and answer, as pydantic models: routes, arms, decisions, keys, limits, health.

Times are Unix seconds where they are numbers, percentages 0..100, shares 0..1, money in USD.
"""

from typing import Any, Literal

from pydantic import Field, RootModel

from proxy.control.admin.models import Answer, MissingAnswer, Request


class ErrorBody(Answer):
    """A stable word, a sentence, and more for programs."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(Answer):
    """Every answer that is not a success."""

    error: ErrorBody


class ProblemAnswer(Answer):
    """One thing that is wrong, at its place."""

    path: str
    message: str
    suggestion: str | None
    line: int | None = None


class ArmsQuery(Request):
    """Which arms."""

    route: str | None = Field(default=None, description="Only this route.")


class ExportQuery(Request):
    """Which configuration."""

    source: Literal["effective", "file"] = Field(
        default="effective", description="What is in effect, or the file as it is written."
    )


class StickyAnswer(Answer):
    """What keeps its arm over several requests."""

    by: str
    header: str


class TableArm(Answer):
    """One arm in the table, with its share of its side."""

    id: str
    model: str
    upstream: str | None
    variant: str
    parameters: dict[str, Any]
    percentage: float


class TableSide(Answer):
    """One side of a route."""

    percentage: float
    policy: str
    baseline: str
    arms: list[TableArm]


class TableRollout(Answer):
    """What divides a route's traffic. ``stage`` counts from 0."""

    id: str
    percentage: float
    optimization: str | None = None
    name: str | None = None
    status: str | None = None
    reason: str | None = None
    attempt: int | None = None
    stage: int | None = None
    stages: int | None = None
    started_at: float | None = None
    stage_started_at: float | None = None
    expected_s: float | None = None


class TableOverlay(Answer):
    """A deployed optimization of a route."""

    optimization: str
    name: str
    strategy: str
    deployed_at: float | None


class TableContext(Answer):
    """What the route's decisions look at: a vector of ``size`` features. ``words``: those of the text count too."""

    features_version: str
    size: int
    words: bool
    by_request: bool


class TableRoute(Answer):
    """One route as the workers have it.

    ``context`` is null where every request is alike. With its ``by_request`` the arms' percentages are means: each
    request has its own; without, control only learns what the candidate decides by.
    """

    name: str
    match: list[str]
    sticky: StickyAnswer | None
    home: str | None
    control: TableSide
    candidate: TableSide | None = None
    rollout: TableRollout | None
    deployed: list[TableOverlay]
    context: TableContext | None


class RoutesAnswer(Answer):
    """The published routing table."""

    table_version: int
    published_at: float
    config_hash: str
    routes: list[TableRoute]
    incomplete: list[MissingAnswer] | None = None


class EstimateAnswer(Answer):
    """A posterior mean with its central 95 % interval; ``weight`` 0 means that only the prior speaks."""

    mean: float
    low: float
    high: float
    weight: float


class AlarmAnswer(Answer):
    """A sudden change of an arm. ``before`` and ``after`` are shares, or geometric means in USD or seconds.

    What was known about ``signal`` from before ``at`` (Unix seconds) counts ``keep`` (0..1) times since.
    """

    signal: str
    before: float
    after: float
    keep: float
    at: float


class ArmAnswer(Answer):
    """What is believed about one arm; null where nothing was observed on the route."""

    route: str
    arm: str
    model: str
    variant: str
    probability: float
    pulls: float
    share: float
    success: EstimateAnswer
    quality: EstimateAnswer | None
    cost_usd: EstimateAnswer | None
    latency_s: EstimateAnswer | None
    ttft_s: EstimateAnswer | None
    custom: dict[str, EstimateAnswer]
    alarms: list[AlarmAnswer]


class KeptAnswer(Answer):
    """One constraint: what is asked, what the policy is expected to do, what recent requests did.

    ``name`` is cost (USD per request), quality (0..1) or late (share of replies beyond the percentile's bound). With
    ``feasible`` false it can not be kept together with the others, and ``expected`` is the nearest that can.
    """

    name: str
    target: float
    expected: float
    actual: float | None
    multiplier: float
    feasible: bool


class SteeringAnswer(Answer):
    """How far a route keeps its constraints; ``gain`` 0..1 is how sure it is that its features tell arms apart."""

    kept: list[KeptAnswer]
    gain: float


class ArmsAnswer(Answer):
    """Every arm of every route, and how routes that are steered keep their constraints."""

    table_version: int
    arms: list[ArmAnswer]
    steering: dict[str, SteeringAnswer]
    incomplete: list[MissingAnswer] | None = None


class FeatureAnswer(Answer):
    """One entry of the vector that a contextual decision looked at."""

    name: str
    value: float


class ScoreAnswer(Answer):
    """One arm as a contextual policy saw it: ``mean`` = ``value`` minus all ``penalties``.

    ``probability`` was logged, ``recomputed`` is what the same policy gives again.
    """

    arm: str
    eligible: bool
    mean: float
    deviation: float
    value: float
    penalties: list[float]
    predicted_cost_usd: float | None
    given: float
    probability: float
    recomputed: float


class ContextualAnswer(Answer):
    """What a contextual decision saw. ``low`` and ``high`` bound the chosen arm's stretch of [0, 1).

    The scores are null when the policy that decided is no longer kept, or did not draw.
    """

    features_version: str
    features: list[FeatureAnswer]
    draw: float | None
    policy_blob: str
    arms: list[ScoreAnswer] | None
    low: float | None
    high: float | None
    difference: float | None


class DecisionAnswer(Answer):
    """The logged event of one request (CloudEvents 1.0), and the same in sentences."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: dict[str, Any]
    explanation: list[str]
    decision: ContextualAnswer | None


class CostSummary(Answer):
    """USD of the requests that can be compared: what they cost, and what the baselines would have cost."""

    current: float | None
    previous: float | None
    reduction: float | None


class LatencySummary(Answer):
    """Percentiles in ms, as upper bounds."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class QualitySummary(Answer):
    """Believed quality 0..1 of what was served, and by how much the present shares are better."""

    score: float | None
    trend: float | None


class Figures(Answer):
    """Totals since the node's beginning; the error rate is of the last five minutes."""

    requests: int
    completed: int
    failed: int
    error_rate_5m: float
    cost_usd: float
    cost_unknown_requests: int
    tokens: int
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    cost_savings_usd: float | None


class RouteFigures(Figures):
    """Totals of one route."""

    quality_score: float | None


class SummaryAnswer(Answer):
    """What the product does, in figures."""

    cost: CostSummary
    latency: LatencySummary
    quality: QualitySummary
    total: Figures
    routes: dict[str, RouteFigures]
    incomplete: list[MissingAnswer] | None = None


class ReloadAnswer(Answer):
    """What became of a reload. ``superseded`` are ids of optimizations that the new configuration ended."""

    result: Literal["applied", "unchanged"]
    config_hash: str
    generation: int
    table_version: int
    needs_restart: list[str]
    superseded: list[str]
    notes: list[str]


class ValidateRequest(Request):
    """A configuration to check."""

    config: str = Field(description="The YAML as text.")


class ValidateAnswer(Answer):
    """What is wrong with it, or what should be known."""

    valid: bool
    problems: list[ProblemAnswer]
    notes: list[str]
    config_hash: str | None = None
    routes: list[str] | None = None


class QuotaAnswer(Answer):
    """Limits; one that is missing is none."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None


class KeyRequest(Request):
    """What a new client key may do."""

    name: str = Field(description="Whose key it is.")
    routes: list[str] | None = Field(default=None, description="Routes, or patterns. Left out: all.")
    models: list[str] | None = Field(default=None, description="Plain models, or patterns. Left out: none.")
    pin: bool = Field(default=False, description="May ask for an arm by name.")
    passthrough: bool = Field(default=False, description="May use endpoints that are not optimized.")
    expires_in_sec: float | None = Field(default=None, gt=0, description="How long it is valid.")
    expires_at: float | str | None = Field(
        default=None, description="Until when: Unix seconds, or text with its zone."
    )
    quota: QuotaAnswer | None = Field(default=None, description="Its limits.")


class KeyAnswer(Answer):
    """A client key without its text."""

    id: str
    name: str
    state: Literal["active", "expired", "revoked"]
    last4: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    routes: list[str]
    models: list[str]
    pin: bool
    passthrough: bool
    quota: QuotaAnswer | None


class NewKeyAnswer(KeyAnswer):
    """A client key, with its text for the first and only time."""

    key: str
    warnings: list[str]


class KeysAnswer(Answer):
    """Every client key, the oldest first."""

    keys: list[KeyAnswer]


class LimitAnswer(Answer):
    """One limit in its present window; ``granted`` includes ``used``."""

    subject: str
    measure: str
    window: str
    starts_at: float
    resets_at: float
    limit: float
    granted: float
    used: float


class LimitsAnswer(Answer):
    """Every limit in use."""

    limits: list[LimitAnswer]


class HealthAnswer(Answer):
    """States of all components; an operator also sees figures."""

    status: Literal["healthy", "degraded"]
    components: dict[str, str]
    timestamp: str
    version: str | None = None
    uptime_seconds: float | None = None
    configuration: dict[str, Any] | None = None
    table: dict[str, Any] | None = None
    learning: dict[str, Any] | None = None
    event_log: dict[str, Any] | None = None
    breakers: list[dict[str, str]] | None = None
    limits: dict[str, Any] | None = None
    database: dict[str, Any] | None = None
    workers: dict[str, Any] | None = None
    engines: dict[str, Any] | None = None
    ownership: dict[str, Any] | None = None
    state_directory: dict[str, Any] | None = None
    task_deaths: dict[str, int] | None = None
    kafka: dict[str, Any] | None = None
    tracing: dict[str, Any] | None = None


class ResponseAnswer(Answer):
    """The request that a provider's response belongs to."""

    request_id: str


class FeedbackItem(Request):
    """A rating of one answer: which one, and one of `value`, `score` and `thumbs`."""

    id: str | None = Field(default=None, description="Either of the two ids below.")
    request_id: str | None = Field(default=None, description="Header x-request-id of the answer.")
    response_id: str | None = Field(default=None, description="Field `id` of the answer.")
    metric: str = Field(default="quality", description="`quality`, or a metric of the configuration.")
    value: float | None = Field(default=None, description="In the metric's own unit.")
    score: float | None = Field(default=None, description="A score; with `scale` out of that.")
    scale: float | None = Field(default=None, description="The best possible `score`.")
    thumbs: Literal["up", "down"] | None = Field(default=None, description="All or nothing.")
    comment: str | None = Field(default=None, description="Only its length is kept.")
    source: str = Field(default="user", description="Who rates; each counts once per request and metric.")
    idempotency_key: str | None = Field(
        default=None, description="Accepted; posting again is harmless anyway."
    )


class FeedbackBatch(Request):
    """Several ratings: all are taken or none."""

    feedback: list[FeedbackItem]


class FeedbackRequest(RootModel[FeedbackItem | list[FeedbackItem] | FeedbackBatch]):
    """One rating, or several."""


class FeedbackAnswer(Answer):
    """How many ratings were taken."""

    object: Literal["feedback"]
    accepted: int
