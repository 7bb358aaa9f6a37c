"""Tests of the e-processes for shares: they never expect to win against a true hypothesis, and they find harm."""

import json
from itertools import product
from math import comb, exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sequential.bernoulli import (
    GROWTHS,
    SHARE_GROWTHS,
    TwoSample,
    log_evidence_above,
    log_mixture,
    raised,
)

shares = st.floats(0.0, 1.0)
sizes = st.integers(1, 5)


def _chance(events: int, outcomes: int, share: float) -> float:
    return comb(outcomes, events) * share**events * (1.0 - share) ** (outcomes - events)


def _taught(events: int, outcomes: int) -> TwoSample:
    test = TwoSample()
    test.add((events, outcomes), (0, 1))
    return test


@given(shares, shares, sizes, sizes, st.integers(0, 40))
def test_a_block_is_a_fair_bet_at_best(one, other, c, t, known):
    """Whatever control showed before: a candidate that is no worse than control lets no bet grow on average."""
    control_share, candidate_share = max(one, other), min(one, other)
    before = _taught(known, 40).value

    expected = 0.0
    for y, z in product(range(c + 1), range(t + 1)):
        test = _taught(known, 40)
        test.add((y, c), (z, t))
        chance = _chance(y, c, control_share) * _chance(z, t, candidate_share)
        expected += chance * exp(test.value - before)

    assert expected <= 1.0 + 1e-9


@given(
    st.lists(st.tuples(shares, shares, st.integers(0, 2), st.integers(0, 2)), max_size=3), st.integers(0, 40)
)
def test_evidence_is_fair_however_the_shares_move(moments, known):
    """Over several moments, each with shares and a composition of its own; blocks form as they come.

    The candidate is no worse than control at any moment, and moments that share a block share their rates.
    """
    paths = [(1.0, _taught(known, 40))]
    rates = None
    for one, other, c, t in moments:
        open_block = any(test.waiting != (0, 0, 0, 0) for _, test in paths)
        rates = rates if open_block and rates else (max(one, other), min(one, other))
        grown = []
        for chance, test in paths:
            for y, z in product(range(c + 1), range(t + 1)):
                after = TwoSample.restore(test.snapshot())
                after.add((y, c), (z, t))
                grown.append((chance * _chance(y, c, rates[0]) * _chance(z, t, rates[1]), after))
        paths = grown

    before = _taught(known, 40).value
    assert sum(chance * exp(test.value - before) for chance, test in paths) <= 1.0 + 1e-9


@given(shares, st.integers(1, 3), st.integers(0, 40))
def test_a_stopping_rule_gains_nothing(share, looks, known):
    """Stopping at the first look whose evidence has grown, else at the last: the expectation stays at most 1."""
    begun = _taught(known, 40)
    gained, paths = 0.0, [(1.0, begun)]
    for look in range(looks):
        grown = []
        for chance, test in paths:
            for y, z in product(range(3), range(2)):
                after = TwoSample.restore(test.snapshot())
                after.add((y, 2), (z, 1))
                likely = chance * _chance(y, 2, share) * _chance(z, 1, share)
                if after.value > begun.value or look == looks - 1:
                    gained += likely * exp(after.value - begun.value)
                else:
                    grown.append((likely, after))
        paths = grown

    assert gained <= 1.0 + 1e-9


@given(shares, st.floats(0.0, 0.99), st.integers(1, 20))
def test_evidence_against_a_share_is_fair_below_it(share, bound, outcomes):
    """The expectation is at most 1 for every share that the hypothesis allows."""
    real = share * bound

    expected = sum(
        _chance(events, outcomes, real) * exp(log_evidence_above(events, outcomes, bound))
        for events in range(outcomes + 1)
    )

    assert expected <= 1.0 + 1e-9


blocks = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)).map(
        lambda row: ((min(row[0], row[1]), row[1]), (min(row[2], row[3]), row[3]))
    ),
    max_size=30,
)


@given(blocks, st.integers(0, 30))
def test_a_restart_changes_nothing(rows, cut):
    """Saving at any point and going on gives the very same evidence."""
    straight, restarted = TwoSample(), TwoSample()
    for place, row in enumerate(rows):
        straight.add(*row)
        if place == cut:
            restarted = TwoSample.restore(json.loads(json.dumps(restarted.snapshot())))
        restarted.add(*row)

    assert restarted == straight


def test_one_side_alone_waits_for_the_other():
    """Outcomes without a counterpart are kept for the block that gets one."""
    apart, together = _taught(1, 40), _taught(1, 40)

    apart.add((1, 5), (0, 0))
    apart.add((0, 4), (0, 0))
    waiting = apart.value
    apart.add((0, 0), (1, 2))
    together.add((1, 9), (1, 2))

    assert waiting == _taught(1, 40).value
    assert apart == together


def test_what_hits_both_sides_is_no_evidence():
    """Both sides fail half of their requests for a while: chance of a false alarm below 1 %, seeded."""
    rng = np.random.default_rng(4)
    test = TwoSample()

    for share in [0.02] * 200 + [0.5] * 100 + [0.02] * 200:
        test.add((int(rng.binomial(9, share)), 9), (int(rng.binomial(1, share)), 1))

    assert test.peak < log(100.0)


def test_a_rejection_stays():
    """The peak is kept when the evidence falls again."""
    test = _taught(0, 100)

    for _ in range(10):
        test.add((0, 10), (1, 1))
    high = test.peak
    for _ in range(300):
        test.add((0, 10), (0, 10))

    assert high > log(1000.0)
    assert test.peak == high
    assert test.value < high


def test_two_percent_against_ten_is_found_soon():
    """At a 10 % canary the median is below 80 canary requests at alpha .0075; 300 seeded runs, error about 5."""
    rng = np.random.default_rng(8)
    spent = []
    for _ in range(300):
        test, count = TwoSample(), 0
        while test.peak < -log(0.0075):
            count += 1
            test.add((int(rng.binomial(9, 0.02)), 9), (int(rng.random() < 0.1), 1))
        spent.append(count)

    assert np.median(spent) <= 80


def test_odds_are_raised_by_their_ratio():
    """Odds 1 : 3 times 3 are 1 : 1, and the mixture's weights are weights."""
    assert raised(0.25, 3.0) == pytest.approx(0.5)
    for growths in (GROWTHS, SHARE_GROWTHS):
        assert sum(weight for _, weight in growths) == pytest.approx(1.0)


def test_a_mixture_needs_no_small_numbers():
    """Huge logarithms do not overflow, and nothing stays nothing."""
    assert log_mixture((1000.0, 1000.0), (0.5, 0.5)) == pytest.approx(1000.0)
    assert log_mixture((-inf, -inf), (0.5, 0.5)) == -inf


@pytest.mark.parametrize("row", [((2, 1), (0, 1)), ((0, 1), (-1, 1)), ((0, 1), (3, 2))])
def test_impossible_counts_are_refused(row):
    """More events than outcomes is a mistake of the caller."""
    with pytest.raises(ValueError, match="events among"):
        TwoSample().add(*row)


def test_a_share_of_one_cannot_be_exceeded():
    """Nothing lies above a share of 1, so there is no such test."""
    with pytest.raises(ValueError, match="share must lie"):
        log_evidence_above(1, 2, 1.0)


def test_a_snapshot_of_other_bets_is_refused():
    """Evidence of bets that are no longer placed cannot be continued."""
    with pytest.raises(ValueError, match="bets were saved"):
        TwoSample.restore({**TwoSample().snapshot(), "logs": [0.0]})
