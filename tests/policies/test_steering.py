"""Multipliers: constraints are kept in expectation, and what can't be kept is approached and said."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.beliefs import Beliefs, Line
from policies.steering import COST, LATE, QUALITY, Aims, Course, Given, Multipliers, index_of, steer
from policies.types import FloatArray

COSTS = (0.001, 0.004, 0.02)
QUALITIES = (0.5, 0.75, 0.9)
LATES = (0.01, 0.02, 0.3)
ALONE = np.eye(1)


def beliefs_of(
    quality: FloatArray | tuple[float, ...] = QUALITIES,
    cost: tuple[float, ...] = COSTS,
    late: tuple[float, ...] = LATES,
    *,
    slopes: FloatArray | None = None,
    sd: float = 0.02,
    cost_goal: float = 0.0,
) -> Beliefs:
    """Arms of known cost and lateness; quality with deviation ``sd``, and ``slopes`` on further features."""
    n_arms = len(cost)
    steep = np.zeros((n_arms, 0)) if slopes is None else slopes
    size = 1 + steep.shape[1]
    weights = np.column_stack([np.array(quality), steep])
    logs = np.zeros((n_arms, size))
    logs[:, 0] = np.log(cost)
    charge = logs.copy()
    charge[:, 0] += np.log(max(cost_goal, 1e-300) / max(cost))
    return Beliefs(
        value=np.zeros((n_arms, size)),
        charges=charge[None] if cost_goal else np.zeros((0, n_arms, size)),
        noise=np.full(n_arms, 1e-8),
        quality=Line(weights, np.zeros((n_arms, size, size)), np.full(n_arms, sd**2)),
        pursued=np.ones(n_arms),
        cost=logs,
        priced=np.ones(n_arms, dtype=np.bool_),
        late=np.array(late),
        gain=0.0,
    )


def given_of(n_arms: int = 3, floor: float = 0.0) -> Given:
    return Given(np.full(n_arms, floor), np.ones(n_arms, dtype=np.bool_))


def requests_of(size: int, count: int = 64, seed: int = 0) -> FloatArray:
    x = np.random.default_rng(seed).normal(size=(count, size))
    x[:, 0] = 1.0
    return x


def told(course: Course, beliefs: Beliefs, requests: FloatArray) -> tuple[float, float, float]:
    """Cost, quality and lateness that the index leads to, computed here."""
    shares = course.index.shares(requests)
    cost = float((shares * np.exp(requests @ beliefs.cost.T)).sum(axis=1).mean())
    quality = float((shares * np.clip(requests @ beliefs.quality.weights.T, 0.0, 1.0)).sum(axis=1).mean())
    return cost, quality, float((shares @ beliefs.late).mean())


# --- one constraint ------------------------------------------------------------------------------------


def test_without_constraints_nothing_is_weighed() -> None:
    """The best arm is played, and nothing is missed."""
    course = steer(beliefs_of(), ALONE, Aims(), given_of())

    assert course.multipliers == Multipliers()
    assert course.missed == ()
    assert course.index.shares(np.ones(1))[2] > 0.99


@pytest.mark.parametrize("budget", [0.0015, 0.003, 0.006, 0.012, 0.019])
@pytest.mark.parametrize("sd", [0.2, 0.02, 1e-4])
def test_a_budget_is_kept_and_used(budget: float, sd: float) -> None:
    """Also where beliefs are so sure that shares jump from one arm to the next."""
    beliefs = beliefs_of(sd=sd)

    course = steer(beliefs, ALONE, Aims(cost_usd=budget), given_of(floor=0.005))

    cost, _, _ = told(course, beliefs, ALONE)
    assert course.missed == ()
    assert course.expected.cost_usd == pytest.approx(cost, rel=0.02)
    assert cost <= 1.02 * budget
    if sd > 0.01 and course.multipliers.cost > 0.0:
        assert cost >= 0.97 * budget


@settings(max_examples=60, deadline=None)
@given(budget=st.floats(0.0011, 0.019))
def test_a_step_ends_on_the_side_that_keeps_the_budget(budget: float) -> None:
    """All requests alike and every belief sure: one step of the search from the dear arm to the cheap one."""
    beliefs = beliefs_of(sd=1e-6)
    requests = np.ones((8, 1))

    course = steer(beliefs, requests, Aims(cost_usd=budget), given_of())

    assert course.missed == ()
    assert course.expected.cost_usd <= budget


def test_a_budget_that_does_not_bind_costs_nothing() -> None:
    """No multiplier, the same index."""
    beliefs = beliefs_of()
    course = steer(beliefs, ALONE, Aims(cost_usd=1.0), given_of())

    assert course.multipliers == Multipliers()
    assert course.index.shares(ALONE) == pytest.approx(
        index_of(beliefs, Multipliers(), given_of()).shares(ALONE)
    )


@pytest.mark.parametrize("floor", [0.6, 0.7, 0.8, 0.88])
def test_a_floor_is_kept_while_money_is_saved(floor: float) -> None:
    """The objective wants cheap answers; the floor lets it have them as far as it goes."""
    beliefs = replace(beliefs_of(cost_goal=5.0, sd=0.05), pursued=np.full(3, 0.1))

    course = steer(beliefs, ALONE, Aims(quality=floor), given_of(floor=0.005))

    _, quality, _ = told(course, beliefs, ALONE)
    assert course.missed == ()
    assert quality >= floor - 0.003
    assert quality <= floor + 0.03


def test_late_replies_are_kept_rare() -> None:
    """By playing the arms that answer in time."""
    beliefs = beliefs_of()

    course = steer(beliefs, ALONE, Aims(late=0.05), given_of(floor=0.005))

    assert told(course, beliefs, ALONE)[2] <= 0.0515
    assert (course.multipliers.late > 0.0, course.missed) == (True, ())


# --- several -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "floor"), [(0.01, 0.8), (0.006, 0.75), (0.0045, 0.7), (0.015, 0.83)])
def test_budget_and_floor_together(budget: float, floor: float) -> None:
    """Feasible for a mix of arms, so both are kept."""
    beliefs = beliefs_of(sd=0.05)

    course = steer(beliefs, ALONE, Aims(cost_usd=budget, quality=floor), given_of(floor=0.002))

    cost, quality, _ = told(course, beliefs, ALONE)
    assert course.missed == ()
    assert cost <= 1.02 * budget
    assert quality >= floor - 0.003


def cheapest(quality: FloatArray, cost: FloatArray, floor: float) -> float:
    """What the cheapest mix of two arms with this quality costs."""
    found = [float(cost[quality >= floor].min(initial=np.inf))]
    for good, bad in product(np.flatnonzero(quality > floor), np.flatnonzero(quality < floor)):
        share = (floor - quality[bad]) / (quality[good] - quality[bad])
        found.append(float(share * cost[good] + (1.0 - share) * cost[bad]))
    return min(found)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_arms=st.integers(2, 5), place=st.floats(0.0, 1.0))
def test_what_a_mix_of_arms_can_keep_is_kept(seed: int, n_arms: int, place: float) -> None:
    """Floor and budget, as soon as the linear program has a tenth of the money to spare."""
    rng = np.random.default_rng(seed)
    quality, cost = rng.uniform(0.3, 0.95, n_arms), 10.0 ** rng.uniform(-4.0, -1.5, n_arms)
    quality[0], quality[1] = 0.4, 0.9
    floor, least = 0.4 + place * 0.45, 0.0005
    budget = 1.1 * cheapest(quality, cost, floor + 0.02) + least * float(cost.sum())
    beliefs = beliefs_of(quality, tuple(cost), (0.01,) * n_arms, sd=0.03)

    course = steer(beliefs, ALONE, Aims(cost_usd=budget, quality=floor), given_of(n_arms, least))

    assert course.missed == ()


def test_all_three_together() -> None:
    """Quality needs the slow and dear arm a little, lateness and the budget limit it."""
    beliefs = beliefs_of(sd=0.05)

    course = steer(beliefs, ALONE, Aims(cost_usd=0.007, quality=0.75, late=0.06), given_of(floor=0.002))

    cost, quality, late = told(course, beliefs, ALONE)
    assert course.missed == ()
    assert cost <= 1.02 * 0.007
    assert quality >= 0.747
    assert late <= 1.02 * 0.06


def test_requests_are_told_apart() -> None:
    """At the same budget, knowing which requests need the dear arm is worth quality; the mean cost is the same."""
    slopes = np.array([[-0.2], [0.0], [0.0]])
    seeing = beliefs_of((0.7, 0.75, 0.8), slopes=slopes, sd=0.03)
    blind = beliefs_of((0.7, 0.75, 0.8), slopes=np.zeros((3, 1)), sd=0.03)
    requests = requests_of(2)
    budget = Aims(cost_usd=0.004)

    looked = steer(seeing, requests, budget, given_of(floor=0.002))
    not_looked = steer(blind, requests, budget, given_of(floor=0.002))

    mean = (not_looked.index.shares(requests) * np.clip(requests @ seeing.quality.weights.T, 0, 1)).sum(
        axis=1
    )
    assert looked.expected.cost_usd == pytest.approx(0.004, rel=0.03)
    assert looked.expected.quality > float(mean.mean()) + 0.03
    hard, easy = (looked.index.shares(np.array([1.0, x])) for x in (2.0, -2.0))
    assert easy[0] > 0.9
    assert hard[0] < 0.1


# --- what can't be kept --------------------------------------------------------------------------------


def test_a_budget_below_the_cheapest_arm_is_said() -> None:
    """And the cheapest arm is played, which is the nearest."""
    course = steer(beliefs_of(), ALONE, Aims(cost_usd=0.0005), given_of(floor=0.0))

    assert course.missed == (COST,)
    assert course.expected.cost_usd == pytest.approx(0.001, rel=0.01)
    assert course.index.shares(np.ones(1))[0] > 0.99


def test_a_floor_above_the_best_arm_is_said() -> None:
    """And the best arm is played."""
    course = steer(
        replace(beliefs_of(cost_goal=5.0), pursued=np.full(3, 0.1)), ALONE, Aims(quality=0.97), given_of()
    )

    assert course.missed == (QUALITY,)
    assert course.expected.quality == pytest.approx(0.9, abs=0.002)


def test_who_may_reach_the_floor_is_tried_before_the_best_known_at_any_price() -> None:
    """Nobody is believed to reach .89; the cheaper arm was hardly tried and may, the dearer one is known not to."""
    made = beliefs_of((0.8, 0.86, 0.885), (0.0001, 0.002, 0.015), cost_goal=1.0)
    uncertain = np.array([0.003, 0.05, 0.003]) ** 2
    made = replace(made, pursued=np.zeros(3), quality=replace(made.quality, level=uncertain))

    course = steer(made, ALONE, Aims(quality=0.89), given_of())

    shares = course.index.shares(ALONE)[0]
    assert shares[1] > 0.5
    assert shares[2] < 1e-6
    assert course.missed == (QUALITY,)
    assert course.expected.quality == pytest.approx(told(course, made, ALONE)[1], abs=1e-4)


def test_lateness_that_nobody_keeps_is_said() -> None:
    """And the fastest arm is played."""
    course = steer(beliefs_of(late=(0.4, 0.3, 0.6)), ALONE, Aims(late=0.05), given_of())

    assert course.missed == (LATE,)
    assert course.expected.late == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("budget", [0.0011, 0.002, 0.004])
def test_quality_goes_before_cost(budget: float) -> None:
    """Never compromise quality without being told: the floor is kept, the cost is what it takes, and that is said."""
    beliefs = beliefs_of(sd=0.05)

    course = steer(beliefs, ALONE, Aims(cost_usd=budget, quality=0.85), given_of(floor=0.002))

    assert course.missed == (COST,)
    assert course.expected.quality >= 0.847
    # The cheapest mix of known arms with this quality costs 0.0147.
    assert course.expected.cost_usd <= 0.0165


def test_nothing_can_be_kept() -> None:
    """Everything is said, and the floor's side is approached."""
    course = steer(beliefs_of(), ALONE, Aims(cost_usd=0.0001, quality=0.99), given_of(floor=0.002))

    assert set(course.missed) == {COST, QUALITY}
    assert course.expected.quality == pytest.approx(0.9, abs=0.01)


# --- caps and shares that are given ---------------------------------------------------------------------


def test_no_request_goes_where_it_is_predicted_to_cost_too_much() -> None:
    """Whatever it is worth; and if everything costs too much, to the cheapest."""
    beliefs = beliefs_of()
    capped = steer(beliefs, ALONE, Aims(), given_of(floor=0.05), max_request_usd=0.01).index
    nothing = steer(beliefs, ALONE, Aims(), given_of(floor=0.05), max_request_usd=0.0001).index

    assert capped.shares(np.ones(1))[2] == 0.0
    assert capped.shares(np.ones(1)).sum() == pytest.approx(1.0)
    assert nothing.shares(np.ones(1)) == pytest.approx([1.0, 0.0, 0.0])


def test_a_budget_reckons_with_the_cap() -> None:
    """What the cap saves need not be saved by a multiplier."""
    course = steer(beliefs_of(), ALONE, Aims(cost_usd=0.0045), given_of(floor=0.0), max_request_usd=0.01)

    assert course.multipliers.cost == 0.0
    assert course.expected.cost_usd == pytest.approx(0.004, rel=0.01)


def test_a_budget_reckons_with_what_is_given() -> None:
    """Exploration is paid from it."""
    beliefs = beliefs_of(sd=0.05)
    course = steer(beliefs, ALONE, Aims(cost_usd=0.005), given_of(floor=0.05))

    assert told(course, beliefs, ALONE)[0] == pytest.approx(0.005, rel=0.03)
    assert (course.index.shares(np.ones(1)) >= 0.05).all()


# --- shapes --------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    low=st.floats(1e-6, 10.0),
    factor=st.floats(1.01, 100.0),
    name=st.sampled_from(["cost", "quality", "late"]),
)
def test_more_weight_never_makes_it_worse(seed: int, low: float, factor: float, name: str) -> None:
    """What bisection rests on: a constraint's own quantity is monotone in its multiplier."""
    rng = np.random.default_rng(seed)
    beliefs = beliefs_of(
        tuple(rng.random(4)), tuple(10.0 ** rng.uniform(-4, -1, 4)), tuple(rng.random(4)), sd=0.1,
        slopes=0.1 * rng.normal(size=(4, 2)),
    )  # fmt: skip
    requests = requests_of(3, 16, seed)
    unit = 1.0 / 0.01 if name == "cost" else 1.0

    expected = []
    for size in (0.0, low, low * factor):
        index = index_of(beliefs, Multipliers(**{name: unit * size}), given_of(4, 0.01))
        shares = index.shares(requests)
        quality = requests @ beliefs.quality.weights.T
        what = {"cost": np.exp(requests @ beliefs.cost.T), "quality": -quality, "late": beliefs.late}[name]
        expected.append(float((shares * what).sum(axis=1).mean()))

    size = max(abs(value) for value in expected) + 1e-9
    if name != "quality":  # Its multiplier widens the draws with the means.
        assert expected[1] <= expected[0] + 0.01 * size
        assert expected[2] <= expected[1] + 0.01 * size


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), budget=st.floats(0.0002, 0.2))
def test_a_larger_budget_is_never_worse(seed: int, budget: float) -> None:
    """Neither for what is spent nor, by more than a bisection's step, for quality."""
    rng = np.random.default_rng(seed)
    beliefs = beliefs_of(
        tuple(np.sort(rng.random(3))), tuple(np.sort(10.0 ** rng.uniform(-3.5, -1, 3))), sd=0.05
    )

    less, more = (
        steer(beliefs, ALONE, Aims(cost_usd=usd), given_of(floor=0.002)) for usd in (budget, 1.5 * budget)
    )

    assert less.expected.cost_usd <= more.expected.cost_usd * 1.01
    assert less.expected.quality <= more.expected.quality + 0.01


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), budget=st.floats(1e-4, 1.0), order=st.permutations(range(3)))
def test_what_is_missed_is_what_is_expected(seed: int, budget: float, order: list[int]) -> None:
    """For any arms in any order: said to be missed exactly when expected beyond the slack, and never without reason."""
    rng = np.random.default_rng(seed)
    costs = 10.0 ** rng.uniform(-4, -1, 3)
    beliefs = beliefs_of(tuple(rng.random(3)[order]), tuple(costs[order]), sd=0.05)

    course = steer(beliefs, ALONE, Aims(cost_usd=budget), given_of(floor=0.002))

    given_cost = 0.002 * costs.sum() + 0.994 * costs.min()
    assert (COST in course.missed) == (course.expected.cost_usd > 1.02 * budget)
    if budget > 1.05 * given_cost:
        assert course.missed == ()
    if budget < 0.95 * given_cost:
        assert course.missed == (COST,)


def test_among_many_requests_a_budget_is_used_too() -> None:
    """Two kinds of requests of equal worth for the money: the multiplier that splits a kind is found all the same."""
    beliefs = beliefs_of(
        (0.6, 0.9, 0.9), (0.001, 0.01, 0.01), slopes=np.array([[-0.3], [0.0], [0.0]]), sd=0.01
    )
    requests = np.array([[1.0, -1.0], [1.0, 1.0]]).repeat(20, axis=0)

    for budget in (0.002, 0.003, 0.0042, 0.005):
        course = steer(beliefs, requests, Aims(cost_usd=budget), given_of())
        assert course.expected.cost_usd == pytest.approx(budget, rel=0.02)
