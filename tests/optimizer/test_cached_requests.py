"""An answer that was given again: counted as a request and as money saved, and otherwise as if nothing had happened."""

from typing import Any

import orjson
import pytest

from optimizer import events, reward
from optimizer.judging.judgements import Judgements
from optimizer.log.segment import Position
from optimizer.replaying.gathering import Gathering
from optimizer.steering import Ledger
from proxy.control.admin.explanation import explain
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import Vocabulary

HERE = Position("worker", 1, 0)
HIT: dict[str, Any] = {
    "route": "r", "table_version": 1, "requested_model": "r", "endpoint": "chat", "stream": False, "side": "control",
    "side_probability": 1.0, "rollout": None, "arm": "a", "baseline_arm": "b", "model": "a", "variant": "default",
    "model_key": "a", "variant_key": "", "reason": "cached", "randomised": False, "cached": True,
    "cached_from": "req_1", "unit": "request", "outcome": "completed", "status": 200, "started_ms": 1_795_000_000_000,
    "duration_ms": 0.2, "overhead_ms": 0.2, "request_bytes": 10, "response_bytes": 10, "usage_source": "none",
    "cost_usd": 0.0, "price_version": "v1",
}  # fmt: skip


def _event() -> dict[str, Any]:
    return {"type": events.REQUEST, "id": "req_2", "data": HIT}


def test_it_teaches_nothing():
    asked = {name: value for name, value in HIT.items() if name != "cached"}

    def learn(data: dict[str, Any]) -> object:
        return reward.lessons(data, keys_of=lambda arm: None, cost_of=lambda keys: reward.cost_lessons(data))

    assert learn(asked) != []
    assert learn(HIT) == []


def test_constraints_and_judges_do_not_see_it():
    ledger, judgements = Ledger(), Judgements()
    for consumer in (ledger, judgements):
        before = consumer.snapshot()
        consumer.observe(_event(), HERE)
        assert consumer.snapshot() == before


def test_a_replay_leaves_it_out():
    gathering = Gathering("r")
    assert gathering.take("req_2", HIT, {}) == 0
    assert dict(gathering._left_out) == {"not drawn at random (cached)": 1}


def test_metrics_count_a_request_and_nothing_of_its_arm():
    observer = MetricsObserver(
        Vocabulary(routes=frozenset("r"), arms=frozenset("ab"), models=frozenset("ab")), now=float
    )
    observer.observe(_event(), HERE)
    totals = observer.arms["r", "a", "a"]
    assert totals.requests == {("completed", "2xx"): 1}
    assert (totals.cost_usd, totals.cost_unknown, sum(totals.latency.counts)) == (0.0, 0, 0)
    assert totals.errors.counts(1_795_000_000.0) == (0, 0)


def test_workers_counts_survive_a_restart_and_fold_unknown_routes():
    observer = MetricsObserver(Vocabulary(routes=frozenset("r")), now=float)
    rows = [["r", "hit", 3], ["r", "miss", 1], ["gone", "hit", 2]]
    stats = {"worker": 1, "cache": {"requests": rows, "bytes": 10, "entries": 1}}
    for _ in range(2):
        observer.observe({"type": events.WORKER_STATS, "data": stats}, HERE)
    again = MetricsObserver(Vocabulary(routes=frozenset("r")), now=float)
    again.restore(observer.snapshot())
    assert again.cache == observer.cache == {("r", "hit"): 6, ("r", "miss"): 2, ("other", "hit"): 4}

    older = orjson.loads(observer.snapshot())
    del older["cache"]
    again.restore(orjson.dumps(older))
    assert again.cache == {}


@pytest.mark.parametrize("words", ["came from the cache", "'a'", "req_1", "it cost nothing", "route 'r'"])
def test_it_is_explained(words):
    text = " ".join(explain(HIT))
    assert words in text
    assert "drawn" not in text
