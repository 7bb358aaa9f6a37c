"""Tests of the proofs of non-inferiority: exact for every number of outcomes."""

import json
from itertools import product
from math import comb, exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sequential.confidence import Sample
from policies.sequential.margin import MeanMargin, ShareMargin

margins = st.floats(0.005, 0.5)
sizes = st.integers(1, 4)


def _chance(events: int, outcomes: int, share: float) -> float:
    return comb(outcomes, events) * share**events * (1.0 - share) ** (outcomes - events)


@given(
    margins, st.floats(0.0, 1.0), st.floats(0.0, 1.0), sizes, sizes, st.integers(0, 30), st.integers(0, 20)
)
def test_a_candidate_worse_by_the_margin_lets_no_share_bet_grow(margin, place, more, c, t, errors, others):
    """The expectation of a block is at most 1 for every pair of shares at least the margin apart."""
    low = place * (1.0 - margin)
    high = low + margin + more * (1.0 - margin - low)
    high = min(1.0, high)

    def taught():
        test = ShareMargin(margin)
        test.add((errors, 30), (others, 20))
        return test

    before, expected = taught().value, 0.0
    for y, z in product(range(c + 1), range(t + 1)):
        test = taught()
        test.add((y, c), (z, t))
        expected += _chance(y, c, low) * _chance(z, t, high) * exp(test.value - before)

    assert expected <= 1.0 + 1e-6


@given(margins, st.floats(0.0, 1.0), sizes, sizes, st.integers(0, 30), st.integers(0, 20))
def test_a_candidate_worse_by_the_margin_lets_no_rating_bet_grow(margin, place, c, t, ups, others):
    """The same for ratings; thumbs are the widest values in 0..1."""
    high = margin + place * (1.0 - margin)
    low = high - margin

    def taught():
        test = MeanMargin(margin)
        test.add(Sample.of_share(ups, 30), Sample.of_share(others, 20))
        return test

    before, expected = taught().value, 0.0
    for y, z in product(range(c + 1), range(t + 1)):
        test = taught()
        test.add(Sample.of_share(y, c), Sample.of_share(z, t))
        expected += _chance(y, c, high) * _chance(z, t, low) * exp(test.value - before)

    assert expected <= 1.0 + 1e-9


@pytest.mark.parametrize("kind", [ShareMargin, MeanMargin])
def test_equal_sides_prove_it(kind):
    """Sides that behave alike prove a margin of 5 points within 3,000 outcomes each; seeded, fails in under 1 %."""
    rng = np.random.default_rng(5)
    test = kind(0.05)

    for _ in range(1500):
        rows = [(int(rng.binomial(2, 0.1)), 2) for _ in range(2)]
        test.add(*(rows if kind is ShareMargin else (Sample.of_share(*row) for row in rows)))

    assert test.peak >= log(20.0)


@pytest.mark.parametrize("kind", [ShareMargin, MeanMargin])
def test_a_restart_changes_nothing(kind):
    """Saving at any point and going on gives the very same evidence."""
    rng = np.random.default_rng(6)
    straight, restarted = kind(0.1), kind(0.1)

    for _ in range(60):
        rows = [(int(rng.integers(0, 2)), 1) if rng.random() < 0.7 else (0, 0) for _ in range(2)]
        rows = rows if kind is ShareMargin else [Sample.of_share(*row) for row in rows]
        straight.add(*rows)
        restarted = kind.restore(0.1, json.loads(json.dumps(restarted.snapshot())))
        restarted.add(*rows)

    assert restarted == straight


@pytest.mark.parametrize("kind", [ShareMargin, MeanMargin])
@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_is_a_share(kind, margin):
    """No margin, or all of it, cannot be tested."""
    with pytest.raises(ValueError, match="margin must lie"):
        kind(margin)


def test_ratings_lie_in_0_to_1():
    """Other values would make the bet unfair, so they are refused."""
    with pytest.raises(ValueError, match=r"0\.\.1"):
        MeanMargin(0.1).add(Sample(1.0, 3.0, 9.0), Sample(1.0, 0.5, 0.25))
