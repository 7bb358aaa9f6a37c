"""Blocks about optimizing: strategies, custom metrics, deployment, as the user guide writes them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import (
    Block,
    CommaList,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    Real,
    Text,
    Texts,
)
from proxy.config.models_route import ObjectiveBlock, PromptBlock

OpenFraction = Annotated[Fraction, Field(gt=0, lt=1)]


class ModelSelectionBlock(Block):
    """Models to choose among, and what counts. ``baseline`` defaults to the first model."""

    enabled: bool = True
    models: Texts = Field(default_factory=list)
    criteria: Texts = Field(default_factory=list)
    baseline: Text | None = None


class VariantBlock(PromptBlock):
    """A prompt variant, with an optional name."""

    name: Text | None = None


class PromptOptimizationBlock(Block):
    """Prompt variants to compare, and how the comparison is judged."""

    enabled: bool = True
    variants: list[VariantBlock] = Field(default_factory=list)
    test_duration_sec: Positive = 3600
    significance_level: OpenFraction = 0.05
    metrics: Texts = Field(default_factory=list)


class CostReductionBlock(Block):
    """How much to save, and how much of the baseline's quality to keep while doing so."""

    enabled: bool = True
    target_reduction: OpenFraction = 0.3
    quality_threshold: Fraction | None = None
    quality_floor: Real | None = None


class LatencyOptimizationBlock(Block):
    """The 95th percentile to reach: time to first token for streams, total otherwise."""

    enabled: bool = True
    target_p95_ms: Positive | None = None
    quality_threshold: Fraction | None = None
    quality_floor: Real | None = None


class MultiObjectiveBlock(Block):
    """What routes pursue unless they say otherwise."""

    enabled: bool = True
    objectives: list[ObjectiveBlock] = Field(default_factory=list)


Strategy = Literal[
    "model_selection", "prompt_optimization", "cost_reduction", "latency_optimization", "multi_objective"
]


class OptimizationBlock(Block):
    """The optimizer as a whole. ``strategies`` left out means: every block that is present and enabled."""

    enabled: bool = True
    interval_sec: Positive = 300
    strategies: Annotated[list[Strategy], CommaList] | None = None
    quality_threshold: Fraction | None = None
    publish_interval_ms: Annotated[Positive, Field(ge=50)] = 500
    model_selection: ModelSelectionBlock | None = None
    prompt_optimization: PromptOptimizationBlock | None = None
    cost_reduction: CostReductionBlock | None = None
    latency_optimization: LatencyOptimizationBlock | None = None
    multi_objective: MultiObjectiveBlock | None = None


class StageBlock(Block):
    """One step of a rollout."""

    percentage: Annotated[Real, Field(gt=0, le=100)]
    duration_sec: NotNegative | None = None
    min_samples: Natural = 100
    max_wait_sec: Positive | None = None


class HealthCheckBlock(Block):
    """Absolute bounds that a candidate must keep."""

    enabled: bool = True
    interval_sec: Positive = 30
    error_rate_threshold: Fraction | None = None
    latency_p95_threshold_ms: Positive | None = None
    cost_per_request_threshold_usd: Positive | None = None
    quality_threshold: Fraction | None = None
    non_inferiority_margin: Fraction | None = None


class CanaryBlock(Block):
    """A gradual rollout."""

    enabled: bool = True
    stages: list[StageBlock] = Field(default_factory=list)
    health_check: HealthCheckBlock | None = None


class DeploymentBlock(Block):
    """How changes reach traffic. ``guard_lease_sec`` is how long candidate traffic survives its guard."""

    environment: Text = "production"
    auto_promote: bool = True
    guard_lease_sec: Annotated[Positive, Field(ge=2)] = 10
    canary: CanaryBlock | None = None
    health_check: HealthCheckBlock | None = None


class CustomMetricBlock(Block):
    """A feedback metric of the operator's own. ``min`` and ``max`` bound its values."""

    name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")]
    type: Literal["gauge", "counter"] = "gauge"
    aggregation: Literal["mean", "sum"] | None = None
    direction: Literal["minimize", "maximize"] = "maximize"
    min: Real | None = None
    max: Real | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the metric's name."""
        return {"name": value} if isinstance(value, str) else super().shorthand(value)


class MetricsBlock(Block):
    """Metrics beyond the built-in ones."""

    custom: list[CustomMetricBlock] = Field(default_factory=list)


class DatabaseBlock(Block):
    """Where optimizations and audit are kept; without it a file in the state directory."""

    url: Text | None = None
    max_connections: Count = 20
    timeout_sec: Positive = 5


class RedisBlock(Block):
    """What joins several nodes."""

    url: Text | None = None
    max_connections: Count = 10
    timeout_sec: Positive = 5


class KafkaBlock(Block):
    """Where the event log is shipped."""

    brokers: Texts = Field(default_factory=list)
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = "llm-feedback"
    group_id: Text = "optimizer-group"
    client_id: Text = "llm-optimizer"
    request_timeout_ms: Positive = 10_000
