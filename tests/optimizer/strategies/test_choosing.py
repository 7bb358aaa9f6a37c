"""Strategies that say what a route pursues or among what it chooses: multi_objective, model_selection, manual."""

import pytest

from optimizer.rollouts.overlays import apply
from optimizer.settings import Objective, PolicySettings
from optimizer.strategies.manual import Manual
from optimizer.strategies.model_selection import ModelSelection
from optimizer.strategies.multi_objective import MultiObjective

SEVERAL, SELECTION, MANUAL = MultiObjective(), ModelSelection(), Manual()
THE_GUIDES = [
    {"name": "cost", "weight": 0.4, "direction": "minimize"},
    {"name": "latency", "weight": "0.3", "direction": "minimize"},
    {"name": "quality", "weight": 0.3, "direction": "maximize"},
]


def two(kit, **cheap):
    return {"big/default": kit.Known(), "mid/default": kit.Known(**{"usd": 0.002, "quality": 0.78, **cheap})}


def effect(found, metric):
    return next(effect for effect in found.effects if effect.metric == metric)


# --- multi_objective --------------------------------------------------------------------------------


def test_fixed_shares_move_to_what_serves_the_objectives(kit):
    found = kit.ask(SEVERAL, kit.situation(two(kit)), objectives=THE_GUIDES)
    assert found.candidate.policy.fixed == pytest.approx({"big/default": 0.02, "mid/default": 0.98})
    assert effect(found, "utility").low > 0.0


def test_a_route_that_learns_gets_the_objectives(kit):
    found = kit.ask(SEVERAL, kit.situation(two(kit), policy=PolicySettings()), objectives=THE_GUIDES)
    assert found.candidate.objectives == (
        Objective("cost", 0.4, maximize=False),
        Objective("latency", 0.3, maximize=False),
        Objective("quality", 0.3, maximize=True),
    )
    assert found.candidate.policy is None
    assert effect(found, "cost").change < 0.0


def test_weights_and_directions_decide(kit):
    """Quality alone keeps the baseline; the same metric the other way round leaves it."""
    situation = kit.situation(two(kit, quality=0.6))
    assert kit.ask(SEVERAL, situation, objectives=["quality"]).reason == "no_improvement"
    turned = [{"name": "quality", "direction": "minimize"}]
    assert kit.ask(SEVERAL, situation, objectives=turned).candidate.policy.fixed["mid/default"] == 0.98


def test_the_objectives_that_are_pursued_already_change_nothing(kit):
    situation = kit.situation(two(kit), policy=PolicySettings())
    refused = kit.ask(SEVERAL, situation, objectives=[{"name": "quality", "weight": 1}])
    assert (refused.reason, "already" in refused.explanation) == ("no_improvement", True)


def test_objectives_that_nobody_observed_are_waited_for(kit):
    refused = kit.ask(SEVERAL, kit.situation(two(kit)), objectives=["user_satisfaction"])
    assert refused.reason == "not_enough_data"
    assert refused.needed == {
        "user_satisfaction of big/default": 30.0,
        "user_satisfaction of mid/default": 30.0,
    }


@pytest.mark.parametrize(
    ("objectives", "path"),
    [
        ([{"name": "costs"}], "objectives[0].name"),
        ([{"weight": 1}], "objectives[0].name"),
        ([{"name": "cost", "weight": -1}], "objectives[0].weight"),
        ([{"name": "cost", "direction": "down"}], "objectives[0].direction"),
        ([{"name": "cost", "wieght": 1}], "objectives[0].wieght"),
        ([{"name": "cost", "scale": 0}], "objectives[0].scale"),
        ([{"name": "cost", "weight": 0}], "objectives"),
        (["quality", "rating"], "objectives"),
        ([3], "objectives[0]"),
        ([], "objectives"),
        (None, "objectives"),
    ],
)
def test_objectives_that_make_no_sense_are_named(kit, objectives, path):
    _, problems = SEVERAL.check({"objectives": objectives}, kit.settings(["big/default"]), None)
    assert [problem.path for problem in problems] == [path]


# --- model_selection --------------------------------------------------------------------------------


def test_a_fixed_route_begins_to_learn(kit):
    found = kit.ask(SELECTION, kit.situation(two(kit)), criteria="cost, latency, quality")
    assert found.candidate.policy.name == "thompson"
    assert [objective.metric for objective in found.candidate.objectives] == ["cost", "latency", "quality"]
    assert {round(objective.weight, 6) for objective in found.candidate.objectives} == {0.333333}
    assert found.samples == {"big/default": 1000.0, "mid/default": 1000.0}


def test_a_bandit_needs_no_data_and_says_so(kit):
    known = {"big/default": kit.Known(), "mid/default": kit.Known(requests=0)}
    found = kit.ask(SELECTION, kit.situation(known))
    assert "Not known well yet: mid/default" in found.summary
    assert effect(found, "utility").low < effect(found, "utility").high


def test_listed_models_are_what_it_chooses_among_and_the_baseline_stays(kit):
    known = {f"{name}/default": kit.Known() for name in ("big", "mid", "small")}
    situation = kit.situation(known, policy=PolicySettings())
    found = kit.ask(SELECTION, situation, models=["mid"])
    assert found.candidate.arms == ("big/default", "mid/default")
    served = kit.replace(situation, route=apply(situation.route, found.candidate))
    assert kit.ask(SELECTION, served, arms=["mid/default"]).reason == "no_improvement"


def test_the_same_selection_again_changes_nothing(kit):
    situation = kit.situation(two(kit), policy=PolicySettings())
    assert kit.ask(SELECTION, situation).reason == "no_improvement"


def test_selection_parameters_that_make_no_sense_are_named(kit):
    settings = kit.settings(["big/default", "mid/default"])
    route = settings.routes[0]

    def paths(parameters, on=route):
        return [problem.path for problem in SELECTION.check(parameters, settings, on)[1]]

    assert paths({"models": ["bgi"]}) == ["models[0]"]
    assert paths({"models": ["bgi"]}, None) == ["models[0]"]
    assert paths({"arms": ["big/brief"]}) == ["arms[0]"]
    assert paths({"models": ["big"]}) == ["models"]
    assert paths({"models": ["mid"], "arms": ["mid/default"]}) == ["arms"]
    assert paths({"criteria": ["prize"]}) == ["criteria[0]"]


# --- manual -----------------------------------------------------------------------------------------


def test_an_operators_own_change_is_always_proposed(kit):
    known = {"big/default": kit.Known(requests=0), "mid/default": kit.Known(requests=0)}
    policy = {"type": "fixed", "probabilities": {"big/default": "0.5", "mid/default": 0.5}}
    found = kit.ask(MANUAL, kit.situation(known), policy=policy)
    assert found.candidate.policy.fixed == {"big/default": 0.5, "mid/default": 0.5}
    assert found.effects
    assert found.saving_usd_per_day is None


def test_every_field_can_be_changed(kit):
    situation = kit.situation(two(kit))
    found = kit.ask(
        MANUAL,
        situation,
        arms=["mid/default"],
        baseline="mid/default",
        policy={"type": "thompson", "floor": "0.1", "probabilities": None},
        objectives=["cost"],
    )
    changed = apply(situation.route, found.candidate)
    assert [arm.id for arm in changed.arms] == ["mid/default"]
    assert (changed.policy.name, changed.policy.floor) == ("thompson", 0.1)
    assert changed.objectives == (Objective("cost", 1.0, maximize=False),)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({}, ""),
        ({"arms": ["nobody"]}, "arms[0]"),
        ({"baseline": "nobody"}, "baseline"),
        ({"arms": ["mid/default"]}, ""),
        ({"policy": {"type": "best"}}, "policy.type"),
        ({"policy": {"kind": "fixed"}}, "policy.kind"),
        ({"policy": {"floor": 3}}, "policy.floor"),
        ({"policy": {"probabilities": {"big/default": "half"}}}, "policy.probabilities.big/default"),
        ({"policy": {"probabilities": {"big/default": 0.5}}}, "policy.probabilities"),
        ({"policy": {"probabilities": {"nobody": 1}}}, ""),
        ({"policy": {"probabilities": [1]}}, "policy.probabilities"),
        ({"policy": {"type": "ucb", "probabilities": {"big/default": 1}}}, "policy.probabilities"),
        ({"policy": "fixed"}, "policy"),
    ],
)
def test_changes_that_make_no_sense_are_named(kit, parameters, path):
    settings = kit.settings(["big/default", "mid/default"])
    _, problems = MANUAL.check(parameters, settings, settings.routes[0])
    assert [problem.path for problem in problems] == [path]


def test_a_change_that_became_impossible_is_refused(kit):
    """The file lost the arm after the parameters were checked."""
    situation = kit.situation(two(kit))
    refused = MANUAL.propose(situation, {"baseline": "gone/default"})
    assert refused.reason == "not_applicable"


# --- all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [SEVERAL, SELECTION])
def test_a_route_that_is_switched_off_stays_as_it_is(kit, strategy):
    situation = kit.situation(two(kit), optimize=False)
    parameters = {"objectives": ["cost"]} if strategy is SEVERAL else {}
    assert kit.ask(strategy, situation, **parameters).reason == "not_applicable"


def test_what_is_served_already_is_not_brought_to_traffic(kit):
    """A candidate that is control itself would take a canary's time to show nothing."""
    situation = kit.situation(dict.fromkeys(("big/default", "mid/default"), kit.Known()))
    refused = kit.ask(MANUAL, situation, arms=["big/default", "mid/default"], baseline="big/default")
    assert refused.reason == "no_improvement"
