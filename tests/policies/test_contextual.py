"""Contextual decisions: the same features and draw give the same arm, and the vector is the one that was drawn from."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policies.contextual import ContextualSelector, Index

ARMS, SIZE = 6, 8


def _index(seed: int = 0, arms: int = ARMS, **changes: Any) -> Index:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(arms, SIZE, 2 * SIZE)) / SIZE
    base: dict[str, Any] = {
        "value": rng.normal(0.0, 0.2, (arms, SIZE)),
        "charges": rng.normal(0.0, 0.1, (2, arms, SIZE)) - 2.0 * np.eye(1, SIZE),
        "spread": np.einsum("kij,klj->kil", root, root) * 0.01,
        "noise": np.full(arms, 1e-3),
        "given": np.full(arms, 0.02),
        "drawn": np.ones(arms, dtype=np.bool_),
        "cost": rng.normal(0.0, 0.3, (arms, SIZE)) - 7.0 * np.eye(1, SIZE),
    }
    return Index(**base | changes)


def _x(seed: int = 1) -> NDArray[np.float64]:
    x = np.random.default_rng(seed).normal(0.0, 0.5, SIZE)
    x[0] = 1.0
    return x


@settings(max_examples=60)
@given(st.integers(0, 50), st.integers(1, 2**ARMS - 1), st.floats(0.0, 1.0, exclude_max=True))
def test_the_arm_is_drawn_from_the_vector_that_is_given(seed: int, mask: int, u: float) -> None:
    """The draw lies in the chosen arm's stretch, ineligible arms have nothing, and the vector is ``Index.shares``."""
    index = _index(seed)
    selector, x = ContextualSelector("s", index), _x(seed)

    arm, vector = selector.choose(u, mask, x)

    eligible = np.array([mask >> place & 1 for place in range(ARMS)], dtype=np.bool_)
    sums = np.concatenate([[0.0], np.cumsum(vector)])
    assert sums[arm] <= u * sums[-1] + 1e-12
    assert u * sums[-1] < sums[arm + 1] + 1e-12
    assert vector[arm] > 0.0
    assert sum(vector) == pytest.approx(1.0)
    assert not any(share for share, may in zip(vector, eligible, strict=True) if not may)
    assert np.abs(index.shares(x, eligible) - vector).max() < 1e-4
    assert selector.choose(u, mask, x) == (arm, vector)


def test_draws_follow_the_vector() -> None:
    """Over an even spread of draws every arm is chosen as often as its probability says."""
    selector, x = ContextualSelector("s", _index()), _x()
    draws = 4000

    counts = Counter(selector.choose((n + 0.5) / draws, selector.full_mask, x)[0] for n in range(draws))

    _, vector = selector.choose(0.5, selector.full_mask, x)
    assert all(abs(counts[arm] / draws - share) <= 1.5 / draws for arm, share in enumerate(vector))


def test_what_is_given_is_kept_whatever_the_request_is_like() -> None:
    """Floor and nursery shares do not depend on x; arms in the nursery do not compete."""
    drawn = np.array([True, True, True, True, True, False])
    given_shares = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.2])
    selector = ContextualSelector("s", _index(given=given_shares, drawn=drawn))

    for seed in range(20):
        _, vector = selector.choose(0.1, selector.full_mask, _x(seed))

        assert min(vector[:5]) >= 0.02 - 1e-12
        assert vector[5] == pytest.approx(0.2)


def test_only_the_nursery_is_left() -> None:
    """When no competing arm is eligible, those that are share what is left among them."""
    drawn = np.array([True] * 4 + [False] * 2)
    selector = ContextualSelector("s", _index(drawn=drawn))

    _, vector = selector.choose(0.3, 0b110000, _x())

    assert sum(vector[4:]) == pytest.approx(1.0)
    assert min(vector[4:]) > 0.0


def test_arms_beyond_the_cap_are_not_eligible() -> None:
    """The predicted cost of every arm with a share is within the cap, for one request and for many."""
    index = _index()
    x = _x()
    cost = np.exp(index.cost @ x)
    cap = float(np.median(cost))
    capped = _index(max_request_usd=cap)
    selector = ContextualSelector("s", capped)

    _, vector = selector.choose(0.2, selector.full_mask, x)
    rows = capped.shares(np.stack([_x(seed) for seed in range(40)]))

    within = {place for place in range(ARMS) if cost[place] <= cap}
    assert {place for place, share in enumerate(vector) if share} == within
    assert selector.affordable(x, selector.full_mask) == sum(1 << place for place in within)
    assert np.allclose(rows.sum(axis=1), 1.0)
    for seed, row in enumerate(rows):
        assert np.allclose(row, capped.shares(_x(seed)), atol=1e-4)


def test_when_everything_is_beyond_the_cap_the_cheapest_goes() -> None:
    """A request is answered all the same, by the arm predicted to cost least of those that can."""
    index = _index(max_request_usd=1e-12)
    selector, x = ContextualSelector("s", index), _x()

    arm, vector = selector.choose(0.9, 0b011110, x)

    cheapest = min(range(1, 5), key=lambda place: float(index.cost[place] @ x))
    assert arm == cheapest
    assert vector[cheapest] == pytest.approx(1.0)


def test_nobody_is_eligible() -> None:
    """A caller's mistake says so."""
    with pytest.raises(ValueError, match="no eligible arm"):
        ContextualSelector("s", _index()).choose(0.5, 0, _x())


def test_charges_are_taken_off_in_dollars() -> None:
    """The mean is the value minus the exponentials, and an absurd prediction makes no infinity."""
    value, charges = np.zeros((2, SIZE)), np.zeros((1, 2, SIZE))
    value[:, 0] = 1.0
    charges[0, 0, 0], charges[0, 1, 0] = np.log(0.25), 500.0
    index = _index(arms=2, value=value, charges=charges)
    x = np.eye(1, SIZE)[0]

    mean = index.mean(x)

    assert mean[0] == pytest.approx(0.75)
    assert np.isfinite(mean).all()
    assert ContextualSelector("s", index).choose(0.5, 3, x)[0] == 0
