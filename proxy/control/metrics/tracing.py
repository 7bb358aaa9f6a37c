"""What a scrape shows of the spans that are sent to a collector; nothing where none are."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.control.tracing import TraceFacts

_PREFIX = "llm_optimizer_traces_"


def families(facts: TraceFacts | None) -> Iterator[Metric]:
    """The families of this module."""
    if facts is None:
        return
    for name, text, value in (
        ("up", "Whether the collector took the last spans.", float(facts.up)),
        (
            "lag_bytes",
            "Bytes of the log that wait to be sent as spans; 0 while they are taken.",
            facts.lag_bytes,
        ),
    ):
        gauge = GaugeMetricFamily(_PREFIX + name, text)
        gauge.add_metric((), value)
        yield gauge
    for name, text, value in (
        ("delivered", "Spans that the collector has taken.", facts.delivered),
        ("errors", "Calls of the collector that failed; they are made again.", facts.errors),
    ):
        counter = CounterMetricFamily(_PREFIX + name, text)
        counter.add_metric((), value)
        yield counter
    lost = CounterMetricFamily(_PREFIX + "lost", "Spans that were left out, by reason.", labels=("reason",))
    for reason, count in facts.lost.items():
        lost.add_metric((reason,), count)
    yield lost
