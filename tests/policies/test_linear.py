"""Slopes: additive sums in; shrunk to nothing where features say nothing, found where they do."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.linear import LinearSums, Slopes, fit_slopes
from policies.types import FloatArray

NOISE = 0.04


def sums_of(x: FloatArray, y: FloatArray, weight: float = 1.0) -> LinearSums:
    return LinearSums(weight * x.T @ x, weight * x.T @ y, weight * float(y @ y))


def requests(rng: np.random.Generator, count: int, size: int) -> FloatArray:
    x = rng.normal(size=(count, size))
    x[:, 0] = 1.0
    return x


World = Callable[..., tuple[list[LinearSums], list[FloatArray]]]


@pytest.fixture
def world() -> World:
    """Sums of arms whose values are ``slopes[k] @ x`` plus noise, and their requests."""

    def make(
        slopes: Sequence[Sequence[float]], *, count: int = 400, sd: float = 0.2, seed: int = 0
    ) -> tuple[list[LinearSums], list[FloatArray]]:
        rng = np.random.default_rng(seed)
        made, seen = [], []
        for slope in slopes:
            x = requests(rng, count, len(slope))
            made.append(sums_of(x, x @ np.array(slope) + sd * rng.normal(size=count)))
            seen.append(x)
        return made, seen

    return make


def same(one: Slopes, other: Slopes, tolerance: float = 1e-6) -> None:
    for name in ("weights", "spread", "mean", "scatter", "noise", "weight", "gain"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=tolerance)


def add(one: LinearSums, other: LinearSums) -> LinearSums:
    return LinearSums(one.gram + other.gram, one.moment + other.moment, one.square + other.square)


def scale(one: LinearSums, share: float) -> LinearSums:
    return LinearSums(share * one.gram, share * one.moment, share * one.square)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 59), size=st.integers(1, 6))
def test_sums_are_additive(seed: int, cut: int, size: int) -> None:
    """However the observations are divided, the fit is the same."""
    rng = np.random.default_rng(seed)
    x, other = requests(rng, 60, size), requests(rng, 30, size)
    y, z = rng.normal(size=60), rng.normal(size=30)
    parts = add(sums_of(x[:cut], y[:cut]), sums_of(x[cut:], y[cut:]))

    same(
        fit_slopes([sums_of(x, y), sums_of(other, z)], size, noise=NOISE),
        fit_slopes([parts, sums_of(other, z)], size, noise=NOISE),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_the_order_of_arms_does_not_matter(seed: int, order: list[int]) -> None:
    """Each arm has its own result wherever it stands, also one that was never seen."""
    rng = np.random.default_rng(seed)
    made: list[LinearSums | None] = [None]
    for _ in range(3):
        x = requests(rng, 50, 4)
        made.append(sums_of(x, x @ rng.normal(size=4) * 0.3 + 0.1 * rng.normal(size=50)))

    plain = fit_slopes(made, 4, noise=NOISE)
    turned = fit_slopes([made[arm] for arm in order], 4, noise=NOISE)

    for name in ("weights", "spread", "mean", "noise"):
        np.testing.assert_allclose(getattr(turned, name), getattr(plain, name)[order], rtol=1e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 8), count=st.integers(0, 40))
def test_beliefs_are_sound_whatever_was_seen(seed: int, size: int, count: int) -> None:
    """Finite, variances not negative, and 0 at the arm's own mean request."""
    rng = np.random.default_rng(seed)
    x = requests(rng, count, size) * 10.0 ** rng.uniform(-3.0, 3.0)
    x[:, 0] = 1.0
    y = rng.normal(size=count) * 10.0 ** rng.uniform(-3.0, 3.0)
    found = fit_slopes([sums_of(x, y), None], size, noise=NOISE)

    for name in ("weights", "spread", "mean", "scatter", "noise", "weight"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert 0.0 <= found.gain <= 1.0
    assert (found.noise > 0.0).all()
    for arm in range(2):
        variances = np.einsum("nd,de,ne->n", x, found.spread[arm], x)
        assert (variances >= -1e-9 * max(1.0, np.abs(variances).max(initial=0.0))).all()
        assert found.weights[arm] @ found.mean[arm] == pytest.approx(
            0.0, abs=1e-8 * max(1.0, np.abs(x).max(initial=0))
        )


def test_slopes_are_recovered(world: World) -> None:
    """Common ones and the arms' own, within their own uncertainty."""
    true = [[0.5, 0.3, 0.0, -0.1], [0.5, 0.3, 0.2, -0.1], [0.5, 0.3, -0.2, -0.1]]
    made, _ = world(true)

    found = fit_slopes(made, 4, noise=NOISE)

    assert found.gain > 0.999
    for arm in range(3):
        deviation = np.sqrt(np.diag(found.spread[arm])[1:])
        assert (np.abs(found.weights[arm, 1:] - true[arm][1:]) < 4.0 * deviation + 0.005).all()
    assert found.noise == pytest.approx(np.full(3, 0.04), rel=0.2)
    assert found.weight == pytest.approx(np.full(3, 400.0))


def test_noise_is_shrunk_to_the_context_free_belief(world: World) -> None:
    """Twenty features that say nothing: hardly any slope, spread or gain over many seeds."""
    gains, moves = [], []
    for seed in range(10):
        made, seen = world([[0.5] + [0.0] * 20, [0.7] + [0.0] * 20], count=300, seed=seed)
        found = fit_slopes(made, 21, noise=NOISE)
        gains.append(found.gain)
        moves.append(float(np.std(seen[0] @ (found.weights[0] - found.weights[1]))))

    assert np.mean(gains) < 0.45
    # Least squares would move by 0.2 * sqrt(2 * 20 / 300) = 0.073.
    assert np.mean(moves) < 0.01


def test_what_is_common_to_all_arms_is_learned_from_all(world: World) -> None:
    """One that was hardly seen has the slope of the others, and one that never was."""
    made, _ = world([[0.5, 0.3], [0.6, 0.3]])
    few, _ = world([[0.4, 0.3]], count=2, seed=5)

    found = fit_slopes([*made, *few, None], 2, noise=NOISE)

    assert found.weights[2:, 1] == pytest.approx([0.3, 0.3], abs=0.05)
    assert found.spread[3].sum() == 0.0
    assert found.weight[3] == 0.0


def test_common_difficulty_is_no_noise(world: World) -> None:
    """Arms differ slightly in their slopes under a common one ten times as steep: still found."""
    made, _ = world([[0.5, 1.0], [0.5, 1.1]], count=600)

    found = fit_slopes(made, 2, noise=NOISE)

    assert found.weights[1, 1] - found.weights[0, 1] == pytest.approx(0.1, abs=0.04)
    assert found.noise == pytest.approx(np.full(2, 0.04), rel=0.2)


def test_more_evidence_is_more_certain(world: World) -> None:
    """The spread falls, and a cap on memory keeps it from falling."""
    few, _ = world([[0.5, 0.3], [0.5, -0.3]], count=50)
    many, _ = world([[0.5, 0.3], [0.5, -0.3]], count=5000)

    spreads = [
        float(fit_slopes(made, 2, noise=NOISE, max_memory=memory).spread[0, 1, 1])
        for made, memory in ((few, 1e9), (many, 1e9), (many, 50.0))
    ]

    assert spreads[1] < 0.05 * spreads[0]
    assert spreads[2] == pytest.approx(spreads[0], rel=0.5)


def test_the_cap_forgets_how_much_and_not_what(world: World) -> None:
    """Means and slopes stay."""
    made, _ = world([[0.5, 0.3], [0.5, -0.3]], count=5000)

    free, capped = (fit_slopes(made, 2, noise=NOISE, max_memory=memory) for memory in (1e9, 500.0))

    assert capped.weights == pytest.approx(free.weights, abs=0.02)
    assert capped.scatter == pytest.approx(free.scatter)
    assert capped.weight == pytest.approx([500.0, 500.0])


@pytest.mark.parametrize("constant", [0.0, 1.0, 37.5, 1e5, 1e6, 123_456.78])
def test_a_constant_feature_says_nothing(world: World, constant: float) -> None:
    """Rounding must not make it vary: nobody has any slope of it, and the others are as without it."""
    rng = np.random.default_rng(4)
    with_it, without = [], []
    fading = np.sqrt(0.99 ** np.arange(300))
    for slope in (0.3, -0.3):
        x = requests(rng, 300, 2)
        y = 0.5 + slope * x[:, 1] + 0.2 * rng.normal(size=300)
        faded = x * fading[:, None]
        without.append(
            LinearSums(faded.T @ faded, faded.T @ (fading * y), float((fading * y) @ (fading * y)))
        )
        wide = np.column_stack([x, np.full(300, constant, np.float32)]) * fading[:, None]
        with_it.append(LinearSums(wide.T @ wide, wide.T @ (fading * y), float((fading * y) @ (fading * y))))

    plain, found = fit_slopes(without, 2, noise=NOISE), fit_slopes(with_it, 3, noise=NOISE)

    assert found.weights[:, 1] == pytest.approx(plain.weights[:, 1], abs=1e-3)
    assert (found.weights[:, 2] == 0.0).all()
    assert (found.spread[:, 2, 2] == 0.0).all()


def test_a_feature_that_two_arms_never_share(world: World) -> None:
    """Constant within every arm, different between them: that is the arms' level, not a slope."""
    rng = np.random.default_rng(4)
    made = []
    for level in (0.0, 1.0):
        x = np.column_stack([np.ones(200), np.full(200, level)])
        made.append(sums_of(x, 0.2 + 0.6 * level + 0.2 * rng.normal(size=200)))

    found = fit_slopes(made, 2, noise=NOISE)

    assert (found.weights == 0.0).all()


@pytest.mark.parametrize("factor", [1e-9, 1e-6, 1e-3, 1.0, 1e3])
def test_the_unit_of_a_value_does_not_matter(world: World, factor: float) -> None:
    """Slopes of values a thousand times as large are a thousand times as large."""
    made, _ = world([[0.5, 0.3, 0.0], [0.5, -0.3, 0.1]])
    scaled = [LinearSums(one.gram, factor * one.moment, factor**2 * one.square) for one in made]

    plain = fit_slopes(made, 3, noise=NOISE)
    found = fit_slopes(scaled, 3, noise=NOISE * factor**2)

    assert found.weights / factor == pytest.approx(plain.weights, rel=1e-4, abs=1e-9)
    assert found.gain == pytest.approx(plain.gain, abs=1e-6)


def test_a_feature_that_hardly_moved_is_shrunk_more(world: World) -> None:
    """What follows when it does move would be an extrapolation; one in the usual unit keeps its slope."""
    made, _ = world([[0.5, 0.3, 0.0], [0.5, -0.3, 0.1]])
    unit = np.array([1.0, 1e-3, 1.0])
    small = [LinearSums(one.gram * np.outer(unit, unit), one.moment * unit, one.square) for one in made]

    assert np.abs(fit_slopes(small, 3, noise=NOISE).weights[:, 1]).max() < 0.5 * 0.3 / 1e-3
    assert np.abs(fit_slopes(made, 3, noise=NOISE).weights[:, 1]).min() > 0.8 * 0.3


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_a_larger_unit_of_a_feature_does_not_matter(world: World, factor: float) -> None:
    """What is predicted is the same."""
    made, _ = world([[0.5, 0.3, 0.0], [0.5, -0.3, 0.1]])
    unit = np.array([1.0, factor, 1.0])
    scaled = [LinearSums(one.gram * np.outer(unit, unit), one.moment * unit, one.square) for one in made]

    plain, found = fit_slopes(made, 3, noise=NOISE), fit_slopes(scaled, 3, noise=NOISE)

    assert found.weights * unit == pytest.approx(plain.weights, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("weight", [1e-12, 1e-7, 1e-5, 1e-2])
def test_faded_evidence_says_nearly_nothing(world: World, weight: float) -> None:
    """Down to nothing at all, without a jump to nonsense."""
    made, _ = world([[0.5, 0.3], [0.5, -0.3]], count=100)

    found = fit_slopes([scale(one, weight / 100.0) for one in made], 2, noise=NOISE)

    assert np.isfinite(found.weights).all()
    assert np.abs(found.weights).max() < 0.2
    assert found.gain < 0.6


def test_one_observation(world: World) -> None:
    """No slope can be seen in it."""
    x = np.array([[1.0, 0.7, -0.2]])

    found = fit_slopes([sums_of(x, np.array([0.9])), None], 3, noise=NOISE)

    assert found.weights == pytest.approx(0.0, abs=1e-12)
    assert found.mean[1] == pytest.approx(x[0])


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_observed(size: int) -> None:
    """No slope, no spread, the expected noise."""
    found = fit_slopes([None, None], size, noise=NOISE)

    assert (found.weights == 0.0).all()
    assert (found.spread == 0.0).all()
    assert (found.noise == NOISE).all()
    assert found.mean == pytest.approx(np.eye(1, size).repeat(2, axis=0))
    assert found.gain == 0.0


def test_without_features_there_is_no_slope(world: World) -> None:
    """d = 1: only levels, which are not estimated here."""
    made, _ = world([[0.5], [0.9]])

    found = fit_slopes(made, 1, noise=NOISE)

    assert (found.weights == 0.0).all()
    assert found.gain == 0.0
