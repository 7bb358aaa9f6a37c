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


class PromptBlock(Block):
    """A change to the prompt. Written as text: a template if it has ``{question}``, else a system prompt."""

    system: Text | None = None
    mode: Literal["set", "prepend", "append"] = "prepend"
    template: Text | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text, as in the user guide's ``variants``."""
        if isinstance(value, str):
            return {"template": value} if "{question}" in value else {"system": value}
        return super().shorthand(value)


class ArmBlock(Block):
    """Model x prompt x parameters. Written as text it is the model's name."""

    model: Text
    prompt: Text | None = None
    parameters: Annotated[dict[str, Any], EmptyIsNone] = Field(default_factory=dict)
    id: Name | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the model's name."""
        return {"model": value} if isinstance(value, str) else super().shorthand(value)


class PolicyBlock(Block):
    """How a route learns. Written as text it is the type."""

    type: Literal["thompson", "epsilon_greedy", "ucb", "fixed"] = "thompson"
    floor: Fraction = 0.02
    min_pulls: Natural = 20
    half_life_hours: Positive = 168
    max_memory: Positive = 5000
    prior_strength: Positive = 5
    epsilon: Fraction = 0.1
    probabilities: Annotated[dict[str, NotNegative], EmptyIsNone] = Field(default_factory=dict)

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the policy's type."""
        return {"type": value} if isinstance(value, str) else super().shorthand(value)


class ObjectiveBlock(Block):
    """One thing to pursue. Written as text it is the metric, with weight 1."""

    name: Text
    weight: NotNegative = 1.0
    direction: Literal["minimize", "maximize"] | None = None
    scale: Positive | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the metric's name."""
        return {"name": value} if isinstance(value, str) else super().shorthand(value)


class StickyBlock(Block):
    """What makes requests one unit: the ``user`` field of the body, or a header."""

    by: Literal["header", "user"]
    header: Text | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """``sticky: user``."""
        return {"by": value} if isinstance(value, str) else super().shorthand(value)


class RouteBlock(Block):
    """What a client's ``model`` selects."""

    match: Texts = Field(default_factory=list)
    arms: list[ArmBlock] = Field(default_factory=list)
    baseline: Text | None = None
    policy: PolicyBlock = Field(default_factory=PolicyBlock)
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | None = None
    sticky: StickyBlock | None = None
    home: Text | None = None
    optimize: bool = True
