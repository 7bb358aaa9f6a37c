"""The loop over strategies: which of them it runs, on which routes, with which parameters.

Parameters have the form in which ``POST /api/v1/optimize`` takes them. Invariant: everything here follows from the
compiled routes and from blocks that an export writes as they are, so that the exported file gives the same loop.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from optimizer.settings import Objective, OptimizationSettings, RouteSettings, StrategySettings
from proxy.config.compile_routes import METRIC_ALIASES
from proxy.config.flat import AUTO, COMPARES_MODELS, active_strategies
from proxy.config.models import File
from proxy.config.models_optimization import (
    CostReductionBlock,
    LatencyOptimizationBlock,
    OptimizationBlock,
    PromptOptimizationBlock,
)
from proxy.config.normalise import STRATEGY_BLOCKS
from proxy.config.problems import Findings, KeyPath

BANDIT = "model_selection"
"""The strategy that acts through the bandit itself, all the time, and therefore has no part in the loop."""

MULTI_OBJECTIVE = "multi_objective"
TESTS = "prompt_optimization"


def compile_optimization(
    file: File,
    routes: Iterable[RouteSettings],
    objectives: Sequence[Objective],
    findings: Findings,
) -> OptimizationSettings:
    """What runs by itself; notes say what finds nothing to do. ``objectives`` are those of routes without their own."""
    block = file.optimization
    active = active_strategies(block) - {BANDIT}
    several = block.multi_objective
    if MULTI_OBJECTIVE in active and (several is None or not several.objectives):
        active -= {MULTI_OBJECTIVE}
        findings.note(
            _place(block, MULTI_OBJECTIVE), "there are no objectives in it, so it proposes nothing."
        )
    open_routes = looked_at(file, routes)
    strategies = []
    for name in STRATEGY_BLOCKS:
        if name not in active:
            continue
        wanted = tuple(route.name for route in open_routes if name != TESTS or has_prompts(route))
        if wanted:
            strategies.append(StrategySettings(name, _parameters(name, block, objectives), wanted))
        elif block.enabled and name in COMPARES_MODELS:
            findings.note(
                _place(block, name),
                f"{name} proposes nothing: there is no route with several arms to look at. List models under "
                "model_selection.models, or write routes.",
            )
    return OptimizationSettings(
        enabled=block.enabled,
        interval_s=block.interval_sec,
        strategies=tuple(strategies),
        quality_ratio=block.quality_threshold,
    )


def looked_at(file: File, routes: Iterable[RouteSettings]) -> tuple[RouteSettings, ...]:
    """The routes that the loop works on: those with several arms that may be optimized.

    Of the routes that ``model_selection.models`` makes it takes ``auto`` alone. A request for a listed model by its
    name is somebody's own choice of a baseline, all of those routes have the same arms, and one order in the file
    must not become a rollout for each of them; ``POST /api/v1/optimize`` works on them when it is asked to.
    """
    selection = file.optimization.model_selection
    listed = set(selection.models) - {AUTO} if selection is not None else set()
    return tuple(
        route for route in routes if len(route.arms) > 1 and route.optimize and route.name not in listed
    )


def has_prompts(route: RouteSettings) -> bool:
    """Whether the baseline's model is also there with another prompt, which a test can compare."""
    baseline = next(arm for arm in route.arms if arm.id == route.baseline)
    return any(
        arm.model_key == baseline.model_key and arm.variant_key != baseline.variant_key for arm in route.arms
    )


def _place(block: OptimizationBlock, name: str) -> KeyPath:
    """Where the file asks for a strategy."""
    if getattr(block, name) is not None or block.strategies is None:
        return ("optimization", name)
    return ("optimization", "strategies", block.strategies.index(name))  # type: ignore[arg-type]


def _parameters(name: str, block: OptimizationBlock, objectives: Sequence[Objective]) -> dict[str, Any]:
    """``objectives`` are those that routes have by default."""
    match name:
        case "prompt_optimization":
            return _of_tests(block.prompt_optimization or PromptOptimizationBlock())
        case "cost_reduction":
            cost = block.cost_reduction or CostReductionBlock()
            return {"target_reduction": cost.target_reduction, **_quality(cost, block)}
        case "latency_optimization":
            latency = block.latency_optimization or LatencyOptimizationBlock()
            target = {} if latency.target_p95_ms is None else {"target_p95_ms": latency.target_p95_ms}
            return {**target, **_quality(latency, block)}
        case _:
            return {"objectives": [_objective(one) for one in objectives]}


def _of_tests(block: PromptOptimizationBlock) -> dict[str, Any]:
    """Without ``variants``: every prompt that an arm of the route has takes part."""
    parameters: dict[str, Any] = {
        "test_duration_sec": block.test_duration_sec,
        "significance_level": block.significance_level,
    }
    if block.metrics:
        parameters["metrics"] = list(dict.fromkeys(METRIC_ALIASES.get(name, name) for name in block.metrics))
    return parameters


def _objective(objective: Objective) -> dict[str, Any]:
    return {
        "name": objective.metric,
        "weight": objective.weight,
        "direction": "maximize" if objective.maximize else "minimize",
        "scale": objective.scale,
    }


def _quality(
    strategy: CostReductionBlock | LatencyOptimizationBlock, block: OptimizationBlock
) -> dict[str, float]:
    """What of the quality is to be kept; the strategy's own share goes before the one for all."""
    ratio = block.quality_threshold if strategy.quality_threshold is None else strategy.quality_threshold
    bounds = {"quality_threshold": ratio, "quality_floor": strategy.quality_floor}
    return {key: value for key, value in bounds.items() if value is not None}
