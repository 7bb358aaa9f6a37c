"""What a scrape shows of kept answers: how requests of routes that keep them fared, and what they occupy."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.cache.visit import RESULTS

_PREFIX: Final = "llm_optimizer_cache_"


def families(
    counted: Mapping[tuple[str, str], int], routes: tuple[str, ...], workers: Mapping[int, Mapping[str, Any]]
) -> Iterator[Metric]:
    """The families of this module.

    Args:
        counted: Requests by route and result.
        routes: Those that keep answers now, counted or not.
        workers: Last report of each worker that has reported lately.
    """
    requests = CounterMetricFamily(
        f"{_PREFIX}requests",
        "Requests of routes that keep answers: given a kept one, not, or not looked for.",
        labels=("route", "result"),
    )
    for route in dict.fromkeys((*routes, *(route for route, _ in counted))):
        for result in RESULTS:
            requests.add_metric((route, result), counted.get((route, result), 0))
    yield requests
    occupied = GaugeMetricFamily(
        f"{_PREFIX}bytes", "What a worker's kept answers occupy, about.", labels=("worker",)
    )
    for worker, report in workers.items():
        size = report.get("cache", {}).get("bytes")
        if isinstance(size, int):
            occupied.add_metric((str(worker),), size)
    yield occupied
