"""Totals: what an event adds, what bounds the labels, what survives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import events
from optimizer.routing import Arm, Model
from optimizer.settings import CustomMetric, RouteSettings, Settings
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import MAX_ARMS, ErrorWindow, Histogram, Vocabulary

SETTINGS = Settings(
    config_hash="c",
    upstreams=(),
    models=(Model("small", "sim", "small", "k1"), Model("large", "sim", "large", "k2")),
    variants=(),
    routes=(
        RouteSettings(
            "chat",
            (Arm("a", "small", "default", "k1", "v"), Arm("b", "large", "default", "k2", "v")),
            "a",
            (),
        ),
    ),
    custom_metrics=(CustomMetric("joy"),),
)


def build() -> MetricsObserver:
    return MetricsObserver(Vocabulary.of(SETTINGS), now=lambda: 1000.0)


def request(**fields: Any) -> dict[str, Any]:
    data = {
        "route": "chat",
        "arm": "a",
        "model": "small",
        "outcome": "completed",
        "status": 200,
        "started_ms": 999_000,
        "duration_ms": 300.0,
        "overhead_ms": 0.4,
        "cost_usd": 0.5,
    }
    return {"type": events.REQUEST, "id": "r", "data": data | fields}


def test_a_completed_request_counts_everywhere_once() -> None:
    """Count, cost, latency and overhead."""
    observer = build()

    observer.observe(request(), None)

    totals = observer.arms["chat", "a", "small"]
    assert totals.requests == {("completed", "2xx"): 1}
    assert totals.cost_usd == 0.5
    assert totals.latency.counts[3] == 1
    assert observer.overhead["chat"].counts[0] == 1


def test_unknown_cost_is_counted_and_not_zero() -> None:
    """A completed request without a known price; a failed one is not blamed for having none."""
    observer = build()

    observer.observe(request(cost_usd=None), None)
    observer.observe(request(cost_usd=None, outcome="upstream_fault", status=502), None)

    totals = observer.arms["chat", "a", "small"]
    assert totals.cost_unknown == 1
    assert totals.cost_usd == 0.0


def test_token_kinds_are_disjoint() -> None:
    """Their sum is input plus output, whatever a provider reports inside them."""
    observer = build()

    observer.observe(
        request(
            **{
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.cache_read.input_tokens": 30,
                "gen_ai.usage.cache_creation.input_tokens": 20,
                "gen_ai.usage.output_tokens": 40,
                "reasoning_tokens": 15,
            }
        ),
        None,
    )

    tokens = observer.arms["chat", "a", "small"].tokens
    assert tokens == {"input": 50, "cached_input": 30, "cache_write": 20, "output": 25, "reasoning": 15}
    assert tokens.total() == 140


def test_only_streams_have_a_first_token() -> None:
    """Unary replies do not enter the histogram of time to first token."""
    observer = build()

    observer.observe(request(ttft_ms=200.0), None)
    observer.observe(request(ttft_ms=200.0, stream=True, itl_ms=12.0), None)

    totals = observer.arms["chat", "a", "small"]
    assert sum(totals.ttft.counts) == 1
    assert sum(totals.inter_token.counts) == 1


def test_failures_enter_the_window_and_leave_it() -> None:
    """Callers' mistakes and hang-ups are no errors; after five minutes nothing is left."""
    observer = build()

    for outcome in ("completed", "upstream_fault", "caller_fault", "censored"):
        observer.observe(request(outcome=outcome), None)

    window = observer.arms["chat", "a", "small"].errors
    assert window.counts(1000.0) == (2, 1)
    assert window.counts(2000.0) == (0, 0)


@given(st.lists(st.tuples(st.text(max_size=4) | st.none(), st.text(max_size=4) | st.none()), max_size=60))
def test_names_that_are_not_configured_fold_into_other(names: list[tuple[str | None, str | None]]) -> None:
    """No event, however odd, makes more series than the configuration allows."""
    observer = build()

    for route, arm in names:
        observer.observe(request(route=route, arm=arm, model=arm, outcome=arm, status=7), None)

    for labels in observer.arms:
        assert set(labels) <= {"chat", "a", "b", "small", "large", "none", "other"}
    assert len(observer.arms) <= 2 + 2 * 5 * 4


def test_too_many_combinations_are_dropped_and_counted() -> None:
    """Beyond the cap everything goes to one series."""
    many = tuple(f"r{number}" for number in range(MAX_ARMS + 10))
    vocabulary = Vocabulary(frozenset(many), frozenset("a"), frozenset(("small",)))
    observer = MetricsObserver(vocabulary, now=lambda: 0.0)

    for route in many:
        observer.observe(request(route=route), None)

    assert len(observer.arms) == MAX_ARMS + 1
    assert observer.dropped_series == 10
    assert observer.arms["other", "other", "other"].requests.total() == 10


def test_worker_reports_add_only_what_is_new_to_the_losses() -> None:
    """Reports carry totals; a new worker starts at zero."""
    observer = build()

    for worker, lost in ((1, 2), (1, 5), (2, 1), (1, 5)):
        data = {"worker": worker, "lost": {"disk_full": lost}, "rss_bytes": 7}
        observer.observe({"type": events.WORKER_STATS, "id": "w", "data": data}, None)

    assert observer.lost == {"disk_full": 6}
    assert observer.workers[1].data["rss_bytes"] == 7
    assert observer.workers[1].at == 1000.0


def test_custom_feedback_is_summed_by_metric() -> None:
    """Only configured metrics have totals."""
    observer = build()

    for metric, value in (("joy", 2.0), ("joy", 4), ("unheard", 1.0), ("joy", "many")):
        observer.observe(
            {"type": events.FEEDBACK, "id": "f", "data": {"metric": metric, "value": value}}, None
        )

    assert observer.custom_sums == {"joy": 6.0}
    assert observer.custom_counts == {"joy": 2}


def test_a_snapshot_restores_every_total() -> None:
    """Restored and continued equals never interrupted."""
    whole, first = build(), build()
    stream = [
        request(stream=True, ttft_ms=3.0, itl_ms=1.0),
        request(arm="b", model="large", outcome="upstream_fault", status=504),
        {"type": events.WORKER_STATS, "id": "w", "data": {"worker": 1, "lost": {"cap": 3}}},
        {"type": events.FEEDBACK, "id": "f", "data": {"metric": "joy", "value": 2.0}},
        {"type": events.CONFIG_RELOADED, "id": "c", "data": {"result": "applied"}},
        request(arm="x"),
    ]

    for event in stream:
        whole.observe(event, None)
    for event in stream[:3]:
        first.observe(event, None)
    second = build()
    second.restore(first.snapshot())
    for event in stream[3:]:
        second.observe(event, None)

    assert second.snapshot() == whole.snapshot()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": 99}'])
def test_a_foreign_snapshot_starts_at_zero(data: bytes) -> None:
    """Configured series are there all the same."""
    observer = build()

    observer.restore(data)

    assert ("chat", "a", "small") in observer.arms


def test_buckets_of_another_version_are_not_mixed() -> None:
    """Saved counts are only taken over for the same bounds."""
    old, new = Histogram((1.0, 2.0)), Histogram((1.0, 3.0))
    old.observe(1.5)

    new.restore(old.save())

    assert new.counts == [0, 0, 0]


def test_bounds_are_inclusive_and_cumulative() -> None:
    """Prometheus' `le` means less or equal."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)

    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 12.0
    assert histogram.quantile(0.5) == 1.0
    assert histogram.quantile(0.99) == 2.0
    assert Histogram((1.0,)).quantile(0.5) is None


@given(st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=50))
def test_the_window_never_counts_more_than_it_saw(rows: list[tuple[int, bool]]) -> None:
    """Also when events arrive out of order."""
    window = ErrorWindow()
    for at, failed in rows:
        window.add(float(at), failed=failed)

    asked, failures = window.counts(3000.0)

    assert 0 <= failures <= asked <= len(rows)
