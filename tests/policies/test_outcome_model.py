"""The small model behind the doubly robust estimates: additive, shrunk, silent where features say nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.outcome_model import OutcomeModel


def test_it_starts_with_the_guess() -> None:
    """Before any row every arm is expected to give what it was told."""
    assert (OutcomeModel(3, guess=0.5).predict(None, 2) == 0.5).all()
    assert (OutcomeModel(3, 2, guess=0.5).predict(np.ones((2, 2), dtype=np.float32), 2) == 0.5).all()


def test_arms_with_few_rows_lean_on_all() -> None:
    """One bad row does not make an arm worthless; hundreds do."""
    model = OutcomeModel(3)
    model.learn(np.array([0] * 400 + [1]), np.array([1.0] * 400 + [0.0]))

    known, once, never = model.means

    assert known == pytest.approx(1.0, abs=0.01)
    assert 0.8 < once < 0.85
    assert never == pytest.approx(400 / 401)


@given(st.integers(0, 2**32 - 1), st.integers(1, 59))
def test_rows_may_come_in_parts(seed: int, cut: int) -> None:
    """Learning twice a part is learning the whole."""
    rng = np.random.default_rng(seed)
    arms, values = rng.integers(2, size=60), rng.standard_normal(60)
    x = rng.standard_normal((60, 3)).astype(np.float32)
    whole, parts = OutcomeModel(2, 3), OutcomeModel(2, 3)

    whole.learn(arms, values, x)
    parts.learn(arms[:cut], values[:cut], x[:cut])
    parts.predict(x, 60)
    parts.learn(arms[cut:], values[cut:], x[cut:])

    assert parts.predict(x, 60) == pytest.approx(whole.predict(x, 60), abs=1e-6)


def test_features_that_matter_are_found_and_others_cost_little() -> None:
    """A slope is recovered up to its shrinkage; pure noise moves predictions by less than their error would."""
    rng = np.random.default_rng(0)
    x = np.column_stack((np.ones(3000), rng.standard_normal((3000, 5)))).astype(np.float32)
    arms = np.zeros(3000, dtype=np.int64)
    model, noise = OutcomeModel(1, 6), OutcomeModel(1, 6)

    model.learn(arms, 0.3 + 0.5 * x[:, 1], x)
    noise.learn(arms, rng.standard_normal(3000), x)

    assert model.predict(x[:50], 50)[:, 0] == pytest.approx(0.3 + 0.5 * x[:50, 1], abs=0.02)
    assert np.abs(noise.predict(x[:500], 500)).mean() < 0.06
