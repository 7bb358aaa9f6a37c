"""Means of few ratings with the help of many heuristics."""

import random
from math import sqrt
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.proxies import agreement, noisy, prediction_powered_mean


def world(
    rng: random.Random, count: int, judged: int, *, agree: float
) -> tuple[list[float], list[tuple[float, float]]]:
    """Answers of which 70 % are good; the proxy says so with probability ``agree``, else it says anything."""
    good = [rng.random() < 0.7 for _ in range(count)]
    proxy = [float(truth if rng.random() < agree else rng.random() < 0.5) for truth in good]
    ratings = [noisy(float(truth), gauss=rng.gauss(0, 1), sd=0.1, slope=0.8) for truth in good]
    return proxy, list(zip(proxy, ratings, strict=True))[:judged]


@pytest.mark.parametrize("agree", [0.0, 0.6, 0.95])
def test_it_is_unbiased_and_its_interval_holds(agree: float) -> None:
    """200 seeds: the mean error is within 4 standard errors of 0, and 95 % intervals hold in 90 % or more."""
    rng = random.Random(0)
    good, bad = (
        fmean(noisy(worth, gauss=rng.gauss(0, 1), sd=0.1, slope=0.8) for _ in range(20_000))
        for worth in (1.0, 0.0)
    )
    truth = 0.7 * good + 0.3 * bad
    errors, held = [], 0
    for seed in range(200):
        rng = random.Random(seed)
        proxy, judged = world(rng, 600, 100, agree=agree)
        found = prediction_powered_mean(proxy, judged)
        assert found is not None
        errors.append(found.mean - truth)
        held += abs(found.mean - truth) <= 1.96 * sqrt(found.variance)

    assert abs(fmean(errors)) <= 4 * stdev(errors) / sqrt(len(errors))
    assert held / 200 >= 0.9


def test_a_good_proxy_narrows_and_a_worthless_one_costs_nothing() -> None:
    """Measured over 200 seeds against the plain mean of the ratings."""
    spread = {}
    for agree in (0.0, 0.95):
        plain, helped = [], []
        for seed in range(200):
            proxy, judged = world(random.Random(seed), 2000, 60, agree=agree)
            found = prediction_powered_mean(proxy, judged)
            assert found is not None
            plain.append(fmean(rating for _, rating in judged))
            helped.append(found.mean)
        spread[agree] = stdev(helped) / stdev(plain)

    assert spread[0.95] < 0.5
    assert spread[0.0] < 1.05


@given(
    st.lists(st.floats(0, 1), max_size=30),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30),
)
def test_nothing_is_ever_not_a_number(seen: list[float], judged: list[tuple[float, float]]) -> None:
    """Any sums, also those that can not be."""
    found = prediction_powered_mean([proxy for proxy, _ in judged] + seen, judged)

    if not judged:
        assert found is None
    else:
        assert found is not None
        assert found.mean == found.mean
        assert found.variance >= 0.0
        assert 0.0 <= found.weight <= 1.0


def test_a_judge_is_measured_against_another_and_made_again() -> None:
    """A shifted, noisy judge: its shift and its noise are found, and a made one has them."""
    rng = random.Random(7)
    truth = [rng.random() * 0.6 + 0.2 for _ in range(4000)]
    ratings = [noisy(value, gauss=rng.gauss(0, 1), sd=0.05, shift=-0.04) for value in truth]

    found = agreement(truth, ratings)

    assert found.shift == pytest.approx(-0.04, abs=0.005)
    assert found.residual_sd == pytest.approx(0.05, abs=0.003)
    assert found.slope == pytest.approx(1.0, abs=0.02)
    assert 0.93 < found.correlation < 0.98


def test_too_few_ratings_are_refused() -> None:
    """A line through two points has no noise."""
    with pytest.raises(ValueError, match="3 or more"):
        agreement([0.1, 0.2], [0.1, 0.2])
