"""Tests of the sample-ratio check."""

from math import comb, exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sequential.ratio import log_mismatch


@given(st.floats(0.001, 0.999), st.integers(0, 40))
def test_the_evidence_expects_to_stay_at_1(share, units):
    """Under the intended split the expectation is exactly 1, for every number of units."""
    expected = sum(
        comb(units, count)
        * share**count
        * (1.0 - share) ** (units - count)
        * exp(log_mismatch((units - count, count), (1.0 - share, share)))
        for count in range(units + 1)
    )

    assert expected == pytest.approx(1.0, rel=1e-6)


def test_a_wrong_split_is_found():
    """12 % instead of 10 % is evidence of 1,000 within 20,000 units; the power is above .999."""
    rng = np.random.default_rng(2)
    count = int(rng.binomial(20_000, 0.12))

    assert log_mismatch((20_000 - count, count), (0.9, 0.1)) > log(1000.0)


def test_more_than_two_sides():
    """Three prompts at a third each, one of them short of units."""
    assert log_mismatch((1000, 1000, 700), (0.4, 0.3, 0.3)) > log(1000.0)
    assert log_mismatch((1000, 1000, 1000), (1 / 3, 1 / 3, 1 / 3)) < 0.0


def test_a_side_without_share_must_stay_empty():
    """A single unit where there should be none is proof."""
    assert log_mismatch((10, 0), (1.0, 0.0)) == pytest.approx(0.0)
    assert log_mismatch((10, 1), (1.0, 0.0)) == inf


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (1.5, -0.5)])
def test_shares_are_probabilities(shares):
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="shares"):
        log_mismatch((1, 2), shares)
