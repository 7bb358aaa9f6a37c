"""A percentile of the mixture under a target."""

import numpy as np
import pytest

from optimizer.rollouts.records import Proposal
from optimizer.settings import PolicySettings
from optimizer.strategies.latency_optimization import LatencyOptimization

SPEED = LatencyOptimization()


def two(kit, **fast):
    return {
        "big/default": kit.Known(),
        "fast/default": kit.Known(**{"seconds": 0.3, "quality": 0.75, **fast}),
    }


def effect(found, metric):
    return next(effect for effect in found.effects if effect.metric == metric)


def percentile(kit, known, shares):
    """95th percentile of the true mixture, by drawing from it."""
    rng = np.random.default_rng(3)
    draws = [
        np.exp(rng.normal(np.log(known[arm].seconds), known[arm].spread, int(200_000 * share)))
        for arm, share in shares.items()
    ]
    return float(np.quantile(np.concatenate(draws), 0.95))


def test_the_guides_parameters_do_what_they_say(kit):
    """target_p95_ms 500 with quality_threshold 0.90: the mixture itself keeps both."""
    known = two(kit)
    found = kit.ask(SPEED, kit.situation(known), target_p95_ms="500", quality_threshold="0.90")
    shares = found.candidate.policy.fixed
    assert percentile(kit, known, shares) <= 0.5
    assert effect(found, "quality").candidate >= 0.9 * effect(found, "quality").baseline
    assert effect(found, "slow").candidate <= 0.05


def test_no_more_requests_move_than_the_target_asks_for(kit):
    """The slow arm keeps its 5 %, less what the intervals take."""
    found = kit.ask(SPEED, kit.situation(two(kit)), target_p95_ms=500)
    assert 0.04 < found.candidate.policy.fixed["big/default"] < 0.05


def test_streams_are_judged_by_their_first_token(kit):
    known = two(kit)
    found = kit.ask(SPEED, kit.situation(known, streams=True), target_p95_ms=200)
    assert "time to the first token" in found.summary
    assert effect(found, "ttft").candidate < 0.1
    refused = kit.ask(SPEED, kit.situation(known), target_p95_ms=200)
    assert refused.reason == "infeasible"


def test_a_target_that_is_kept_already_changes_nothing(kit):
    refused = kit.ask(SPEED, kit.situation(two(kit)), target_p95_ms=2000)
    assert refused.reason == "no_improvement"


def test_a_target_out_of_reach_is_answered_with_the_nearest_one(kit):
    situation = kit.situation(two(kit, seconds=0.6))
    refused = kit.ask(SPEED, situation, target_p95_ms=300)
    nearest = refused.needed["target_p95_ms"]
    assert refused.reason == "infeasible"
    assert f"{nearest:.0f} ms" in refused.explanation
    assert isinstance(kit.ask(SPEED, situation, target_p95_ms=nearest + 1), Proposal)
    assert kit.ask(SPEED, situation, target_p95_ms=nearest - 10).reason in ("infeasible", "not_enough_data")


def test_quality_stands_in_the_way(kit):
    refused = kit.ask(SPEED, kit.situation(two(kit, quality=0.4)), target_p95_ms=500, quality_threshold=0.9)
    assert refused.reason == "infeasible"


def test_a_wide_interval_asks_for_more_requests(kit):
    known = {arm: kit.replace(figures, requests=40.0) for arm, figures in two(kit, seconds=0.345).items()}
    situation = kit.situation(known, policy=PolicySettings(name="fixed", floor=0.0))
    refused = kit.ask(SPEED, situation, target_p95_ms=500)
    assert refused.reason == "not_enough_data"
    assert refused.needed["requests of fast/default"] > 0.0


def test_an_arm_that_nobody_tried_is_a_reason_to_wait(kit):
    known = {"big/default": kit.Known(), "fast/default": kit.Known(requests=0.0)}
    refused = kit.ask(SPEED, kit.situation(known), target_p95_ms=500)
    assert (refused.reason, refused.needed) == ("not_enough_data", {"requests of fast/default": 30.0})
    idle = {"big/default": kit.Known(requests=0.0), "fast/default": kit.Known()}
    assert kit.ask(SPEED, kit.situation(idle), target_p95_ms=500).needed == {"requests of big/default": 30.0}


def test_without_a_target_it_is_as_fast_as_quality_allows(kit):
    found = kit.ask(SPEED, kit.situation(two(kit)), quality_threshold=0.9)
    assert found.candidate.policy.fixed["fast/default"] == pytest.approx(0.98)
    refused = kit.ask(SPEED, kit.situation(two(kit, seconds=1.0)), quality_threshold=0.9)
    assert refused.reason == "no_improvement"


def test_a_threshold_needs_ratings(kit):
    known = {arm: kit.replace(figures, ratings=0.0) for arm, figures in two(kit).items()}
    assert (
        kit.ask(SPEED, kit.situation(known), target_p95_ms=500, quality_threshold=0.9).reason
        == "not_enough_data"
    )


def test_a_target_that_was_reached_exactly_is_not_chased_when_it_drifts(kit):
    """The shares were solved to reach the target exactly; the next samples move it to and fro. No rollout for that."""
    known = two(kit)
    found = kit.ask(SPEED, kit.situation(known), target_p95_ms=500)
    policy = found.candidate.policy
    share = policy.fixed["big/default"]
    for drift, answer in ((0.0, "no_improvement"), (0.004, "no_improvement"), (0.02, None)):
        moved = {"big/default": share + drift, "fast/default": 1.0 - share - drift}
        again = kit.ask(
            SPEED, kit.situation(known, policy=kit.replace(policy, fixed=moved)), target_p95_ms=500
        )
        assert (None if isinstance(again, Proposal) else again.reason) == answer


def test_a_faster_arm_may_cost_quality_only_as_far_as_the_guard_is_told(kit):
    found = kit.ask(SPEED, kit.situation(two(kit)), target_p95_ms=500, quality_threshold=0.9)
    assert found.quality_ratio == 0.9
    fastest = kit.ask(SPEED, kit.situation(two(kit)), quality_threshold=0.9)
    assert fastest.quality_ratio == 0.9
