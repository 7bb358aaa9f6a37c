"""What the loop over strategies does: which strategies, on which routes, with parameters that they accept."""

import pytest

from optimizer.settings import OptimizationSettings
from optimizer.strategies.registry import STRATEGIES
from proxy.config.export import effective_yaml
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems

KEYS = {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}
MODELS = "model_selection: {models: [gpt-4, gpt-4o]}\n"
ALL = """\
metrics: {custom: [stars]}
model_selection: {models: [gpt-4, gpt-4o], criteria: [response_quality, stars]}
prompt_optimization: {variants: [Be brief.], metrics: [success, response_quality, stars, cost]}
cost_reduction: {target: '0.25', quality_floor: 0.7}
latency_optimization: {}
multi_objective: {objectives: [{name: cost, scale: 0.1}, response_quality, {name: stars, weight: 2}]}
"""


def loop_of(text):
    return load_text(text, KEYS).settings.optimization


def test_an_empty_file_runs_no_strategy():
    """The loop is there, for optimizations that people make."""
    assert loop_of("") == OptimizationSettings()


def test_every_active_strategy_but_the_bandit_is_run():
    """In a fixed order, on `auto` alone of the routes that listed models make."""
    loop = loop_of(ALL)

    assert [(strategy.name, strategy.routes) for strategy in loop.strategies] == [
        ("prompt_optimization", ("auto",)),
        ("cost_reduction", ("auto",)),
        ("latency_optimization", ("auto",)),
        ("multi_objective", ("auto",)),
    ]
    assert loop.strategies[1].parameters == {"target_reduction": 0.25, "quality_floor": 0.7}
    assert loop.strategies[2].parameters == {}


@pytest.mark.parametrize("text", [ALL, ALL + "optimization: {quality_threshold: 0.9}\n"])
def test_strategies_accept_what_the_configuration_gives_them(text):
    """The same form as over REST, checked by the strategies themselves."""
    settings = load_text(text, KEYS).settings
    (route,) = [route for route in settings.routes if route.name == "auto"]

    for strategy in settings.optimization.strategies:
        assert STRATEGIES[strategy.name].check(strategy.parameters, settings, route)[1] == []


def test_the_threshold_for_all_is_that_of_strategies_without_their_own():
    """The strategy's own goes first."""
    loop = loop_of(
        MODELS + "optimization: {quality_threshold: 0.9}\ncost_reduction: {}\n"
        "latency_optimization: {quality_threshold: 0.5}\n"
    )

    assert loop.quality_ratio == 0.9
    assert [strategy.parameters["quality_threshold"] for strategy in loop.strategies] == [0.9, 0.5]


def test_written_routes_with_several_arms_are_looked_at():
    """Not those with one arm, nor those that are not to be optimized, nor models asked for by name."""
    loop = loop_of(
        MODELS + "cost_reduction: {}\nprompts: {p: Be brief.}\nprompt_optimization: {}\nroutes:\n"
        "  chat: {arms: [gpt-4, o3]}\n  one: {arms: [o3]}\n  off: {arms: [gpt-4, o3], optimize: false}\n"
        "  prompts: {arms: [o3, {model: o3, prompt: p}]}\n  gpt-4o: {arms: [gpt-4o, o3]}\n"
    )

    assert {strategy.name: strategy.routes for strategy in loop.strategies} == {
        "prompt_optimization": ("prompts",),
        "cost_reduction": ("auto", "chat", "prompts"),
    }


@pytest.mark.parametrize(
    "text",
    [
        MODELS + "cost_reduction: {enabled: false}\n",
        MODELS + "optimization: {strategies: [model_selection], cost_reduction: {}}\n",
        MODELS + "optimization: {enabled: false, cost_reduction: {}}\n",
        "optimization: {strategies: [multi_objective]}\n" + MODELS,
        "cost_reduction: {}\nroutes: {chat: {arms: [gpt-4]}}\n",
    ],
)
def test_what_is_off_or_has_nothing_to_do_does_not_run(text):
    """Whichever way it is off."""
    assert loop_of(text).strategies == ()


def test_a_strategy_without_a_use_is_reported():
    """Where it was asked for."""
    notes = {
        note.path
        for note in load_text(
            "optimization: {strategies: [multi_objective, cost_reduction]}\nroutes: {chat: {arms: [gpt-4]}}",
            KEYS,
        ).notes
    }

    assert notes == {"optimization.strategies[0]", "optimization.strategies[1]"}


def test_problems_of_strategies_are_named_at_once():
    """Each where it stands."""
    with pytest.raises(ConfigProblems) as caught:
        load_text(
            "optimization: {interval_sec: 0.1, quality_threshold: 95}\ncost_reduction: {target: 1, quality_floor: 7}\n"
            "latency_optimization: {target_p95_ms: 0, quality_threshold: x}\n"
            "prompt_optimization:\n"
            "  {metrics: [ttft, time_to_first_token], significance_level: 0, test_duration_sec: -1}\n",
            {},
        )

    assert {problem.path for problem in caught.value.problems} == {
        "optimization.interval_sec",
        "optimization.quality_threshold",
        "cost_reduction.target",
        "cost_reduction.quality_floor",
        "latency_optimization.target_p95_ms",
        "latency_optimization.quality_threshold",
        "prompt_optimization.metrics[0]",
        "prompt_optimization.metrics[1]",
        "prompt_optimization.significance_level",
        "prompt_optimization.test_duration_sec",
    }


@pytest.mark.parametrize(
    "text",
    [
        ALL,
        MODELS + "optimization: {strategies: [cost_reduction, latency_optimization], interval_sec: 1.5}\n",
        "optimization: {strategies: [prompt_optimization]}\nprompt_optimization: {variants: [Be brief.]}\n",
        MODELS + "cost_reduction: {}\nroutes: {gpt-4: {match: ['gpt-4-*']}, chat: {arms: [gpt-4, o3]}}\n",
    ],
)
def test_the_loop_survives_the_effective_export(text):
    """Although every route is written out there, and no variant."""
    loaded = load_text(text, KEYS)

    assert load_text(effective_yaml(loaded), KEYS).settings == loaded.settings
