"""Forgetting by event time, with half-lives that may change."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.decay import Bend, DecayClock, epoch_of

half_lives = st.floats(1.0, 1e7)
times = st.floats(0.0, 4e9)


def test_one_half_life_is_one_unit():
    """A clock with a half-life of an hour shows one more after an hour."""
    clock = DecayClock.start(3600.0)

    assert clock.age(7200.0) - clock.age(3600.0) == pytest.approx(1.0)


def test_never_forgetting_is_a_clock_that_stands_still():
    """An infinite half-life weighs everything alike."""
    clock = DecayClock.start(math.inf)

    assert clock.age(0.0) == clock.age(2e9) == 0.0


@given(half_lives, half_lives, times, st.lists(times, min_size=1))
def test_a_new_half_life_rewrites_no_past(first, second, at, earlier):
    """Ages of times before a change are exactly what they were before it."""
    clock = DecayClock.start(first)
    before = [clock.age(min(time, at)) for time in earlier]

    clock.bend(second, at)

    assert [clock.age(min(time, at)) for time in earlier] == pytest.approx(before, rel=1e-12)
    assert clock.age(at + second) - clock.age(at) == pytest.approx(1.0, abs=1e-6)


@given(st.lists(st.tuples(half_lives, times), max_size=5), st.lists(times, min_size=2))
def test_age_never_runs_backwards(changes, moments):
    """Later is older, whatever the changes."""
    clock = DecayClock.start(60.0)
    for half_life_s, at in changes:
        clock.bend(half_life_s, at)

    ages = [clock.age(time) for time in sorted(moments)]

    assert ages == sorted(ages)


def test_a_stored_clock_continues():
    """The bends say everything."""
    clock = DecayClock.start(100.0)
    clock.bend(10.0, 1000.0)

    assert DecayClock(clock.bends).age(2000.0) == clock.age(2000.0) == 110.0


def test_bends_beyond_the_horizon_are_dropped_without_changing_ages():
    """Old changes of mind take no memory."""
    clock = DecayClock.start(10.0)
    for number in range(1, 50):
        clock.bend(10.0 + number, 10_000.0 * number)
    newest = clock.age(500_000.0)

    assert clock.forget_before(500_000.0)

    assert len(clock.bends) < 5
    assert clock.age(500_000.0) == newest


def test_the_same_half_life_is_no_change():
    """Reloading the same configuration bends nothing."""
    clock = DecayClock.start(5.0)

    assert not clock.bend(5.0, 100.0)
    assert len(clock.bends) == 1


@pytest.mark.parametrize("half_life_s", [0.0, -1.0, math.nan])
def test_a_half_life_must_be_positive(half_life_s):
    """A clock can not be started or bent with nonsense."""
    with pytest.raises(ValueError, match="half_life_s"):
        DecayClock.start(half_life_s)
    with pytest.raises(ValueError, match="half_life_s"):
        DecayClock.start(1.0).bend(half_life_s, 5.0)


def test_damaged_bends_are_refused():
    """A clock that would run backwards is not continued."""
    with pytest.raises(ValueError, match="order"):
        DecayClock([Bend(10.0, 1.0, 5.0), Bend(5.0, 2.0, 5.0)])
    with pytest.raises(ValueError, match="at least one"):
        DecayClock([])


def test_epochs_are_eight_half_lives():
    """Ages 0 up to 8 share a landmark."""
    assert [epoch_of(age) for age in (-0.5, 0.0, 7.9, 8.0)] == [-1, 0, 0, 1]
