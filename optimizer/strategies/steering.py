"""Proposals for routes that are steered: bounds to hold them to, in place of fixed shares.

A route with a context or with constraints decides request by request, and its multipliers move it towards its bounds
as it learns. Fixed shares would throw both away. What such a route is proposed are tighter constraints; what is
expected of them is what one mixture for all requests would do under the same bounds, because deciding by context
can do that too.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from optimizer.rollouts.records import Candidate
from optimizer.settings import Constraints, RouteSettings, Settings
from optimizer.strategies.base import NO_IMPROVEMENT, NoProposal, Problem, number
from optimizer.strategies.words import percent

STEERED: Final = "thompson"
_LEAST: Final = frozenset(("quality_floor", "quality_ratio"))
_DIGITS: Final = 12
_KEYS: Final[Mapping[str, str]] = {
    "cost_per_request_usd": "cost_per_request_usd",
    "cost_per_day_usd": "cost_per_day_usd",
    "target_reduction": "cost_ratio",
    "max_request_usd": "max_request_usd",
    "quality_floor": "quality_floor",
    "quality_threshold": "quality_ratio",
    "latency_p95_ms": "latency_p95_ms",
}
_SHARES: Final = frozenset(("target_reduction", "quality_floor", "quality_threshold"))


def bounds(
    *,
    reduction: float | None = None,
    p95_ms: float | None = None,
    quality_ratio: float | None = None,
    quality_floor: float | None = None,
) -> Constraints:
    """What a strategy's parameters ask for, as constraints; a bound of nothing is none."""
    return Constraints(
        cost_ratio=None if reduction is None else round(1.0 - reduction, _DIGITS),
        latency_p95_ms=p95_ms,
        quality_ratio=quality_ratio or None,
        quality_floor=quality_floor or None,
    )


def read_constraints(table: Mapping[str, Any]) -> tuple[dict[str, float], list[Problem]]:
    """A table of constraints under the names that a configuration has for them, with numbers as numbers."""
    found: dict[str, float] = {}
    problems: list[Problem] = []
    for key, raw in table.items():
        path, value = f"constraints.{key}", number(raw)
        if key not in _KEYS:
            problems.append(Problem(path, f"no such key; known: {', '.join(_KEYS)}."))
        elif raw is None:
            continue
        elif value is None or value <= 0.0:
            problems.append(Problem(path, "must be a number above 0."))
        elif key in _SHARES and (value > 1.0 or (key == "target_reduction" and value >= 1.0)):
            problems.append(Problem(path, "must be a share, below 1."))
        else:
            found[key] = value
    return found, problems


def constraints_of(table: Mapping[str, float]) -> Constraints:
    """What ``read_constraints`` returned, as settings."""
    return Constraints(
        **{
            _KEYS[key]: round(1.0 - value, _DIGITS) if key == "target_reduction" else value
            for key, value in table.items()
        }
    )


def tightened(route: RouteSettings, wanted: Constraints) -> Candidate | None:
    """The change that holds ``route`` to ``wanted`` too; None if it is held to all of it already.

    Of two bounds on the same thing the stricter one stays: what an operator wrote is never loosened.
    """
    now = route.constraints
    changes: dict[str, Any] = {}
    for field in fields(Constraints):
        have, ask = getattr(now, field.name), getattr(wanted, field.name)
        if ask is None:
            continue
        stricter = max if field.name in _LEAST else min
        changes[field.name] = ask if have is None else stricter(have, ask)
    held = replace(now, **changes)
    policy = route.policy
    learning = policy if policy.name == STEERED else replace(policy, name=STEERED, fixed={})
    if held == now and learning == policy:
        return None
    return Candidate(
        policy=None if learning == policy else learning, constraints=None if held == now else held
    )


def unpriced(route: RouteSettings, settings: Settings) -> list[str]:
    """Ids of the route's arms whose cost nobody could keep, because the price of their model is unknown."""
    known = {model.name for model in settings.models if model.price is not None}
    return [arm.id for arm in route.arms if arm.model not in known]


def bounds_cost(constraints: Constraints) -> bool:
    """Whether one of them is about money, so that every arm needs a price."""
    amounts = (constraints.cost_per_request_usd, constraints.cost_per_day_usd, constraints.max_request_usd)
    return constraints.cost_ratio is not None or any(amount is not None for amount in amounts)


def held_already(route: RouteSettings) -> NoProposal:
    """The answer when ``tightened`` has nothing to change."""
    return NoProposal(
        NO_IMPROVEMENT,
        f"The route {route.name} is held to this by its constraints already; `llm-optimizer arms --route "
        f"{route.name}` and GET /api/v1/arms say how far it keeps them.",
    )


def bounds_text(constraints: Constraints) -> str:
    """``a saving of 40 %, 95 % of the baseline's quality``."""
    parts = []
    if constraints.cost_ratio is not None:
        parts.append(f"a saving of {percent(1.0 - constraints.cost_ratio)} against its baseline")
    if constraints.latency_p95_ms is not None:
        parts.append(f"a 95th percentile of {constraints.latency_p95_ms:g} ms")
    if constraints.quality_ratio is not None:
        parts.append(f"{percent(constraints.quality_ratio)} of the baseline's quality")
    if constraints.quality_floor is not None:
        parts.append(f"a quality of {constraints.quality_floor:g}")
    return " and ".join(parts)
