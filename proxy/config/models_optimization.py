"""Blocks about optimizing, as the user guide writes them: strategies, custom metrics, Redis and Kafka."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import (
    Block,
    CommaList,
    Fraction,
    Positive,
    Real,
    Text,
    Texts,
)
from proxy.config.models_route import ObjectiveBlock, PromptBlock

OpenFraction = Annotated[Fraction, Field(gt=0, lt=1)]


class ModelSelectionBlock(Block):
    """Models to choose among, and what counts: a route `auto` over them, and one for each."""

    enabled: bool = Field(default=True, description="false keeps the strategy off.")
    models: Texts = Field(default_factory=list, description="Models to choose among.")
    criteria: Texts = Field(
        default_factory=list, description="Metrics that count, all the same; `multi_objective` has weights."
    )
    baseline: Text | None = Field(
        default=None, description="Baseline of the route `auto`. Left out: the first model."
    )


class VariantBlock(PromptBlock):
    """A prompt variant, with an optional name."""

    name: Text | None = Field(default=None, description="Left out: variant-1, variant-2...")


class PromptOptimizationBlock(Block):
    """Prompt variants to compare, and how the comparison is judged."""

    enabled: bool = Field(default=True, description="false keeps the strategy off.")
    variants: list[VariantBlock] = Field(
        default_factory=list, description="Prompts to compare, beside the unchanged one."
    )
    test_duration_sec: Positive = Field(
        default=3600, description="After so long without a winner the answer is that no difference was shown."
    )
    significance_level: OpenFraction = Field(
        default=0.05, description="Largest chance of a wrong winner that is accepted."
    )
    metrics: Texts = Field(
        default_factory=list,
        description="Metrics that decide: quality, success, cost, latency, or custom ones. Left out: quality.",
    )


class CostReductionBlock(Block):
    """How much to save, and how much of the baseline's quality to keep while doing so."""

    enabled: bool = Field(default=True, description="false keeps the strategy off.")
    target_reduction: OpenFraction = Field(
        default=0.3, description="Share of the baseline's cost to save; `target` is short for it."
    )
    quality_threshold: Fraction | None = Field(
        default=None, description="Share of the baseline's quality to keep."
    )
    quality_floor: Fraction | None = Field(default=None, description="Least quality, absolute.")


class LatencyOptimizationBlock(Block):
    """The 95th percentile to reach: time to first token for streams, total otherwise."""

    enabled: bool = Field(default=True, description="false keeps the strategy off.")
    target_p95_ms: Positive | None = Field(default=None, description="The percentile to reach.")
    quality_threshold: Fraction | None = Field(
        default=None, description="Share of the baseline's quality to keep."
    )
    quality_floor: Fraction | None = Field(default=None, description="Least quality, absolute.")


class MultiObjectiveBlock(Block):
    """What routes pursue unless they say otherwise."""

    enabled: bool = Field(default=True, description="false: as if the block were not there.")
    objectives: list[ObjectiveBlock] = Field(default_factory=list, description="Metrics and weights.")


Strategy = Literal[
    "model_selection", "prompt_optimization", "cost_reduction", "latency_optimization", "multi_objective"
]


class OptimizationBlock(Block):
    """The optimizer as a whole, and the short way to routes: what stands under `routes` wins."""

    enabled: bool = Field(default=True, description="false: every route plays its baseline only.")
    interval_sec: Annotated[Positive, Field(ge=1)] = Field(
        default=300, description="How often strategies look for changes."
    )
    strategies: Annotated[list[Strategy], CommaList] | None = Field(
        default=None, description="Which strategies run. Left out: every block that is present and enabled."
    )
    quality_threshold: Fraction | None = Field(
        default=None,
        description="Share of the baseline's quality to keep, for strategies and rollouts without one of their own.",
    )
    publish_interval_ms: Annotated[Positive, Field(ge=50)] = Field(
        default=500, description="How often learned shares reach the workers."
    )
    model_selection: ModelSelectionBlock | None = Field(
        default=None, description="A route `auto` over the listed models, and one for each of them."
    )
    prompt_optimization: PromptOptimizationBlock | None = Field(
        default=None, description="Prompts to compare."
    )
    cost_reduction: CostReductionBlock | None = Field(default=None, description="Cost to save.")
    latency_optimization: LatencyOptimizationBlock | None = Field(default=None, description="Speed to reach.")
    multi_objective: MultiObjectiveBlock | None = Field(
        default=None, description="Objectives of every route without its own."
    )


class CustomMetricBlock(Block):
    """A feedback metric of your own. A text is its name."""

    name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")] = Field(
        description="Small letters, digits and _."
    )
    type: Literal["gauge", "counter"] = Field(default="gauge", description="A level, or something counted.")
    aggregation: Literal["mean", "sum"] | None = Field(
        default=None, description="How values join. Left out: mean of a gauge, sum of a counter."
    )
    direction: Literal["minimize", "maximize"] = Field(default="maximize", description="What is better.")
    min: Real | None = Field(default=None, description="Least value that is accepted.")
    max: Real | None = Field(default=None, description="Largest value that is accepted.")

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the metric's name."""
        return {"name": value} if isinstance(value, str) else super().shorthand(value)


class MetricsBlock(Block):
    """Metrics beyond the built-in ones."""

    custom: list[CustomMetricBlock] = Field(
        default_factory=list, description="Metrics for POST /v1/feedback."
    )
