"""Floor and nursery keep every arm alive without pushing another below its due."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.mixing import effective_floor, finish, with_floor
from policies.types import PolicyParams

shares = st.lists(st.floats(0, 1), min_size=1, max_size=60).filter(lambda xs: sum(xs) > 0.01)


@given(shares, st.floats(0, 1))
def test_nobody_gets_less_than_the_floor(parts: list[float], floor: float) -> None:
    """No shares, however lopsided, starve an arm below the floor that fits the number of arms."""
    mixed = with_floor(np.array(parts) / sum(parts), floor)

    assert (mixed >= effective_floor(floor, len(parts)) - 1e-12).all()
    assert mixed.sum() == pytest.approx(1.0)


def test_many_arms_leave_half_of_the_traffic_to_the_policy() -> None:
    """A floor of 2 % for 100 arms would be all of the traffic; it shrinks instead."""
    assert effective_floor(0.02, 10) == 0.02
    assert effective_floor(0.02, 100) == 0.005


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.floats(0, 0.1))
def test_a_young_arm_gets_an_even_share(young: list[bool], floor: float) -> None:
    """Arms in the nursery get 1/n each, whatever the judged arms look like."""
    nursery = np.array(young)
    seasoned = np.zeros(int((~nursery).sum()))
    seasoned[:1] = 1.0

    result = finish(seasoned, nursery, PolicyParams(floor=floor))

    assert result[nursery] == pytest.approx(1.0 / len(young))
    assert result.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_probability_is_refused(floor: float) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match="floor"):
        effective_floor(floor, 3)
