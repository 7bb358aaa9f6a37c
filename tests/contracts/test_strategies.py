"""What every strategy of the registry promises, whatever it does."""

from dataclasses import replace
from math import isfinite
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.reward import COST_USD
from optimizer.rollouts.codec import candidate_of, to_plain
from optimizer.rollouts.overlays import apply, named
from optimizer.rollouts.records import Candidate, Proposal
from optimizer.routing import Arm, Model, Price, Upstream, Variant
from optimizer.settings import (
    Constraints,
    ContextSettings,
    CustomMetric,
    Objective,
    PolicySettings,
    RouteSettings,
    Settings,
)
from optimizer.strategies.base import REASONS, NoProposal, Situation, TrialResults, VariantCounts, describe
from optimizer.strategies.registry import STRATEGIES, choosing_routes
from policies.sequential.confidence import Sample
from policies.types import ArmEvidence, Moments

NAMES = ("big/default", "big/brief", "mid/default", "small/default")
LEAST: dict[str, dict[str, Any]] = {
    "multi_objective": {"objectives": ["cost", "quality"]},
    "manual": {"baseline": "mid/default"},
    "latency_optimization": {"target_p95_ms": 800},
}
every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))


def make_settings(policy: PolicySettings | None = None) -> Settings:
    arms = [name.split("/") for name in NAMES]
    models = list(dict.fromkeys(model for model, _ in arms))
    return Settings(
        config_hash="test",
        upstreams=(Upstream("one", "openai", "http://127.0.0.1:9/v1"),),
        models=tuple(Model(name, "one", name, f"key-{name}", Price(1.0, 2.0)) for name in models),
        variants=(Variant("default", "key-default"), Variant("brief", "key-brief", system="Be brief.")),
        routes=(
            RouteSettings(
                "auto",
                tuple(Arm(f"{m}/{p}", m, p, f"key-{m}", f"key-{p}") for m, p in arms),
                NAMES[0],
                (Objective("quality", 1.0, maximize=True),),
                policy
                or PolicySettings(name="fixed", fixed={NAMES[0]: 0.94, **dict.fromkeys(NAMES[1:], 0.02)}),
            ),
        ),
        custom_metrics=(CustomMetric("smiles", low=0.0, high=1.0),),
    )


def moments(low: float, high: float) -> st.SearchStrategy[Moments]:
    return st.builds(Moments, st.floats(0, 1e5), st.floats(low, high), st.floats(0, 2))


def steering() -> st.SearchStrategy[dict[str, Any]]:
    """What makes a route decide by context or keep constraints; nothing for most."""
    kept = st.builds(
        Constraints,
        cost_ratio=st.none() | st.floats(0.1, 0.9),
        quality_ratio=st.none() | st.floats(0.1, 1),
        latency_p95_ms=st.none() | st.floats(10, 1e4),
    )
    some = st.fixed_dictionaries({"context": st.none() | st.just(ContextSettings()), "constraints": kept})
    return st.just({}) | some


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Any evidence at all on one route, learning or fixed, with or without a trial."""
    made = make_settings(draw(st.sampled_from((None, PolicySettings(), PolicySettings(name="ucb")))))
    made = replace(made, routes=(replace(made.routes[0], **draw(steering())),))
    signals = {
        "quality": moments(0, 1),
        "cost": moments(-12, 0),
        COST_USD: moments(0, 1),
        "latency": moments(-3, 3),
        "ttft": moments(-5, 2),
        "smiles": moments(0, 1),
    }
    evidence = [
        ArmEvidence(
            arm,
            draw(st.floats(0, 1e5)),
            Moments(draw(st.floats(0, 1e5)), draw(st.floats(0, 1)), 0.1),
            {name: draw(signals[name]) for name in sorted(draw(st.sets(st.sampled_from(sorted(signals)))))},
        )
        for arm in NAMES
    ]
    route = made.routes[0]
    return Situation(route, route, evidence, made, draw(st.floats(0, 1e3)), 2e9, draw(st.none() | trials()))


@st.composite
def trials(draw: st.DrawFn) -> TrialResults:
    arms = {}
    for arm in NAMES[:2]:
        n = draw(st.integers(0, 5000))
        good = draw(st.floats(0, n))
        arms[arm] = VariantCounts(n, float(max(n, 1)), {"quality": Sample.of_share(good, n)})
    return TrialResults(draw(st.floats(0, 2e9)), arms)


def answer(name: str, situation: Situation, **parameters: Any) -> Proposal | NoProposal:
    strategy = STRATEGIES[name]
    values, problems = strategy.check(
        {**LEAST.get(name, {}), **parameters}, situation.settings, situation.file
    )
    assert problems == []
    return strategy.propose(situation, values)


@every_strategy
def test_the_name_is_the_key_and_everything_is_described(name: str) -> None:
    strategy = STRATEGIES[name]
    described = describe(strategy)
    assert strategy.name == name == described["name"]
    assert strategy.summary.endswith(".")
    assert all(parameter["description"] for parameter in described["parameters"])
    assert orjson.loads(orjson.dumps(described)) == described


@every_strategy
def test_unknown_parameters_are_named_with_what_was_meant(name: str) -> None:
    strategy = STRATEGIES[name]
    first = strategy.parameters[0].name
    given = {**LEAST.get(name, {}), "nonsense": 1, first[:-1] + "x": 2}
    _, problems = strategy.check(given, make_settings(), None)
    assert {problem.path for problem in problems} == {"nonsense", first[:-1] + "x"}
    assert any(f"did you mean `{first}`" in problem.message for problem in problems)


@every_strategy
def test_what_was_checked_passes_again_unchanged(name: str) -> None:
    """The record keeps the normalised parameters; a restart checks them anew."""
    made = make_settings()
    values, problems = STRATEGIES[name].check(LEAST.get(name, {}), made, made.routes[0])
    assert problems == []
    stored = orjson.loads(orjson.dumps(values))
    again, problems = STRATEGIES[name].check(stored, made, made.routes[0])
    assert (dict(again), problems) == (dict(values), [])


@every_strategy
@settings(max_examples=40, deadline=None)
@given(
    raw=st.dictionaries(
        st.text(max_size=3), st.none() | st.booleans() | st.text(max_size=4) | st.lists(st.integers())
    )
)
def test_any_parameters_are_answered_and_never_raise(name: str, raw: dict[str, Any]) -> None:
    """Of any type, under the names that there are too."""
    strategy = STRATEGIES[name]
    own = [parameter.name for parameter in strategy.parameters]
    mixed = raw | dict(zip(own, raw.values(), strict=False))
    made = make_settings()
    for route in (None, made.routes[0]):
        _, problems = strategy.check(mixed, made, route)
        assert all(problem.message for problem in problems)


@every_strategy
@settings(max_examples=30, deadline=None)
@given(situation=situations())
def test_every_answer_is_whole(name: str, situation: Situation) -> None:
    """A proposal fits the route, states finite evidence and survives storage; a refusal has its reason."""
    found = answer(name, situation)
    if isinstance(found, NoProposal):
        assert found.reason in REASONS
        assert found.explanation.endswith(".")
        assert all(isfinite(value) and value >= 0.0 for value in found.needed.values())
        return
    assert named(found.candidate)
    changed = apply(situation.route, found.candidate, file=situation.file)
    assert changed != situation.route
    assert found.effects
    for effect in found.effects:
        numbers = (effect.baseline, effect.candidate, effect.change, effect.low, effect.high)
        assert all(map(isfinite, numbers)), effect
        assert effect.low <= effect.change <= effect.high
        assert effect.change == pytest.approx(effect.candidate - effect.baseline, rel=1e-6, abs=1e-6)
    assert found.samples
    assert 0.0 < found.confidence < 1.0
    assert found.made_at == situation.now
    assert found.summary
    plain = orjson.loads(orjson.dumps(to_plain(found)))
    assert candidate_of(plain["candidate"]) == found.candidate
    if found.candidate.policy is not None and found.candidate.policy.fixed:
        assert sum(found.candidate.policy.fixed.values()) == pytest.approx(1.0, abs=1e-6)


@every_strategy
@settings(max_examples=12, deadline=None)
@given(situation=situations())
def test_the_same_situation_has_one_answer(name: str, situation: Situation) -> None:
    assert answer(name, situation) == answer(name, situation)


@every_strategy
@settings(max_examples=12, deadline=None)
@given(situation=situations())
def test_a_proposal_that_is_served_is_not_made_again(name: str, situation: Situation) -> None:
    """The loop comes to rest: on the same evidence nothing follows a change but an operator's own word."""
    found = answer(name, situation)
    if name == "manual" or isinstance(found, NoProposal):
        return
    served = replace(situation, route=apply(situation.route, found.candidate, file=situation.file))
    again = answer(name, served)
    assert isinstance(again, NoProposal) or again.candidate != found.candidate


@every_strategy
def test_nothing_known_is_no_reason_to_raise(name: str) -> None:
    made = make_settings()
    route = made.routes[0]
    found = answer(name, Situation(route, route, [ArmEvidence(arm) for arm in NAMES], made, 0.0, 1.0))
    asks_nothing = ("manual", "model_selection")
    assert isinstance(found, Proposal) if name in asks_nothing else found.reason == "not_enough_data"


@every_strategy
@pytest.mark.parametrize("threshold", [{"quality_threshold": "0.9"}, {"quality_floor": 0.5}])
def test_a_quality_to_keep_asks_for_feedback(name: str, threshold: dict[str, Any]) -> None:
    """No rating anywhere: what would have to be rated, in numbers, and where to."""
    if next(iter(threshold)) not in {parameter.name for parameter in STRATEGIES[name].parameters}:
        return
    made = make_settings()
    signals = {
        "cost": Moments(500, -5, 0.1),
        COST_USD: Moments(500, 0.01, 1e-6),
        "latency": Moments(500, 0, 0.1),
    }
    evidence = [ArmEvidence(arm, 500, Moments(500, 0.99, 0.01), signals) for arm in NAMES]
    found = answer(name, Situation(made.routes[0], made.routes[0], evidence, made, 1.0, 1.0), **threshold)
    assert isinstance(found, NoProposal)
    assert found.reason == "not_enough_data"
    assert found.needed == {f"ratings of {arm}": 30.0 for arm in NAMES}
    assert "/v1/feedback" in found.explanation


def test_routes_without_a_choice_are_not_looked_at() -> None:
    made = make_settings()
    route = made.routes[0]
    single = replace(route, name="single", arms=route.arms[:1])
    off = replace(route, name="off", optimize=False)
    assert choosing_routes(replace(made, routes=(route, single, off))) == (route,)


def test_candidates_are_never_empty() -> None:
    assert named(Candidate()) == ()
