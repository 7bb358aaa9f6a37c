"""The policies beside Thompson sampling: what each does that the others do not."""

from collections.abc import Callable

import numpy as np
import pytest

from policies.fixed import Fixed
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

QUALITY = [Goal("quality", 1.0, True)]


def test_epsilon_greedy_spends_epsilon_evenly(
    known: Callable[..., ArmEvidence], shares: Callable[..., FloatArray]
) -> None:
    """The best of four gets 1 - epsilon and its part of epsilon."""
    arms = [known(name, 500, quality=q) for name, q in (("a", 0.5), ("b", 0.9), ("c", 0.6), ("d", 0.7))]

    found = shares(arms, QUALITY, policy="epsilon_greedy", params=PolicyParams(floor=0.0, epsilon=0.2))

    assert found == pytest.approx([0.05, 0.85, 0.05, 0.05])


@pytest.mark.parametrize("epsilon", [-0.1, 1.5])
def test_epsilon_is_a_probability(shares: Callable[..., FloatArray], epsilon: float) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match="epsilon"):
        shares([ArmEvidence("a")], QUALITY, policy="epsilon_greedy", params=PolicyParams(epsilon=epsilon))


@pytest.mark.parametrize("policy", ["epsilon_greedy", "ucb"])
def test_greedy_policies_split_ties(
    known: Callable[..., ArmEvidence], shares: Callable[..., FloatArray], policy: str
) -> None:
    """Exactly equal arms share the traffic; the first listed has no privilege."""
    arms = [known(name, 500, quality=0.8) for name in "abc"]

    assert shares(arms, QUALITY, policy=policy) == pytest.approx([1 / 3] * 3)


def test_ucb_prefers_the_uncertain_of_equal_arms(
    known: Callable[..., ArmEvidence], shares: Callable[..., FloatArray]
) -> None:
    """Same mean, fewer pulls: the higher bound."""
    arms = [known("known", 5000, quality=0.8), known("unknown", 30, quality=0.8)]

    assert shares(arms, QUALITY, policy="ucb").tolist() == pytest.approx([0.02, 0.98])


def test_fixed_plays_the_baseline(shares: Callable[..., FloatArray]) -> None:
    """Nothing written: everything to the baseline (the fixture's is arm 0), without a floor."""
    assert shares([ArmEvidence("a"), ArmEvidence("b")], QUALITY, policy="fixed").tolist() == [1.0, 0.0]


def test_fixed_plays_what_is_written(shares: Callable[..., FloatArray]) -> None:
    """Shares are normalised; who is not named gets nothing."""
    params = PolicyParams(fixed={"a": 1.0, "c": 3.0})
    arms = [ArmEvidence("a"), ArmEvidence("b"), ArmEvidence("c")]

    assert shares(arms, QUALITY, policy="fixed", params=params).tolist() == [0.25, 0.0, 0.75]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [({"zz": 1.0}, "unknown arms: zz"), ({"a": -1.0, "b": 2.0}, "negative"), ({"a": 0.0}, "positive sum")],
)
def test_fixed_shares_that_make_no_sense_are_refused(
    shares: Callable[..., FloatArray], fixed: dict[str, float], message: str
) -> None:
    """The message says which and why."""
    with pytest.raises(ValueError, match=message):
        shares(
            [ArmEvidence("a"), ArmEvidence("b")], QUALITY, policy="fixed", params=PolicyParams(fixed=fixed)
        )


def test_the_baseline_must_be_an_arm() -> None:
    """An index outside the arms is a bug of the caller."""
    with pytest.raises(ValueError, match="baseline"):
        Fixed().probabilities([ArmEvidence("a")], QUALITY, 1, PolicyParams(), np.random.default_rng(0))
