"""The page: promised names from the first scrape, valid text, nothing unbounded."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optimizer.arm_report import ArmReport, Estimate
from optimizer.events import WORKER_STATS
from optimizer.settings import CustomMetric
from proxy.control.metrics.exposition import ConfigFacts, Facts, collect, render
from proxy.control.metrics.limits import LimitFacts, Standing
from proxy.control.metrics.observer import MetricsObserver, WorkerSeen
from proxy.control.metrics.totals import Vocabulary
from proxy.selectors import REFUSALS

PROMISED = (
    "llm_optimizer_cost_total",
    "llm_optimizer_cost_savings",
    "llm_optimizer_latency_seconds_count",
    "llm_optimizer_requests_total",
    "llm_optimizer_quality_score",
    "llm_optimizer_error_rate",
)


def observer(*combinations: tuple[str, str, str]) -> MetricsObserver:
    names = [frozenset(column) for column in zip(*combinations, strict=True)] or [frozenset()] * 3
    return MetricsObserver(
        Vocabulary(names[0], names[1], names[2], combinations=combinations), now=lambda: 100.0
    )


def facts(**fields: Any) -> Facts:
    given: dict[str, Any] = {
        "now": 100.0,
        "version": "1",
        "config": ConfigFacts("hash", 3, True, 50.0),
        "table_version": 4,
        "table_published_at": 60.0,
    }
    return Facts(**(given | fields))


def samples(watched: MetricsObserver, shown: Facts) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(render(collect(watched, shown)).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize("combinations", [(), (("chat", "a", "small"),)])
def test_the_promised_series_exist_from_the_start(combinations: tuple[tuple[str, str, str], ...]) -> None:
    """Also when no route is configured."""
    found = samples(observer(*combinations), facts())

    for name in PROMISED:
        assert found[name], name
    assert math.isnan(found["llm_optimizer_quality_score"][0][1])
    assert math.isnan(found["llm_optimizer_cost_savings"][0][1])
    assert found["llm_optimizer_error_rate"][0][1] == 0.0


def test_reports_become_quality_share_probability_and_posteriors() -> None:
    """Only what was observed gets a number."""
    believed = Estimate(0.8, 0.7, 0.9, 12.0)
    prior = Estimate(0.98, 0.9, 1.0, 0.0)
    reports = {
        "chat": (
            ArmReport("a", "small", "default", 0.9, 30, prior, believed, None, None, None, {"joy": believed}),
            ArmReport(
                "b", "large", "default", 0.1, 10, prior, Estimate(0.5, 0, 1, 0.0), None, None, None, {}
            ),
        )
    }

    found = samples(observer(), facts(reports=reports, savings_usd={"chat": -1.5}))

    quality = {labels["arm"]: value for labels, value in found["llm_optimizer_quality_score"]}
    assert quality["a"] == 0.8
    assert math.isnan(quality["b"])
    assert {labels["arm"]: value for labels, value in found["llm_optimizer_arm_share"]} == {
        "a": 0.75,
        "b": 0.25,
    }
    means = {
        (labels["arm"], labels["signal"]): value for labels, value in found["llm_optimizer_posterior_mean"]
    }
    assert means["a", "joy"] == 0.8
    assert ("a", "cost_usd") not in means
    assert found["llm_optimizer_cost_savings"] == [({"route": "chat"}, -1.5)]


def test_custom_metrics_follow_their_aggregation() -> None:
    """A gauge shows the mean or the sum, a counter ends in _total; no data is NaN for a mean."""
    watched = observer()
    watched.custom_sums.update({"joy": 6.0, "value": 9.0})
    watched.custom_counts.update({"joy": 4, "value": 3})
    custom = (
        CustomMetric("joy", "gauge", "mean"),
        CustomMetric("value", "counter", "sum"),
        CustomMetric("unrated", "gauge", "mean"),
    )

    found = samples(watched, facts(custom=custom))

    assert found["llm_optimizer_custom_joy"] == [({}, 1.5)]
    assert found["llm_optimizer_custom_value_total"] == [({}, 9.0)]
    assert math.isnan(found["llm_optimizer_custom_unrated"][0][1])


def test_workers_that_went_quiet_are_not_shown() -> None:
    """A gauge of a dead worker would look alive."""
    watched = observer()
    stats = {"rss_bytes": 7, "loop_lag_ms": 20.0, "upstreams": {"sim": [1, 2, 0]}}
    watched.workers = {1: WorkerSeen(99.0, stats), 2: WorkerSeen(10.0, stats)}

    found = samples(watched, facts())

    assert found["llm_optimizer_worker_up"] == [({"worker": "1"}, 1.0)]
    assert found["llm_optimizer_worker_loop_lag_seconds"] == [({"worker": "1"}, 0.02)]
    assert ({"worker": "1", "upstream": "sim", "state": "idle"}, 2.0) in found[
        "llm_optimizer_upstream_connections"
    ]


def test_a_breaker_shows_its_worst_state_among_live_workers() -> None:
    """0 closed, 1 half open, 2 open; every configured model has its series."""
    watched = MetricsObserver(
        Vocabulary(upstreams=frozenset(("sim",)), breakers=(("sim", "small"), ("sim", "large"))),
        now=lambda: 100.0,
    )
    watched.workers = {
        1: WorkerSeen(99.0, {"breakers": [["sim", "small", "half_open", 2], ["sim", "?", "odd", 1]]}),
        2: WorkerSeen(99.0, {"breakers": [["sim", "small", "closed", 1]]}),
        3: WorkerSeen(10.0, {"breakers": [["sim", "small", "open", 1]]}),
        4: WorkerSeen(99.0, {}),
    }
    watched.breakers.opens["sim", "small"] = 3

    found = samples(watched, facts())

    states = {
        (labels["upstream"], labels["model"]): value for labels, value in found["llm_optimizer_breaker_state"]
    }
    assert states == {("sim", "small"): 1.0, ("sim", "large"): 0.0, ("other", "other"): 0.0}
    opens = {labels["model"]: value for labels, value in found["llm_optimizer_breaker_opens_total"]}
    assert opens == {"small": 3.0, "large": 0.0, "other": 0.0}


def test_attempts_and_retries_are_shown_from_the_start() -> None:
    """At zero, so that a rate exists before the first fault."""
    watched = MetricsObserver(Vocabulary(upstreams=frozenset(("sim",))), now=lambda: 100.0)
    watched.attempts.results["sim", "timeout"] = 2
    watched.attempts.retries["retry"] = 1

    found = samples(watched, facts())

    attempts = {
        (labels["upstream"], labels["result"]): value
        for labels, value in found["llm_optimizer_attempts_total"]
    }
    assert attempts == {("sim", "ok"): 0.0, ("sim", "timeout"): 2.0}
    retries = {labels["why"]: value for labels, value in found["llm_optimizer_retries_total"]}
    assert retries == {
        "retry": 1.0,
        "fallback": 0.0,
        "larger_context": 0.0,
        "hedge": 0.0,
        "continuation": 0.0,
    }


def test_losses_of_workers_and_of_the_optimizer_add_up() -> None:
    """One reason, one series."""
    watched = observer()
    watched.lost["disk_full"] = 2

    found = samples(watched, facts(lost={"disk_full": 3}))

    lost = {labels["reason"]: value for labels, value in found["llm_optimizer_events_lost_total"]}
    assert lost == {"cap": 0.0, "disk_full": 5.0, "io_error": 0.0, "queue_full": 0.0, "removed": 0.0}


def test_what_workers_report_beside_events_is_shown() -> None:
    """Present sizes by worker, counts as totals of the node."""
    watched = observer()
    stats = {
        "buffered_bytes": 7,
        "refused_key_files": 2,
        "guarded": True,
        "cpu_s": 1.5,
        "shed": 4,
        "evicted": 3,
        "index_refused": {"checksum": 2},
        "log": {"diverted": 1, "diversions": 2, "queued_bytes": 9},
    }
    watched.observe({"type": WORKER_STATS, "id": "w", "data": {"worker": 1, **stats}}, None)

    found = samples(watched, facts(log_diversions=1))

    of_worker = {
        name: found["llm_optimizer_worker_" + name]
        for name in (
            *("buffered_bytes", "refused_key_files", "guarded"),
            *("cpu_seconds_total", "log_diverted", "log_queued_bytes"),
        )
    }
    values = (7, 2, 1, 1.5, 1, 9)
    assert of_worker == dict(zip(of_worker, ([({"worker": "1"}, value)] for value in values), strict=True))
    refused = {labels["reason"]: value for labels, value in found["llm_optimizer_worker_index_refused"]}
    assert refused == {**dict.fromkeys(REFUSALS, 0.0), "checksum": 2.0}
    assert found["llm_optimizer_requests_shed_total"] == [({}, 4)]
    assert found["llm_optimizer_slow_readers_evicted_total"] == [({}, 3)]
    assert found["llm_optimizer_log_diversions_total"] == [({}, 3)]


def test_limits_and_errors_of_the_reader_are_shown() -> None:
    """Limits of routes by name, of keys as numbers."""
    limits = LimitFacts(
        routes={("chat", "usd", "day"): Standing(5.0, 2.0, 1.5)},
        keys={("requests", "minute"): 4},
        exhausted_keys={("requests", "minute"): 1},
        unstored=2,
    )

    found = samples(observer(), facts(limits=limits, ingest_errors={"torn": 3}))

    labels = {"route": "chat", "measure": "usd", "window": "day"}
    assert found["llm_optimizer_route_limit"] == [(labels, 5.0)]
    assert found["llm_optimizer_route_limit_granted"] == [(labels, 2.0)]
    assert found["llm_optimizer_route_limit_used"] == [(labels, 1.5)]
    assert found["llm_optimizer_key_limits"] == [({"measure": "requests", "window": "minute"}, 4.0)]
    assert found["llm_optimizer_key_limits_exhausted"] == [({"measure": "requests", "window": "minute"}, 1.0)]
    assert found["llm_optimizer_limit_reports_unstored_total"] == [({}, 2.0)]
    assert found["llm_optimizer_ingest_errors_total"] == [({"reason": "torn"}, 3.0)]


def test_configuration_and_pipeline_are_shown() -> None:
    """Reload state, table, lag and the configuration's hash."""
    found = samples(
        observer(), facts(ingest_lag_s=2.5, log_bytes=7, kafka={"up": 1.0}, kafka_counters={"retried": 2.0})
    )

    assert found["llm_optimizer_config_info"] == [({"hash": "hash", "generation": "3"}, 1.0)]
    assert found["llm_optimizer_config_last_reload_success_timestamp_seconds"][0][1] == 50.0
    assert found["llm_optimizer_table_version"][0][1] == 4.0
    assert found["llm_optimizer_ingest_lag_seconds"][0][1] == 2.5
    assert found["llm_optimizer_log_bytes"][0][1] == 7.0
    assert found["llm_optimizer_kafka_up"][0][1] == 1.0
    assert found["llm_optimizer_kafka_retried_total"][0][1] == 2.0


def test_names_follow_the_conventions() -> None:
    """One prefix, counters end in _total, seconds and bytes are spelled out."""
    combinations = (("chat", "a", "small"),)
    for family in collect(observer(*combinations), facts(custom=(CustomMetric("joy"),))):
        assert family.name.startswith("llm_optimizer_")
        assert not family.name.endswith(("_ms", "_total"))
        assert family.documentation.endswith(".")
