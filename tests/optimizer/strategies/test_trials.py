"""The randomised slice: fair whatever the policy does, exact over restarts, and nothing for routes without a test."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from optimizer import events
from optimizer.ids import RequestIds
from optimizer.log.segment import Position
from optimizer.settings import PolicySettings
from optimizer.strategies.trials import PromptTrials, Tally

HERE = Position("source", 1, 0)
ARMS = ("big/default", "big/brief", "small/default")


@pytest.fixture
def trials(kit) -> PromptTrials:
    made = PromptTrials()
    made.configure(kit.settings(ARMS))
    return made


def decision(
    arm: str = "big/default", shares: tuple[float, ...] = (0.5, 0.3, 0.2), **changes: Any
) -> dict[str, Any]:
    model, prompt = arm.split("/")
    return {
        "route": "auto",
        "side": "control",
        "table_version": 1,
        "arm": arm,
        "arms": list(ARMS),
        "probabilities": list(shares),
        "model_key": f"key-{model}",
        "variant_key": f"key-{prompt}",
        "policy": "fixed",
        "selector": "sel-1",
        "randomised": True,
        "unit": "request",
        "outcome": events.COMPLETED,
        "started_ms": 1_000_000,
        "duration_ms": 800.0,
        "cost_usd": 0.01,
        **changes,
    }


def observe(trials: PromptTrials, request_id: str, data: dict[str, Any]) -> None:
    trials.observe({"type": events.REQUEST, "id": request_id, "data": data}, HERE)


def rate(
    trials: PromptTrials, request_id: str, data: dict[str, Any], value: float, metric: str = "quality"
) -> None:
    trials.rated({**data, "request_id": request_id}, metric, value)


def results(trials: PromptTrials, kit: Any, **settings: Any) -> Any:
    return trials.results(kit.settings(ARMS, **settings).routes[0])


def test_fixed_shares_are_taken_whole(trials, kit):
    for n in range(10):
        arm = ARMS[n % 2]
        observe(trials, f"r{n}", decision(arm))
        rate(trials, f"r{n}", decision(arm), 0.5 + 0.1 * (n % 2))
    found = results(trials, kit)
    assert found.started_at == 1000.0
    assert {arm: counts.assigned for arm, counts in found.arms.items()} == {"big/default": 5, "big/brief": 5}
    assert found.arms["big/default"].expected == pytest.approx(10 * 0.5 / 0.8)
    assert found.arms["big/brief"].metrics["quality"].mean == pytest.approx(0.6)
    assert found.arms["big/brief"].metrics["cost"].mean == pytest.approx(0.01)
    assert found.arms["big/brief"].metrics["latency"].mean == pytest.approx(0.8)


def test_a_policy_that_learns_is_thinned_to_an_even_split(trials, kit):
    """Arms drawn at 90 % and 2 % enter equally often (within 5 standard deviations of 20,000 draws)."""
    rng = np.random.default_rng(5)
    for n, draw in enumerate(rng.random(20_000)):
        arm = ARMS[0] if draw < 0.9 else ARMS[1] if draw < 0.92 else ARMS[2]
        observe(trials, f"r{n}", decision(arm, (0.9, 0.02, 0.08), policy="thompson"))
    found = results(trials, kit)
    counts = [found.arms[arm].assigned for arm in ARMS[:2]]
    assert abs(counts[0] - 400) < 100
    assert abs(counts[1] - 400) < 100
    assert found.arms[ARMS[0]].expected == found.arms[ARMS[1]].expected == sum(counts) / 2
    assert ARMS[2] not in found.arms


def test_a_policy_that_chases_the_time_of_day_does_not_fool_it(trials, kit):
    """An arm that is favoured while everything is rated well looks better to a naive mean, and not here."""
    rng = np.random.default_rng(6)
    naive: dict[str, list[float]] = {arm: [] for arm in ARMS[:2]}
    for n in range(30_000):
        good_hour = (n // 3000) % 2 == 0
        shares = (0.1, 0.8, 0.1) if good_hour else (0.8, 0.1, 0.1)
        arm = ARMS[rng.choice(3, p=shares)]
        data = decision(arm, shares, policy="thompson")
        observe(trials, f"r{n}", data)
        if arm in naive:
            value = float(rng.random() < (0.9 if good_hour else 0.5))
            naive[arm].append(value)
            rate(trials, f"r{n}", data, value)
    found = results(trials, kit)
    first, second = (found.arms[arm].metrics["quality"] for arm in ARMS[:2])
    assert np.mean(naive[ARMS[1]]) - np.mean(naive[ARMS[0]]) > 0.2
    error = (first.variance(unit=True) / first.count + second.variance(unit=True) / second.count) ** 0.5
    assert abs(first.mean - second.mean) < 4 * error


def test_probabilities_of_each_request_do_not_bias_it(trials, kit):
    """Hard requests go to the one prompt and easy ones to the other; both are equally good at each."""
    rng = np.random.default_rng(7)
    naive: dict[str, list[float]] = {arm: [] for arm in ARMS[:2]}
    for n in range(20_000):
        hard = rng.random() < 0.5
        shares = (0.85, 0.05, 0.1) if hard else (0.1, 0.7, 0.2)
        arm = ARMS[rng.choice(3, p=shares)]
        data = decision(
            arm, shares, policy="thompson", context={"version": "f1", "x": ""}, selector=f"sel-{n // 500}"
        )
        observe(trials, f"r{n}", data)
        if arm in naive:
            value = float(rng.random() < (0.3 if hard else 0.9))
            naive[arm].append(value)
            rate(trials, f"r{n}", data, value)
    found = results(trials, kit)
    first, second = (found.arms[arm].metrics["quality"] for arm in ARMS[:2])
    assert np.mean(naive[ARMS[1]]) - np.mean(naive[ARMS[0]]) > 0.3
    error = (first.variance(unit=True) / first.count + second.variance(unit=True) / second.count) ** 0.5
    assert abs(first.mean - second.mean) < 4 * error
    assert min(first.count, second.count) > 500


def test_a_request_that_one_arm_may_not_serve_ends_no_comparison(kit):
    """A cap leaves one of three prompts out of every third request; the comparison of the three goes on."""
    arms = ("big/default", "big/brief", "big/long")
    trials = PromptTrials()
    trials.configure(kit.settings(arms))
    whole, capped = (0.4, 0.3, 0.3), (0.6, 0.4, 0.0)
    for n in range(300):
        changes = {"arms": list(arms), "context": {"version": "f1", "x": ""}, "table_version": n + 1}
        shares = capped if n % 3 == 2 else whole
        observe(trials, f"r{n}", decision(arms[n % 2], shares, policy="thompson", **changes))
    found = trials.results(kit.settings(arms).routes[0])
    assert found.started_at == 1000.0
    assert set(found.arms) == set(arms)
    assert found.arms["big/default"].assigned > 50
    assert found.arms["big/brief"].assigned > 80


def test_a_rating_finds_what_its_request_was(trials, kit):
    """Of a thinned stream only the ratings of requests that entered count, before or after a restart."""
    data = decision("big/default", (0.9, 0.05, 0.05), policy="thompson")
    for n in range(500):
        observe(trials, f"r{n}", data)
    entered = results(trials, kit).arms["big/default"].assigned
    again = PromptTrials()
    again.configure(kit.settings(ARMS))
    again.restore(trials.snapshot())
    for n in range(500):
        rate(again, f"r{n}", data, 1.0)
    assert 0 < entered < 100
    assert results(again, kit).arms["big/default"].metrics["quality"].count == entered


@pytest.mark.parametrize(
    "changes",
    [
        {"randomised": False},
        {"side": "candidate"},
        {"route": "other"},
        {"route": None},
        {"arm": "small/default"},
        {"arm": None},
        {"filtered": {"big/brief": "context"}},
        {"arms": None, "probabilities": None},
        {"probabilities": [1.0, 0.0, 0.0]},
        {"variant_key": "key-edited"},
    ],
)
def test_what_was_not_drawn_among_the_compared_does_not_count(trials, kit, changes):
    data = {**decision(), **changes}
    observe(trials, "r1", data)
    rate(trials, "r1", data, 1.0)
    assert results(trials, kit) is None


def test_requests_count_for_the_prompt_that_was_drawn(trials, kit):
    """A failure, a rescue by another arm and an empty reply are the drawn prompt's doing, a caller's fault nobody's."""
    observe(trials, "r1", decision(outcome=events.UPSTREAM_FAULT))
    observe(trials, "r2", decision(served_by="small/default"))
    observe(trials, "r3", decision(signals={"empty": 1}))
    observe(trials, "r4", decision(outcome=events.CALLER_FAULT))
    counts = results(trials, kit).arms["big/default"]
    assert counts.assigned == 4
    assert (counts.metrics["success"].count, counts.metrics["success"].total) == (3.0, 1.0)
    assert (counts.metrics["valid"].count, counts.metrics["valid"].total) == (2.0, 1.0)


def test_other_shares_begin_anew_and_late_events_do_not_come_back(trials, kit):
    observe(trials, "r1", decision())
    observe(
        trials,
        "r2",
        decision(shares=(0.3, 0.5, 0.2), selector="sel-2", table_version=2, started_ms=2_000_000),
    )
    observe(trials, "r3", decision(table_version=1))
    rate(trials, "r1", decision(table_version=1), 1.0)
    found = results(trials, kit)
    assert (found.started_at, found.arms["big/default"].assigned) == (2000.0, 1)
    assert "quality" not in found.arms["big/default"].metrics


def test_another_selector_of_a_policy_that_learns_goes_on(trials, kit):
    for n in range(40):
        observe(trials, f"r{n}", decision(policy="thompson", shares=(0.4, 0.4, 0.2), selector=f"sel-{n}"))
    assert results(trials, kit).arms["big/default"].assigned == 40


def test_an_edited_prompt_begins_anew(trials, kit):
    observe(trials, "r1", decision())
    settings = kit.settings(ARMS)
    route = settings.routes[0]
    edited = replace(
        route, arms=tuple(replace(a, variant_key="new") if a.variant == "brief" else a for a in route.arms)
    )
    trials.configure(replace(settings, routes=(edited,)))
    observe(trials, "r2", decision(table_version=2))
    observe(trials, "r3", decision("big/brief", table_version=1))
    found = trials.results(edited)
    assert {arm: counts.assigned for arm, counts in found.arms.items() if counts.assigned} == {
        "big/default": 1
    }


def test_a_restart_changes_nothing(trials, kit):
    """Restored in the middle, the rest of the log gives exactly the same sums."""
    log = [
        (f"r{n}", decision(ARMS[n % 2], policy="thompson", unit="user", unit_hash=f"u{n % 7}"))
        for n in range(200)
    ]
    other = PromptTrials()
    other.configure(kit.settings(ARMS))
    for n, (request_id, data) in enumerate(log):
        if n == 90:
            other.restore(trials.snapshot())
        for follower in (trials, other) if n >= 90 else (trials,):
            observe(follower, request_id, data)
            rate(follower, request_id, data, n / 200)
    assert other.snapshot() == trials.snapshot()
    assert results(other, kit) == results(trials, kit)


def test_a_snapshot_may_come_before_the_configuration(trials, kit):
    observe(trials, "r1", decision())
    other = PromptTrials()
    other.restore(trials.snapshot())
    other.configure(kit.settings(ARMS))
    assert results(other, kit) == results(trials, kit)


def test_trials_of_routes_that_are_gone_are_forgotten(trials, kit):
    observe(trials, "r1", decision())
    trials.configure(kit.settings(("big/default", "small/default")))
    assert orjson.loads(trials.snapshot()) == []
    assert trials.results(kit.settings(("big/default", "small/default")).routes[0]) is None


def test_other_routes_and_events_leave_no_trace(kit):
    trials = PromptTrials()
    trials.configure(kit.settings(("big/default", "small/default"), policy=PolicySettings()))
    observe(trials, "r1", decision("small/default"))
    trials.observe({"type": events.WORKER_STATS, "id": "x", "data": {}}, HERE)
    assert trials.snapshot() == b"[]"
    assert trials.snapshot() is trials.snapshot()


def test_sticky_units_count_as_what_they_are():
    """20 requests of each of 2,000 people who always answer alike are as good as 2,000 (within the bucket noise)."""
    rng = np.random.default_rng(8)
    together, apart = Tally(), Tally()
    for _ in range(2000):
        value, bucket = float(rng.random() < 0.5), int(rng.integers(64))
        for _ in range(20):
            together.add(value, bucket)
            apart.add(float(rng.random() < 0.5), bucket)
    assert 1000 < together.sample().count < 4000
    assert apart.sample().count > 20_000
    assert together.sample().mean == pytest.approx(together.total / together.count)


def test_few_units_are_few_observations():
    tally = Tally()
    for n in range(300):
        tally.add(0.5 + 0.1 * (n % 3), n % 3)
    assert tally.sample().count <= 3.0


def test_a_damaged_snapshot_is_refused(trials):
    for data in (b"{}x", b'[{"route": 1}]', b'[{"route":"a","model_key":"b","key":"c","since":"x"}]'):
        with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
            trials.restore(data)


def request_id(node: int, number: int) -> str:
    return RequestIds(node=node, incarnation=number, key=b"k" * 32).mint(1_800_000_000_000)


def test_nodes_count_their_tables_each_for_itself(trials, kit):
    """What another prompt begins anew is not held up by a node whose versions are higher, even if it is gone."""
    observe(trials, request_id(1, 1), decision(table_version=10))
    observe(trials, request_id(2, 1), decision(table_version=5000))
    edited = {"selector": "sel-2", "started_ms": 2_000_000}

    observe(trials, request_id(1, 2), decision(table_version=11, **edited))

    assert results(trials, kit).started_at == 2000.0


def test_a_node_that_still_has_the_old_table_begins_nothing_anew(trials, kit):
    """Though it publishes newer versions of it all the time; when it follows, it counts with the others."""
    restored = PromptTrials()
    restored.configure(kit.settings(ARMS))
    observe(trials, request_id(1, 1), decision(table_version=10))
    observe(trials, request_id(2, 1), decision(table_version=5000))
    edited = {"selector": "sel-2", "started_ms": 2_000_000}
    observe(trials, request_id(1, 2), decision(table_version=11, **edited))
    restored.restore(trials.snapshot())

    for each in (trials, restored):
        observe(each, request_id(2, 2), decision(table_version=5001, started_ms=2_500_000))
        observe(each, request_id(2, 3), decision(table_version=5002, **edited))
        found = results(each, kit)

        assert found.started_at == 2000.0
        assert found.arms["big/default"].assigned == 2
