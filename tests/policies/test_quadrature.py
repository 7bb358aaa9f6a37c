"""The probability of being the greatest: against dense integration, for deviations that differ a lot."""

from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from policies.quadrature import best_of, best_shares, normal_cdf


def _dense(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral by Gauss-Legendre between 65 quantiles of every arm."""
    edges = np.unique((mean[:, None] + deviation[:, None] * np.linspace(-8, 8, 65)).ravel())
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    grid = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    z = (grid - mean[:, None]) / deviation[:, None]
    below = np.maximum(0.5 * np.vectorize(erfc)(-z / sqrt(2)), 1e-300)
    density = np.exp(-z * z / 2) / deviation[:, None]
    shares = (density * (below.prod(0) / below) * (half * weights).ravel()).sum(1)
    return np.asarray(shares / shares.sum())


def test_the_distribution_function_is_that_of_the_standard_normal() -> None:
    """Against the standard library's error function."""
    z = np.linspace(-7, 7, 999)

    assert np.abs(normal_cdf(z) - [0.5 * erfc(-value / sqrt(2)) for value in z]).max() < 1e-7


@pytest.mark.parametrize(("arms", "error"), [(2, 1e-4), (3, 2e-4), (10, 1e-3), (32, 4e-3)])
def test_shares_are_those_of_dense_integration(arms: int, error: float) -> None:
    """Also with arms ten thousand times narrower than others, which a common grid misses."""
    rng = np.random.default_rng(arms)
    for case in range(16):
        mean = rng.normal(0.0, 10 ** rng.uniform(-2, 0.3), arms)
        deviation = [
            10 ** rng.uniform(-4, 0, arms),
            np.full(arms, 0.3),
            np.where(rng.random(arms) < 0.5, 1e-4, 1.0),
        ][case % 3]

        assert np.abs(best_shares(mean, deviation) - _dense(mean, deviation)).max() < error


def test_two_arms_have_a_closed_form() -> None:
    """P(first is greater) = Phi((m1 - m2) / sqrt(s1^2 + s2^2)), a narrow arm beside a wide one included."""
    for gap in (-2.0, -0.3, 0.0, 0.7):
        mean, deviation = np.array([gap, 0.0]), np.array([1e-4, 1.0])
        expected = 0.5 * erfc(-gap / sqrt(2 * (1e-8 + 1.0)))

        assert best_shares(mean, deviation)[0] == pytest.approx(expected, abs=3e-4)


def test_arms_that_never_win_leave_the_others_as_they_are() -> None:
    """However many hopeless arms there are, and whatever is left: one arm, two or more."""
    for left in (1, 2, 4):
        means = [0.1 * arm for arm in range(left)]
        alone = best_of(means, [0.2] * left)

        shares = best_of([-3.0, *means, -2.0, -9.0], [0.3, *([0.2] * left), 0.1, 1.0])

        assert [shares[0], *shares[left + 1 :]] == [0.0, 0.0, 0.0]
        assert shares[1 : left + 1] == pytest.approx(alone, abs=1e-3)
        assert _dense(np.array([-3.0, *means]), np.array([0.3] + [0.2] * left))[0] < 1e-6


@given(
    st.lists(
        st.tuples(
            st.floats(-1e30, 1e30, allow_nan=False), st.floats(1e-9, 1e6, allow_nan=False, exclude_min=True)
        ),
        min_size=1,
        max_size=32,
    )
)
def test_shares_are_a_distribution_whatever_comes(arms: list[tuple[float, float]]) -> None:
    """Indices of any size: no warning, nothing negative, and they sum to 1."""
    mean, deviation = np.array([arm[0] for arm in arms]), np.array([arm[1] for arm in arms])

    shares = best_shares(mean, deviation)

    assert (shares >= 0.0).all()
    assert shares.sum() == pytest.approx(1.0)


def test_rows_are_what_each_is_alone() -> None:
    """The way for many requests at once and the way for one agree within their error, however many are taken."""
    rng = np.random.default_rng(3)
    mean, deviation = rng.normal(size=(2, 75, 6)), 10 ** rng.uniform(-3, 0, (2, 75, 6))

    shares = best_shares(mean, deviation)

    assert shares.shape == (2, 75, 6)
    for place in np.ndindex(2, 75):
        assert np.abs(shares[place] - best_shares(mean[place], deviation[place])).max() < 1e-3


def test_equal_arms_have_equal_shares() -> None:
    """Whatever their number, although their points are not the same."""
    for arms in (2, 5, 10, 32):
        shares = best_shares(np.zeros(arms), np.full(arms, 0.2))

        assert np.abs(shares - 1 / arms).max() < 1e-3
