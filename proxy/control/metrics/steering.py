"""What a scrape shows of routes that are steered: how far each constraint is kept, and what it weighs.

Routes and constraints are named by the configuration, so their number is bounded by it.
"""

from collections.abc import Iterator, Mapping
from math import nan
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from optimizer.steering import Steering

_PREFIX: Final = "llm_optimizer_"
_LABELS: Final = ("route", "constraint")


def families(steering: Mapping[str, Steering]) -> Iterator[Metric]:
    """The families of this module; ``steering`` by route."""
    target = _gauge(
        "constraint_target",
        "What a constraint asks for: USD per request, quality (0..1) or share of late replies.",
    )
    actual = _gauge("constraint_actual", "What recent requests did about a constraint, in its unit.")
    expected = _gauge(
        "constraint_expected", "What the policy in force is expected to do, in the constraint's unit."
    )
    multiplier = _gauge(
        "constraint_multiplier",
        "What a unit of a constraint weighs against the objectives; 0: it does not bind.",
    )
    infeasible = _gauge(
        "constraint_infeasible", "Whether a constraint can not be kept together with the others."
    )
    gain = GaugeMetricFamily(
        f"{_PREFIX}context_gain",
        "How sure it is that a route's features tell its arms apart, 0..1.",
        labels=("route",),
    )
    for route, status in steering.items():
        gain.add_metric((route,), status.gain)
        for kept in status.kept:
            labels = (route, kept.name)
            target.add_metric(labels, kept.target)
            actual.add_metric(labels, nan if kept.actual is None else kept.actual)
            expected.add_metric(labels, kept.expected)
            multiplier.add_metric(labels, kept.multiplier)
            infeasible.add_metric(labels, float(not kept.feasible))
    yield from (target, actual, expected, multiplier, infeasible, gain)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=_LABELS)
