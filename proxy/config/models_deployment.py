"""Blocks about deploying, as the user guide writes them: stages, bounds, who is told, where it is kept."""

from typing import Annotated, Any

from pydantic import Field

from proxy.config.models_base import (
    AT_RESTART,
    Block,
    Count,
    Fraction,
    Name,
    Natural,
    NotNegative,
    Positive,
    Real,
    Text,
    Texts,
)
from proxy.config.models_optimization import OpenFraction

_YEAR_S = 365 * 86_400
# The plan is in every table and in every record of its rollout.
MOST_STAGES = 100


class StageBlock(Block):
    """One step of a rollout. It ends when its time is over, enough requests have come in, and no guard has failed."""

    percentage: Annotated[Real, Field(gt=0, le=100)] = Field(
        description="Traffic of the candidate, fractions too. A list that ends below 100 goes on to 100."
    )
    duration_sec: Annotated[NotNegative, Field(le=_YEAR_S)] | None = Field(
        default=None, description="Least time at this stage. Needed below 100 %."
    )
    min_samples: Natural = Field(default=100, description="Least requests of the candidate.")
    max_wait_sec: Annotated[Positive, Field(le=10 * _YEAR_S)] | None = Field(
        default=None,
        description="With too few requests by then the rollout pauses. Left out: 10 times `duration_sec`.",
    )


class HealthCheckBlock(Block):
    """Bounds that a candidate must keep, beside the comparison with the control, which always runs."""

    enabled: bool = Field(default=True, description="false: no bounds.")
    interval_sec: Positive = Field(
        default=30,
        description="How often a stage is judged for passing; failures are looked for all the time.",
    )
    error_rate_threshold: OpenFraction | None = Field(default=None, description="Largest share of failures.")
    latency_p95_threshold_ms: Positive | None = Field(
        default=None, description="Largest 95th percentile: to the first token for streams, in all otherwise."
    )
    cost_per_request_threshold_usd: Positive | None = Field(default=None, description="Largest mean cost.")
    quality_threshold: Fraction | None = Field(
        default=None,
        description="Share of the control's quality to keep. Left out: `optimization.quality_threshold`.",
    )
    non_inferiority_margin: OpenFraction | None = Field(
        default=None,
        description="A stage passes only when the candidate's success and quality are proven not to be worse by this "
        "much.",
    )


class CanaryBlock(Block):
    """A gradual rollout."""

    enabled: bool = Field(default=True, description="false: changes reach all traffic at once.")
    stages: list[StageBlock] = Field(
        default_factory=list,
        max_length=MOST_STAGES,
        description="Steps, rising. Left out: 1 % for 5 minutes, 10 % for 10, 50 % for 15, then all.",
    )
    health_check: HealthCheckBlock | None = Field(
        default=None, description="Bounds; the same as `deployment.health_check`."
    )


class DeploymentBlock(Block):
    """How changes reach traffic."""

    environment: Text = Field(
        default="production", description="Name of this installation; in `staging` a person promotes."
    )
    auto_promote: bool = Field(
        default=True, description="false: after the last stage below 100 % a person promotes."
    )
    guard_lease_sec: Annotated[Positive, Field(ge=2)] = Field(
        default=10, description="Candidate traffic goes back to control this long after its guard was lost."
    )
    canary: CanaryBlock | None = Field(default=None, description="A gradual rollout.")
    health_check: HealthCheckBlock | None = Field(default=None, description="Bounds for every rollout.")


class WebhookBlock(Block):
    """Who is told what becomes of optimizations. A text is the address."""

    name: Name | None = Field(default=None, description="Left out: the host of `url`.")
    url: Text = Field(description="http or https address that gets each event with POST.")
    secret: Text | None = Field(
        default=None, description="Signs what is sent (HMAC-SHA256). Left out: nothing is signed."
    )
    events: Texts = Field(
        default_factory=list,
        description="Which events, such as `optimization.rolled_back` or `optimization.*`. Left out: all.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the address."""
        return {"url": value} if isinstance(value, str) else super().shorthand(value)


class DatabaseBlock(Block):
    """Where optimizations and audit are kept; without it a file in the state directory."""

    url: Text | None = Field(
        default=None,
        description="postgresql:// or sqlite:// address; `${NAME}` may stand in the place of its password. Left out: a "
        "file in the state directory.",
        json_schema_extra=AT_RESTART,
    )
    max_connections: Count = Field(
        default=20, description="Connections open at once.", json_schema_extra=AT_RESTART
    )
    timeout_sec: Positive = Field(default=5, description="Time for an answer.", json_schema_extra=AT_RESTART)
