"""What was saved against the baseline."""

import sqlite3

import pytest

from optimizer import events
from optimizer.history_rings import HistoryRings
from optimizer.ingest import Ingest
from optimizer.savings import Savings
from policies.types import Moments

COSTS = {("auto", "large/default"): Moments(100.0, 0.01, 0.0)}


def mean_cost(route, arm_id, *, at):
    return COSTS.get((route, arm_id))


def rings(now=1.7e9):
    return HistoryRings(sqlite3.connect(":memory:"), now=lambda: now)


def observe(savings, learning, **changes):
    savings.observe({"type": events.REQUEST, "id": "r", "data": learning["data"](**changes)}, None)


def test_savings_are_baseline_minus_actual(learning):
    """Dearer requests take away again."""
    savings = Savings(mean_cost, rings())

    observe(savings, learning, cost_usd=0.002)
    observe(savings, learning, cost_usd=0.015)

    auto = savings.routes["auto"]
    assert savings.total_usd == pytest.approx(0.003)
    assert (auto.requests, auto.unknown) == (2, 0)
    assert auto.baseline_usd == pytest.approx(0.02)
    assert auto.actual_usd == pytest.approx(0.017)


def test_unknown_costs_are_counted_and_not_zero(learning):
    """Neither an unknown cost nor an unknown baseline saves anything."""
    savings = Savings(mean_cost, rings())

    observe(savings, learning, cost_usd=None)
    observe(savings, learning, baseline_arm="never/default")

    assert savings.total_usd == 0.0
    assert (savings.routes["auto"].requests, savings.routes["auto"].unknown) == (0, 2)


def test_every_attempt_is_paid_for(learning):
    """What failed attempts cost was spent too; without the serving one's cost nothing is known."""
    savings = Savings(mean_cost, rings())
    failed = {"arm": "small/default", "status": 503, "error": "upstream_error", "cost_usd": 0.003}
    serving = {"arm": "large/default", "status": 200, "error": None, "cost_usd": 0.002}

    observe(savings, learning, cost_usd=0.005, attempts=[failed, serving])
    observe(savings, learning, cost_usd=0.003, attempts=[failed, {**serving, "cost_usd": None}])

    auto = savings.routes["auto"]
    assert (auto.requests, auto.unknown) == (1, 1)
    assert auto.actual_usd == pytest.approx(0.005)
    assert savings.total_usd == pytest.approx(0.005)


@pytest.mark.parametrize(
    "changes", [{"route": None}, {"baseline_arm": None}, {"outcome": events.UPSTREAM_FAULT}]
)
def test_only_decided_and_completed_requests_count(learning, changes):
    """Pass-through and failures save nothing."""
    savings = Savings(mean_cost, rings())

    observe(savings, learning, **changes)
    savings.observe({"type": events.FEEDBACK, "id": "f", "data": {}}, None)

    assert savings.routes == {}


def test_totals_survive_a_restart(learning):
    """The parts of the snapshot say everything."""
    savings = Savings(mean_cost, rings())
    observe(savings, learning)
    again = Savings(mean_cost, rings())

    for name, part in savings.snapshot_parts().items():
        (again.restore_part if name else again.restore)(part)

    assert again.routes == savings.routes
    with pytest.raises(TypeError):
        again.restore(b'{"auto": {"other": 1}}')


def test_the_baseline_is_learned_from_its_own_requests(node, learning):
    """End to end: the mean of what the baseline arm cost, against what the small one costs."""
    ingest = Ingest(node.state, clock=lambda: learning["noon"] + 60)
    savings = Savings(ingest.learner.cost_usd, ingest.history)
    ingest.add_consumer(savings)
    ingest.configure(learning["settings"]())
    for cost in (0.008, 0.012):
        node.request(arm="large/default", cost_usd=cost)
    for _ in range(10):
        node.request(arm="small/default", cost_usd=0.001)

    while ingest.step():
        pass
    ingest.close()

    # The first baseline request meets its own cost, the second a mean of 0.01, then 10 times 0.01 - 0.001.
    assert savings.total_usd == pytest.approx(-0.002 + 10 * 0.009)
