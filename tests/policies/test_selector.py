"""Workers draw from a frozen table: every propensity is exact, every eligible set is served."""

import subprocess
import sys
from math import nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.selector import TableSelector

weights = st.lists(st.integers(0, 20), min_size=1, max_size=40).filter(any)


def selector(parts: list[int]) -> TableSelector:
    return TableSelector("s", [part / sum(parts) for part in parts])


@given(weights, st.integers(0), st.floats(0, 1, exclude_max=True))
def test_choice_is_eligible_and_its_propensity_is_in_the_vector(
    parts: list[int], mask: int, u: float
) -> None:
    """Whatever the eligible set, the drawn arm is in it and the vector says with which probability."""
    table = selector(parts)
    eligible = mask & table.full_mask or table.full_mask

    arm, propensity = table.choose(u, eligible)

    vector = table.vector(eligible)
    assert eligible >> arm & 1
    assert propensity == vector[arm] > 0.0
    assert sum(vector) == pytest.approx(1.0)
    assert all(share == 0.0 for index, share in enumerate(vector) if not eligible >> index & 1)


@given(weights, st.integers(0))
def test_an_arm_owns_exactly_its_share_of_the_unit_interval(parts: list[int], mask: int) -> None:
    """Walking a fine grid over [0, 1) meets each arm as often as its propensity says."""
    table = selector(parts)
    eligible = mask & table.full_mask or table.full_mask
    steps = 2000

    met = [0] * table.size
    for step in range(steps):
        met[table.choose(step / steps, eligible)[0]] += 1

    for count, share in zip(met, table.vector(eligible), strict=True):
        assert count / steps == pytest.approx(share, abs=1.01 / steps)


def test_shares_are_renormalised_over_the_eligible() -> None:
    """Ruling out an arm scales the others up in proportion."""
    table = TableSelector("s", [0.5, 0.3, 0.2])

    assert table.vector(0b110) == pytest.approx((0.0, 0.6, 0.4))
    assert table.choose(0.59, 0b110) == (1, pytest.approx(0.6))
    assert table.choose(0.61, 0b110) == (2, pytest.approx(0.4))


def test_eligible_arms_that_are_never_played_are_drawn_evenly() -> None:
    """A request that only unplayed arms can serve is served; none of them is preferred."""
    table = TableSelector("s", [1.0, 0.0, 0.0])

    assert table.vector(0b110) == (0.0, 0.5, 0.5)
    assert table.choose(0.49, 0b110) == (1, 0.5)
    assert table.choose(0.51, 0b110) == (2, 0.5)


def test_the_largest_draw_never_meets_an_impossible_arm() -> None:
    """Rounding at the upper end of [0, 1) does not spill into a trailing arm of probability 0."""
    table = TableSelector("s", [0.1] * 10 + [0.0, 0.0])

    arm, propensity = table.choose(nextafter(1.0, 0.0), table.full_mask)

    assert arm == 9
    assert propensity == pytest.approx(0.1)


def test_a_unit_moves_only_when_the_probabilities_move_past_it() -> None:
    """A fixed draw keeps its arm under a small change of the table."""
    before = TableSelector("a", [0.50, 0.50])
    after = TableSelector("b", [0.52, 0.48])

    moved = [u / 1000 for u in range(1000) if before.choose(u / 1000, 3)[0] != after.choose(u / 1000, 3)[0]]

    assert moved == [u / 1000 for u in range(500, 520)]


def test_many_eligible_sets_do_not_grow_the_cache() -> None:
    """Memory follows the bound, not the variety of requests, and answers stay right after eviction."""
    table = TableSelector("s", [1 / 12] * 12)

    for mask in range(1, 4096):
        table.choose(0.5, mask)

    assert len(table._slices) <= 64
    assert table.vector(0b1) == (1.0,) + (0.0,) * 11


def test_bits_beyond_the_arms_are_ignored() -> None:
    """A mask made for more arms than the selector has selects among those it has."""
    table = TableSelector("s", [0.25, 0.75])

    assert table.choose(0.3, 0b1111) == (1, 0.75)


@pytest.mark.parametrize("eligible", [0, 0b100])
def test_no_eligible_arm_is_an_error(eligible: int) -> None:
    """Nothing to choose from is the caller's business."""
    with pytest.raises(ValueError, match="no eligible arm"):
        TableSelector("s", [0.5, 0.5]).choose(0.1, eligible)


@pytest.mark.parametrize(
    "probabilities", [[], [0.5, 0.4], [1.5, -0.5], [float("nan"), 1.0], [float("inf"), 0.0]]
)
def test_a_broken_table_is_refused(probabilities: list[float]) -> None:
    """Probabilities that are no distribution never reach traffic."""
    with pytest.raises(ValueError, match="selector s"):
        TableSelector("s", probabilities)


def test_a_worker_that_imports_the_selector_loads_no_numpy() -> None:
    """The data plane starts fast and stays small."""
    code = "import sys, policies.selector; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
