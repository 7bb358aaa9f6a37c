"""The yardsticks: what the linear programs say, against brute force and against what can be seen by eye."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.simulating.frontier import frontier, grouped, hindsight, hull
from optimizer.simulating.world import World

COST = np.array([[1.0, 4.0, 9.0]])
QUALITY = np.array([[0.2, 0.8, 1.0]])
ONE = np.array([1.0])


def world(quality, cost, group=None) -> World:
    """A world without features or latencies."""
    quality, cost = np.array(quality, dtype=float), np.array(cost, dtype=float)
    n, k = quality.shape
    groups = np.zeros(n, dtype=np.int64) if group is None else np.array(group)
    return World(
        tuple("abcdefgh"[:k]), quality, cost, np.full((n, k), np.nan), np.ones((n, 1)), groups, ("one", "two")
    )


@pytest.mark.parametrize(
    ("cost", "quality"), [(0.5, 0.2), (1.0, 0.2), (2.5, 0.5), (4.0, 0.8), (6.5, 0.9), (9.0, 1.0), (50.0, 1.0)]
)
def test_a_context_free_mix_lies_on_the_hull(cost, quality):
    """Between two neighbours the best mix is the straight line; below the cheapest there is only the cheapest."""
    assert frontier(COST, QUALITY, ONE).quality_at(cost) == pytest.approx(quality)


def test_the_least_cost_of_a_quality_is_the_same_curve_read_the_other_way():
    """None above the best arm."""
    curve = frontier(COST, QUALITY, ONE)

    assert curve.cost_at(0.5) == pytest.approx(2.5)
    assert curve.cost_at(0.1) == pytest.approx(1.0)
    assert curve.cost_at(1.0) == pytest.approx(9.0)
    assert curve.cost_at(1.01) is None


def test_dominated_arms_are_no_corners():
    """Neither an arm that is dearer and worse, nor one below the line of its neighbours, nor one not recorded."""
    cost = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    quality = np.array([0.5, 0.4, 0.6, np.nan, 1.0])

    assert hull(cost, quality) == [(1.0, 0.5), (5.0, 1.0)]


unit = st.floats(0.01, 1.0).map(lambda value: round(value, 3))


@given(
    st.lists(
        st.tuples(st.lists(unit, min_size=3, max_size=3), st.lists(unit, min_size=3, max_size=3)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 2**32 - 1),
)
def test_no_table_of_mixes_beats_the_frontier(groups, seed):
    """300 random tables of mixes per example lie on or under the curve."""
    cost = np.array([costs for costs, _ in groups])
    quality = np.array([qualities for _, qualities in groups])
    weight = np.full(len(groups), 1.0 / len(groups))
    curve = frontier(cost, quality, weight)

    mixes = np.random.default_rng(seed).dirichlet(np.full(3, 0.4), size=(300, len(groups)))
    spent = (mixes * cost).sum(axis=2) @ weight
    good = (mixes * quality).sum(axis=2) @ weight

    assert (good <= np.interp(spent, curve.cost, curve.quality) + 1e-9).all()
    assert (np.diff(curve.cost) >= 0).all()
    assert (np.diff(curve.quality) >= 0).all()


def test_knowing_more_never_costs():
    """Mix, category, oracle: each at least as good as the one before, at every cost that all of them can have."""
    rng = np.random.default_rng(5)
    played = world(rng.random((60, 3)), rng.random((60, 3)) * [1, 3, 9], rng.integers(2, size=60))

    seen = hindsight(played)

    for cost in np.linspace(0.6, 9.0, 30):
        assert seen.mix.quality_at(cost) <= seen.category.quality_at(cost) + 1e-9
        assert seen.category.quality_at(cost) <= seen.oracle.quality_at(cost) + 1e-9


def test_single_arms():
    """Best, best within a budget, cheapest above a floor."""
    seen = hindsight(world([[0.2, 0.8, 1.0]], COST))

    assert (seen.best, seen.best_within(5.0), seen.cheapest_above(0.5)) == ("c", "b", "b")
    assert seen.best_within(0.5) is None
    assert seen.cheapest_above(1.1) is None


def test_what_was_not_recorded_counts_nowhere():
    """Means are over recorded cells, and a query without an arm is played without it."""
    gaps = world([[0.5, np.nan], [0.7, 0.9]], [[1.0, 2.0], [1.0, 2.0]])

    assert hindsight(gaps).single == {"a": (pytest.approx(0.6), 1.0), "b": (pytest.approx(0.9), 2.0)}
    assert list(gaps.eligible()) == [1, 3]
    each = grouped(gaps, np.arange(2))
    assert each.quality[-1] == pytest.approx((0.5 + 0.9) / 2)


def test_a_world_refuses_what_does_not_fit():
    """Shapes, and queries that nobody answered."""
    with pytest.raises(ValueError, match="one row per query"):
        World(
            ("a",),
            np.ones((2, 1)),
            np.ones((2, 2)),
            np.ones((2, 1)),
            np.ones((2, 1)),
            np.zeros(2, dtype=np.int64),
        )
    with pytest.raises(ValueError, match="every query needs an arm"):
        world([[np.nan]], [[1.0]])
