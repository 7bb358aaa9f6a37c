"""Moments are additive: merging loses nothing and does not depend on order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import NOTHING, Moments

values = st.lists(st.floats(-1e3, 1e3), max_size=30)


@given(values, values)
def test_merging_equals_observing_both(first: list[float], second: list[float]) -> None:
    """The moments of two parts, merged, are those of the whole."""
    merged = Moments.of(first).merge(Moments.of(second))

    whole = Moments.of(first + second)
    assert merged.weight == whole.weight
    assert merged.mean == pytest.approx(whole.mean, abs=1e-9)
    assert merged.variance == pytest.approx(whole.variance, rel=1e-9, abs=1e-6)


@given(values, values)
def test_merging_commutes(first: list[float], second: list[float]) -> None:
    """Order does not matter."""
    one = Moments.of(first).merge(Moments.of(second))
    other = Moments.of(second).merge(Moments.of(first))

    assert one.mean == pytest.approx(other.mean, abs=1e-9)
    assert one.variance == pytest.approx(other.variance, rel=1e-9, abs=1e-6)


@given(values)
def test_sums_give_the_same_moments(seen: list[float]) -> None:
    """Additive sums and moments are two forms of one thing."""
    moments = Moments.from_sums(len(seen), sum(seen), sum(value * value for value in seen))

    expected = Moments.of(seen)
    assert moments.mean == pytest.approx(expected.mean, abs=1e-9)
    assert moments.variance == pytest.approx(expected.variance, rel=1e-6, abs=1e-5)
    assert moments.variance >= 0.0


def test_nothing_is_neutral() -> None:
    """Merging nothing changes nothing, and nothing plus nothing is nothing."""
    some = Moments(2.0, 3.0, 1.0)

    assert NOTHING.merge(some) == some
    assert some.merge(NOTHING) == some
    assert NOTHING.merge(NOTHING) == NOTHING
    assert Moments.from_sums(0.0, 0.0, 0.0) == NOTHING
