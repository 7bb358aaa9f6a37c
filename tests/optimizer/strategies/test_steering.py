"""What is proposed to routes that decide by context or keep constraints: bounds, never fixed shares."""

import pytest

from optimizer.rollouts.overlays import apply, named
from optimizer.settings import Constraints, ContextSettings, PolicySettings
from optimizer.strategies.base import NoProposal
from optimizer.strategies.cost_reduction import CostReduction
from optimizer.strategies.latency_optimization import LatencyOptimization
from optimizer.strategies.manual import Manual
from optimizer.strategies.multi_objective import MultiObjective
from optimizer.strategies.steering import constraints_of, read_constraints, tightened
from policies.types import Moments

COST, LATENCY, MANUAL = CostReduction(), LatencyOptimization(), Manual()
LEARNING = PolicySettings()


def three(kit, **changes):
    """A dear and slow baseline, a cheap arm nearly as good, and one that is very cheap and bad."""
    known = {
        "big/default": kit.Known(seconds=2.0),
        "mid/default": kit.Known(usd=0.004, quality=0.79, seconds=1.0),
        "small/default": kit.Known(usd=0.001, quality=0.6, seconds=0.3),
    }
    return {arm: kit.replace(figures, **changes) for arm, figures in known.items()}


def steered(kit, *, baseline_only=True, **route):
    """A route that decides by context, so far playing its baseline."""
    made = kit.situation(three(kit), **{"policy": LEARNING, "context": ContextSettings(), **route})
    published = dict.fromkeys([arm.id for arm in made.route.arms], 0.0) | {made.route.baseline: 1.0}
    return kit.replace(made, published=published) if baseline_only else made


def test_a_target_becomes_constraints(kit):
    """The route goes on learning; the mixture that would keep them says what is expected."""
    found = kit.ask(COST, steered(kit), target_reduction="40%", quality_threshold=0.9)

    assert named(found.candidate) == ("constraints",)
    assert found.candidate.constraints == Constraints(cost_ratio=0.6, quality_ratio=0.9)
    cost = next(effect for effect in found.effects if effect.metric == "cost")
    assert cost.candidate == pytest.approx(0.6 * cost.baseline, rel=1e-3)
    assert "Hold auto to a saving of 40 %" in found.summary
    assert found.quality_ratio == pytest.approx(0.9)
    assert found.saving_usd_per_day == pytest.approx(0.4 * 0.01 * 86400, rel=0.01)


def test_fixed_shares_on_a_contextual_route_begin_to_learn(kit):
    """What keeps constraints is the policy that learns, with the floor and the memory that the route has."""
    policy = PolicySettings(name="fixed", floor=0.05, fixed={"big/default": 0.9, "mid/default": 0.1})
    found = kit.ask(COST, steered(kit, policy=policy), target=0.3)

    assert found.candidate.policy == kit.replace(policy, name="thompson", fixed={})
    assert found.candidate.constraints == Constraints(cost_ratio=0.7)


def test_what_an_operator_asked_for_is_never_loosened(kit):
    """Of two bounds on the same thing the stricter one stays."""
    own = Constraints(cost_ratio=0.5, quality_floor=0.2, max_request_usd=1.0)
    found = kit.ask(COST, steered(kit, constraints=own), target=0.3, quality_floor=0.7)

    assert found.candidate.constraints == kit.replace(own, quality_floor=0.7)


def test_a_route_that_is_held_to_it_already_is_left_alone(kit):
    """Even while it does not keep it yet: its status tells that, and another rollout would not help."""
    situation = steered(kit, constraints=Constraints(cost_ratio=0.6, quality_ratio=0.9))
    found = kit.ask(COST, situation, target=0.4, quality_threshold=0.9)

    assert found.reason == "no_improvement"
    assert "llm-optimizer arms --route auto" in found.explanation


def test_a_target_that_is_met_needs_no_constraint(kit):
    """By the shares in the table, which for such a route the evidence alone does not tell."""
    served = {"big/default": 0.1, "mid/default": 0.9, "small/default": 0.0}
    situation = kit.replace(steered(kit), published=served)

    found = kit.ask(COST, situation, target=0.3, quality_threshold=0.9)

    assert found.reason == "no_improvement"
    assert "saves 54 % already" in found.explanation


def test_what_breaks_its_constraints_is_not_proposed_to_a_route(kit):
    """A saving that only the bad arm can bring breaks the floor that the operator set."""
    bounded = steered(kit, constraints=Constraints(quality_floor=0.75))
    assert kit.ask(COST, bounded, target=0.8).reason == "infeasible"
    assert not isinstance(kit.ask(COST, steered(kit), target=0.8), NoProposal)


def test_an_arm_without_a_price_keeps_no_cost(kit):
    situation = steered(kit)
    models = [kit.replace(model, price=None) for model in situation.settings.models[2:]]
    settings = kit.replace(situation.settings, models=(*situation.settings.models[:2], *models))
    found = kit.ask(COST, kit.replace(situation, settings=settings), target=0.3)

    assert found.reason == "not_applicable"
    assert "small/default" in found.explanation


def test_a_percentile_becomes_a_constraint(kit):
    found = kit.ask(LATENCY, steered(kit), target_p95_ms=1500, quality_threshold=0.9)

    assert found.candidate.constraints == Constraints(quality_ratio=0.9, latency_p95_ms=1500)
    assert named(found.candidate) == ("constraints",)


def test_without_a_percentile_there_is_nothing_to_hold_a_route_to(kit):
    found = kit.ask(LATENCY, steered(kit))

    assert found.reason == "not_applicable"
    assert "target_p95_ms" in found.explanation


def test_a_proposal_makes_the_route_that_it_says(kit):
    situation = steered(kit)
    found = kit.ask(COST, situation, target=0.4)
    changed = apply(situation.route, found.candidate)

    assert changed.constraints.cost_ratio == 0.6
    assert (changed.context, changed.policy) == (situation.route.context, LEARNING)
    assert tightened(changed, found.candidate.constraints) is None


def test_an_operator_may_set_constraints(kit):
    """Under the names of the configuration; an empty table takes them away."""
    given = {"target_reduction": "0.1", "quality_threshold": "95 %"}
    found = kit.ask(MANUAL, steered(kit), constraints=given)
    assert found.candidate.constraints == Constraints(cost_ratio=0.9, quality_ratio=0.95)

    bounded = steered(kit, constraints=Constraints(quality_floor=0.5))
    assert kit.ask(MANUAL, bounded, constraints={}).candidate.constraints == Constraints()


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"quality_flor": 0.5}, "constraints.quality_flor"),
        ({"quality_floor": 50}, "constraints.quality_floor"),
        ({"target_reduction": 1}, "constraints.target_reduction"),
        ({"cost_per_day_usd": "much"}, "constraints.cost_per_day_usd"),
        ({"latency_p95_ms": -1}, "constraints.latency_p95_ms"),
    ],
)
def test_wrong_constraints_are_named(kit, given, path):
    situation = steered(kit)
    _, problems = MANUAL.check({"constraints": given}, situation.settings, situation.file)
    assert [problem.path for problem in problems] == [path]


def test_constraints_need_a_policy_that_learns(kit):
    situation = kit.situation(three(kit))
    _, problems = MANUAL.check({"constraints": {"quality_floor": 0.5}}, situation.settings, situation.file)
    assert "type: thompson" in problems[0].message

    both = {"constraints": {"quality_floor": 0.5}, "policy": {"type": "thompson"}}
    assert MANUAL.check(both, situation.settings, situation.file)[1] == []


def test_what_was_read_reads_the_same_again():
    table, problems = read_constraints(
        {"target_reduction": 0.1, "max_request_usd": "2", "quality_floor": None}
    )
    assert problems == []
    assert read_constraints(table) == (table, [])
    assert constraints_of(table) == Constraints(cost_ratio=0.9, max_request_usd=2.0)


def test_other_objectives_are_expected_to_keep_the_constraints(kit):
    """Quality alone would bring everything to the dear arm; half of its cost may be spent."""
    situation = steered(kit, constraints=Constraints(cost_ratio=0.5), baseline_only=False)
    served = {"big/default": 0.1, "mid/default": 0.1, "small/default": 0.8}
    wanted = [{"name": "quality", "weight": 1}, {"name": "latency", "weight": 0.01}]
    found = kit.ask(MultiObjective(), kit.replace(situation, published=served), objectives=wanted)

    assert named(found.candidate) == ("objectives",)
    cost = next(effect for effect in found.effects if effect.metric == "cost")
    assert cost.candidate <= 0.5 * cost.baseline + 1e-6


def test_a_sure_gain_of_nothing_is_no_change(kit):
    """The best fixed mixture is published rounded; its distance from what was found moves nobody."""
    known = three(kit, ratings=0.0, spread=0.0)
    objectives = [{"name": "cost", "weight": 1}]
    situation = kit.situation(
        known, policy=PolicySettings(name="fixed", floor=0.0333333333, fixed={"big/default": 1.0})
    )
    sure = [
        kit.replace(evidence, success=Moments(1e5, 1.0, 0.0), signals=dict(evidence.signals))
        for evidence in situation.evidence
    ]
    situation = kit.replace(situation, evidence=sure)
    found = kit.ask(MultiObjective(), situation, objectives=objectives)
    served = kit.replace(situation, route=apply(situation.route, found.candidate))

    again = kit.ask(MultiObjective(), served, objectives=objectives)
    assert isinstance(again, NoProposal)
    assert "best already" in again.explanation or "What is served now" in again.explanation
