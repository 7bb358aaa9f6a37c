"""Tests of the confidence sequences: they cover at all times at once, and their shape is as documented."""

from math import inf, isinf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sequential.confidence import (
    Interval,
    Sample,
    difference_bounds,
    difference_sequence,
    even_count,
    mean_bounds,
    mean_sequence,
    one_sided_factor,
    width_factor,
)

values = st.lists(st.floats(0.0, 1.0), max_size=30)


def _sample(numbers) -> Sample:
    return Sample(float(len(numbers)), float(sum(numbers)), float(sum(x * x for x in numbers)))


@given(values, values)
def test_samples_add_up(one, other):
    """The sum of two samples is the sample of both."""
    together, added = _sample([*one, *other]), _sample(one) + _sample(other)

    assert added.count == together.count
    assert added.total == pytest.approx(together.total)
    assert added.squares == pytest.approx(together.squares)


@pytest.mark.parametrize("share", [0.8, 0.97])
def test_an_interval_misses_at_no_look(share):
    """Identical sides, 200 looks: 20 misses in 400 runs at most; at the measured rate of 2 % more are a 1e-4 event."""
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(400):
        one, other = (np.cumsum(rng.random(4000) < share) for _ in range(2))
        looks = [
            difference_sequence(
                Sample.of_share(float(one[n - 1]), n),
                Sample.of_share(float(other[n - 1]), n),
                0.05,
                unit=True,
            )
            for n in range(20, 4001, 20)
        ]
        missed += any(not look.low <= 0.0 <= look.high for look in looks)

    assert missed <= 20


def test_a_real_difference_is_seen():
    """80 % against 85 % is decided within 5,000 a side; power is above .999."""
    rng = np.random.default_rng(12)
    one, other = (float((rng.random(5000) < share).sum()) for share in (0.80, 0.85))

    seen = difference_sequence(Sample.of_share(one, 5000), Sample.of_share(other, 5000), 0.05, unit=True)

    assert seen.low > 0.0
    assert seen.low < seen.estimate < seen.high


@given(st.floats(10.0, 1e6), st.floats(1e-6, 0.1))
def test_a_bound_on_one_side_is_tighter(target, alpha):
    """At its target, one side costs less than both, and a smaller alpha more."""
    both = width_factor(target, alpha, target=target)
    one = one_sided_factor(target, alpha, target=target)

    assert one < both
    assert one_sided_factor(target, alpha / 10.0, target=target) > one
    assert width_factor(target, alpha / 10.0, target=target) > both


def test_an_interval_is_tightest_around_its_target():
    """For the same data, the interval made for that many observations is the narrowest."""
    at = [width_factor(1000, 0.05, target=target) for target in (10.0, 1000.0, 100_000.0)]

    assert at[1] == min(at)
    assert 2.5 < at[1] < 3.2


def test_unequal_sides_count_as_their_harmonic_mean():
    """900 against 100 tell as much as 180 a side."""
    assert even_count(Sample(900.0), Sample(100.0)) == pytest.approx(180.0)
    assert even_count(Sample(500.0), Sample(500.0)) == pytest.approx(500.0)
    assert even_count(Sample(), Sample(5.0)) == 0.0


def test_no_scatter_is_no_certainty():
    """A hundred successes of a hundred leave room for failures."""
    sure = mean_sequence(Sample.of_share(100.0, 100.0), 0.05, unit=True)

    assert 0.5 < sure.low < 0.99


def test_nothing_observed_bounds_nothing():
    """Without values on a side every interval is the whole line."""
    some, none = Sample(3.0, 1.0, 1.0), Sample()

    found = (mean_sequence(none, 0.05), mean_bounds(none, 0.05), difference_bounds(some, none, 0.05))

    assert all(interval.low == -inf and interval.high == inf for interval in found)
    assert isinf(none.variance(unit=True))
    assert found[0] == Interval(-inf, 0.0, inf)


@pytest.mark.parametrize(("alpha", "target"), [(0.0, 10.0), (1.0, 10.0), (0.05, 0.0)])
def test_levels_and_targets_are_checked(alpha, target):
    """A level outside (0, 1) or a target of nothing is a mistake of the caller."""
    with pytest.raises(ValueError, match=r"alpha|target"):
        width_factor(10.0, alpha, target=target)
