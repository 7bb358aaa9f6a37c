"""Blocks about what a route's decisions look at, must keep, and learn from: context, constraints, drift, judge."""

from typing import Annotated, Any

from pydantic import Field

from proxy.config.models_base import (
    Block,
    Count,
    Fraction,
    Name,
    Positive,
    Real,
    Text,
    Texts,
    switched_off,
)

MOST_CLIENT_FEATURES = 16
MOST_VALUES = 16
MOST_LEXICAL = 64
LONGEST_RUBRIC = 8_000

Share = Annotated[Fraction, Field(gt=0)]


def _switch(value: Any) -> dict[str, bool] | None:
    """What `true` or `false` in the place of a block stands for; None for anything else."""
    if switched_off(value):
        return {"enabled": False}
    is_on = value is True or (isinstance(value, str) and value.strip().lower() == "true")
    return {} if is_on else None


class ClientFeatureBlock(Block):
    """Something that callers say about a request, in a header or in the body's `metadata`."""

    name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,31}$")] = Field(
        description="Small letters, digits and _."
    )
    header: Text | None = Field(default=None, description="The request header that says it.")
    metadata: Text | None = Field(default=None, description="Or the key of the body's `metadata` that does.")
    values: Annotated[Texts, Field(max_length=MOST_VALUES)] = Field(
        default_factory=list,
        description="The words it may be, one feature each; any other counts as none. Left out: it is a number.",
    )
    min: Real = Field(default=0, description="Least value of a number; what is below counts as this.")
    max: Real = Field(default=1, description="Largest value of a number; what is above counts as this.")


class ContextBlock(Block):
    """Decide by what a request is like: its length, kind of task, code, tools... `true` is the built-in features."""

    enabled: bool = Field(default=True, description="`context: false` is short for `{enabled: false}`.")
    lexical: bool = Field(
        default=False,
        description="Words of the last user message count too. Of them the event log gets hashes of 12 bits, never "
        "the text.",
    )
    lexical_size: Annotated[Count, Field(le=MOST_LEXICAL)] = Field(
        default=16, description="Into how many features the words are condensed."
    )
    client: Annotated[list[ClientFeatureBlock], Field(max_length=MOST_CLIENT_FEATURES)] = Field(
        default_factory=list, description="What callers say about a request."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """`true` is the built-in features, `false` none."""
        switch = _switch(value)
        return super().shorthand(value) if switch is None else switch


class ConstraintsBlock(Block):
    """What the route must keep while it pursues its objectives; what can not be kept is reported."""

    cost_per_request_usd: Positive | None = Field(
        default=None, description="Mean cost of a request. Needs the price of every arm."
    )
    cost_per_day_usd: Positive | None = Field(
        default=None,
        description="Spending per UTC day, paced over the day; `limits.usd_per_day` refuses what is beyond.",
    )
    target_reduction: Annotated[Fraction, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Share of the baseline's mean cost to save."
    )
    max_request_usd: Positive | None = Field(
        default=None,
        description="Arms whose predicted cost of a request is beyond this do not get it while another arm can.",
    )
    quality_floor: Share | None = Field(default=None, description="Least mean quality, absolute.")
    quality_threshold: Share | None = Field(
        default=None, description="Share of the baseline's mean quality to keep."
    )
    latency_p95_ms: Positive | None = Field(
        default=None,
        description="At most 5 % of the replies take longer: to the first token for streams, in all otherwise.",
    )


class DriftBlock(Block):
    """Looking for sudden changes of an arm, whose old evidence then counts little. `false` switches it off."""

    enabled: bool = Field(default=True, description="`drift: false` is short for `{enabled: false}`.")
    tolerance: Positive = Field(
        default=0.05,
        description="A mean that moves by less is no change: of quality and success, and of the natural logarithms of "
        "cost and latency.",
    )
    threshold: Positive = Field(
        default=10, description="How much evidence an alarm needs: what goes beyond the tolerance, summed up."
    )
    keep: Fraction = Field(default=0.02, description="Share of the old evidence that counts after an alarm.")

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """`false` is off, `true` the defaults."""
        switch = _switch(value)
        return super().shorthand(value) if switch is None else switch


class JudgeBlock(Block):
    """A model that rates sampled answers, behind the requests' back. A text is the model's name.

    What is sampled is kept in the state directory until it is judged, at most for some hours, and sent to that model.
    """

    model: Text = Field(description="Name of a model; its upstream needs a key of its own.")
    name: Name | None = Field(default=None, description="Left out: the model's name.")
    rubric: Annotated[str, Field(min_length=1, max_length=LONGEST_RUBRIC)] | None = Field(
        default=None,
        description="What a good answer is, in words. Left out: how well it does what was asked for.",
    )
    rate: Annotated[Fraction, Field(gt=0)] = Field(default=0.05, description="Share of the requests sampled.")
    usd_per_day: Positive = Field(
        default=1, description="Most that judging may cost per UTC day. Needs the model's price."
    )
    max_content_bytes: Annotated[Count, Field(ge=1024, le=4 * 1024 * 1024)] = Field(
        default=65_536, description="Prompts and answers are cut to this."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the model's name."""
        return {"model": value} if isinstance(value, str) else super().shorthand(value)
