"""The reference of every metric, as Markdown: ``python -m proxy.control.metrics.reference > docs/metrics.md``.

Names, types, labels and meanings are read from a page that the exposition itself makes of one made-up node, so the
reference can not say anything else than ``/metrics`` does. A test compares the page with what this module writes.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric

from optimizer.arm_report import ArmReport, Estimate
from optimizer.drift import SIGNALS
from optimizer.events import OUTCOMES
from optimizer.lease_terms import MEASURES
from optimizer.rollouts.machine import PROPOSE
from optimizer.settings import CustomMetric
from optimizer.sinks.otlp import LOST
from optimizer.steering import Kept, Steering
from policies.steering import COST, LATE, QUALITY
from proxy.cache.visit import RESULTS as RESULTS_OF_CACHING
from proxy.control.cluster.facts import ENGINES, FEEDBACK, INTAKE, ClusterFacts, ShardFacts
from proxy.control.facts import FEEDBACK_RESULTS, INGEST_ERRORS, KAFKA_COUNTERS, KAFKA_GAUGES
from proxy.control.judge_examiner import RESULTS as RESULTS_OF_JUDGING
from proxy.control.metrics.exposition import LOSS_REASONS, ConfigFacts, Facts, collect
from proxy.control.metrics.faults import REASONS, RESULTS
from proxy.control.metrics.judging import KINDS, SAMPLES, JudgeFacts, JudgeState
from proxy.control.metrics.limits import LimitFacts, Standing, kind_of
from proxy.control.metrics.observer import MetricsObserver, WorkerSeen
from proxy.control.metrics.rollouts import WEBHOOK_RESULTS, RolloutFacts, statuses_of
from proxy.control.metrics.totals import NONE, OTHER, TOKEN_KINDS, Vocabulary
from proxy.control.tracing import TraceFacts
from proxy.selectors import REFUSALS

_HEAD: Final = """\
# Metrics

<!-- Written by `python -m proxy.control.metrics.reference > docs/metrics.md`.
     To change something change proxy/control/metrics/exposition.py. -->

Every metric that `/metrics` shows, in the order of the page, in Prometheus' text format 0.0.4. Whether a key is needed
to read it is `admin.metrics_open`.

- Counters are kept across restarts. `task_deaths`, `limit_reports_unstored`, `kafka_*`, `traces_*`, `engine_errors`,
  `tenures_fenced`, `table_publications` and `feedback_forwarding` begin again with the
  optimizer process, and so do `optimization_transitions`, `store_errors` and its own share in `events_lost` and
  `log_diversions`.
- `engine_*`, `shard*`, `cluster_nodes`, `table_unacknowledged_seconds`, `tenures_fenced`, `table_publications` and
  `feedback_forwarding` are those of a node in a cluster; `kafka_feedback` is there where feedback is read from Kafka,
  `traces_*` where spans are sent.
- A gauge that is promised but not known is `NaN`, never 0. Gauges of a worker vanish when it has not reported for 6 s.
- The number of series is bounded by the configuration: what it does not name is counted under `%(other)s`, what does
  not apply under `%(none)s`. Client keys and request ids are no labels.
- A metric under `metrics.custom` appears as `%(prefix)scustom_NAME`, a counter with `_total` at its end.

## All metrics

| Name | Type | Labels | Meaning |
|---|---|---|---|
"""
_LABELS_HEAD: Final = """
## Labels

Beside the name of a metric: what the label says there only.

| Label | Values |
|---|---|
"""
_PREFIX: Final = "llm_optimizer_"
_SUFFIXES: Final[Mapping[str, str]] = {"counter": "_total", "info": "_info"}


def _words(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


LABELS: Final[Mapping[str, str]] = {
    "route": f"a route of the configuration; `{NONE}` for a call that took none",
    "arm": "an arm of the route, or a model that was asked for by its name",
    "model": "a model of the configuration, by its name there",
    "breaker_state model": "the model's id at the upstream",
    "breaker_opens_total model": "the model's id at the upstream",
    "upstream": "an upstream of the configuration",
    "outcome": _words(OUTCOMES),
    "status": "class of the HTTP status that the caller got: " + _words(("2xx", "3xx", "4xx", "5xx", OTHER)),
    "kind": _words(TOKEN_KINDS) + "; disjoint, so that they add up",
    "attempts_total result": _words(RESULTS),
    "feedback_total result": _words(FEEDBACK_RESULTS),
    "cache_requests_total result": _words(RESULTS_OF_CACHING),
    "config_reloads_total result": _words(("success", "failure")),
    "why": _words(REASONS),
    "signal": _words(("success", "quality", "cost_usd", "latency_seconds", "ttft_seconds"))
    + ", and metrics under `metrics.custom`",
    "drift_alarms_total signal": _words(SIGNALS),
    "measure": _words(("requests", "tokens", "usd")),
    "constraint": _words((COST, QUALITY, LATE)),
    "window": _words(("minute", "day", "month")) + "; of UTC",
    "events_lost_total reason": _words((*LOSS_REASONS, "retention_unread", "malformed")),
    "optimizations status": _words(tuple(statuses_of(()))),
    "engine": _words(ENGINES) + "; in a cluster",
    "shard": "a shard that this node owns, by its number",
    "feedback_forwarding_total result": _words(FEEDBACK),
    "kafka_feedback_total result": _words(INTAKE) + "; `ignored` are events of ours",
    "traces_lost_total reason": _words(LOST),
    "verb": "of the table in [rollouts](rollouts.md)",
    "webhooks_total result": _words(WEBHOOK_RESULTS),
    "judge_samples_total result": _words(SAMPLES),
    "judge_judgements_total kind": _words(KINDS) + ": one answer rated, or two prompts compared",
    "judge_judgements_total result": _words(RESULTS_OF_JUDGING),
    "worker_index_refused reason": _words(REFUSALS),
    "ingest_errors_total reason": _words(INGEST_ERRORS),
    "task": "a background task of the optimizer process",
    "worker": "a worker's incarnation, a number that no other one gets",
    "state": _words(("busy", "idle", "waiting")),
    "hash": "hash of the configuration's content",
    "generation": "counts the configurations that this node has had",
    "version": "the product's version",
}
"""What the values of a label are, by its name; where metrics differ, by metric and label."""


def reference() -> str:
    """The whole page."""
    rows = [
        (name_of(family), family.type, _words(labels_of(family)), family.documentation)
        for family in example()
    ]
    head = _HEAD % {"other": OTHER, "none": NONE, "prefix": _PREFIX}
    metrics = "".join(f"| `{name}` | {kind} | {labels} | {text} |\n" for name, kind, labels, text in rows)
    labels = "".join(f"| {_label(key)} | {text} |\n" for key, text in LABELS.items())
    return head + metrics + _LABELS_HEAD + labels


def name_of(family: Metric) -> str:
    """The name that the page gives a family, which is that of its samples but for a histogram's."""
    return family.name + _SUFFIXES.get(family.type, "")


def labels_of(family: Metric) -> tuple[str, ...]:
    """The labels of a family that has a sample; a histogram's bound is none of them."""
    return tuple(label for label in family.samples[0].labels if label != "le")


def _label(key: str) -> str:
    metric, _, label = key.rpartition(" ")
    return f"`{label}` of `{_PREFIX}{metric}`" if metric else f"`{label}`"


def example() -> list[Metric]:
    """Every family there can be, each with a sample: the page of a node that has seen something of everything."""
    vocabulary = Vocabulary(
        combinations=(("route", "arm", "model"),),
        upstreams=frozenset(("upstream",)),
        breakers=(("upstream", "model"),),
        caching=("route",),
    )
    observer = MetricsObserver(vocabulary, now=lambda: 0.0)
    sizes = ("rss_bytes", "in_flight", "connections", "buffered_bytes", "loop_lag_ms", "table_version")
    others = (
        "refused_tables",
        "refused_key_files",
        "guarded",
        "uptime_s",
        "cpu_s",
        "diverted",
        "queued_bytes",
    )
    seen = dict.fromkeys((*sizes, *others), 0) | {"upstreams": {"upstream": (0, 0, 0)}, "cache": {"bytes": 0}}
    observer.workers[1] = WorkerSeen(0.0, seen)
    estimate = Estimate(0.5, 0.0, 1.0, 1.0)
    report = ArmReport("arm", "model", "default", 1.0, 1, estimate, estimate, None, None, None, {})
    kinds = [kind_of(measure) for measure in MEASURES]
    limits = LimitFacts(
        {("route", *kind): Standing(1.0) for kind in kinds}, dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    )
    facts = Facts(
        now=0.0,
        version="1",
        config=ConfigFacts("hash", 1, True, 0.0),
        table_version=1,
        table_published_at=0.0,
        reports={"route": (report,)},
        custom=(CustomMetric("NAME"),),
        feedback=dict.fromkeys(FEEDBACK_RESULTS, 0),
        ingest_errors=dict.fromkeys(INGEST_ERRORS, 0),
        limits=limits,
        rollouts=RolloutFacts(
            statuses=statuses_of(()), candidate_fractions={"route": 0.0}, transitions={PROPOSE: 0}
        ),
        judging=JudgeFacts({"route": JudgeState("judge", "model", "v", 0.05, 0.0, 1.0)}),
        steering={"route": Steering((Kept(COST, 0.001, 0.001, None, 0.0, feasible=True),))},
        drift=(("route", "arm", SIGNALS[0], 0),),
        task_deaths={"ingest": 0},
        kafka=dict.fromkeys(KAFKA_GAUGES, 0.0),
        kafka_counters=dict.fromkeys(KAFKA_COUNTERS, 0.0),
        cluster=ClusterFacts(node=1, owned=(ShardFacts(0, 1, 0.0, 0),)),
        kafka_feedback={},
        traces=TraceFacts(True, 0, 0, 0, dict.fromkeys(LOST, 0)),
    )
    return collect(observer, facts)


if __name__ == "__main__":
    sys.stdout.write(reference())
