"""Blocks about what a request may become: prompts, routes, arms, policies, objectives."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import (
    Block,
    EmptyIsNone,
    Fraction,
    Name,
    Natural,
    NotNegative,
    Positive,
    Text,
    Texts,
)
from proxy.config.models_cache import CacheBlock
from proxy.config.models_learning import ConstraintsBlock, ContextBlock, DriftBlock, JudgeBlock
from proxy.config.models_resilience import LimitsBlock, RetriesBlock, StreamsBlock, TimeoutsBlock


class PromptBlock(Block):
    """A change to the prompt. A text is a template if it has `{question}` in it, else a system prompt."""

    system: Text | None = Field(default=None, description="A system prompt.")
    mode: Literal["set", "prepend", "append"] = Field(
        default="prepend", description="How `system` joins the caller's; `set` replaces it."
    )
    template: Text | None = Field(
        default=None, description="Wraps the last user message, for which {question} stands."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text, as in the user guide's ``variants``."""
        if isinstance(value, str):
            return {"template": value} if "{question}" in value else {"system": value}
        return super().shorthand(value)


class ArmBlock(Block):
    """Model x prompt x parameters. A text is the model's name."""

    model: Text = Field(description="Name of a model.")
    prompt: Text | None = Field(default=None, description="Name of a prompt. Left out: unchanged.")
    parameters: Annotated[dict[str, Any], EmptyIsNone] = Field(
        default_factory=dict, description="Fields set on the request; null removes the field."
    )
    id: Name | None = Field(
        default=None, description="Left out: model, or model+prompt, with #1, #2... for parameters."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the model's name."""
        return {"model": value} if isinstance(value, str) else super().shorthand(value)


class PolicyBlock(Block):
    """How a route learns. A text is the type."""

    type: Literal["thompson", "epsilon_greedy", "ucb", "fixed"] = Field(
        default="thompson", description="`fixed` does not learn."
    )
    floor: Fraction | None = Field(
        default=None,
        description="Least share of every arm. Left out: 0.02, or 0.005 where `context` or `constraints` steer; there "
        "an arm so dear that floors would take more than 2 % of the budget, or of what is spent, gets less.",
    )
    min_pulls: Natural = Field(default=20, description="Requests before an arm is judged.")
    half_life_hours: Positive = Field(default=168, description="How fast old outcomes fade.")
    max_memory: Positive = Field(default=5000, description="Most outcomes that count.")
    prior_strength: Positive = Field(
        default=5, description="How many outcomes the first guess about a new arm weighs."
    )
    epsilon: Fraction = Field(default=0.1, description="Share of exploration, for `epsilon_greedy`.")
    probabilities: Annotated[dict[str, NotNegative], EmptyIsNone] = Field(
        default_factory=dict,
        description="Share by arm id, for `fixed`; they sum to 1. Left out: the baseline alone.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the policy's type."""
        return {"type": value} if isinstance(value, str) else super().shorthand(value)


class ObjectiveBlock(Block):
    """One thing to pursue. A text is the metric, with weight 1."""

    name: Text = Field(description="`quality`, `cost`, `latency`, `ttft`, or a custom metric.")
    weight: NotNegative = Field(default=1.0, description="How much it counts beside the others.")
    direction: Literal["minimize", "maximize"] | None = Field(
        default=None, description="Left out: what the metric says; built-in ones know theirs."
    )
    scale: Positive | None = Field(
        default=None,
        description="What counts as 1 (USD, seconds, or its own unit). Left out: learned from the arms.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the metric's name."""
        return {"name": value} if isinstance(value, str) else super().shorthand(value)


class StickyBlock(Block):
    """What makes requests one unit that keeps its arm. `user` is the `user` field of the body."""

    by: Literal["header", "user"] = Field(description="A request header, or the body's `user` field.")
    header: Text | None = Field(default=None, description="Name of the header, for `by: header`.")

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """``sticky: user``."""
        return {"by": value} if isinstance(value, str) else super().shorthand(value)


class RouteBlock(Block):
    """What a client's `model` selects: first a route of that name, then a pattern, then a model."""

    match: Texts = Field(
        default_factory=list,
        description="Patterns of model names with * ? [abc]; the first route with a fitting one wins.",
    )
    arms: list[ArmBlock] = Field(
        default_factory=list,
        description="What it chooses among. Left out: the model of the route's name.",
    )
    baseline: Text | None = Field(
        default=None, description="Arm that savings are measured against. Left out: the first."
    )
    fallbacks: list[ArmBlock] = Field(
        default_factory=list,
        description="Where to go, in order, when the chosen arm fails: an arm id of the route, or a model, written "
        "like arms. Left out: the route's other arms, the likeliest first.",
    )
    retries: RetriesBlock = Field(
        default_factory=RetriesBlock, description="How often a failed request is tried again."
    )
    timeouts: TimeoutsBlock = Field(default_factory=TimeoutsBlock, description="Deadlines.")
    streams: StreamsBlock = Field(default_factory=StreamsBlock, description="Streams that fail on the way.")
    hedge_after_ms: Positive | None = Field(
        default=None,
        description="Start a second attempt on another arm when no reply has begun by then; the first to answer "
        "wins. Needs two attempts and another arm. Left out: never.",
    )
    limits: LimitsBlock = Field(default_factory=LimitsBlock, description="Limits over all callers.")
    cache: CacheBlock | None = Field(
        default=None,
        description="Give the answer again to requests that are exactly the same. Left out: never.",
    )
    policy: PolicyBlock = Field(default_factory=PolicyBlock, description="How it learns.")
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | None = Field(
        default=None, description="What it pursues. Left out: quality 0.5, cost 0.3, latency 0.2."
    )
    context: ContextBlock | None = Field(
        default=None,
        description="Decide by what a request is like; needs at most 32 arms. Left out: every request is alike.",
    )
    constraints: ConstraintsBlock = Field(
        default_factory=ConstraintsBlock, description="What it must keep meanwhile."
    )
    drift: DriftBlock = Field(default_factory=DriftBlock, description="Sudden changes of an arm.")
    judge: JudgeBlock | None = Field(
        default=None,
        description="A model that rates sampled answers. Its ratings are then what quality means; those of users "
        "only help to estimate it. Left out: nobody but users.",
    )
    sticky: StickyBlock | None = Field(
        default=None, description="What keeps its arm. Left out: every request is drawn afresh."
    )
    home: Text | None = Field(
        default=None,
        description="Upstream that holds provider-side state (previous_response_id). Left out: the baseline's.",
    )
    optimize: bool = Field(default=True, description="false: baseline only, still recorded.")
