"""Every key of the user guide's strategy and deployment blocks, one by one: what another value of it changes.

From the file's text to the strategy's answer or the rollout's plan, on evidence that is given, without any traffic.
"""

from dataclasses import replace
from typing import Any

import pytest

from optimizer.rollouts.records import Proposal
from optimizer.strategies.base import NoProposal, Situation, TrialResults, VariantCounts
from optimizer.strategies.registry import STRATEGIES
from policies.sequential.confidence import Sample
from proxy.config.load import load_text
from tests.optimizer.strategies.conftest import NOW, Known, evidence_of

LISTED = "model_selection: {models: [gpt-4, gpt-4o]}\n"
CHEAP = {"gpt-4": Known(), "gpt-4o": Known(usd=0.003, quality=0.76)}  # 70 % less, 95 % of the quality
FAST = {"gpt-4": Known(seconds=2.0), "gpt-4o": Known(seconds=0.5, quality=0.76)}


def looked_at(text: str, known: dict[str, Known] | None = None, **about: Any) -> tuple[Any, Situation]:
    """What the only strategy that a file runs by itself answers about its first route, and what it saw."""
    settings = load_text(text, {}).settings
    (strategy,) = settings.optimization.strategies
    route = next(route for route in settings.routes if route.name in strategy.routes)
    situation = Situation(
        route=route,
        file=route,
        evidence=[evidence_of(arm.id, (known or {}).get(arm.id, Known(requests=0.0))) for arm in route.arms],
        settings=settings,
        requests_per_s=1.0,
        now=NOW,
        **about,
    )
    kind = STRATEGIES[strategy.name]
    values, problems = kind.check(strategy.parameters, settings, route)
    assert problems == []
    return kind.propose(situation, values), situation


def cost(block: str, *, more: str = "") -> Any:
    text = f"optimization:\n  strategies: [cost_reduction]\n  cost_reduction: {{{block}}}\n{more}{LISTED}"
    return looked_at(text, CHEAP)[0]


def latency(block: str, *, more: str = "") -> Any:
    text = f"optimization:\n  strategies: [latency_optimization]\n  latency_optimization: {{{block}}}\n{more}{LISTED}"
    return looked_at(text, FAST)[0]


def prompts(block: str, *, metric: str = "quality", gain: float = 0.05, lasted: float = 100.0) -> Any:
    """A test of two variants, of which the second one has ``gain`` in ``metric`` over 1,000 requests."""
    text = (
        "optimization:\n  strategies: [prompt_optimization]\n  prompt_optimization:\n"
        f'    variants: ["A: {{question}}", "B: {{question}}"]\n    {block}\nmodel_selection: {{models: [gpt-4]}}\n'
        "metrics: {custom: [user_satisfaction]}\n"
    )

    def counts(mean: float) -> VariantCounts:
        sample = Sample(1000, 1000 * mean, 1000 * (mean**2 + 0.04))
        return VariantCounts(1000, 1000.0, {metric: sample})

    arms = {"gpt-4": counts(0.6), "gpt-4+variant-1": counts(0.6), "gpt-4+variant-2": counts(0.6 + gain)}
    known = dict.fromkeys(arms, Known(ratings=0.0))
    return looked_at(text, known, trials=TrialResults(NOW - lasted, arms))[0]


def plan(text: str) -> Any:
    return load_text(text, {}).settings.deployment.plan


def reason(answer: Proposal | NoProposal) -> str:
    return "proposed" if isinstance(answer, Proposal) else answer.reason


def change(answer: Any, metric: str = "cost") -> float:
    """Relative to the baseline."""
    effect = next(effect for effect in answer.effects if effect.metric == metric)
    return float(effect.change / effect.baseline)


GLOBAL = "  quality_threshold: 0.99\n"
TABLE = {
    "cost_reduction.target": (lambda: reason(cost("target: 0.4")), "proposed"),
    "cost_reduction.target out of reach": (lambda: reason(cost("target: 0.8")), "infeasible"),
    "cost_reduction.target names the nearest": (
        lambda: 0.6 < cost("target: 0.8").needed["target_reduction"] < 0.71,
        True,
    ),
    "cost_reduction.target alone: so much and no more": (
        lambda: round(change(cost("target: 0.4")), 3),
        -0.4,
    ),
    "cost_reduction.target_reduction": (lambda: round(change(cost("target_reduction: 0.2")), 3), -0.2),
    "cost_reduction.quality_threshold loose: all that it allows": (
        lambda: change(cost("target: 0.4, quality_threshold: 0.8")) < -0.6,
        True,
    ),
    "cost_reduction.quality_threshold strict": (
        lambda: reason(cost("target: 0.4, quality_threshold: 0.99")),
        "infeasible",
    ),
    "cost_reduction.quality_threshold is what the guard tolerates": (
        lambda: cost("target: 0.4, quality_threshold: 0.8").quality_ratio,
        0.8,
    ),
    "cost_reduction.quality_floor": (lambda: reason(cost("target: 0.4, quality_floor: 0.79")), "infeasible"),
    "optimization.quality_threshold": (lambda: reason(cost("target: 0.4", more=GLOBAL)), "infeasible"),
    "optimization.quality_threshold gives way to the strategy's": (
        lambda: reason(cost("target: 0.4, quality_threshold: 0.8", more=GLOBAL)),
        "proposed",
    ),
    "optimization.quality_threshold holds for rollouts": (
        lambda: plan("optimization:\n" + GLOBAL).checks.quality_ratio,
        0.99,
    ),
    "health_check.quality_threshold goes before it": (
        lambda: (
            plan(
                "optimization:\n" + GLOBAL + "deployment: {health_check: {quality_threshold: 0.9}}\n"
            ).checks.quality_ratio
        ),
        0.9,
    ),
    "latency_optimization.target_p95_ms": (lambda: reason(latency("target_p95_ms: 1000")), "proposed"),
    "latency_optimization.target_p95_ms out of reach": (
        lambda: reason(latency("target_p95_ms: 400")),
        "infeasible",
    ),
    "latency_optimization.target_p95_ms names the nearest": (
        lambda: 600 < latency("target_p95_ms: 400").needed["target_p95_ms"] < 800,
        True,
    ),
    "latency_optimization.target_p95_ms met": (
        lambda: reason(latency("target_p95_ms: 5000")),
        "no_improvement",
    ),
    "latency_optimization.quality_threshold loose": (
        lambda: reason(latency("target_p95_ms: 1000, quality_threshold: 0.9")),
        "proposed",
    ),
    "latency_optimization.quality_threshold strict": (
        lambda: reason(latency("target_p95_ms: 1000, quality_threshold: 0.99")),
        "infeasible",
    ),
    "prompt_optimization.significance_level": (
        lambda: reason(prompts("significance_level: 0.05")),
        "proposed",
    ),
    "prompt_optimization.significance_level strict": (
        lambda: reason(prompts("significance_level: 0.0000001")),
        "not_enough_data",
    ),
    "prompt_optimization.test_duration_sec not over": (
        lambda: reason(prompts("test_duration_sec: 3600", gain=0.0)),
        "not_enough_data",
    ),
    "prompt_optimization.test_duration_sec over": (
        lambda: reason(prompts("test_duration_sec: 60", gain=0.0)),
        "no_difference",
    ),
    "prompt_optimization.metrics by default quality": (
        lambda: reason(prompts("enabled: true", metric="user_satisfaction")),
        "not_enough_data",
    ),
    "prompt_optimization.metrics of one's own": (
        lambda: reason(prompts("metrics: [user_satisfaction]", metric="user_satisfaction")),
        "proposed",
    ),
    "prompt_optimization.metrics response_quality": (
        lambda: reason(prompts("metrics: [response_quality]")),
        "proposed",
    ),
    "prompt_optimization.variants: the winner": (
        lambda: prompts("enabled: true").candidate.baseline,
        "gpt-4+variant-2",
    ),
    "deployment.auto_promote": (lambda: plan("deployment: {auto_promote: false}\n").approval, True),
    "deployment.environment": (lambda: plan("deployment: {environment: staging}\n").approval, True),
    "deployment.environment production": (
        lambda: plan("deployment: {environment: production}\n").approval,
        False,
    ),
    "deployment.canary.enabled": (lambda: plan("deployment: {canary: {enabled: false}}\n").stages, ()),
    "deployment.canary.stages": (
        lambda: [
            (stage.percentage, stage.duration_s)
            for stage in plan(
                "deployment: {canary: {stages: [{percentage: 10, duration_sec: 300}, {percentage: 100}]}}\n"
            ).stages
        ],
        [(10.0, 300.0), (100.0, 0.0)],
    ),
    "canary.health_check.error_rate_threshold": (
        lambda: (
            plan("deployment: {canary: {health_check: {error_rate_threshold: 0.01}}}\n").checks.error_rate
        ),
        0.01,
    ),
    "canary.health_check.latency_p95_threshold_ms": (
        lambda: (
            plan(
                "deployment: {canary: {health_check: {latency_p95_threshold_ms: 1000}}}\n"
            ).checks.latency_p95_ms
        ),
        1000.0,
    ),
}


@pytest.mark.parametrize("key", TABLE)
def test_a_key_does_what_it_says(key):
    measure, expected = TABLE[key]
    assert measure() == expected


@pytest.mark.parametrize("several", ["cost", "latency", "quality"])
def test_multi_objective_weights_decide(several):
    """Each objective alone has its own best arm; with its weight at 0 it has no say."""
    known = {"gpt-4": Known(quality=0.9, seconds=2.0), "gpt-4o": Known(usd=0.001, seconds=0.5, quality=0.5)}
    rows = "".join(
        f"{{name: {name}, weight: {1 if name == several else 0}, direction: {way}}}, "
        for name, way in (("cost", "minimize"), ("latency", "minimize"), ("quality", "maximize"))
    )
    text = f"optimization:\n  strategies: [multi_objective]\n  multi_objective: {{objectives: [{rows}]}}\n{LISTED}"
    answer, _ = looked_at(text, known)
    assert reason(answer) == ("no_improvement" if several == "quality" else "proposed")


def test_interval_and_switches_of_the_loop():
    settings = load_text(f"optimization: {{interval_sec: 7, enabled: false}}\n{LISTED}", {}).settings
    assert (settings.optimization.interval_s, settings.optimization.enabled) == (7.0, False)
    off = load_text(
        f"optimization: {{strategies: [cost_reduction], cost_reduction: {{enabled: false}}}}\n{LISTED}", {}
    )
    assert off.settings.optimization.strategies == ()


def test_what_is_served_already_is_no_improvement():
    """A candidate whose shares are those of control changes nothing, whatever the evidence says."""
    first, situation = looked_at(
        "optimization:\n  strategies: [cost_reduction]\n"
        f"  cost_reduction: {{target: 0.4, quality_threshold: 0.8}}\n{LISTED}",
        CHEAP,
    )
    served = replace(situation, route=replace(situation.route, policy=first.candidate.policy))
    for name, parameters in (
        ("cost_reduction", {"target": 0.4, "quality_threshold": 0.8}),
        ("latency_optimization", {"quality_threshold": 0.8}),
        ("multi_objective", {"objectives": [{"name": "cost"}]}),
    ):
        values, problems = STRATEGIES[name].check(parameters, served.settings, served.route)
        assert problems == []
        assert reason(STRATEGIES[name].propose(served, values)) == "no_improvement"
