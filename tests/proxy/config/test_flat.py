"""The flat blocks as one pure function: which arms, which baseline, which shares."""

import pytest

from proxy.config.load import load_text

KEYS = {"OPENAI_API_KEY": "sk-test-openai", "ANTHROPIC_API_KEY": "sk-test-anthropic"}
MODELS = "model_selection: {models: [gpt-4, gpt-4o, o3]}\n"
VARIANTS = "prompt_optimization: {variants: ['Kindly: {question}', {name: brief, system: Be brief.}]}\n"


def routes_of(text):
    return {route.name: route for route in load_text(text, KEYS).settings.routes}


def shares(route):
    return {arm.id: route.policy.fixed.get(arm.id, 0.0) for arm in route.arms}


def test_listed_selection_runs_the_bandit_over_models_and_prompts():
    """Every model with every prompt is an arm."""
    route = routes_of(MODELS + VARIANTS)["auto"]

    assert route.policy.name == "thompson"
    assert [arm.id for arm in route.arms] == [
        "gpt-4",
        "gpt-4o",
        "o3",
        "gpt-4+variant-1",
        "gpt-4+brief",
        "gpt-4o+variant-1",
        "gpt-4o+brief",
        "o3+variant-1",
        "o3+brief",
    ]


def test_selection_not_listed_plays_the_baseline():
    """The listed models stay arms that can be pinned, and stand in when the baseline is not eligible."""
    routes = routes_of(MODELS + "optimization: {strategies: []}")

    for name, baseline in {"auto": "gpt-4", "gpt-4o": "gpt-4o"}.items():
        assert routes[name].policy.name == "fixed"
        assert routes[name].policy.fixed == {}
        assert routes[name].baseline == baseline
        assert len(routes[name].arms) == 3


@pytest.mark.parametrize("strategy", ["cost_reduction", "latency_optimization"])
def test_strategy_that_compares_models_explores_them_by_the_floor(strategy):
    """Fixed baseline, and the exploration floor on what the strategy compares."""
    route = routes_of(MODELS + f"optimization: {{strategies: [{strategy}]}}")["gpt-4o"]

    assert shares(route) == {"gpt-4": 0.02, "gpt-4o": 0.96, "o3": 0.02}


def test_strategy_that_compares_prompts_explores_them_on_the_baseline_model():
    """Models that nobody compares get nothing."""
    route = routes_of(MODELS + VARIANTS + "optimization: {strategies: [prompt_optimization]}")["auto"]

    assert shares(route) == {
        "gpt-4": 0.96,
        "gpt-4o": 0.0,
        "o3": 0.0,
        "gpt-4+variant-1": 0.02,
        "gpt-4+brief": 0.02,
    }


def test_many_compared_arms_leave_half_of_the_traffic_to_the_baseline():
    """The floor gives way."""
    variants = ", ".join(f"'{number}: {{question}}'" for number in range(50))
    route = routes_of(f"prompt_optimization: {{variants: [{variants}]}}\nmodels: {{gpt-4: {{}}}}")["gpt-4"]

    assert route.policy.fixed["gpt-4"] == pytest.approx(0.5)
    assert sum(route.policy.fixed.values()) == pytest.approx(1.0)


def test_disabled_optimization_plays_every_baseline():
    """Also on routes that are written out."""
    loaded = load_text(MODELS + "optimization: {enabled: false}\nroutes: {chat: {arms: [gpt-4, o3]}}", KEYS)

    assert [route.optimize for route in loaded.settings.routes] == [False] * 5
    assert "optimization.enabled" in {note.path for note in loaded.notes}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (MODELS + "optimization: {strategies: [cost_reduction]}", "model_selection"),
        (
            "prompt_optimization: {enabled: false}\noptimization: {strategies: [prompt_optimization]}",
            "prompt_optimization",
        ),
    ],
)
def test_block_and_list_that_disagree_are_reported(text, path):
    """`enabled: true` outside the list, and `enabled: false` inside it: both keep the strategy off."""
    assert path in {note.path for note in load_text(text, KEYS).notes}


def test_written_routes_win_key_by_key():
    """What a route says replaces what the flat blocks say, and nothing else."""
    routes = routes_of(
        MODELS + "routes:\n  auto: {policy: {floor: 0.1}, match: ['auto-*']}\n  o3: {arms: [o3, gpt-4]}\n"
    )

    assert routes["auto"].policy.floor == 0.1
    assert routes["auto"].match == ("auto-*",)
    assert [arm.id for arm in routes["auto"].arms] == ["gpt-4", "gpt-4o", "o3"]
    assert [arm.id for arm in routes["o3"].arms] == ["o3", "gpt-4"]
    assert routes["o3"].policy.name == "thompson"
    assert list(routes) == ["auto", "gpt-4", "gpt-4o", "o3"]


def test_written_arms_end_the_shares_of_the_flat_ones():
    """Fixed shares of arms that are gone mean nothing."""
    routes = routes_of(
        MODELS
        + "optimization: {strategies: [cost_reduction]}\nroutes: {auto: {arms: [o3, gpt-4], policy: ucb}}"
    )

    assert routes["auto"].policy.name == "ucb"
    assert routes["auto"].policy.fixed == {}


def test_weights_beat_criteria_and_routes_beat_both():
    """From the most to the least specific."""
    text = (
        "model_selection: {models: [gpt-4, o3], criteria: [quality]}\n"
        "multi_objective: {objectives: [{name: cost, weight: 2}]}\n"
        "routes: {o3: {objectives: [latency]}}\n"
    )

    routes = routes_of(text)

    assert [objective.metric for objective in routes["auto"].objectives] == ["cost"]
    assert [objective.metric for objective in routes["o3"].objectives] == ["latency"]


def test_baseline_of_auto_can_be_chosen():
    """It must be one of the listed models."""
    assert routes_of("model_selection: {models: [gpt-4, o3], baseline: o3}")["auto"].baseline == "o3"


def test_embedding_models_get_no_prompt_variants():
    """A prompt changes nothing there."""
    route = routes_of("model_selection: {models: [gpt-4, text-embedding-3-small]}\n" + VARIANTS)["auto"]

    assert "gpt-4+brief" in {arm.id for arm in route.arms}
    assert "text-embedding-3-small+brief" not in {arm.id for arm in route.arms}


def test_known_models_stay_askable_beside_flat_blocks_but_not_beside_written_ones():
    """Writing upstreams, models or routes closes the list, unless `known_models` says otherwise."""

    def names(text):
        return {model.name for model in load_text(text, KEYS).settings.models}

    assert "gpt-4.1" in names(MODELS)
    assert names("models: {gpt-4: {}}") == {"gpt-4"}
    assert "gpt-4.1" in names("models: {gpt-4: {}}\nknown_models: true")
    assert names(MODELS + "known_models: false") == {"gpt-4", "gpt-4o", "o3"}


def test_models_newer_than_the_catalogue_go_to_their_family():
    """Cost is unknown then, and that is said."""
    loaded = load_text("model_selection: {models: [gpt-9, claude-opus-9]}", KEYS)
    models = {model.name: model for model in loaded.settings.models}

    assert models["gpt-9"].upstream == "openai"
    assert models["claude-opus-9"].upstream == "anthropic"
    assert models["gpt-9"].price is None
    assert "gpt-9, claude-opus-9: price unknown" in " ".join(map(str, loaded.notes))


@pytest.mark.parametrize("name", ["gpt-4o-2024-08-06", "claude-3-5-sonnet-20240620", "gpt-4-0613"])
def test_a_dated_snapshot_is_sent_as_it_was_asked_for(name):
    """Even if the catalogue lists it beside its family."""
    models = {model.name: model for model in load_text("", KEYS).settings.models}

    assert models[name].model_id == name
