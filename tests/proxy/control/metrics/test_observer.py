"""Totals: what an event adds, what bounds the labels, what survives."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import events
from optimizer.routing import Arm, Model, Upstream
from optimizer.settings import CustomMetric, RouteSettings, Settings
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import MAX_ARMS, ErrorWindow, Histogram, Vocabulary

SETTINGS = Settings(
    config_hash="c",
    upstreams=(Upstream("sim", "openai", "http://127.0.0.1:9/v1"),),
    models=(Model("small", "sim", "small", "k1"), Model("large", "sim", "large", "k2")),
    variants=(),
    routes=(
        RouteSettings(
            "chat",
            (Arm("a", "small", "default", "k1", "v"), Arm("b", "large", "default", "k2", "v")),
            "a",
            (),
            fallbacks=(Arm("spare", "large", "default", "k2", "v"),),
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
        assert set(labels) <= {"chat", "a", "b", "spare", "small", "large", "none", "other"}
    assert len(observer.arms) <= 3 + 2 * 5 * 4


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


def attempt(arm: str = "a", model: str = "small", **fields: Any) -> dict[str, Any]:
    row = {
        "arm": arm,
        "model": model,
        "upstream": "sim",
        "status": 503,
        "error": "upstream_error",
        "why": "first",
    }
    return row | {"cost_usd": None, "input_tokens": None, "output_tokens": None} | fields


def served(arm: str = "b", model: str = "large", **fields: Any) -> dict[str, Any]:
    return attempt(
        arm, model, **({"status": 200, "error": None, "why": "fallback", "cost_usd": 0.4} | fields)
    )


def test_of_several_attempts_the_serving_arm_gets_the_request_and_each_its_own_cost() -> None:
    """The first arm shows what it cost and used; count, latency and the answer's tokens are the last one's."""
    observer = build()
    failed = attempt(cost_usd=0.1, input_tokens=10, output_tokens=2)

    observer.observe(
        request(
            served_by="spare",
            cost_usd=0.5,
            attempts=[failed, served("spare")],
            **{"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 5},
        ),
        None,
    )

    first, last = observer.arms["chat", "a", "small"], observer.arms["chat", "spare", "large"]
    assert (first.requests.total(), last.requests.total()) == (0, 1)
    assert (first.cost_usd, last.cost_usd) == (0.1, 0.4)
    assert first.tokens == {"input": 10, "output": 2}
    assert +last.tokens == {"input": 20, "output": 5}
    assert (sum(first.latency.counts), sum(last.latency.counts)) == (0, 1)
    assert last.errors.counts(1000.0) == (1, 0)


def test_an_unknown_cost_of_the_serving_attempt_is_unknown_whatever_the_others_cost() -> None:
    """A failed attempt's cost is counted all the same."""
    observer = build()

    observer.observe(request(cost_usd=0.1, attempts=[attempt(cost_usd=0.1), served(cost_usd=None)]), None)

    assert observer.arms["chat", "b", "large"].cost_unknown == 1
    assert observer.arms["chat", "a", "small"].cost_usd == 0.1


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"status": 200, "error": None}, "ok"),
        ({"status": None, "error": "upstream_connect_error"}, "connect_error"),
        ({"status": 200, "error": "upstream_reset"}, "reset"),
        ({"status": None, "error": "upstream_timeout"}, "timeout"),
        ({"status": 200, "error": "upstream_protocol_error"}, "broken"),
        ({"status": 200, "error": "server_error"}, "broken"),
        ({"status": 401, "error": "upstream_auth_error"}, "credentials"),
        ({"status": 429, "error": "rate_limit_exceeded"}, "rate_limited"),
        ({"status": 408, "error": "whatever"}, "server_error"),
        ({"status": 529, "error": "overloaded_error"}, "server_error"),
        ({"status": 400, "error": "context_length_exceeded"}, "refused"),
        ({"status": None, "error": "client_gone"}, "client_gone"),
        ({"status": None, "error": "overloaded"}, "overloaded"),
        ({"status": 200, "error": "hedged"}, "hedged"),
        ({"status": None, "error": "x"}, "other"),
        ({"status": "503", "error": 7}, "other"),
    ],
)
def test_attempts_are_counted_by_upstream_and_result(fields: dict[str, Any], result: str) -> None:
    """Results are few; an upstream's own words are no labels."""
    observer = build()

    observer.observe(request(attempts=[attempt(**fields)]), None)
    observer.observe(request(attempts=[attempt(**fields) | {"upstream": "unheard"}, served()]), None)

    assert observer.attempts.results["sim", result] == (2 if result == "ok" else 1)
    assert observer.attempts.results["other", result] == 1
    assert observer.attempts.results["sim", "ok"] >= 1


def test_attempts_after_the_first_are_counted_by_why_they_were_made() -> None:
    """Reasons that nobody defined are one reason."""
    observer = build()
    rows = [attempt(), attempt(why="retry"), attempt(why="hedge"), attempt(why="?"), served(why=None)]

    observer.observe(request(attempts=rows), None)

    assert +observer.attempts.retries == {"retry": 1, "hedge": 1, "other": 2}


def test_openings_of_breakers_add_up_over_workers_and_their_lives() -> None:
    """Reports carry totals since the worker began; a breaker that was forgotten begins again."""
    observer = build()

    for worker, opens in ((1, 2), (1, 3), (2, 1), (1, 1), (1, 1)):
        data = {"worker": worker, "breakers": [["sim", "small", "open", opens], ["sim", "?", "open", 1]]}
        observer.observe({"type": events.WORKER_STATS, "id": "w", "data": data}, None)

    assert observer.breakers.opens == {("sim", "small"): 5, ("sim", "large"): 0, ("other", "other"): 2}


def test_counts_of_workers_add_up_over_workers_and_survive() -> None:
    """Reports carry totals since the worker began; what an older worker does not report adds nothing."""
    observer, later = build(), build()
    reports = [
        {"worker": 1, "shed": 2, "evicted": 1, "log": {"diverted": 1, "diversions": 3, "queued_bytes": 9}},
        {"worker": 1, "shed": 5, "evicted": 1, "log": {"diversions": 3}, "lost": {"removed": 4}},
        {"worker": 2, "shed": 1, "evicted": "many"},
    ]

    for data in reports:
        observer.observe({"type": events.WORKER_STATS, "id": "w", "data": data}, None)
    later.restore(observer.snapshot())
    for data in reports[1:]:
        later.observe({"type": events.WORKER_STATS, "id": "w", "data": data}, None)

    assert observer.worker_counts == later.worker_counts == {"shed": 6, "evicted": 1, "diversions": 3}
    assert observer.lost == later.lost == {"removed": 4}


@pytest.mark.parametrize(
    "rows", [None, 7, [None], [[]], [["sim", "small"]], [["sim", "small", "open", "x"]], [[1, 2, 3, 4]]]
)
def test_reports_of_breakers_that_make_no_sense_are_passed_over(rows: object) -> None:
    """The rest of the report counts."""
    observer = build()

    data = {"worker": 1, "breakers": rows, "lost": {"cap": 1}}
    observer.observe({"type": events.WORKER_STATS, "id": "w", "data": data}, None)

    assert observer.lost == {"cap": 1}
    assert observer.breakers.opens["sim", "small"] == 0


def test_too_many_upstreams_and_models_are_folded() -> None:
    """The cap on series holds for these too."""
    many = [f"u{number}" for number in range(MAX_ARMS + 5)]
    vocabulary = Vocabulary(upstreams=frozenset(many), breakers=tuple((name, "m") for name in many))
    observer = MetricsObserver(vocabulary, now=lambda: 0.0)

    for name in many:
        observer.observe(request(attempts=[served() | {"upstream": name}]), None)

    assert len(observer.attempts.results) == MAX_ARMS + 1
    assert observer.attempts.results["other", "ok"] == 5
    assert len(observer.breakers.opens) == MAX_ARMS


def test_a_snapshot_from_before_there_were_attempts_still_loads() -> None:
    """What it lacks starts at zero."""
    observer, later = build(), build()
    observer.observe(request(attempts=[served()]), None)
    saved = orjson.loads(observer.snapshot())
    newer = ("attempts", "retries", "breaker_opens", "opens_by_worker")
    for name in (*newer, "worker_counts", "worker_counts_by_worker"):
        del saved[name]

    later.restore(orjson.dumps(saved))

    assert later.arms["chat", "a", "small"].requests.total() == 1
    assert later.attempts.results.total() == 0
    assert ("sim", "small") in later.breakers.opens


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
        request(
            arm="b", model="large", outcome="upstream_fault", status=504, attempts=[attempt(why="retry")]
        ),
        {
            "type": events.WORKER_STATS,
            "id": "w",
            "data": {"worker": 1, "breakers": [["sim", "small", "open", 3]]},
        },
        {"type": events.WORKER_STATS, "id": "w", "data": {"worker": 1, "lost": {"cap": 3}}},
        {"type": events.FEEDBACK, "id": "f", "data": {"metric": "joy", "value": 2.0}},
        {"type": events.CONFIG_RELOADED, "id": "c", "data": {"result": "applied"}},
        request(arm="x"),
        request(attempts=[attempt(cost_usd=0.1), served()]),
        {
            "type": events.WORKER_STATS,
            "id": "w",
            "data": {"worker": 1, "breakers": [["sim", "small", "open", 4]]},
        },
    ]

    for event in stream:
        whole.observe(event, None)
    for event in stream[:4]:
        first.observe(event, None)
    second = build()
    second.restore(first.snapshot())
    for event in stream[4:]:
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


def test_parts_say_what_a_snapshot_says_and_change_only_where_something_counted() -> None:
    """Thousands of arms must not be encoded for every step of the log."""
    route = SETTINGS.routes[0]
    settings = replace(SETTINGS, routes=(route, replace(route, name="other"), replace(route, name="idle")))
    observer = MetricsObserver(Vocabulary.of(settings), now=lambda: 1000.0)
    observer.observe(request(), None)
    observer.observe(request(route="other", arm="b", model="large"), None)
    first = observer.snapshot_parts()
    observer.observe(request(arm="b", model="large"), None)
    second = observer.snapshot_parts()

    assert first.keys() == second.keys() == {"", "chat", "other"}
    assert second["other"] is first["other"]
    assert second["chat"] != first["chat"]

    again = MetricsObserver(Vocabulary.of(settings), now=lambda: 1000.0)
    again.restore(second[""])
    for part in ("chat", "other"):
        again.restore_part(second[part])
    assert again.snapshot_parts() == second
    assert again.snapshot() == observer.snapshot()
    again.observe(request(route="other"), None)
    assert again.arms["other", "a", "small"].requests == {("completed", "2xx"): 1}
    assert again.arms["other", "b", "large"].requests == {("completed", "2xx"): 1}
    assert again.snapshot_parts()["other"] != second["other"]


def test_a_snapshot_of_before_there_were_parts_becomes_parts() -> None:
    """All totals are in the whole one then."""
    old, new, third = build(), build(), build()
    old.observe(request(), None)

    new.restore(old.snapshot())
    parts = new.snapshot_parts()
    third.restore(parts[""])
    third.restore_part(parts["chat"])

    assert third.snapshot() == old.snapshot()
