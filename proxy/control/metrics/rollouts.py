"""What a scrape shows of optimizations: how many are where, what candidates get, whether their record is safe.

Routes are few and named by the configuration, so the share of a candidate is a series per route; optimizations come and
go, so none of them is a label.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from optimizer.rollouts.records import SPLITTING, Optimization, Status

_PREFIX: Final = "llm_optimizer_"
WEBHOOK_RESULTS: Final = ("delivered", "retried", "dead", "dropped")


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """Shares are 0..1 by route, ages seconds. ``store_up`` None: it was not opened yet."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    candidate_fractions: Mapping[str, float] = field(default_factory=dict)
    transitions: Mapping[str, int] = field(default_factory=dict)
    guard_age_s: float = 0.0
    store_up: bool | None = None
    store_errors: int = 0
    pending_rows: int = 0
    unpublished_takes: bool = False
    webhooks: Mapping[str, int] = field(default_factory=dict)
    webhooks_waiting: int = 0


def statuses_of(records: Iterable[Optimization]) -> dict[str, int]:
    """How many are in each status; every status is there, so that a first one is an increase."""
    counts = Counter(str(record.status) for record in records)
    return {str(status): counts[str(status)] for status in Status if status is not Status.DELETED}


def fractions_of(routes: Iterable[str], records: Iterable[Optimization]) -> dict[str, float]:
    """What the candidate of each route gets now."""
    split = {
        record.route: record.candidate_percentage / 100.0 for record in records if record.status in SPLITTING
    }
    return {route: split.get(route, 0.0) for route in routes}


def families(facts: RolloutFacts) -> Iterator[Metric]:
    """The families of this module."""
    statuses = _gauge("optimizations", "Optimizations by status.", ("status",))
    for status, count in facts.statuses.items():
        statuses.add_metric((status,), count)
    shares = _gauge(
        "candidate_fraction", "Share of a route's units that get the candidate of a rollout.", ("route",)
    )
    for route, share in facts.candidate_fractions.items():
        shares.add_metric((route,), share)
    made = _counter("optimization_transitions", "Transitions of optimizations.", ("verb",))
    for verb, count in facts.transitions.items():
        made.add_metric((verb,), count)
    hooks = _counter("webhooks", "Calls of webhooks by what became of them.", ("result",))
    for result in WEBHOOK_RESULTS:
        hooks.add_metric((result,), facts.webhooks.get(result, 0))
    yield from (statuses, shares, made, hooks)
    yield from _singles(facts)


def _singles(facts: RolloutFacts) -> Iterator[Metric]:
    for name, text, value in (
        ("guard_feed_age_seconds", "Time since the guards last read what workers count.", facts.guard_age_s),
        ("store_up", "Whether the database of optimizations and audit answers.", float(facts.store_up or 0)),
        (
            "store_pending_rows",
            "Records and audit rows that the database does not have yet.",
            facts.pending_rows,
        ),
        (
            "unpublished_takes",
            "Whether traffic is to be taken from a candidate and the table could not be written.",
            float(facts.unpublished_takes),
        ),
        ("webhooks_waiting", "Calls of webhooks that are still to be made.", facts.webhooks_waiting),
    ):
        family = _gauge(name, text)
        family.add_metric((), value)
        yield family
    errors = _counter("store_errors", "Calls of the database that failed.")
    errors.add_metric((), facts.store_errors)
    yield errors


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)
