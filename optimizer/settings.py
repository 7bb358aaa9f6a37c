"""What the optimizer must be told: typed settings, independent of any file format.

``proxy.config`` compiles a configuration file into ``Settings``; ``optimizer.publisher`` joins
``Settings`` with learned statistics into a ``RoutingTable``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optimizer.routing import (
    Access,
    Arm,
    Caching,
    ClientFeature,
    Limits,
    Model,
    Quota,
    Resilience,
    Sticky,
    Upstream,
    Variant,
)

# Least share of an arm where the operator does not say. An index explores by its own uncertainty; there the floor only
# keeps arms comparable and changes noticed.
FLOOR: Final = 0.02
STEERED_FLOOR: Final = 0.005


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing a route cares about. ``metric`` is ``quality``, ``cost``, ``latency``, ``ttft`` or a custom metric.

    ``weight`` >= 0; ``maximize`` False means less is better. ``scale`` is the amount that counts as 1
    (USD, seconds, or the custom metric's unit); None takes the largest posterior mean among the arms.
    """

    metric: str
    weight: float
    maximize: bool
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How a route learns. ``name`` is a key of ``policies.registry``.

    ``floor`` is the least probability of every arm, None is ``FLOOR`` or ``STEERED_FLOOR``; ``min_pulls`` the completed
    requests before an arm leaves the nursery, ``half_life_s`` the forgetting by event time, ``max_memory`` the cap on
    effective sample size.
    ``epsilon`` serves epsilon-greedy, ``fixed`` the fixed policy (arm id -> probability; empty = baseline only).
    """

    name: str = "thompson"
    floor: float | None = None
    min_pulls: int = 20
    half_life_s: float = 7 * 86400.0
    max_memory: float = 5000.0
    prior_strength: float = 5.0
    epsilon: float = 0.1
    fixed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CustomMetric:
    """An operator's own feedback metric. ``kind`` gauge|counter, ``aggregation`` mean|sum.

    ``low`` and ``high`` bound its values.
    """

    name: str
    kind: str = "gauge"
    aggregation: str = "mean"
    low: float | None = None
    high: float | None = None
    maximize: bool = True


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What a route's decisions may look at; every field only adds to the built-in features (``optimizer.context``).

    ``lexical`` lets hashes of words count (they are logged, the words are not); ``lexical_size`` is how many features
    the optimizer condenses them into.
    """

    client: tuple[ClientFeature, ...] = ()
    lexical: bool = False
    lexical_size: int = 16


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a route must keep while it pursues its objectives; None is no constraint.

    Costs in USD: mean per request, per UTC day, relative to the baseline arm's mean (0.6 = save 40 %), and
    ``max_request_usd``, above whose predicted cost an arm is not eligible. ``quality_floor`` is absolute, 0..1;
    ``quality_ratio`` relative to the baseline arm. ``latency_p95_ms``: at most 5 % of replies may take longer, to the
    first token for streams, in all otherwise.
    """

    cost_per_request_usd: float | None = None
    cost_per_day_usd: float | None = None
    cost_ratio: float | None = None
    max_request_usd: float | None = None
    quality_floor: float | None = None
    quality_ratio: float | None = None
    latency_p95_ms: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        return self != Constraints()


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Looking for sudden changes of an arm. ``keep`` is the share of its evidence that counts after an alarm, 0..1.

    A change of the mean by less than ``tolerance`` (0..1, of quality and success; logarithms of cost and latency) is no
    change; ``threshold`` is how much evidence an alarm needs, in the same unit times observations.
    """

    enabled: bool = True
    tolerance: float = 0.05
    threshold: float = 10.0
    keep: float = 0.02


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """A model that rates sampled answers of a route. ``model`` is a configured model's name.

    ``rate`` is the share of requests sampled, 0..1; ``usd_per_day`` bounds what judging may cost. ``version`` is the
    hash of model, rubric and scale: ratings of two versions are never compared.
    """

    name: str
    model: str
    rubric: str
    version: str
    rate: float = 0.05
    usd_per_day: float = 1.0
    max_content_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A route as the operator wrote it. ``baseline`` is an arm id; ``fallbacks`` need not be among ``arms``."""

    name: str
    arms: tuple[Arm, ...]
    baseline: str
    objectives: tuple[Objective, ...]
    policy: PolicySettings = field(default_factory=PolicySettings)
    match: tuple[str, ...] = ()
    sticky: Sticky | None = None
    home: str | None = None
    optimize: bool = True
    fallbacks: tuple[Arm, ...] = ()
    resilience: Resilience = field(default_factory=Resilience)
    quota: Quota | None = None
    context: ContextSettings | None = None
    constraints: Constraints = field(default_factory=Constraints)
    drift: DriftSettings = field(default_factory=DriftSettings)
    judge: JudgeSettings | None = None
    caching: Caching | None = None


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How to speak to the brokers. Secrets are references; files are paths in PEM.

    ``protocol`` is ``plaintext|ssl|sasl_plaintext|sasl_ssl``, ``mechanism`` ``PLAIN|SCRAM-SHA-256|SCRAM-SHA-512``.
    """

    protocol: str = "plaintext"
    mechanism: str | None = None
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The brokers, and the topics. ``feedback_topic`` is where other systems write ratings; None is ``topic``.

    ``compression`` of what is shipped is ``gzip`` or None.
    """

    brokers: tuple[str, ...]
    topic: str = "llm-feedback"
    group_id: str = "optimizer-group"
    client_id: str = "llm-optimizer"
    request_timeout_s: float = 10.0
    compression: str | None = "gzip"
    feedback_topic: str | None = None
    dead_letter_topic: str = "llm-feedback-dead"
    security: KafkaSecurity = field(default_factory=KafkaSecurity)


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Where spans go. ``url`` is the whole address; ``headers`` are (name, reference of a secret).

    ``sample_rate`` is the share, 0..1, of requests that come without a trace of their own.
    """

    url: str
    sample_rate: float = 1.0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """``url`` is a reference like every secret, because it may hold a password."""

    url: str
    max_connections: int = 10
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Several nodes as one. All of them have the same ``name``, ``secret``, Kafka topic, Redis and database.

    ``secret`` is a reference: the keys that sign request ids and digest client keys are derived from its value.
    ``advertise`` is the host:port under which other nodes reach this one's public listener; None is the machine's name
    and ``server.port``. ``shards`` is the number of partitions that the topic gets if it has to be made.
    """

    name: str
    secret: str
    advertise: str | None = None
    shards: int = 12


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Bounds of the event log on disk."""

    max_bytes: int = 10 * 1024**3
    max_disk_fraction: float = 0.2
    max_age_s: float = 30 * 86400.0
    segment_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a rollout. ``percentage`` 0..100 of the route's units get the candidate.

    It passes after ``duration_s`` with at least ``min_samples`` resolved outcomes of the candidate and no guard
    failed; without them it goes on until ``max_wait_s`` and then pauses.
    """

    percentage: float
    duration_s: float = 0.0
    min_samples: int = 100
    max_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """What a candidate is held to, beside the comparison with the concurrent control that always runs.

    Absolute: ``error_rate``, ``latency_p95_ms`` (time to first token for streams, total otherwise) and
    mean ``cost_per_request_usd``. ``quality_ratio`` is the share of the control's quality to keep.
    ``non_inferiority_margin`` makes a stage prove that the candidate is not worse by as much (success and quality,
    0..1). ``interval_s`` is how often a stage is judged for passing; failing is looked for all the time.
    """

    enabled: bool = True
    interval_s: float = 30.0
    error_rate: float | None = None
    latency_p95_ms: float | None = None
    cost_per_request_usd: float | None = None
    quality_ratio: float | None = None
    non_inferiority_margin: float | None = None


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Stages, rising; none means all traffic at once. ``approval``: stop before promotion, for a person."""

    stages: tuple[Stage, ...] = (
        Stage(1.0, 300.0, 100, 3000.0),
        Stage(10.0, 600.0, 100, 6000.0),
        Stage(50.0, 900.0, 100, 9000.0),
        Stage(100.0),
    )
    checks: HealthChecks = field(default_factory=HealthChecks)
    approval: bool = False


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """A strategy that the configuration lets run by itself. ``parameters`` as ``POST /api/v1/optimize`` takes them.

    ``routes`` are those it looks at; empty means all with more than one arm.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizationSettings:
    """The loop over strategies. ``quality_ratio`` is the default of every strategy that has a quality threshold."""

    enabled: bool = True
    interval_s: float = 300.0
    strategies: tuple[StrategySettings, ...] = ()
    quality_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class DeploymentSettings:
    """How changes reach traffic. ``plan`` is the default of every rollout."""

    environment: str = "production"
    auto_promote: bool = True
    plan: RolloutPlan = field(default_factory=RolloutPlan)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Who is told of transitions. ``secret`` is a reference, never a value; ``events`` empty means all."""

    name: str
    url: str
    secret: str | None = None
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where optimizations and audit are kept; ``url`` None is a SQLite file in the state directory.

    ``url`` is a reference like every secret, because it may hold a password.
    """

    url: str | None = None
    max_connections: int = 20
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the optimizer acts on. ``config_hash`` names the configuration it was compiled from."""

    config_hash: str
    upstreams: tuple[Upstream, ...]
    models: tuple[Model, ...]
    variants: tuple[Variant, ...]
    routes: tuple[RouteSettings, ...]
    passthrough: tuple[tuple[str, str], ...] = ()
    custom_metrics: tuple[CustomMetric, ...] = ()
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    kafka: KafkaSettings | None = None
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    publish_interval_s: float = 0.5
    guard_lease_s: float = 10.0
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    deployment: DeploymentSettings = field(default_factory=DeploymentSettings)
    webhooks: tuple[WebhookSettings, ...] = ()
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    redis: RedisSettings | None = None
    cluster: ClusterSettings | None = None
    tracing: TracingSettings | None = None

    def route(self, name: str) -> RouteSettings | None:
        """The route of that name, None without one."""
        return next((route for route in self.routes if route.name == name), None)
