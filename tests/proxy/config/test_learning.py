"""Context, constraints, drift, judge: what is written, what it becomes, and what is said about it."""

import pytest
import yaml

from optimizer.routing import ClientFeature
from optimizer.settings import Constraints, ContextSettings, DriftSettings, JudgeSettings
from proxy.config.compile_learning import RUBRIC
from proxy.config.export import effective_yaml
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems

LOCAL = "upstreams: {sim: {base_url: 'http://127.0.0.1:9000/v1'}}\n"
PRICED = "price: {input: 1, output: 1}, capabilities: []"
MODELS = (
    LOCAL + f"models: {{a: {{{PRICED}}}, b: {{{PRICED}}}, c: {{{PRICED}}}, free: {{capabilities: []}}}}\n"
)
TWO = "arms: [a, b], "

# What is refused: body of the route, path of the one problem below it, words of the message or the suggestion.
REFUSED = {
    "a misspelt constraint": (
        TWO + "constraints: {quality_flor: 0.5}",
        "constraints.quality_flor",
        "quality_floor",
    ),
    "a reduction to nothing": (
        TWO + "constraints: {target_reduction: 1}",
        "constraints.target_reduction",
        "less than 1",
    ),
    "a floor of nothing": (
        TWO + "constraints: {quality_floor: 0}",
        "constraints.quality_floor",
        "greater than 0",
    ),
    "a floor in percent": (TWO + "constraints: {quality_floor: 89}", "constraints.quality_floor", "1"),
    "a cost that is not known": (
        "arms: [a, free], constraints: {cost_per_request_usd: 1}",
        "constraints.cost_per_request_usd",
        "the price of arm 'free' is unknown",
    ),
    "context as a text": (TWO + "context: lexical", "context", "mapping"),
    "a misspelt context": (TWO + "context: {lexcal: true}", "context.lexcal", "lexical"),
    "too many words": (TWO + "context: {lexical: true, lexical_size: 65}", "context.lexical_size", "64"),
    "a feature from nowhere": (
        TWO + "context: {client: [{name: x}]}",
        "context.client[0]",
        "needs `header` or `metadata`",
    ),
    "a feature from everywhere": (
        TWO + "context: {client: [{name: x, header: x-a, metadata: a}]}",
        "context.client[0]",
        "needs `header` or `metadata`",
    ),
    "a credential as a feature": (
        TWO + "context: {client: [{name: x, header: Authorization, values: [a]}]}",
        "context.client[0].header",
        "holds a credential",
    ),
    "no header": (
        TWO + "context: {client: [{name: x, header: 'a b'}]}",
        "context.client[0].header",
        "must be the name",
    ),
    "words and numbers": (
        TWO + "context: {client: [{name: x, header: x-a, values: [a], max: 3}]}",
        "context.client[0]",
        "not both",
    ),
    "an empty range": (
        TWO + "context: {client: [{name: x, header: x-a, min: 2, max: 2}]}",
        "context.client[0].max",
        "above min",
    ),
    "a feature twice": (
        TWO + "context: {client: [{name: x, header: x-a}, {name: x, metadata: a}]}",
        "context.client[1].name",
        "listed twice",
    ),
    "keeping more than all": (TWO + "drift: {keep: 2}", "drift.keep", "1"),
    "a judge without a model": (TWO + "judge: {rate: 0.1}", "judge.model", "is required"),
    "an unknown judge": (TWO + "judge: d", "judge.model", "there is no model 'd'"),
    "a judge of unknown price": (TWO + "judge: free", "judge.usd_per_day", "the price of 'free' is unknown"),
    "a judge that never samples": (TWO + "judge: {model: c, rate: 0}", "judge.rate", "greater than 0"),
}


@pytest.mark.parametrize(("body", "path", "words"), REFUSED.values(), ids=REFUSED)
def test_single_problem_is_named_with_its_path(body, path, words):
    """One mistake gives one problem, at the key that has to be changed."""
    with pytest.raises(ConfigProblems) as caught:
        route_of(body)

    assert [problem.path for problem in caught.value.problems] == [f"routes.r.{path}"]
    assert words in str(caught.value.problems[0])


def loaded_of(body, text=MODELS):
    return load_text(f"{text}routes: {{r: {{{body}}}}}", {})


def route_of(body, text=MODELS):
    return loaded_of(body, text).settings.routes[0]


def notes_of(body, text=MODELS):
    return {note.path: note.message for note in loaded_of(body, text).notes if note.path.startswith("routes")}


def test_defaults_are_those_of_the_types():
    """A route that says nothing looks at nothing, keeps nothing, and watches for drift."""
    route = route_of("arms: [a, b]")

    assert (route.context, route.judge) == (None, None)
    assert (route.constraints, route.drift) == (Constraints(), DriftSettings())
    assert not route.constraints.any


def test_every_key_arrives():
    """Under the names of the types; a header's name is small, a ratio is what a reduction leaves."""
    route = route_of(
        TWO + "context: {lexical: true, lexical_size: 8, client: ["
        "{name: tier, header: X-Tier, values: [free, paid, free]}, {name: age, metadata: Age, min: -1, max: 9}]}, "
        "constraints: {cost_per_request_usd: 0.1, cost_per_day_usd: 2, target_reduction: 0.1, max_request_usd: 3, "
        "quality_floor: 0.4, quality_threshold: 0.95, latency_p95_ms: 500}, "
        "drift: {tolerance: 0.1, threshold: 20, keep: 0}, "
        "judge: {model: c, name: strict, rubric: Is it right?, rate: 0.2, usd_per_day: 5, max_content_bytes: 2048}"
    )

    assert route.context == ContextSettings(
        client=(
            ClientFeature("tier", "header", "x-tier", ("free", "paid")),
            ClientFeature("age", "metadata", "Age", (), -1.0, 9.0),
        ),
        lexical=True,
        lexical_size=8,
    )
    assert route.constraints == Constraints(0.1, 2, 0.9, 3, 0.4, 0.95, 500)
    assert route.drift == DriftSettings(True, 0.1, 20, 0)
    assert route.judge == JudgeSettings("strict", "c", "Is it right?", route.judge.version, 0.2, 5, 2048)


@pytest.mark.parametrize(
    ("written", "context"),
    [
        ("true", ContextSettings()),
        ("{}", ContextSettings()),
        ("false", None),
        ("null", None),
        ("{enabled: false}", None),
    ],
)
def test_context_in_short(written, context):
    assert route_of(f"{TWO}context: {written}").context == context


@pytest.mark.parametrize(
    ("written", "enabled"), [("true", True), ("false", False), ("null", True), ("{keep: 0}", True)]
)
def test_drift_in_short(written, enabled):
    assert route_of(f"{TWO}drift: {written}").drift.enabled is enabled


def test_a_judge_in_short_has_a_name_a_rubric_and_a_version():
    """Who rates with another model or rubric is another judge; what it is called and how often it looks is not that."""
    judge = route_of(TWO + "judge: c").judge

    assert (judge.name, judge.model, judge.rubric) == ("c", "c", RUBRIC)
    same = route_of(TWO + "judge: {model: c, name: other, rate: 0.5, usd_per_day: 9}").judge
    assert same.version == judge.version
    others = [route_of(TWO + f"judge: {{{body}}}").judge for body in ("model: b", "model: c, rubric: Short?")]
    assert len({judge.version, *(other.version for other in others)}) == 3


def test_the_version_of_a_judge_is_what_it_was():
    """A change of how it is computed would throw away every rating there is."""
    assert route_of(TWO + "judge: {model: c, rubric: Is it right?}").judge.version == "c503bea2370f6c73"


def test_a_judge_is_sent_by_us_so_it_needs_a_key_of_ours():
    text = "upstreams: {sim: {base_url: 'http://h/v1', auth: passthrough}}\n" + MODELS.removeprefix(LOCAL)
    with pytest.raises(ConfigProblems, match="takes the caller's own key"):
        route_of(TWO + "judge: c", text)


def test_what_has_no_effect_is_said():
    """Nothing is refused that an optimization may have made of a route, whose export has to load."""
    fixed = TWO + "policy: fixed, "
    assert (
        "keeps no constraints"
        in notes_of(fixed + "constraints: {quality_floor: 0.5}")["routes.r.constraints"]
    )
    assert "only has requests recorded" in notes_of(fixed + "context: true")["routes.r.context"]
    assert "single arm" in notes_of("arms: [a], context: true")["routes.r.context"]
    assert "single arm" in notes_of("arms: [a], constraints: {quality_floor: 0.5}")["routes.r.constraints"]
    assert "without `lexical" in notes_of(TWO + "context: {lexical_size: 3}")["routes.r.context.lexical_size"]
    assert "its own answers" in notes_of(TWO + "judge: b")["routes.r.judge.model"]
    assert notes_of(TWO + "context: true, constraints: {quality_floor: 0.5}, judge: c") == {}


def test_a_context_has_room_for_so_many_arms():
    """A decision by context is logged with its whole vector."""
    models = "".join(f"  m{index}: {{{PRICED}}}\n" for index in range(33))
    for count, refused in ((32, False), (33, True)):
        text = f"{LOCAL}models:\n{models}"
        body = f"arms: [{', '.join(f'm{index}' for index in range(count))}], context: true"
        if refused:
            with pytest.raises(ConfigProblems, match="at most 32 arms, this one has 33"):
                route_of(body, text)
        else:
            assert route_of(body, text).context is not None


def test_flat_routes_take_context_and_constraints():
    """What stands under `routes.auto` comes to the arms and the policy that the flat blocks make."""
    text = (
        "optimization: {model_selection: {models: [a, b]}, cost_reduction: {target: 0.4}}\n"
        "routes: {auto: {context: true, constraints: {quality_threshold: 0.9}, judge: c}}\n"
    )
    auto = next(route for route in load_text(MODELS + text, {}).settings.routes if route.name == "auto")

    assert [arm.id for arm in auto.arms] == ["a", "b"]
    assert auto.context == ContextSettings()
    assert auto.constraints == Constraints(quality_ratio=0.9)
    assert auto.judge is not None


def test_a_model_that_is_only_a_judge_survives_the_export():
    loaded = load_text("routes: {r: {arms: [gpt-4o, gpt-4o-mini], judge: gpt-4.1}}", {})
    text = effective_yaml(loaded)

    assert "gpt-4.1" in yaml.safe_load(text)["models"]
    assert load_text(text, {}).settings.routes == loaded.settings.routes


def test_a_reduction_is_exported_as_it_was_written():
    loaded = loaded_of(TWO + "constraints: {target_reduction: 0.1}")

    assert yaml.safe_load(effective_yaml(loaded))["routes"]["r"]["constraints"] == {"target_reduction": 0.1}
