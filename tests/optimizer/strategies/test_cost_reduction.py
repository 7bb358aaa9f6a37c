"""The cheapest mixture that keeps what has to be kept, and honest answers when there is none."""

import numpy as np
import pytest

from optimizer.rollouts.overlays import apply
from optimizer.rollouts.records import Proposal
from optimizer.settings import (
    DeploymentSettings,
    HealthChecks,
    PolicySettings,
    RolloutPlan,
    StrategySettings,
)
from optimizer.strategies.base import NoProposal
from optimizer.strategies.cost_reduction import CostReduction
from optimizer.strategies.latency_optimization import LatencyOptimization
from policies.types import Moments

COST = CostReduction()


def three(kit, **changes):
    """A dear baseline, a cheap arm nearly as good, and one that is very cheap and bad."""
    known = {
        "big/default": kit.Known(),
        "mid/default": kit.Known(usd=0.004, quality=0.79),
        "small/default": kit.Known(usd=0.001, quality=0.6),
    }
    return {arm: kit.replace(figures, **changes) for arm, figures in known.items()}


def shares(found):
    return found.candidate.policy.fixed


def effect(found, metric):
    return next(effect for effect in found.effects if effect.metric == metric)


def test_the_guides_parameters_do_what_they_say(kit):
    """target_reduction 0.40 with quality_threshold 0.95: at least 40 % less, at least 95 % of the quality."""
    found = kit.ask(COST, kit.situation(three(kit)), target_reduction="0.40", quality_threshold="0.95")
    cost, quality = effect(found, "cost"), effect(found, "quality")
    assert cost.candidate <= 0.6 * cost.baseline
    assert quality.candidate + (quality.low - quality.change) >= 0.945 * quality.baseline
    assert sum(shares(found).values()) == pytest.approx(1.0, abs=1e-9)
    assert min(shares(found).values()) >= 0.02 - 1e-9
    assert found.candidate.policy.name == "fixed"


def test_with_a_threshold_as_much_is_saved_as_quality_allows(kit):
    """Nothing cheaper keeps the constraint: moving 1 % more to the cheapest arm breaks it."""
    found = kit.ask(COST, kit.situation(three(kit)), target=0.4, quality_threshold=0.95)
    assert effect(found, "cost").candidate == pytest.approx(0.0039, abs=2e-4)
    assert "95 % of its quality is kept" in found.summary


def test_without_a_threshold_the_target_is_met_and_no_more(kit):
    found = kit.ask(COST, kit.situation(three(kit)), target=0.4)
    cost = effect(found, "cost")
    assert cost.candidate == pytest.approx(0.6 * cost.baseline, rel=1e-3)
    assert shares(found)["small/default"] == pytest.approx(0.02)


def test_without_any_rating_as_few_requests_move_as_can_be(kit):
    found = kit.ask(COST, kit.situation(three(kit, ratings=0.0)), target=0.4)
    assert "quality is not rated" in found.summary
    assert shares(found)["big/default"] == pytest.approx(0.5468, abs=0.005)


def test_the_saving_per_day_is_against_what_is_served_now(kit):
    """A route that serves the mixture already saves nothing more by it."""
    situation = kit.situation(three(kit), requests_per_s=2.0)
    found = kit.ask(COST, situation, target=0.4)
    assert found.saving_usd_per_day == pytest.approx(0.004 * 2.0 * 86400.0, rel=1e-3)
    served = kit.replace(situation, route=apply(situation.route, found.candidate))
    assert kit.ask(COST, served, target=0.4).reason == "no_improvement"
    assert kit.ask(COST, kit.replace(situation, requests_per_s=0.0), target=0.4).saving_usd_per_day is None


def test_a_target_out_of_reach_is_answered_with_the_nearest_one(kit):
    situation = kit.situation(three(kit))
    refused = kit.ask(COST, situation, target=0.9, quality_threshold=0.95)
    assert refused.reason == "infeasible"
    nearest = refused.needed["target_reduction"]
    assert f"{100 * nearest:.3g} %" in refused.explanation
    assert isinstance(kit.ask(COST, situation, target=nearest - 0.001, quality_threshold=0.95), Proposal)
    assert isinstance(kit.ask(COST, situation, target=nearest + 0.001, quality_threshold=0.95), NoProposal)


def test_a_threshold_needs_ratings_and_says_how_many(kit):
    known = {"big/default": kit.Known(ratings=0), "mid/default": kit.Known(usd=0.004, ratings=4)}
    refused = kit.ask(COST, kit.situation(known), target=0.4, quality_threshold=0.9)
    assert refused.reason == "not_enough_data"
    assert refused.needed == {"ratings of big/default": 30.0, "ratings of mid/default": 26.0}
    assert "POST /v1/feedback" in refused.explanation


def test_the_threshold_of_all_strategies_is_the_default(kit):
    known = {"big/default": kit.Known(ratings=0), "mid/default": kit.Known(usd=0.004, ratings=0)}
    assert kit.ask(COST, kit.situation(known, quality_ratio=0.95), target=0.4).reason == "not_enough_data"
    assert isinstance(kit.ask(COST, kit.situation(known), target=0.4), Proposal)


def test_a_wide_interval_asks_for_so_many_more_ratings_and_they_are_enough(kit):
    known = {
        "big/default": kit.Known(ratings=40),
        "mid/default": kit.Known(usd=0.004, quality=0.79, ratings=40),
    }
    refused = kit.ask(COST, kit.situation(known), target=0.4, quality_threshold=0.95)
    assert refused.reason == "not_enough_data"
    more = {arm: 40 + refused.needed[f"ratings of {arm}"] for arm in known}
    grown = {arm: kit.replace(figures, ratings=more[arm]) for arm, figures in known.items()}
    assert isinstance(kit.ask(COST, kit.situation(grown), target=0.4, quality_threshold=0.95), Proposal)
    assert max(more.values()) < 400


def test_an_arm_that_nobody_tried_is_a_reason_to_wait(kit):
    known = {"big/default": kit.Known(), "mid/default": kit.Known(requests=0, ratings=0)}
    refused = kit.ask(COST, kit.situation(known), target=0.4)
    assert (refused.reason, refused.needed) == ("not_enough_data", {"requests of mid/default": 30.0})
    assert "mid/default might" in refused.explanation


def test_a_price_that_nobody_knows_is_a_reason_to_wait(kit):
    known = {"big/default": kit.Known(requests=0, ratings=0), "mid/default": kit.Known(usd=0.004)}
    refused = kit.ask(COST, kit.situation(known), target=0.4)
    assert (refused.reason, refused.needed) == ("not_enough_data", {"priced requests of big/default": 30.0})


def test_what_costs_nothing_can_not_be_reduced(kit):
    found = kit.ask(COST, kit.situation(three(kit, usd=0.0)), target=0.4)
    assert (found.reason, "costs nothing" in found.explanation) == ("no_improvement", True)


def test_an_arm_that_fails_is_not_cheap(kit):
    """10 % of the requests unanswered is worse than any price."""
    known = {"big/default": kit.Known(), "mid/default": kit.Known(usd=0.001, success=0.9)}
    refused = kit.ask(COST, kit.situation(known), target=0.4)
    assert refused.reason == "infeasible"
    assert 0.0 < refused.needed["target_reduction"] < 0.2


def test_an_absolute_floor_is_kept_too(kit):
    found = kit.ask(COST, kit.situation(three(kit)), target=0.4, quality_floor=0.75)
    quality = effect(found, "quality")
    assert quality.candidate >= 0.75
    assert kit.ask(COST, kit.situation(three(kit)), target=0.4, quality_floor=0.9).reason == "infeasible"


def test_the_floor_gives_way_where_it_alone_breaks_the_constraint(kit):
    """A terrible arm would cost more quality at its floor than the threshold leaves."""
    known = {
        "big/default": kit.Known(quality=0.9),
        "mid/default": kit.Known(usd=0.004, quality=0.9, ratings=100_000.0),
        "bad/default": kit.Known(usd=0.001, quality=0.0, spread=0.01),
    }
    found = kit.ask(
        COST,
        kit.situation(known, policy=PolicySettings(name="fixed", floor=0.1, max_memory=1e6)),
        target=0.4,
        quality_threshold=0.97,
    )
    assert shares(found).get("bad/default", 0.0) < 0.03


def test_a_route_that_learns_is_compared_with_what_it_serves(kit):
    """A bandit that plays the cheap arm already leaves nothing to propose."""
    situation = kit.situation(three(kit), policy=PolicySettings())
    route = situation.route
    costly = kit.replace(route, objectives=(kit.replace(route.objectives[0], metric="cost", maximize=False),))
    refused = kit.ask(COST, kit.replace(situation, route=costly, file=costly), target=0.3)
    assert refused.reason == "no_improvement"


def test_means_are_arithmetic_where_bills_are_paid(kit):
    """Half of the requests at a hundredth of the price: a log-normal would misjudge the sum by far."""
    situation = kit.situation(three(kit))
    mixed = situation.evidence[1]
    usd = Moments(1000.0, 0.00505, 0.00495**2)
    logs = Moments(1000.0, np.log(0.001), 2.3**2)
    signals = {**mixed.signals, "cost": logs, "cost_usd": usd}
    evidence = [situation.evidence[0], kit.replace(mixed, signals=signals), situation.evidence[2]]
    found = kit.ask(COST, kit.replace(situation, evidence=evidence), target=0.4)
    expected = 0.01 * shares(found)["big/default"] + 0.00505 * shares(found)["mid/default"] + 0.001 * 0.02
    assert effect(found, "cost").candidate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"target_reduction": "much"}, "target_reduction"),
        ({"target_reduction": 1.0}, "target_reduction"),
        ({"target": 0.3, "target_reduction": 0.4}, "target_reduction"),
        ({"quality_threshold": 2}, "quality_threshold"),
        ({"targte": 0.3}, "targte"),
    ],
)
def test_parameters_that_make_no_sense_are_named(kit, parameters, path):
    _, problems = COST.check(parameters, kit.settings(["big/default", "mid/default"]), None)
    assert [problem.path for problem in problems] == [path]


def test_names_percentages_and_texts_are_understood(kit):
    values, problems = COST.check({"target": "40%"}, kit.settings(["big/default"]), None)
    assert (values["target_reduction"], problems) == (0.4, [])


@pytest.mark.slow
def test_quality_on_the_edge_is_seldom_promised(kit):
    """True quality exactly at 95 %: at 2.5 % nominal, 300 draws promise it at most 6 % of the time (p < 1e-3)."""
    rng = np.random.default_rng(11)
    promised = 0
    for _ in range(300):
        ratings = {arm: rng.normal(mean, 0.2, 200) for arm, mean in (("big", 0.8), ("mid", 0.76))}
        situation = kit.situation({"big/default": kit.Known(), "mid/default": kit.Known(usd=0.002)})
        evidence = [
            kit.replace(arm, signals={**arm.signals, "quality": Moments.of(ratings[arm.arm.split("/")[0]])})
            for arm in situation.evidence
        ]
        found = kit.ask(COST, kit.replace(situation, evidence=evidence), target=0.75, quality_threshold=0.95)
        promised += isinstance(found, Proposal)
    assert promised <= 18


def test_a_target_that_is_met_already_changes_nothing(kit):
    shares_now = {"big/default": 0.4, "mid/default": 0.6}
    situation = kit.situation(three(kit), policy=PolicySettings(name="fixed", fixed=shares_now))
    refused = kit.ask(COST, situation, target=0.3, quality_threshold=0.9)
    assert refused.reason == "no_improvement"
    assert "saves 36 % already" in refused.explanation
    assert isinstance(kit.ask(COST, situation, target=0.5, quality_threshold=0.9), Proposal)


def unguarded():
    """Nobody holds a rollout to the speed of its control."""
    return DeploymentSettings(plan=RolloutPlan(checks=HealthChecks(enabled=False)))


def test_strategies_do_not_undo_each_other_in_turns(kit):
    """Cheap is slow and fast is dear: whoever came first is kept, and the loop comes to rest."""
    known = {
        "big/default": kit.Known(),
        "cheap/default": kit.Known(usd=0.001, seconds=2.0),
        "fast/default": kit.Known(usd=0.008, seconds=0.3),
    }
    running = (
        StrategySettings("cost_reduction", {"target_reduction": 0.5}),
        StrategySettings("latency_optimization", {"target_p95_ms": 600.0}),
    )
    made = kit.situation(known)
    both = kit.replace(
        made.settings,
        optimization=kit.replace(made.settings.optimization, strategies=running),
        deployment=unguarded(),
    )
    for first, second in ((0, 1), (1, 0)):
        situation = kit.replace(made, settings=both)
        strategies = [
            (COST, {"target_reduction": 0.5}),
            (LatencyOptimization(), {"target_p95_ms": 600}),
        ]
        for turn in (first, second, first, second):
            strategy, parameters = strategies[turn]
            found = kit.ask(strategy, situation, **parameters)
            if turn == first and situation.route is made.route:
                situation = kit.replace(situation, route=apply(made.route, found.candidate))
            else:
                assert found.reason in ("infeasible", "no_improvement")


def test_what_the_latency_guard_would_take_back_is_not_proposed(kit):
    """The guard compares with the 95th percentile of control; an arm known to be far above it can not pass."""
    known = {"big/default": kit.Known(), "cheap/default": kit.Known(usd=0.001, seconds=2.0)}
    situation = kit.situation(known)
    refused = kit.ask(COST, situation, target=0.4, quality_threshold=0.9)
    assert refused.reason == "infeasible"
    assert refused.needed["target_reduction"] < 0.05
    assert "slower" in refused.explanation
    free = kit.replace(situation, settings=kit.replace(situation.settings, deployment=unguarded()))
    assert isinstance(kit.ask(COST, free, target=0.4, quality_threshold=0.9), Proposal)


def test_an_arm_that_is_as_fast_as_far_as_one_can_tell_is_proposed(kit):
    known = {
        "big/default": kit.Known(),
        "cheap/default": kit.Known(usd=0.001, seconds=1.02, requests=60.0, ratings=1000.0),
    }
    assert isinstance(kit.ask(COST, kit.situation(known), target=0.4, quality_threshold=0.9), Proposal)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"quality_threshold": 0.9}, 0.9),
        ({"quality_floor": 0.6}, 0.75),  # of the baseline's 0.8
        ({"quality_threshold": 0.9, "quality_floor": 0.6}, 0.9),
        ({}, None),
    ],
)
def test_a_proposal_says_what_the_quality_guard_has_to_tolerate(kit, asked, kept):
    found = kit.ask(COST, kit.situation(three(kit)), target=0.4, **asked)
    assert found.quality_ratio == (None if kept is None else pytest.approx(kept, abs=0.01))


def test_a_target_that_another_strategy_reached_exactly_still_counts_as_reached(kit):
    """Drift about the 95th percentile must not free cost_reduction to undo the speed that was bought."""
    known = {
        "big/default": kit.Known(),
        "cheap/default": kit.Known(usd=0.001, seconds=2.0),
        "fast/default": kit.Known(usd=0.008, seconds=0.3),
    }
    made = kit.situation(known)
    running = (StrategySettings("latency_optimization", {"target_p95_ms": 600.0}),)
    settings = kit.replace(
        made.settings,
        optimization=kit.replace(made.settings.optimization, strategies=running),
        deployment=unguarded(),
    )
    fast = kit.ask(LatencyOptimization(), kit.replace(made, settings=settings), target_p95_ms=600)
    slow = fast.candidate.policy.fixed["big/default"] + 0.003
    policy = PolicySettings(name="fixed", fixed={"big/default": slow, "fast/default": 1.0 - slow})
    drifted = kit.replace(made, settings=settings, route=kit.replace(made.route, policy=policy))
    assert isinstance(kit.ask(COST, drifted, target=0.5), NoProposal)
