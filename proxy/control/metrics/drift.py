"""What a scrape shows of sudden changes of arms: how many were found, by route, arm and signal."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

_NAME: Final = "llm_optimizer_drift_alarms"

Series = tuple[str, str, str, int]
"""Route, arm, signal and alarms."""


def families(series: Iterable[Series]) -> Iterator[Metric]:
    """The families of this module."""
    alarms = CounterMetricFamily(
        _NAME,
        "Sudden changes of an arm that were found; each made older evidence of the signal count less.",
        labels=("route", "arm", "signal"),
    )
    for route, arm, signal, count in series:
        alarms.add_metric((route, arm, signal), count)
    yield alarms
