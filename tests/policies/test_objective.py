"""Utility: dollars are linear, weights are relative, failing never pays, missing is not zero."""

from collections.abc import Callable

import numpy as np
import pytest

from policies.objective import Utility
from policies.types import ArmEvidence, Goal, Moments, PolicyParams

PARAMS = PolicyParams()
QUALITY = Goal("quality", 1.0, True)
COST = Goal("cost", 1.0, False)


def mean(evidence: list[ArmEvidence], *goals: Goal) -> list[float]:
    return Utility(evidence, goals, PARAMS).mean().tolist()


def test_quality_alone_is_quality(known: Callable[..., ArmEvidence]) -> None:
    """With one goal and reliable arms utility is the posterior mean itself."""
    assert mean([known("a", 5000, quality=0.7), known("b", 5000, quality=0.9)], QUALITY) == pytest.approx(
        [0.7, 0.9], abs=2e-3
    )


def test_quality_counts_only_when_the_arm_answers(known: Callable[..., ArmEvidence]) -> None:
    """Quality times success probability."""
    assert mean([known("a", 5000, quality=0.9, success=0.5)], QUALITY) == pytest.approx([0.45], abs=5e-3)


def test_cost_enters_in_dollars_not_in_logarithms(known: Callable[..., ArmEvidence]) -> None:
    """1 : 2 : 100 in dollars is 0.01 : 0.02 : 1 of the penalty."""
    arms = [known(name, 5000, cost=cost) for name, cost in (("a", 1e-4), ("b", 2e-4), ("c", 1e-2))]

    assert mean(arms, COST) == pytest.approx([-0.01, -0.02, -1.0], abs=5e-3)


def test_a_mean_in_dollars_includes_half_the_log_variance() -> None:
    """The mean of a log-normal is exp(mu + s2 / 2), not exp(mu)."""
    arm = ArmEvidence("a", 5000, Moments(5000, 1, 0), {"cost": Moments(5000, np.log(0.01), 1.0)})

    assert mean([arm], Goal("cost", 1.0, False, scale=0.01)) == pytest.approx([-(np.e**0.5)], rel=0.02)


def test_a_configured_scale_says_what_counts_as_one(known: Callable[..., ArmEvidence]) -> None:
    """Two seconds on a scale of four are half a point."""
    assert mean([known("a", 5000, latency=2.0)], Goal("latency", 1.0, False, scale=4.0)) == pytest.approx(
        [-0.5], abs=5e-3
    )


def test_weights_are_relative(known: Callable[..., ArmEvidence]) -> None:
    """3 : 1 and 0.75 : 0.25 are the same wish."""
    arms = [known("a", 500, quality=0.7, cost=1e-4), known("b", 500, quality=0.9, cost=1e-2)]

    one = mean(arms, Goal("quality", 3.0, True), Goal("cost", 1.0, False))
    other = mean(arms, Goal("quality", 0.75, True), Goal("cost", 0.25, False))

    assert one == pytest.approx(other)


@pytest.mark.parametrize("metric", ["cost", "latency", "ttft"])
def test_failing_cheaply_and_fast_never_pays(known: Callable[..., ArmEvidence], metric: str) -> None:
    """Even where only cost or speed counts, the dearest arm that works beats the cheapest that does not."""
    works = known("works", 200, **{metric: 1.0})
    fails = known("fails", 200, success=0.0, **{metric: 0.001})

    utility = mean([works, fails], Goal(metric, 1.0, False))

    assert utility[0] > utility[1] + 0.5


def test_an_arm_that_only_fails_has_no_cost_and_is_still_worst(known: Callable[..., ArmEvidence]) -> None:
    """Failures leave no cost behind; the missing cost does not make them attractive."""
    arms = [known("a", 200, quality=0.5, cost=1e-2), known("b", 200, success=0.0)]

    for goals in ([QUALITY], [COST], [QUALITY, COST], [Goal("quality", 0.1, True), COST]):
        utility = mean(arms, *goals)
        assert utility[0] > utility[1] + 0.2


def test_missing_quality_keeps_the_prior(known: Callable[..., ArmEvidence]) -> None:
    """An arm without feedback is neither zero nor certain."""
    utility = Utility([known("a", 500, quality=0.9), known("b", 500)], [QUALITY], PARAMS)

    assert utility.mean()[1] > 0.85
    assert utility.spread()[1] > 5 * utility.spread()[0]


def test_without_any_feedback_quality_stays_uncertain(known: Callable[..., ArmEvidence]) -> None:
    """Equally unknown is not known to be equal: cost must not decide with certainty."""
    arms = [known("a", 500, cost=1e-4), known("b", 500, cost=1e-3)]

    spread = Utility(arms, [Goal("quality", 0.8, True), Goal("cost", 0.2, False)], PARAMS).spread()

    assert (spread > 0.05).all()


def test_a_goal_that_nobody_can_measure_is_left_out(known: Callable[..., ArmEvidence]) -> None:
    """Unknown prices everywhere: the other goals decide, in their own proportion."""
    arms = [known("a", 500, quality=0.5), known("b", 500, quality=0.9)]

    with_cost = mean(arms, QUALITY, COST)

    assert with_cost[1] - with_cost[0] == pytest.approx(0.2, abs=0.01)


def test_custom_metrics_are_divided_by_their_scale(known: Callable[..., ArmEvidence]) -> None:
    """A business value of 40 on a scale of 100 is worth as much as a quality of 0.4."""
    arms = [known("a", 5000, value=40.0, scatter=5.0), known("b", 5000, value=80.0, scatter=5.0)]

    assert mean(arms, Goal("value", 1.0, True, scale=100.0)) == pytest.approx([0.4, 0.8], abs=5e-3)
    assert mean(arms, Goal("value", 1.0, True)) == pytest.approx([0.5, 1.0], abs=5e-3)
    assert mean(arms, Goal("value", 1.0, False)) == pytest.approx([-0.5, -1.0], abs=5e-3)


def test_draws_have_the_stated_mean_and_spread(known: Callable[..., ArmEvidence]) -> None:
    """The first-order spread that UCB uses agrees with the draws that Thompson sampling uses."""
    arms = [known("a", 100, quality=0.7, cost=1e-3, success=0.9), known("b", 40, quality=0.8, cost=5e-3)]
    utility = Utility(arms, [Goal("quality", 0.7, True), Goal("cost", 0.3, False)], PARAMS)

    draws = utility.draw(np.random.default_rng(0), 40_000)

    assert draws.mean(axis=0) == pytest.approx(utility.mean(), abs=0.01)
    assert draws.std(axis=0) == pytest.approx(utility.spread(), rel=0.15)


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ([], "positive weight"),
        ([Goal("quality", 0.0, True)], "positive weight"),
        ([Goal("cost", -1.0, False)], "weight of cost"),
        ([Goal("cost", 1.0, False, scale=0.0)], "scale of cost"),
    ],
)
def test_goals_that_make_no_sense_are_refused(goals: list[Goal], message: str) -> None:
    """The message names the metric."""
    with pytest.raises(ValueError, match=message):
        Utility([ArmEvidence("a")], goals, PARAMS)
