"""Blocks about upstreams that fail and about limits: breakers, retries, deadlines, streams, quotas."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from proxy.config.models_base import Block, Count, Fraction, Natural, NotNegative, Positive, switched_off

LONGEST_HOLD_MS = 10_000
MOST_HELD_TOKENS = 1_000
MOST_ATTEMPTS = 10


def _not_zero(value: Any) -> Any:
    """A limit of 0 is how somebody locks everybody out by mistake."""
    if value in (0, "0", 0.0) and value is not False:
        raise ValueError(
            "a limit of 0 would refuse every request; leave it out for no limit, remove the route to close it, "
            "or revoke client keys with `llm-optimizer keys revoke`"
        )
    return value


LimitCount = Annotated[Count, BeforeValidator(_not_zero)]
LimitAmount = Annotated[Positive, BeforeValidator(_not_zero)]


class BreakerBlock(Block):
    """When a model at this upstream counts as down, and how it comes back. `false` switches it off."""

    enabled: bool = Field(default=True, description="`breaker: false` is short for `{enabled: false}`.")
    consecutive_failures: Count = Field(default=5, description="Opens after this many failures in a row.")
    error_rate: Annotated[Fraction, Field(gt=0)] = Field(
        default=0.5, description="Opens when at least this share of the attempts within the window failed."
    )
    min_requests: Count = Field(
        default=20, description="Attempts within the window before the share of failures counts."
    )
    window_ms: Annotated[Positive, Field(ge=100, le=600_000)] = Field(
        default=10_000, description="How far back the share of failures looks."
    )
    open_ms: Annotated[Positive, Field(ge=10, le=600_000)] = Field(
        default=1_000, description="How long it stays open the first time; then one request tries."
    )
    max_open_ms: Annotated[Positive, Field(ge=10, le=600_000)] = Field(
        default=20_000,
        description="Each failed try doubles the time up to this. Left out: not below `open_ms`.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """`false` is off, `true` the defaults."""
        if switched_off(value):
            return {"enabled": False}
        return {} if value is True else super().shorthand(value)


class RetriesBlock(Block):
    """How often a failed request is tried again before anything reached the caller. A number is `attempts`."""

    attempts: Annotated[Count, Field(le=MOST_ATTEMPTS)] = Field(
        default=3,
        description="Attempts of one request in all, on whichever arm. `retries: 0` or `false` means one.",
    )
    same_arm: Natural = Field(
        default=1, description="How many of them may repeat the arm that failed quickly; the others move on."
    )
    backoff_ms: Annotated[Positive, Field(ge=1)] = Field(
        default=250,
        description="Wait before the first repetition on an arm; random up to this, then doubling.",
    )
    max_backoff_ms: Annotated[Positive, Field(ge=1)] = Field(
        default=4_000, description="Longest such wait. Left out: not below `backoff_ms`."
    )
    retry_after_ms: NotNegative = Field(
        default=5_000, description="A `Retry-After` up to this is waited for; a longer one moves on."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A number is the attempts; 0 and `false` mean one, `true` the defaults."""
        if switched_off(value):
            return {"attempts": 1}
        if value is True:
            return {}
        return {"attempts": value} if isinstance(value, (int, float, str)) else super().shorthand(value)


class TimeoutsBlock(Block):
    """Deadlines of the route's requests, beside those of the upstreams."""

    null_counts: ClassVar[frozenset[str]] = frozenset(("first_token_ms",))

    first_token_ms: Positive | None = Field(
        default=None,
        description="Wait for the first content of a stream; a slower arm is left for the next. "
        "Left out: twice `server.timeout_ms`, at most `total_ms`. null: no bound.",
    )
    total_ms: Positive | None = Field(
        default=None, description="Bound on a whole request, all attempts together. Left out: none."
    )


class StreamsBlock(Block):
    """What streams do about upstreams that fail on the way."""

    hold_ms: Annotated[NotNegative, Field(le=LONGEST_HOLD_MS)] = Field(
        default=0,
        description="Keep the beginning of a stream back for this long, so that an early failure stays invisible.",
    )
    hold_tokens: Annotated[Natural, Field(le=MOST_HELD_TOKENS)] = Field(
        default=0, description="Keep this many pieces of content back; with `hold_ms` whichever ends first."
    )
    resume: bool = Field(
        default=False,
        description="Continue a stream that was cut on an arm whose model can go on with a begun answer "
        "(capability `prefill`, `prefill_prefix` or `prefill_continue`).",
    )


class LimitsBlock(Block):
    """Limits of the route as a whole, over all callers. Minutes, days and months are those of UTC."""

    requests_per_minute: LimitCount | None = Field(default=None, description="Requests. Left out: no limit.")
    tokens_per_minute: LimitCount | None = Field(
        default=None, description="Tokens of input and output together. Left out: no limit."
    )
    usd_per_day: LimitAmount | None = Field(
        default=None, description="Spending. Needs the price of every arm. Left out: no limit."
    )
    usd_per_month: LimitAmount | None = Field(
        default=None, description="Spending. Needs the price of every arm. Left out: no limit."
    )
