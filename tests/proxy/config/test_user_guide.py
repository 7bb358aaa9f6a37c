"""Every YAML block of the user guide, word by word: it loads, and takes effect or says when it will.

The texts below are promises. They are copied here so that a later edit of the guide can not move them.
"""

from pathlib import Path

import pytest

from optimizer.settings import (
    CustomMetric,
    DatabaseSettings,
    DeploymentSettings,
    HealthChecks,
    KafkaSettings,
    Objective,
    RolloutPlan,
    Stage,
    StrategySettings,
)
from proxy.config.export import effective_yaml, file_yaml
from proxy.config.load import Loaded, load_text

NO_KEYS = {
    "upstreams.openai: its key env:OPENAI_API_KEY is not set; until it is, its arms are unavailable.",
    "upstreams.anthropic: its key env:ANTHROPIC_API_KEY is not set; until it is, its arms are unavailable.",
}
KEYS = {"OPENAI_API_KEY": "sk-test-openai", "ANTHROPIC_API_KEY": "sk-test-anthropic"}

BASIC = """\
server:
  host: 0.0.0.0
  port: 8080
  timeout_ms: 30000

database:
  url: postgresql://localhost/optimizer
  max_connections: 20
  timeout_sec: 5

redis:
  url: redis://localhost:6379
  max_connections: 10

kafka:
  brokers:
    - localhost:9092
  topic: llm-feedback
  group_id: optimizer-group

optimization:
  enabled: true
  interval_sec: 300  # Run every 5 minutes
  strategies:
    - model_selection
    - prompt_optimization
    - cost_reduction
"""

MODEL_SELECTION = """\
model_selection:
  enabled: true
  models:
    - gpt-4
    - gpt-3.5-turbo
    - claude-3-opus
    - claude-3-sonnet
  criteria:
    - cost
    - latency
    - quality
"""

PROMPT_OPTIMIZATION = """\
prompt_optimization:
  enabled: true
  test_duration_sec: 3600
  significance_level: 0.05
  metrics:
    - user_satisfaction
    - response_quality
"""

COST_REDUCTION = """\
cost_reduction:
  enabled: true
  target_reduction: 0.40  # 40% reduction
  quality_threshold: 0.95  # Min 95% quality
"""

CANARY = """\
deployment:
  canary:
    enabled: true
    stages:
      - percentage: 10
        duration_sec: 300
      - percentage: 50
        duration_sec: 600
      - percentage: 100
    health_check:
      error_rate_threshold: 0.01
      latency_p95_threshold_ms: 1000
"""

MULTI_OBJECTIVE = """\
optimization:
  multi_objective:
    enabled: true
    objectives:
      - name: cost
        weight: 0.4
        direction: minimize
      - name: latency
        weight: 0.3
        direction: minimize
      - name: quality
        weight: 0.3
        direction: maximize
"""

CUSTOM_METRICS = """\
metrics:
  custom:
    - name: user_satisfaction
      type: gauge
      aggregation: mean
    - name: business_value
      type: counter
      aggregation: sum
"""

START_SMALL = """\
optimization:
  strategies:
    - cost_reduction  # Start here
"""

CANARY_ALWAYS = """\
deployment:
  canary:
    enabled: true  # Always enable
"""

QUALITY_THRESHOLD = """\
optimization:
  quality_threshold: 0.95  # Maintain 95%+ quality
"""

STAGING = """\
deployment:
  environment: staging
  auto_promote: false  # Manual promotion to prod
"""

REDUCE_COSTS = """\
optimization:
  strategies:
    - cost_reduction
  cost_reduction:
    target: 0.40
    quality_threshold: 0.95
"""

IMPROVE_LATENCY = """\
optimization:
  strategies:
    - latency_optimization
  latency_optimization:
    target_p95_ms: 500
    quality_threshold: 0.90
"""

TEST_PROMPTS = """\
optimization:
  strategies:
    - prompt_optimization
  prompt_optimization:
    variants:
      - "You are a helpful assistant. {question}"
      - "Help me with: {question}"
    test_duration_sec: 3600
"""

BLOCKS = {
    "basic": BASIC,
    "model selection": MODEL_SELECTION,
    "prompt optimization": PROMPT_OPTIMIZATION,
    "cost reduction": COST_REDUCTION,
    "canary": CANARY,
    "multi objective": MULTI_OBJECTIVE,
    "custom metrics": CUSTOM_METRICS,
    "start small": START_SMALL,
    "always canary": CANARY_ALWAYS,
    "quality threshold": QUALITY_THRESHOLD,
    "staging": STAGING,
    "reduce costs": REDUCE_COSTS,
    "improve latency": IMPROVE_LATENCY,
    "test prompts": TEST_PROMPTS,
}


def other_notes(loaded: Loaded) -> set[str]:
    return {str(note) for note in loaded.notes} - NO_KEYS


@pytest.mark.parametrize("text", BLOCKS.values(), ids=BLOCKS)
def test_block_loads_alone(text):
    """A file with a single block is valid; that there are no keys yet is said."""
    loaded = load_text(text, {})

    assert {str(note) for note in loaded.notes} >= NO_KEYS


@pytest.mark.parametrize("text", BLOCKS.values(), ids=BLOCKS)
def test_block_survives_both_exports(text):
    """Either export loads again to the same settings."""
    loaded = load_text(text, {})

    assert load_text(effective_yaml(loaded), {}).settings == loaded.settings
    assert file_yaml(loaded) == text


def test_all_blocks_together():
    """Those that do not contradict each other make one file."""
    text = BASIC.replace("optimization:\n", "optimization:\n  quality_threshold: 0.95\n")
    text += MODEL_SELECTION + PROMPT_OPTIMIZATION + COST_REDUCTION + CANARY + CUSTOM_METRICS
    text = text.replace("deployment:\n", "deployment:\n  environment: staging\n  auto_promote: false\n")

    loaded = load_text(text, KEYS)

    assert [route.name for route in loaded.settings.routes] == [
        "auto",
        "gpt-4",
        "gpt-3.5-turbo",
        "claude-3-opus",
        "claude-3-sonnet",
    ]
    assert len(loaded.settings.custom_metrics) == 2


def test_basic_configuration_serves_known_models_and_passes_the_rest_through():
    """No models are listed: plain names go straight to the built-in upstreams."""
    loaded = load_text(BASIC, KEYS)
    settings = loaded.settings

    assert (loaded.listen.host, loaded.listen.port) == ("0.0.0.0", 8080)
    assert {upstream.name: upstream.base_url for upstream in settings.upstreams} == {
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
    }
    assert {upstream.first_byte_s for upstream in settings.upstreams} == {30.0}
    assert {upstream.idle_s for upstream in settings.upstreams} == {30.0}
    assert {upstream.total_s for upstream in settings.upstreams} == {None}
    assert settings.routes == ()
    assert {"gpt-4", "gpt-4o", "claude-3-opus"} <= {model.name for model in settings.models}
    assert settings.passthrough == (("/v1/", "openai"), ("/v1/messages/", "anthropic"))
    assert settings.kafka == KafkaSettings(brokers=("localhost:9092",))
    assert {note.partition(":")[0] for note in other_notes(loaded)} == {
        "optimization.strategies",
        "optimization.strategies[2]",
        "redis",
        "server.host",
    }


def test_model_selection_makes_auto_and_one_route_per_name():
    """Every listed name is a route with itself as the baseline; criteria weigh the same."""
    settings = load_text(MODEL_SELECTION, KEYS).settings
    listed = ["gpt-4", "gpt-3.5-turbo", "claude-3-opus", "claude-3-sonnet"]

    assert {route.name: route.baseline for route in settings.routes} == {
        "auto": "gpt-4",
        **{name: name for name in listed},
    }
    for route in settings.routes:
        assert [arm.id for arm in route.arms] == listed
        assert route.policy.name == "thompson"
        assert route.objectives == (
            Objective("cost", 1 / 3, maximize=False),
            Objective("latency", 1 / 3, maximize=False),
            Objective("quality", 1 / 3, maximize=True),
        )
    models = {model.name: model for model in settings.models}
    assert models["claude-3-opus"].upstream == "anthropic"
    assert models["claude-3-opus"].model_id == "claude-3-opus-20240229"
    assert models["gpt-4"].price is not None


def test_prompt_optimization_alone_has_nothing_to_compare_and_takes_its_metrics():
    """`response_quality` is the metric quality; an undeclared metric becomes a gauge."""
    loaded = load_text(PROMPT_OPTIMIZATION, KEYS)

    assert loaded.settings.routes == ()
    assert loaded.settings.custom_metrics == (CustomMetric("user_satisfaction"),)
    assert {note.partition(":")[0] for note in other_notes(loaded)} == {
        "prompt_optimization",
        "prompt_optimization.metrics[0]",
    }


def test_multi_objective_weights_become_the_default_of_every_route():
    """Alone it has no route to weigh, and says so; beside models it decides."""
    alone = load_text(MULTI_OBJECTIVE, KEYS)
    both = load_text(MULTI_OBJECTIVE + "  model_selection: {models: [gpt-4, gpt-4o]}\n", KEYS)

    assert [note.path for note in alone.notes] == ["optimization.multi_objective.objectives"]
    assert both.notes == ()
    for route in both.settings.routes:
        assert route.objectives == (
            Objective("cost", 0.4, maximize=False),
            Objective("latency", 0.3, maximize=False),
            Objective("quality", 0.3, maximize=True),
        )


def test_custom_metrics_are_declared():
    """Gauge by mean, counter by sum."""
    loaded = load_text(CUSTOM_METRICS, KEYS)

    assert loaded.settings.custom_metrics == (
        CustomMetric("user_satisfaction", "gauge", "mean"),
        CustomMetric("business_value", "counter", "sum"),
    )
    assert loaded.notes == ()


@pytest.mark.parametrize("text", [COST_REDUCTION, START_SMALL, REDUCE_COSTS, IMPROVE_LATENCY])
def test_a_strategy_without_models_to_choose_from_says_so(text):
    """Without listed models every request goes where it asks to, and nothing is proposed."""
    loaded = load_text(text, KEYS)

    assert loaded.settings.routes == ()
    assert "gpt-4" in {model.name for model in loaded.settings.models}
    assert loaded.settings.optimization.strategies == ()
    assert ["proposes nothing" in note.message for note in loaded.notes] == [True]


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (COST_REDUCTION, {"target_reduction": 0.4, "quality_threshold": 0.95}),
        (REDUCE_COSTS, {"target_reduction": 0.4, "quality_threshold": 0.95}),
        (START_SMALL, {"target_reduction": 0.3}),
        (IMPROVE_LATENCY, {"target_p95_ms": 500.0, "quality_threshold": 0.9}),
    ],
)
def test_strategies_run_by_themselves_over_the_listed_models(text, parameters):
    """On `auto`, with what the block says."""
    name = "latency_optimization" if text is IMPROVE_LATENCY else "cost_reduction"

    settings = load_text(text + "model_selection: {models: [gpt-4, gpt-4o]}\n", KEYS).settings

    assert settings.optimization.strategies == (StrategySettings(name, parameters, ("auto",)),)


def test_a_prompt_test_runs_by_itself_on_every_model_with_variants():
    """For the duration that the guide's example gives it; response_quality is the metric quality."""
    settings = load_text(TEST_PROMPTS + "    metrics: [user_satisfaction, response_quality]\n", KEYS).settings
    (strategy,) = settings.optimization.strategies

    assert strategy.name == "prompt_optimization"
    assert strategy.routes == tuple(route.name for route in settings.routes)
    assert strategy.parameters == {
        "test_duration_sec": 3600.0,
        "significance_level": 0.05,
        "metrics": ["user_satisfaction", "quality"],
    }


def test_multi_objective_runs_by_itself():
    """With the objectives that are also the routes' own."""
    settings = load_text(MULTI_OBJECTIVE + "  model_selection: {models: [gpt-4, gpt-4o]}\n", KEYS).settings

    assert settings.optimization.strategies == (
        StrategySettings(
            "multi_objective",
            {
                "objectives": [
                    {"name": "cost", "weight": 0.4, "direction": "minimize", "scale": None},
                    {"name": "latency", "weight": 0.3, "direction": "minimize", "scale": None},
                    {"name": "quality", "weight": 0.3, "direction": "maximize", "scale": None},
                ]
            },
            ("auto",),
        ),
    )


def test_canary_stages_and_health_check():
    """The guide's stages wait ten times their duration for enough requests; 100 % is the end."""
    assert load_text(CANARY, KEYS).settings.deployment == DeploymentSettings(
        plan=RolloutPlan(
            stages=(
                Stage(10.0, 300.0, 100, 3000.0),
                Stage(50.0, 600.0, 100, 6000.0),
                Stage(100.0, 0.0, 100, 0.0),
            ),
            checks=HealthChecks(error_rate=0.01, latency_p95_ms=1000.0),
        )
    )


def test_always_canary_has_the_default_stages():
    """So has an empty file."""
    assert load_text(CANARY_ALWAYS, KEYS).settings.deployment == DeploymentSettings()
    assert load_text("", KEYS).settings.deployment == DeploymentSettings()


def test_quality_threshold_holds_for_strategies_and_rollouts():
    """`Never compromise quality`."""
    settings = load_text(QUALITY_THRESHOLD, KEYS).settings

    assert settings.optimization.quality_ratio == 0.95
    assert settings.deployment.plan.checks.quality_ratio == 0.95


def test_staging_waits_for_a_person():
    """Either key does."""
    deployment = load_text(STAGING, KEYS).settings.deployment

    assert (deployment.environment, deployment.auto_promote) == ("staging", False)
    assert deployment.plan.approval


def test_interval_of_the_loop():
    """Every five minutes."""
    assert load_text(BASIC, KEYS).settings.optimization.interval_s == 300.0


def test_prompt_variants_are_tried_on_every_model_that_takes_prompts():
    """The unchanged prompt is the baseline; every variant gets the exploration floor."""
    loaded = load_text(TEST_PROMPTS, KEYS)
    routes = {route.name: route for route in loaded.settings.routes}
    variants = {variant.name: variant for variant in loaded.settings.variants}

    assert "gpt-4" in routes
    assert "text-embedding-3-small" not in routes
    route = routes["gpt-4"]
    assert [arm.id for arm in route.arms] == ["gpt-4", "gpt-4+variant-1", "gpt-4+variant-2"]
    assert route.baseline == "gpt-4"
    assert route.policy.name == "fixed"
    assert route.policy.fixed == {"gpt-4": 0.96, "gpt-4+variant-1": 0.02, "gpt-4+variant-2": 0.02}
    assert variants["variant-1"].template == "You are a helpful assistant. {question}"
    assert variants["variant-2"].template == "Help me with: {question}"


def test_promised_environment_variables_beat_the_file():
    """The guide's four `export` lines, with its basic configuration."""
    environ = {
        "SERVER_PORT": "9090",
        "DATABASE_URL": "postgresql://prod/optimizer",
        "KAFKA_BROKERS": "kafka1:9092,kafka2:9092",
        "LOG_LEVEL": "info",
    }

    loaded = load_text(BASIC, environ)

    assert loaded.listen.port == 9090
    assert loaded.settings.kafka is not None
    assert loaded.settings.kafka.brokers == ("kafka1:9092", "kafka2:9092")
    assert loaded.log.level == "info"
    assert loaded.settings.database == DatabaseSettings("env:DATABASE_URL", 20, 5.0)


def test_no_file_is_a_configuration():
    """`serve` without a file starts with what is built in."""
    loaded = load_text("", {}, path=None)

    assert loaded.settings == load_text("{}", {}, path=Path("/nowhere/config.yaml")).settings
    assert loaded.settings.passthrough == (("/v1/", "openai"), ("/v1/messages/", "anthropic"))
