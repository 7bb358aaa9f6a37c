"""Renders totals and live facts as Prometheus families; nothing is counted here.

The invariant is that every name of the user guide is a series from the first scrape on: combinations that the
configuration knows are rendered at zero. A gauge whose value is unknown is NaN where its series is promised, and
absent elsewhere; unknown is never 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from optimizer.arm_report import ArmReport, Estimate
from optimizer.events import COMPLETED
from optimizer.settings import CustomMetric
from optimizer.steering import Steering
from proxy.control.cluster.facts import ClusterFacts
from proxy.control.metrics.caching import families as cache_families
from proxy.control.metrics.cluster import families as cluster_families
from proxy.control.metrics.cluster import intake_families
from proxy.control.metrics.drift import Series as DriftSeries
from proxy.control.metrics.drift import families as drift_families
from proxy.control.metrics.faults import STATE_VALUES, breaker_rows
from proxy.control.metrics.judging import JudgeFacts
from proxy.control.metrics.judging import families as judge_families
from proxy.control.metrics.limits import LimitFacts
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.rollouts import RolloutFacts
from proxy.control.metrics.rollouts import families as rollout_families
from proxy.control.metrics.steering import families as steering_families
from proxy.control.metrics.totals import NONE, TOKEN_KINDS, ArmLabels, ArmTotals, Histogram
from proxy.control.metrics.tracing import families as trace_families
from proxy.control.tracing import TraceFacts
from proxy.selectors import REFUSALS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "llm_optimizer_"
_ARM: Final = ("route", "arm", "model")
_WORKER_FRESH_S: Final = 6.0

LOSS_REASONS: Final = ("disk_full", "io_error", "cap", "queue_full", "removed")
"""Why the writer of a log could not keep a line."""

KAFKA: Final[Mapping[str, str]] = {
    "up": "Whether Kafka is connected.",
    "lag_bytes": "Bytes of the log that were not shipped to Kafka.",
    "delivered": "Events that Kafka has confirmed.",
    "retried": "Events sent to Kafka again because nobody knew whether they had arrived.",
    "dead_lettered": "Events that Kafka can never take and that were put aside.",
    "errors": "Attempts to connect or deliver to Kafka that failed.",
}


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """The configuration in use and its last reload (Unix seconds; None = never)."""

    config_hash: str
    generation: int
    last_successful: bool
    last_success_at: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a scrape shows besides the totals. Sizes in bytes, times in seconds."""

    now: float
    version: str
    config: ConfigFacts
    table_version: int
    table_published_at: float
    reports: Mapping[str, Sequence[ArmReport]] = field(default_factory=dict)
    savings_usd: Mapping[str, float | None] = field(default_factory=dict)
    custom: Sequence[CustomMetric] = ()
    feedback: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    log_bytes: int = 0
    ingest_lag_s: float = 0.0
    ingest_lag_bytes: int = 0
    ingest_events: int = 0
    ingest_errors: Mapping[str, int] = field(default_factory=dict)
    log_diversions: int = 0
    limits: LimitFacts = field(default_factory=LimitFacts)
    rollouts: RolloutFacts = field(default_factory=RolloutFacts)
    judging: JudgeFacts = field(default_factory=JudgeFacts)
    steering: Mapping[str, Steering] = field(default_factory=dict)
    drift: Sequence[DriftSeries] = ()
    task_deaths: Mapping[str, int] = field(default_factory=dict)
    tasks_down: int = 0
    kafka: Mapping[str, float] | None = None
    kafka_counters: Mapping[str, float] | None = None
    cluster: ClusterFacts | None = None
    kafka_feedback: Mapping[str, int] | None = None
    kafka_error: str = ""
    traces: TraceFacts | None = None


class _Families(Collector):
    """Families that were collected already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def collect(observer: MetricsObserver, facts: Facts) -> list[Metric]:
    """Every family, in the order of the page; reads the observer, so it belongs to the observer's thread."""
    return [
        *_request_families(observer, facts),
        *_histogram_families(observer),
        *_fault_families(observer, facts),
        *_arm_families(facts),
        *_estimate_families(facts),
        *_custom_families(observer, facts),
        *_limit_families(facts.limits),
        *steering_families(facts.steering),
        *drift_families(facts.drift),
        *rollout_families(facts.rollouts),
        *judge_families(facts.judging),
        *_pipeline_families(observer, facts),
        *_config_families(observer, facts),
        *_worker_families(observer, facts),
        *cache_families(observer.cache, observer.vocabulary.caching, _fresh(observer, facts)),
        *_kafka_families(facts),
        *intake_families(facts.kafka_feedback),
        *trace_families(facts.traces),
        *(cluster_families(facts.cluster, now=facts.now) if facts.cluster is not None else ()),
    ]


def render(families: Sequence[Metric]) -> bytes:
    """The exposition text, format 0.0.4; may run in any thread."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)


def _gauge(name: str, text: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _request_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    requests = _counter("requests", "Requests that ended, by outcome.", (*_ARM, "outcome", "status"))
    cost = _counter("cost", "Cost of requests in USD, from actual tokens.", _ARM)
    unknown = _counter("cost_unknown", "Completed requests whose cost is unknown.", _ARM)
    tokens = _counter("tokens", "Tokens by disjoint kind.", (*_ARM, "kind"))
    errors = _gauge("error_rate", "Share of failed requests in the last 5 minutes.", _ARM)
    for labels, totals in _arms_or_none(observer):
        counts = {(COMPLETED, "2xx"): 0, **totals.requests}
        for (outcome, status), count in counts.items():
            requests.add_metric((*labels, outcome, status), count)
        cost.add_metric(labels, totals.cost_usd)
        unknown.add_metric(labels, totals.cost_unknown)
        for kind in TOKEN_KINDS:
            tokens.add_metric((*labels, kind), totals.tokens[kind])
        asked, failed = totals.errors.counts(facts.now)
        errors.add_metric(labels, failed / asked if asked else 0.0)
    yield from (requests, cost, unknown, tokens, errors)
    dropped = _counter("metric_series_dropped", "Label combinations folded into `other` for being too many.")
    dropped.add_metric((), observer.dropped_series)
    yield dropped


def _arms_or_none(observer: MetricsObserver) -> Iterator[tuple[ArmLabels, ArmTotals]]:
    """All combinations; one at zero when there is none yet, so that every promised series exists."""
    yield from observer.arms.items() or [((NONE, NONE, NONE), ArmTotals())]


def _histogram_families(observer: MetricsObserver) -> Iterator[Metric]:
    latency = _histogram("latency_seconds", "Time from the whole request to the end of its reply.", _ARM)
    ttft = _histogram("ttft_seconds", "Time to the first chunk of a stream.", _ARM)
    gap = _histogram("inter_token_seconds", "Mean time between chunks of a stream.", _ARM)
    for labels, totals in _arms_or_none(observer):
        _add(latency, labels, totals.latency)
        _add(ttft, labels, totals.ttft)
        _add(gap, labels, totals.inter_token)
    overhead = _histogram("overhead_seconds", "Time that a request spent in the proxy itself.", ("route",))
    for route, histogram in observer.overhead.items():
        _add(overhead, (route,), histogram)
    yield from (latency, ttft, gap, overhead)


def _histogram(name: str, text: str, labels: Sequence[str]) -> HistogramMetricFamily:
    return HistogramMetricFamily(_PREFIX + name, text, labels=labels)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.total)


def _fault_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    attempts = _counter("attempts", "Attempts at upstreams, by how they ended.", ("upstream", "result"))
    for key, count in observer.attempts.results.items():
        attempts.add_metric(key, count)
    retries = _counter("retries", "Attempts after a request's first, by why they were made.", ("why",))
    for why, count in observer.attempts.retries.items():
        retries.add_metric((why,), count)
    state = _gauge(
        "breaker_state",
        "Worst state of a circuit breaker among the workers: 0 closed, 1 half open, 2 open.",
        ("upstream", "model"),
    )
    opens = _counter("breaker_opens", "How often circuit breakers opened.", ("upstream", "model"))
    worst = dict.fromkeys(observer.breakers.opens, 0)
    for seen in observer.workers.values():
        if facts.now - seen.at <= _WORKER_FRESH_S:
            for upstream, model, word, _ in breaker_rows(seen.data.get("breakers")):
                labels = observer.breakers.labels(upstream, model)
                worst[labels] = max(worst.get(labels, 0), STATE_VALUES.get(word, 0))
    for labels, value in worst.items():
        state.add_metric(labels, value)
        opens.add_metric(labels, observer.breakers.opens[labels])
    yield from (attempts, retries, state, opens)


def _arm_families(facts: Facts) -> Iterator[Metric]:
    quality = _gauge("quality_score", "Believed quality, 0 to 1; NaN while nothing was observed.", _ARM)
    share = _gauge("arm_share", "Share of all attempts that an arm has had.", _ARM)
    probability = _gauge("arm_probability", "Probability of an arm in the published table.", _ARM)
    pulls = _gauge("arm_pulls", "Attempts that ended, as far as they are learned from.", _ARM)
    for route, reports in facts.reports.items():
        total = sum(report.pulls for report in reports)
        for report in reports:
            labels = (route, report.arm, report.model)
            known = report.quality
            quality.add_metric(labels, known.mean if known is not None and known.weight > 0 else nan)
            share.add_metric(labels, report.pulls / total if total else 0.0)
            probability.add_metric(labels, report.probability)
            pulls.add_metric(labels, report.pulls)
    if not any(facts.reports.values()):
        quality.add_metric((NONE, NONE, NONE), nan)
    yield from (quality, share, probability, pulls)
    savings = _gauge(
        "cost_savings",
        "USD saved against sending everything to the baseline arm; NaN while unknown.",
        ("route",),
    )
    for route, saved in (facts.savings_usd or {NONE: None}).items():
        savings.add_metric((route,), nan if saved is None else saved)
    yield savings


def _estimate_families(facts: Facts) -> Iterator[Metric]:
    labels = ("route", "arm", "signal")
    families = {
        "mean": _gauge("posterior_mean", "Posterior mean of a signal.", labels),
        "low": _gauge("posterior_low", "Lower end of the 95 % interval of a signal.", labels),
        "high": _gauge("posterior_high", "Upper end of the 95 % interval of a signal.", labels),
    }
    for route, reports in facts.reports.items():
        for report in reports:
            for signal, estimate in _estimates(report):
                for edge, family in families.items():
                    family.add_metric((route, report.arm, signal), getattr(estimate, edge))
    yield from families.values()


def _estimates(report: ArmReport) -> Iterator[tuple[str, Estimate]]:
    named = (
        ("success", report.success),
        ("quality", report.quality),
        ("cost_usd", report.cost_usd),
        ("latency_seconds", report.latency_s),
        ("ttft_seconds", report.ttft_s),
        *report.custom.items(),
    )
    for signal, estimate in named:
        if estimate is not None:
            yield signal, estimate


def _custom_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    for metric in facts.custom:
        total = observer.custom_sums[metric.name]
        count = observer.custom_counts[metric.name]
        value = total if metric.aggregation == "sum" else (total / count if count else nan)
        text = f"Custom metric {metric.name}: {metric.aggregation} of its feedback."
        if metric.kind == "counter":
            family: Metric = _counter(f"custom_{metric.name}", text)
        else:
            family = _gauge(f"custom_{metric.name}", text)
        family.add_sample(family.name + ("_total" if metric.kind == "counter" else ""), {}, value)
        yield family


def _limit_families(limits: LimitFacts) -> Iterator[Metric]:
    labels = ("route", "measure", "window")
    for index, (name, text) in enumerate(
        (
            ("route_limit", "Limit of a route in the present window, in requests, tokens or USD."),
            ("route_limit_granted", "What workers were granted of a route's limit, including what is used."),
            ("route_limit_used", "What is used of a route's limit."),
        )
    ):
        family = _gauge(name, text, labels)
        for key, standing in limits.routes.items():
            family.add_metric(key, standing[index])
        yield family
    for name, text, counts in (
        ("key_limits", "Limits of client keys that were asked for in the present window.", limits.keys),
        (
            "key_limits_exhausted",
            "Limits of client keys that are used up in the present window.",
            limits.exhausted_keys,
        ),
    ):
        family = _gauge(name, text, labels[1:])
        for kind, count in counts.items():
            family.add_metric(kind, count)
        yield family
    unstored = _counter(
        "limit_reports_unstored",
        "Reports of workers on limits that could not be stored; budgets grant nothing then.",
    )
    unstored.add_metric((), limits.unstored)
    yield unstored


def _pipeline_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    lost = _counter("events_lost", "Events that could not be logged, by reason.", ("reason",))
    for reason in sorted({*LOSS_REASONS, *observer.lost, *facts.lost}):
        lost.add_metric((reason,), observer.lost[reason] + facts.lost.get(reason, 0))
    yield lost
    diversions = _counter("log_diversions", "How often a disk was so slow that lines of the log had to wait.")
    diversions.add_metric((), observer.worker_counts["diversions"] + facts.log_diversions)
    yield diversions
    errors = _counter(
        "ingest_errors", "What the reader of the log had to leave out, and steps that failed.", ("reason",)
    )
    for reason, count in facts.ingest_errors.items():
        errors.add_metric((reason,), count)
    yield errors
    feedback = _counter("feedback", "Feedback by what became of it.", ("result",))
    for result, count in facts.feedback.items():
        feedback.add_metric((result,), count)
    yield feedback
    deaths = _counter("task_deaths", "Restarts of background tasks of the optimizer.", ("task",))
    for task, count in facts.task_deaths.items():
        deaths.add_metric((task,), count)
    yield deaths
    read = _counter("events_read", "Events that were read from the log.")
    read.add_metric((), facts.ingest_events)
    yield read
    for name, text, value in (
        ("log_bytes", "Size of the event log on disk.", facts.log_bytes),
        ("ingest_lag_seconds", "Age of the oldest event that is not learned from.", facts.ingest_lag_s),
        ("ingest_lag_bytes", "Bytes of the log that are not learned from.", facts.ingest_lag_bytes),
        ("table_version", "Version of the published routing table.", facts.table_version),
        (
            "table_published_timestamp_seconds",
            "When the routing table was published, Unix time.",
            facts.table_published_at,
        ),
        ("optimizer_up", "Whether the optimizer process answers.", 1),
    ):
        yield _single(name, text, value)


def _config_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    config = facts.config
    reloads = _counter("config_reloads", "Reloads of the configuration.", ("result",))
    for result in ("success", "failure"):
        reloads.add_metric((result,), observer.reloads[result])
    yield reloads
    yield _single(
        "config_last_reload_successful", "Whether the last reload was accepted.", int(config.last_successful)
    )
    yield _single(
        "config_last_reload_success_timestamp_seconds",
        "When a reload was last accepted, Unix time.",
        config.last_success_at,
    )
    info = InfoMetricFamily(_PREFIX + "config", "The configuration in use.")
    info.add_metric((), {"hash": config.config_hash, "generation": str(config.generation)})
    yield info
    build = InfoMetricFamily(_PREFIX + "build", "The running product.")
    build.add_metric((), {"version": facts.version})
    yield build


def _fresh(observer: MetricsObserver, facts: Facts) -> dict[int, Mapping[str, Any]]:
    """Last reports of the workers that have reported lately."""
    return {
        worker: seen.data
        for worker, seen in observer.workers.items()
        if facts.now - seen.at <= _WORKER_FRESH_S
    }


def _worker_families(observer: MetricsObserver, facts: Facts) -> Iterator[Metric]:
    names = {
        "rss_bytes": ("worker_rss_bytes", "Resident memory of a worker.", 1.0),
        "buffered_bytes": (
            "worker_buffered_bytes",
            "Request bodies and unsent replies that a worker holds.",
            1.0,
        ),
        "in_flight": ("worker_in_flight", "Requests that a worker is answering.", 1.0),
        "connections": ("worker_connections", "Client connections of a worker.", 1.0),
        "loop_lag_ms": ("worker_loop_lag_seconds", "Worst delay of a worker's event loop lately.", 0.001),
        "table_version": ("worker_table_version", "Version of the routing table that a worker uses.", 1.0),
        "refused_tables": ("worker_refused_tables", "Routing tables that a worker refused.", 1.0),
        "refused_key_files": ("worker_refused_key_files", "Client key files that a worker refused.", 1.0),
        "guarded": ("worker_guarded", "Whether a worker sees an optimizer that is alive.", 1.0),
        "diverted": (
            "worker_log_diverted",
            "Whether a worker's events wait in memory because the disk is slow.",
            1.0,
        ),
        "queued_bytes": (
            "worker_log_queued_bytes",
            "Events of a worker that wait in memory to be logged.",
            1.0,
        ),
        "uptime_s": ("worker_uptime_seconds", "Age of a worker.", 1.0),
    }
    up = _gauge("worker_up", "Whether a worker has reported lately.", ("worker",))
    families = {key: _gauge(name, text, ("worker",)) for key, (name, text, _) in names.items()}
    cpu = _counter("worker_cpu_seconds", "CPU time of a worker.", ("worker",))
    upstream = _gauge(
        "upstream_connections", "A worker's connections to an upstream.", ("worker", "upstream", "state")
    )
    for worker, data in _fresh(observer, facts).items():
        label, report = str(worker), {**data, **data.get("log", {})}
        up.add_metric((label,), 1)
        for key, family in families.items():
            value = report.get(key)
            if isinstance(value, int | float):
                family.add_metric((label,), value * names[key][2])
        cpu.add_metric((label,), report.get("cpu_s", 0.0))
        for name, counts in dict(data.get("upstreams", {})).items():
            for state, count in zip(("busy", "idle", "waiting"), counts, strict=False):
                upstream.add_metric((label, name, state), count)
    yield up
    yield from families.values()
    yield from (cpu, upstream, _index_refused(observer, facts))
    for key, name, text in (
        ("shed", "requests_shed", "Requests that workers refused because they were behind."),
        (
            "evicted",
            "slow_readers_evicted",
            "Connections that were cut for reading slowly while memory was short.",
        ),
    ):
        counted = _counter(name, text)
        counted.add_metric((), observer.worker_counts[key])
        yield counted


def _index_refused(observer: MetricsObserver, facts: Facts) -> Metric:
    family = _gauge(
        "worker_index_refused",
        "Files of contextual routes that a worker refused; their routes draw by mean probabilities.",
        ("worker", "reason"),
    )
    for worker, data in _fresh(observer, facts).items():
        counts = data.get("index_refused", {})
        for reason in REFUSALS:
            family.add_metric((str(worker), reason), counts.get(reason, 0))
    return family


def _kafka_families(facts: Facts) -> Iterator[Metric]:
    for name, value in (facts.kafka or {}).items():
        yield _single(f"kafka_{name}", KAFKA[name], value)
    for name, value in (facts.kafka_counters or {}).items():
        family = _counter(f"kafka_{name}", KAFKA[name])
        family.add_metric((), value)
        yield family


def _single(name: str, text: str, value: float) -> Metric:
    family = _gauge(name, text)
    family.add_metric((), value)
    return family
