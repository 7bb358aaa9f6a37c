"""Routes with chosen figures: what a strategy is shown, without any traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import pytest

from optimizer import reward
from optimizer.routing import Arm, Model, Price, Upstream, Variant
from optimizer.settings import (
    CustomMetric,
    Objective,
    OptimizationSettings,
    PolicySettings,
    RouteSettings,
    Settings,
)
from optimizer.strategies.base import Situation, TrialResults
from policies.types import ArmEvidence, Moments

NOW = 1_795_000_000.0
METRICS = (
    CustomMetric("user_satisfaction", low=0.0, high=5.0),
    CustomMetric("complaints", low=0.0, high=1.0, maximize=False),
)


@dataclass(frozen=True)
class Known:
    """Figures of one arm: means, and how many requests and ratings are behind them."""

    usd: float = 0.01
    quality: float = 0.8
    seconds: float = 1.0
    success: float = 0.99
    requests: float = 1000.0
    ratings: float = 1000.0
    spread: float = 0.2  # standard deviation of one rating, and of ln seconds and ln dollars


def evidence_of(arm: str, known: Known, *, streams: bool = False) -> ArmEvidence:
    n, variance = known.requests, known.spread**2
    if n <= 0.0:
        return ArmEvidence(arm)
    done = n * known.success
    signals = {
        "cost": Moments(done, log(max(known.usd, reward.LEAST_USD)) - variance / 2.0, variance),
        reward.COST_USD: Moments(done, known.usd, (known.usd * known.spread) ** 2),
        "latency": Moments(done, log(known.seconds), variance),
    }
    if streams:
        signals["ttft"] = Moments(done, log(known.seconds / 4.0), variance)
    if known.ratings > 0.0:
        signals["quality"] = Moments(known.ratings, known.quality, variance)
    success = Moments(n, known.success, known.success * (1.0 - known.success))
    return ArmEvidence(arm, n, success, signals)


def settings_of(
    arms: Sequence[str],
    *,
    quality_ratio: float | None = None,
    policy: PolicySettings | None = None,
    **route: Any,
) -> Settings:
    """One route ``auto`` over arms named ``model/prompt``; the first one is the baseline."""
    models = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    prompts = list(dict.fromkeys(arm.split("/")[1] for arm in arms))
    variants = tuple(
        Variant(name, f"key-{name}", template=None if name == "default" else f"As {name}: {{question}}")
        for name in prompts
    )
    return Settings(
        config_hash="test",
        upstreams=(Upstream("one", "openai", "http://127.0.0.1:9/v1"),),
        models=tuple(
            Model(name, "one", name, f"key-{name}", Price(1.0, 2.0, version="v1")) for name in models
        ),
        variants=variants,
        routes=(
            RouteSettings(
                "auto",
                tuple(
                    Arm(arm, model, prompt, f"key-{model}", f"key-{prompt}")
                    for arm in arms
                    for model, prompt in [arm.split("/")]
                ),
                arms[0],
                (Objective("quality", 1.0, maximize=True),),
                policy or PolicySettings(name="fixed", fixed={arms[0]: 1.0}),
                **route,
            ),
        ),
        custom_metrics=METRICS,
        optimization=OptimizationSettings(quality_ratio=quality_ratio),
    )


def situation_of(
    known: Mapping[str, Known],
    *,
    streams: bool = False,
    requests_per_s: float = 1.0,
    trials: TrialResults | None = None,
    now: float = NOW,
    **settings: Any,
) -> Situation:
    """What a strategy is shown of a route with these arms."""
    made = settings_of(list(known), **settings)
    route = made.routes[0]
    return Situation(
        route=route,
        file=route,
        evidence=[evidence_of(arm, figures, streams=streams) for arm, figures in known.items()],
        settings=made,
        requests_per_s=requests_per_s,
        now=now,
        trials=trials,
    )


def ask(strategy: Any, situation: Situation, **parameters: Any) -> Any:
    """Check, then propose, as the product does."""
    values, problems = strategy.check(parameters, situation.settings, situation.file)
    assert problems == []
    return strategy.propose(situation, values)


class Kit:
    """The helpers of this file, for tests (modules of tests can not be imported)."""

    Known = Known
    now = NOW
    settings = staticmethod(settings_of)
    situation = staticmethod(situation_of)
    ask = staticmethod(ask)
    replace = staticmethod(replace)


@pytest.fixture
def kit() -> Kit:
    return Kit()
