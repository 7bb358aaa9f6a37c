"""The detector of sudden changes: how soon it tells, how seldom it is wrong, and what is no change."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.drift import LEAST_REFERENCE, PageHinkley, Rules, limit

SHARE = Rules(tolerance=0.05, threshold=10.0)
LOGARITHM = Rules(tolerance=0.2, threshold=10.0, outlier=4.0, correlated=True)


def alarms(detector, values):
    return [change for value in values if (change := detector.observe(float(value))) is not None]


def coins(rate, count, seed):
    return np.random.default_rng(seed).random(count) < rate


def wandering(count, seed, *, phi, deviation, noise):
    """A level that wanders (autoregressive with ``phi``), and noise around it."""
    rng = np.random.default_rng(seed)
    level, values = 0.0, []
    for _ in range(count):
        level = phi * level + rng.normal(0.0, deviation * math.sqrt(1.0 - phi * phi))
        values.append(level + rng.normal(0.0, noise))
    return values


@pytest.mark.parametrize(("rate", "most"), [(0.5, 1), (0.7, 1), (0.84, 1), (0.95, 0)])
def test_a_share_that_stays_raises_hardly_an_alarm(rate, most):
    """40,000 coins: at most one alarm in all, so at most 0.25 per 10,000 (seeded)."""
    found = sum(len(alarms(PageHinkley(SHARE), coins(rate, 10_000, seed))) for seed in range(4))

    assert found <= most


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.beta(8, 2, n),
        lambda rng, n: np.clip(0.7 + rng.normal(0, 0.13, n), 0, 1),
    ],
)
def test_judges_scores_that_stay_raise_no_alarm(draw):
    """Scores scatter less than coins, also with a judge's own noise of 0.13."""
    assert alarms(PageHinkley(SHARE), draw(np.random.default_rng(1), 20_000)) == []


@pytest.mark.parametrize("deviation", [0.3, 0.7, 1.2])
def test_logarithms_that_stay_raise_no_alarm(deviation):
    """Costs and durations over two orders of magnitude."""
    values = np.random.default_rng(2).normal(-5.0, deviation, 20_000)

    assert alarms(PageHinkley(LOGARITHM), values) == []


def test_heavy_tails_raise_no_alarm():
    """An outlier counts for four deviations."""
    assert alarms(PageHinkley(LOGARITHM), np.random.default_rng(3).standard_t(2.5, 20_000)) == []


def test_latencies_that_resemble_their_neighbours_raise_few_alarms():
    """A level that wanders for a hundred requests is noise of blocks; one blind to that raises many times more."""
    values = wandering(20_000, 4, phi=0.98, deviation=0.3, noise=0.5)
    blind = Rules(LOGARITHM.tolerance, LOGARITHM.threshold, LOGARITHM.outlier)

    assert len(alarms(PageHinkley(LOGARITHM), values)) <= 3
    assert len(alarms(PageHinkley(blind), values)) > 10


@pytest.mark.parametrize(
    ("before", "after", "most"), [(0.84, 0.502, 45), (0.9, 0.7, 85), (0.99, 0.5, 30), (0.518, 0.68, 210)]
)
def test_a_change_is_told_soon(before, after, most):
    """Median over 20 seeds of the observations it takes; the first pair is that of GPT-4 in 2023."""
    delays = []
    for seed in range(20):
        detector = PageHinkley(SHARE)
        alarms(detector, coins(before, 1500, seed))
        later = coins(after, 2000, 1000 + seed)
        delays.append(next(n for n, value in enumerate(later, 1) if detector.observe(float(value))))

    assert np.median(delays) <= most


def test_an_alarm_says_what_changed_and_the_detector_begins_anew():
    """Means before and after, and how many observations told."""
    detector = PageHinkley(SHARE)
    assert alarms(detector, [0.8, 0.9] * 100) == []

    (change,) = alarms(detector, [0.4] * 40)

    # Each lies 0.45 below and 0.4 of it count, a little less as the reference follows: some 27 make ten.
    assert 25 <= change.observations <= 30
    assert change.before == pytest.approx(0.85, abs=0.05)
    assert change.after == pytest.approx(0.4, abs=0.03)
    assert change.evidence > SHARE.threshold
    assert detector.count == 40 - change.observations
    assert detector.evidence == 0.0


def test_improvements_are_changes_too():
    """The other side."""
    detector = PageHinkley(SHARE)
    alarms(detector, [0.3, 0.4] * 100)

    (change,) = alarms(detector, [0.9] * 25)

    assert change.after > change.before + 0.4


def test_a_change_within_the_tolerance_is_none():
    """Nobody asked for it."""
    detector = PageHinkley(SHARE)
    values = np.random.default_rng(5).beta(80, 20, 3000)

    assert alarms(detector, [*values, *(values - 0.04)]) == []


@pytest.mark.parametrize("learns_at", [0, 1000, 1500, 1525])
def test_what_a_fit_knows_of_the_request_is_no_change(learns_at):
    """Requests become harder; the arm answers each as well as ever. The fit may only just have been made."""
    rng = np.random.default_rng(6)
    hard = np.concatenate([rng.random(1500) < 0.1, rng.random(1500) < 0.9])
    answers = rng.random(3000) < np.where(hard, 0.5, 0.9)
    x = np.stack([np.ones(3000), hard], axis=1)
    informed, blind = PageHinkley(SHARE), PageHinkley(SHARE)

    found = [
        change
        for number, value in enumerate(answers)
        if (
            change := informed.observe(
                float(value), x=x[number], slope=np.array([0.0, -0.4]) if number >= learns_at else None
            )
        )
    ]

    assert found == []
    assert alarms(blind, answers)


def test_a_slope_that_is_still_being_learned_is_no_change():
    """The same requests all along, none of them near 0: only the fit moves, and by more than the tolerance."""
    rng = np.random.default_rng(8)
    x = np.stack([np.ones(3000), rng.normal(3.0, 0.2, 3000)], axis=1)
    answers = rng.random(3000) < 0.9 - 0.1 * x[:, 1]
    detector = PageHinkley(SHARE)

    for number, value in enumerate(answers):
        learned = -0.1 * min(1.0, number / 1000) + (rng.normal(0, 0.05) if number > 500 else 0.0)
        slope = np.array([rng.normal(), learned])
        assert detector.observe(float(value), x=x[number], slope=slope) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_that_learns_from_what_is_suspicious_explains_it(seed):
    """Nearly all requests were hard, so nobody knew that easy ones are another matter until they came."""
    rng = np.random.default_rng(seed)
    hard = np.concatenate([rng.random(600) < 0.97, rng.random(600) < 0.2])
    answers = rng.random(1200) < np.where(hard, 0.3, 0.9)
    detector = PageHinkley(SHARE)

    for number, value in enumerate(answers):
        slope = np.array([0.0, -0.6 * min(max(number - 600, 0) / 120, 1.0)])
        assert detector.observe(float(value), x=np.array([1.0, hard[number]]), slope=slope) is None


def test_a_change_is_found_beside_another_mix_of_requests():
    """Harder requests and a worse arm at once: only the arm is in what the alarm says."""
    rng = np.random.default_rng(9)
    hard = np.concatenate([rng.random(1500) < 0.1, rng.random(300) < 0.9])
    rate = np.where(hard, 0.5, 0.9) - np.concatenate([np.zeros(1500), np.full(300, 0.3)])
    slope, detector = np.array([0.0, -0.4]), PageHinkley(SHARE)

    found = [
        change
        for number, value in enumerate(rng.random(1800) < rate)
        if (change := detector.observe(float(value), x=np.array([1.0, hard[number]]), slope=slope))
    ]

    (change,) = found
    assert change.before - change.after == pytest.approx(0.3, abs=0.13)
    assert change.before == pytest.approx(0.86, abs=0.03)


def test_a_covariate_is_taken_out():
    """Prompts become ten times longer: dearer requests of the same arm, which a wordier arm is not."""
    rng = np.random.default_rng(7)
    tokens = np.log(np.concatenate([rng.lognormal(5, 1, 1500), rng.lognormal(7.3, 1, 1500)]))
    cost = 0.8 * tokens + rng.normal(-12, 0.3, 3000)
    informed, blind = PageHinkley(LOGARITHM), PageHinkley(LOGARITHM)

    found = [
        change
        for value, given_ in zip(cost, tokens, strict=True)
        if (change := informed.observe(float(value), given=float(given_)))
    ]
    wordier = [
        change
        for value, given_ in zip(cost[:1500] + 0.7, tokens[:1500], strict=True)
        if (change := informed.observe(float(value), given=float(given_)))
    ]

    assert found == []
    assert alarms(blind, cost)
    assert len(wordier) == 1
    assert wordier[0].after - wordier[0].before == pytest.approx(0.7, abs=0.2)


@given(st.lists(st.floats(0, 1), max_size=120), st.integers(0, 120))
def test_a_saved_detector_goes_on_as_if_nothing_had_happened(values, cut):
    """At any point, for both kinds."""
    for rules in (SHARE, LOGARITHM):
        whole, first, second = PageHinkley(rules), PageHinkley(rules), PageHinkley(rules)
        expected = alarms(whole, values)
        found = alarms(first, values[:cut])
        second.load(first.save())
        found += alarms(second, values[cut:])

        assert found == expected
        assert second.save() == whole.save()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-3, 3)), max_size=80), st.integers(0, 80))
def test_a_saved_detector_remembers_the_mean_request(seen, cut):
    """It goes on with the features it had."""
    slope = np.array([0.0, 0.3])

    def feed(detector, part):
        for value, feature in part:
            detector.observe(value, x=np.array([1.0, feature]), slope=slope)
        return detector

    whole, first, second = PageHinkley(SHARE), PageHinkley(SHARE), PageHinkley(SHARE)
    feed(whole, seen)
    second.load(feed(first, seen[:cut]).save())

    assert feed(second, seen[cut:]).save() == whole.save()


@given(st.lists(st.floats(-1e6, 1e6), max_size=LEAST_REFERENCE))
def test_a_young_reference_says_nothing(values):
    """Whatever the first observations are."""
    assert alarms(PageHinkley(SHARE), values) == []


@given(st.floats(0, 1e6), st.floats(1e-3, 10), st.floats(0, 100))
def test_the_limit_is_never_below_the_threshold_and_rises_with_noise(noise, tolerance, threshold):
    """More noise asks for more evidence."""
    rules = Rules(tolerance, threshold)

    assert limit(rules, noise) >= threshold
    assert limit(rules, 2 * noise) >= limit(rules, noise) - 1e-9


def test_nonsense_is_refused():
    """Rules without a tolerance, numbers that are none, states of another kind."""
    with pytest.raises(ValueError, match="tolerance"):
        PageHinkley(Rules(0.0, 10.0))
    with pytest.raises(ValueError, match="threshold"):
        PageHinkley(Rules(0.05, math.nan))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            PageHinkley(SHARE).observe(bad)
        with pytest.raises(ValueError, match="finite"):
            PageHinkley(SHARE).observe(0.5, given=bad)
    with pytest.raises(ValueError, match="finite"):
        PageHinkley(SHARE).observe(0.5, x=np.array([1.0, math.nan]), slope=np.ones(2))
    detector = PageHinkley(SHARE)
    detector.observe(0.5, x=np.ones(3))
    with pytest.raises(ValueError, match="other features"):
        detector.observe(0.5, x=np.ones(4))
    with pytest.raises(ValueError, match="no state"):
        PageHinkley(SHARE).load(PageHinkley(LOGARITHM).save())
