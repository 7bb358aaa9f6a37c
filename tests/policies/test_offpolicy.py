"""Off-policy estimates: exact where they must be, unbiased, covered by their intervals, silent on too little."""

from collections.abc import Callable
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.offpolicy import (
    CLIPPED,
    DM,
    DR,
    IPS,
    METHODS,
    SNIPS,
    STABLE_DR,
    SWITCH,
    Logged,
    Scored,
    apply,
    difference,
    effective_size,
    estimate,
    scores,
    stabilisers,
    weighted_mean,
)
from policies.types import FloatArray

QUALITY = np.array([0.8, 0.6, 0.7])


def constant(vectors: FloatArray) -> Callable[[int, int], FloatArray]:
    return lambda start, stop: vectors[start:stop]


def drawn(vectors: FloatArray, rng: np.random.Generator, *, rated: FloatArray | None = None) -> Logged:
    """Rows drawn from ``vectors`` with Bernoulli outcomes of ``QUALITY``; ``rated`` is P(observed) per arm."""
    n = len(vectors)
    arms = (vectors.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    values = (rng.random(n) < QUALITY[arms]).astype(np.float64)
    observed = np.ones(n) if rated is None else rated[arms]
    values[rng.random(n) >= observed] = np.nan
    return Logged(arms, vectors[np.arange(n), arms], values, observed, constant(vectors))


def thompson(n: int, rng: np.random.Generator, floor: float = 0.02) -> Logged:
    """A log whose probabilities follow its own outcomes: Thompson sampling by 64 posterior draws, with a floor."""
    n_arms = len(QUALITY)
    good, bad = np.ones(n_arms), np.ones(n_arms)
    vectors, arms, values = np.zeros((n, n_arms)), np.zeros(n, dtype=np.int64), np.zeros(n)
    for row in range(n):
        if row % 10 == 0:
            best = rng.beta(good, bad, size=(64, n_arms)).argmax(axis=1)
            share = np.bincount(best, minlength=n_arms) / 64
            vector = floor + (1.0 - floor * n_arms) * share
        vectors[row] = vector
        arm = int(np.searchsorted(vector.cumsum(), rng.random() * vector.sum(), side="right"))
        value = float(rng.random() < QUALITY[arm])
        arms[row], values[row] = arm, value
        good[arm] += value
        bad[arm] += 1.0 - value
    return Logged(arms, vectors[np.arange(n), arms], values, np.ones(n), constant(vectors))


vectors_of = st.integers(1, 5).flatmap(
    lambda n_arms: st.lists(
        st.lists(st.floats(0.01, 1.0), min_size=n_arms, max_size=n_arms), min_size=1, max_size=80
    )
)


@given(vectors_of, st.integers(0, 2**32 - 1))
def test_the_logged_policy_on_itself_is_the_plain_mean(raw: list[list[float]], seed: int) -> None:
    """SNIPS of the logging policy is exactly the on-policy mean, whatever was drawn."""
    vectors = np.array(raw) / np.array(raw).sum(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    n, n_arms = vectors.shape
    arms = rng.integers(n_arms, size=n)
    values = rng.random(n).round(3)
    logged = Logged(arms, vectors[np.arange(n), arms], values, np.ones(n), constant(vectors))

    found = estimate(apply(logged, constant(vectors), n_arms), SNIPS)

    assert found.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-15)
    assert found.effective == pytest.approx(n)


@pytest.mark.parametrize("method", [IPS, DR])
def test_estimates_are_unbiased(method: str) -> None:
    """Over 400 uneven logs of 300 rows the mean estimate misses the truth by at most 4.5 standard errors (7e-6)."""
    rng = np.random.default_rng(20261123)
    other = np.tile([0.2, 0.5, 0.3], (300, 1))
    truth = float(other[0] @ QUALITY)
    means = []
    for _ in range(400):
        vectors = rng.dirichlet([2.0, 2.0, 2.0], size=300) * 0.85 + 0.05
        means.append(estimate(apply(drawn(vectors, rng), constant(other), 3), method).mean)

    error = np.std(means) / np.sqrt(len(means))

    assert abs(np.mean(means) - truth) < 4.5 * error


@pytest.mark.slow
def test_intervals_hold_on_adaptive_logs() -> None:
    """On logs of Thompson sampling 95 % intervals cover at least 90 % of 200 times (P < 0.001 if they are right)."""
    rng = np.random.default_rng(5)
    other = constant(np.tile([0.0, 1.0, 0.0], (2500, 1)))  # The worst arm, which the log starves.
    covered = dict.fromkeys((DR, STABLE_DR, SNIPS), 0)
    means = []
    for _ in range(200):
        scored = apply(thompson(2500, rng, floor=0.1), other, 3)
        for method in covered:
            found = estimate(scored, method)
            covered[method] += found.low <= QUALITY[1] <= found.high
        means.append(estimate(scored).mean)

    assert min(covered.values()) >= 180
    assert abs(np.mean(means) - QUALITY[1]) < 4.5 * np.std(means) / np.sqrt(200)


def test_the_plain_mean_of_a_starved_arm_is_not_what_it_is_worth() -> None:
    """What the estimators are for: on adaptive logs the mean of an arm's own outcomes is too low."""
    rng = np.random.default_rng(11)
    means = []
    for _ in range(120):
        log = thompson(400, rng)
        mine = log.values[log.arms == 1]
        means.append(mine.mean() if len(mine) else 0.5)

    assert np.mean(means) < QUALITY[1] - 0.015


@given(st.integers(0, 2**32 - 1), st.integers(1, 150))
@settings(max_examples=30)
def test_a_row_is_predicted_from_earlier_rows_only(seed: int, cut: int) -> None:
    """Whatever happens from some row on changes no model of the rows before: scores stay martingale differences."""
    rng = np.random.default_rng(seed)
    vectors = rng.dirichlet([3.0, 3.0, 3.0], size=200)
    log, other = drawn(vectors, rng), constant(np.tile([0.1, 0.2, 0.7], (200, 1)))
    changed = log.values.copy()
    changed[cut:] = rng.random(200 - cut) * 9.0
    later = Logged(log.arms, log.propensity, changed, log.observed, log.vectors)

    before, after = apply(log, other, 3), apply(later, other, 3)

    assert (before.model[: cut + 1] == after.model[: cut + 1]).all()
    assert (before.model_chosen[: cut + 1] == after.model_chosen[: cut + 1]).all()


def test_a_model_makes_estimates_more_precise_where_features_say_something() -> None:
    """Outcomes that depend on features are estimated with less error when the rows carry them."""
    rng = np.random.default_rng(3)
    n = 2000
    x = np.column_stack((np.ones(n), rng.standard_normal(n))).astype(np.float32)
    arms = rng.integers(2, size=n)
    values = 0.5 + np.where(arms == 1, 1.0, -1.0) * x[:, 1] + 0.1 * rng.standard_normal(n)
    uniform, other = constant(np.full((n, 2), 0.5)), constant(np.tile([0.1, 0.9], (n, 1)))

    blind = estimate(apply(Logged(arms, np.full(n, 0.5), values, np.ones(n), uniform), other, 2))
    seeing = estimate(apply(Logged(arms, np.full(n, 0.5), values, np.ones(n), uniform, x), other, 2))

    assert seeing.error < 0.75 * blind.error
    assert abs(seeing.mean - 0.5) < 4.5 * seeing.error


def test_ratings_that_come_more_often_for_one_arm_do_not_favour_it() -> None:
    """Users who rate one arm three times as often leave the estimate where it is."""
    rng = np.random.default_rng(8)
    n = 12_000
    uniform = np.full((n, 3), 1 / 3)
    rates = np.array([0.9, 0.3, 0.3])
    log = drawn(uniform, rng, rated=rates)

    found = estimate(apply(log, constant(uniform), 3))

    assert abs(found.mean - QUALITY.mean()) < 4.5 * found.error
    assert abs(np.nanmean(log.values) - QUALITY.mean()) > 3.0 * found.error


def test_a_verdict_needs_two_hundred_effective_rows() -> None:
    """Below that every method says no, in a sentence with the numbers."""
    rng = np.random.default_rng(1)
    n = 2000
    vectors = np.tile([0.98, 0.01, 0.01], (n, 1))
    scored = apply(drawn(vectors, rng), constant(np.tile([0.0, 1.0, 0.0], (n, 1))), 3)

    refusals = {estimate(scored, method).refused for method in METHODS}

    assert len(refusals) == 1
    assert "200 are needed" in refusals.pop()
    assert estimate(apply(drawn(vectors, rng), constant(vectors), 3)).refused == ""


def test_clipping_bounds_what_one_row_can_do() -> None:
    """One row of weight 1000 moves ips by as much, but neither clipped nor switch."""
    n = 500
    weight = np.ones(n)
    weight[7] = 1000.0
    value = np.ones(n)
    zeros = np.zeros(n)
    scored = Scored(weight, weight, value, zeros, zeros, zeros, weight, zeros)

    assert scores(scored, IPS).max() == 1000.0
    assert scores(scored, CLIPPED).max() == 20.0
    assert scores(scored, SWITCH).max() == 1.0


def test_the_model_alone_has_no_interval() -> None:
    """Its error is that of the model, which nobody knows."""
    rng = np.random.default_rng(2)
    uniform = np.full((900, 3), 1 / 3)

    found = estimate(apply(drawn(uniform, rng), constant(uniform), 3), DM)

    assert found.mean == pytest.approx(QUALITY.mean(), abs=0.06)
    assert isnan(found.error)


@given(
    st.lists(st.floats(0.0, 1e12), min_size=1, max_size=50).filter(lambda weights: max(weights) > 1e-3),
    st.floats(1e-6, 1e6),
)
def test_effective_size_counts_rows(weights: list[float], factor: float) -> None:
    """Between 1 and the number of rows, whatever the unit of the weights."""
    found = effective_size(np.array(weights))

    assert 1.0 - 1e-9 <= found <= len(weights) + 1e-9
    assert effective_size(np.array(weights) * factor) == pytest.approx(found, rel=1e-6)


def test_rows_of_one_unit_count_once() -> None:
    """A caller that asks ten times with one draw makes the error as large as one of a tenth of the rows."""
    rng = np.random.default_rng(4)
    each = rng.standard_normal(200)
    rows, units = np.repeat(each, 10), np.repeat(np.arange(200), 10)

    _, alone = weighted_mean(each, np.ones(200))
    _, together = weighted_mean(rows, np.ones(2000), units)

    assert together == pytest.approx(alone, rel=1e-9)


def test_a_policy_differs_from_itself_by_nothing() -> None:
    """The gap compares rows with themselves, so their noise is not counted twice."""
    rng = np.random.default_rng(6)
    uniform = np.full((900, 3), 1 / 3)
    scored = apply(drawn(uniform, rng), constant(uniform), 3)

    found = difference(scored, scored)

    assert (found.mean, found.error) == (0.0, 0.0)


@given(st.lists(st.floats(1.0, 1e6), min_size=2, max_size=60), st.floats(1.0, 1e6))
def test_trust_is_settled_before_a_row(seconds: list[float], last: float) -> None:
    """A row's trust depends on rows before it, never on itself."""
    one = stabilisers(np.array(seconds))
    other = stabilisers(np.array([*seconds[:-1], last]))

    assert (one > 0.0).all()
    assert one[-1] == pytest.approx(other[-1])


def test_what_is_no_log_is_refused() -> None:
    """Lengths, propensities and vectors are checked with a message."""
    ones = np.ones(3)
    arms = np.zeros(3, dtype=np.int64)
    vectors = constant(np.ones((3, 1)))

    with pytest.raises(ValueError, match="one length"):
        Logged(arms, ones[:2], ones, ones, vectors)
    with pytest.raises(ValueError, match="positive"):
        Logged(arms, np.zeros(3), ones, ones, vectors)
    with pytest.raises(ValueError, match="shape"):
        apply(Logged(arms, ones, ones, ones, vectors), constant(np.ones((3, 2))), 1)
    with pytest.raises(ValueError, match="no score"):
        scores(apply(Logged(arms, ones, ones, ones, vectors), vectors, 1), SNIPS)
    with pytest.raises(ValueError, match="needs rows"):
        weighted_mean(np.zeros(0), np.zeros(0))
    nothing = Logged(arms[:0], ones[:0], ones[:0], ones[:0], vectors)
    assert estimate(apply(nothing, vectors, 1)).refused
