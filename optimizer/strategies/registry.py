"""Every strategy by the name that the configuration and the API use. A new one is one module and one line here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from optimizer.settings import RouteSettings, Settings
from optimizer.strategies.base import Strategy
from optimizer.strategies.cost_reduction import CostReduction
from optimizer.strategies.latency_optimization import LatencyOptimization
from optimizer.strategies.manual import Manual
from optimizer.strategies.model_selection import ModelSelection
from optimizer.strategies.multi_objective import MultiObjective
from optimizer.strategies.prompt_optimization import PromptOptimization

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            ModelSelection(),
            PromptOptimization(),
            CostReduction(),
            LatencyOptimization(),
            MultiObjective(),
            Manual(),
        )
    }
)


def choosing_routes(settings: Settings) -> tuple[RouteSettings, ...]:
    """Routes with something to choose: those that a strategy looks at when no route is named."""
    return tuple(route for route in settings.routes if route.optimize and len(route.arms) > 1)
