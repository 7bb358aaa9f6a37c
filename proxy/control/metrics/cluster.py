"""What a scrape shows of a cluster: the engines, the shards that this node owns, what it hears of and says to others.

Labels are engines, shards and fixed words; nodes are none, because each is scraped itself.
"""

from collections.abc import Callable, Iterator, Mapping
from math import nan
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.control.cluster.facts import ENGINES, FEEDBACK, INTAKE, ClusterFacts, EngineFacts

_PREFIX: Final = "llm_optimizer_"


def families(facts: ClusterFacts, *, now: float) -> Iterator[Metric]:
    """The families of a node in a cluster; ``now`` in Unix seconds."""
    up = _gauge("engine_up", "Whether the last call of the engine was answered.", ("engine",))
    errors = _counter("engine_errors", "Calls of the engine that failed.", ("engine",))
    for engine in ENGINES:
        found = facts.engines.get(engine, EngineFacts())
        up.add_metric((engine,), nan if found.up is None else float(found.up))
        errors.add_metric((engine,), found.errors)
    yield from (up, errors)
    yield from _shard_families(facts, now)
    forwarded = _counter(
        "feedback_forwarding", "Feedback about requests of other nodes by what became of it.", ("result",)
    )
    for result in FEEDBACK:
        forwarded.add_metric((result,), facts.feedback.get(result, 0))
    yield forwarded


def intake_families(counts: Mapping[str, int] | None) -> Iterator[Metric]:
    """What became of ratings that other systems wrote to Kafka; nothing where they are not read."""
    if counts is None:
        return
    taken = _counter("kafka_feedback", "Records on the feedback topic by what became of them.", ("result",))
    for result in INTAKE:
        taken.add_metric((result,), counts.get(result, 0))
    yield taken


def _shard_families(facts: ClusterFacts, now: float) -> Iterator[Metric]:
    singles: tuple[
        tuple[Callable[[str, str], GaugeMetricFamily | CounterMetricFamily], str, str, float], ...
    ] = (
        (_gauge, "cluster_nodes", "Nodes that were heard of lately, with this one.", len(facts.nodes)),
        (_gauge, "shards_owned", "Shards that this node learns and drives.", len(facts.owned)),
        (
            _gauge,
            "shards_waiting",
            "Shards that were given to this node and that it can't begin with.",
            len(facts.waiting),
        ),
        (
            _gauge,
            "table_unacknowledged_seconds",
            "For how long the oldest table of an own shard is not used by all workers of all nodes.",
            facts.unacknowledged_s,
        ),
        (_counter, "tenures_fenced", "Tenures that ended because another node had the shard.", facts.fenced),
        (
            _counter,
            "table_publications",
            "Tables of own shards that were offered to other nodes.",
            facts.publications,
        ),
    )
    for make, name, text, value in singles:
        family = make(name, text)
        family.add_metric((), value)
        yield family
    lag = _gauge("shard_lag_records", "Records of the shard's partition that are not learned.", ("shard",))
    generation = _gauge("shard_generation", "Number of this node's tenure of the shard.", ("shard",))
    age = _gauge("shard_snapshot_age_seconds", "Time since what was learned was saved.", ("shard",))
    for shard in facts.owned:
        labels = (str(shard.shard),)
        lag.add_metric(labels, nan if shard.lag is None else shard.lag)
        generation.add_metric(labels, shard.generation)
        age.add_metric(labels, nan if shard.saved_at is None else max(now - shard.saved_at, 0.0))
    yield from (lag, generation, age)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)
