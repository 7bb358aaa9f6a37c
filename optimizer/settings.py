"""What the optimizer must be told: typed settings, independent of any file format.

``proxy.config`` compiles a configuration file into ``Settings``; ``optimizer.publisher`` joins
``Settings`` with learned statistics into a ``RoutingTable``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optimizer.routing import Access, Arm, Limits, Model, Quota, Resilience, Sticky, Upstream, Variant


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

    ``floor`` is the least probability of every arm, ``min_pulls`` the completed requests before an arm leaves the
    nursery, ``half_life_s`` the forgetting by event time, ``max_memory`` the cap on effective sample size.
    ``epsilon`` serves epsilon-greedy, ``fixed`` the fixed policy (arm id -> probability; empty = baseline only).
    """

    name: str = "thompson"
    floor: float = 0.02
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


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the event log is shipped. Times in seconds."""

    brokers: tuple[str, ...]
    topic: str = "llm-feedback"
    group_id: str = "optimizer-group"
    client_id: str = "llm-optimizer"
    request_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Bounds of the event log on disk."""

    max_bytes: int = 10 * 1024**3
    max_disk_fraction: float = 0.2
    max_age_s: float = 30 * 86400.0
    segment_bytes: int = 64 * 1024 * 1024


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
