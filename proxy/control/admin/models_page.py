"""What the page's own endpoints ask for and answer: history, savings, densities, recent requests.

Times are Unix seconds, money in USD, shares 0..1. Lists of figures over time are parallel to ``at``; where there is
nothing to say they hold null, and where nothing happened 0.
"""

from typing import Final, Literal

from pydantic import ConfigDict, Field

from optimizer.events import CALLER_FAULT, CENSORED, COMPLETED, UPSTREAM_FAULT
from proxy.control.admin.models import Answer, MissingAnswer, Request

MOST_MINUTES: Final = 14 * 24 * 60
MOST_POINTS: Final = 1000
MOST_REQUESTS: Final = 500


class HistoryQuery(Request):
    """How far back, and in how many steps."""

    minutes: int = Field(default=60, ge=1, le=MOST_MINUTES, description="How far back.")
    points: int = Field(default=120, ge=1, le=MOST_POINTS, description="Most steps; they are whole seconds.")
    route: str | None = Field(default=None, description="Only this route, and its arms.")
    until: int | None = Field(
        default=None, ge=0, le=1 << 40, description="The history ends with the step that this moment is in."
    )


class RouteHistory(Answer):
    """One route in each step; ``failed`` are faults upstream. ``saved_usd`` is against the baseline's mean cost."""

    route: str
    requests: list[int]
    failed: list[int]
    cost_usd: list[float]
    saved_usd: list[float]


class ArmHistory(Answer):
    """One arm in each step, by who served. ``quality`` is the mean of the ``rated`` ratings that arrived.

    ``cost_usd`` includes attempts that failed. Percentiles are of completed requests, exact within 6 %. ``model`` and
    ``variant`` are null for an arm that neither the configuration nor a request has told of.
    """

    arm: str
    model: str | None
    variant: str | None
    requests: list[int]
    failed: list[int]
    cost_usd: list[float]
    latency_p50_s: list[float | None]
    latency_p95_s: list[float | None]
    ttft_p50_s: list[float | None]
    quality: list[float | None]
    rated: list[int]


class HistoryAnswer(Answer):
    """What happened when. ``at`` are the beginnings of the steps; the last one is not over yet.

    ``arms`` and ``candidate_share`` (of the requests during a rollout) come with ``route`` only.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    from_: int = Field(alias="from")
    to: int
    step_s: int
    at: list[int]
    routes: list[RouteHistory]
    arms: list[ArmHistory] | None
    candidate_share: list[float | None] | None
    incomplete: list[MissingAnswer] | None = None


class SavingsFigures(Answer):
    """What was saved against the baseline, with its 95 % interval; null where nothing is known.

    ``share`` is of what the baseline would have cost. ``unknown`` requests could not be compared.
    """

    requests: int
    unknown: int
    actual_usd: float | None
    baseline_usd: float | None
    saved_usd: float | None
    low_usd: float | None
    high_usd: float | None
    share: float | None
    low_share: float | None
    high_share: float | None


class SavingsAnswer(Answer):
    """Savings of all routes together, and of each."""

    total: SavingsFigures
    routes: dict[str, SavingsFigures]
    incomplete: list[MissingAnswer] | None = None


class DensitiesQuery(Request):
    """Which route."""

    route: str = Field(description="The route whose arms are asked about.")


class ArmDensity(Answer):
    """What is believed about one arm: ``density`` at 65 places ``x``, which are closer where there is more of it.

    All arms of a signal begin and end at the same two places. The rest is as in `/api/v1/arms`.
    """

    arm: str
    mean: float
    low: float
    high: float
    weight: float
    x: list[float]
    density: list[float]


class SignalDensities(Answer):
    """One signal of all arms."""

    signal: Literal["quality", "success", "cost_usd", "latency_s"]
    arms: list[ArmDensity]


class DensitiesAnswer(Answer):
    """Beliefs about the arms of a route as curves; signals that nobody has observed are left out."""

    route: str
    signals: list[SignalDensities]
    incomplete: list[MissingAnswer] | None = None


class RequestsQuery(Request):
    """Which of the newest requests; the newest first."""

    route: str | None = Field(default=None, description="Only of this route.")
    arm: str | None = Field(default=None, description="Only those that this arm was chosen for, or served.")
    outcome: Literal[COMPLETED, UPSTREAM_FAULT, CALLER_FAULT, CENSORED] | None = Field(  # type: ignore[valid-type]
        default=None, description="Only those that ended so."
    )
    limit: int = Field(default=50, ge=1, le=MOST_REQUESTS, description="Most rows.")
    before: str | None = Field(
        default=None, max_length=100, description="`next` of the page before: what is older than that."
    )


class RequestAnswer(Answer):
    """One request in short. ``time`` is when it began; ``arm`` was decided on, ``served_by`` answered.

    ``error`` is a stable word. `/api/v1/decisions/{id}` says all about it.
    """

    id: str
    time: float
    route: str | None
    arm: str | None
    served_by: str | None
    model: str | None
    variant: str | None
    side: str | None
    outcome: str
    status: int | None
    error: str | None
    duration_ms: float | None
    ttft_ms: float | None
    cost_usd: float | None
    stream: bool
    attempts: int
    cached: bool
    endpoint: str | None


class RequestsAnswer(Answer):
    """One page of the newest requests of every node. ``next`` null: there are no older ones in memory."""

    requests: list[RequestAnswer]
    next: str | None
    incomplete: list[MissingAnswer] | None = None
