"""Objectives as parameters write them, and comparing what a route would value before and after a change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from optimizer.feedback import QUALITY
from optimizer.publisher import goals_of
from optimizer.settings import Objective, RouteSettings, Settings
from optimizer.strategies.base import Problem, metric_of, number, unknown_names
from policies.types import Goal

BUILT_IN: Final[Mapping[str, bool]] = {QUALITY: True, "cost": False, "latency": False, "ttft": False}
"""Metrics that every route knows, and whether more of it is better."""

_KEYS: Final = ("name", "weight", "direction", "scale")


def metrics(settings: Settings) -> dict[str, bool]:
    """Every metric that can be pursued, and whether more is better."""
    return {**{metric.name: metric.maximize for metric in settings.custom_metrics}, **BUILT_IN}


def read_objectives(rows: Sequence[Any], settings: Settings) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Objectives with all their fields; a row is a metric's name or a table of ``_KEYS``."""
    known = metrics(settings)
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        path = f"objectives[{index}]"
        table = {"name": row} if isinstance(row, str) else row
        if not isinstance(table, Mapping):
            problems.append(
                Problem(path, "must be a metric's name, or a table with `name`, `weight` and `direction`.")
            )
            continue
        problems += [
            Problem(f"{path}.{key}", f"no such key; known: {', '.join(_KEYS)}.")
            for key in table
            if key not in _KEYS
        ]
        value, wrong = _objective(table, known, path)
        problems += wrong
        if value is not None:
            found.append(value)
    names = [row["name"] for row in found]
    problems += [
        Problem("objectives", f"`{name}` is named twice.")
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if not problems and not any(row["weight"] > 0.0 for row in found):
        problems.append(Problem("objectives", "at least one needs a weight above 0."))
    return found, problems


def objectives_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Objective, ...]:
    """What ``read_objectives`` returned, as settings."""
    return tuple(
        Objective(row["name"], row["weight"], row["direction"] == "maximize", row["scale"]) for row in rows
    )


def equal_objectives(criteria: Sequence[str], settings: Settings) -> tuple[Objective, ...]:
    """Objectives of equal weight over metrics by name."""
    known = metrics(settings)
    names = list(dict.fromkeys(metric_of(name) for name in criteria))
    return tuple(Objective(name, 1.0 / len(names), known[name]) for name in names)


def unknown_criteria(criteria: Sequence[str], settings: Settings, path: str) -> list[Problem]:
    """A problem for each name that is no metric."""
    return unknown_names(path, "metric", [metric_of(name) for name in criteria], sorted(metrics(settings)))


def goals(route: RouteSettings, objectives: tuple[Objective, ...] | None) -> tuple[Goal, ...]:
    """What the route would pursue with these objectives, else what it pursues."""
    return tuple(goals_of(replace(route, objectives=objectives) if objectives is not None else route))


def _objective(
    table: Mapping[str, Any], known: Mapping[str, bool], path: str
) -> tuple[dict[str, Any] | None, list[Problem]]:
    raw = table.get("name")
    if not isinstance(raw, str):
        return None, [Problem(f"{path}.name", "is required.")]
    name = metric_of(raw)
    problems = [
        Problem(f"{path}.name", problem.message)
        for problem in unknown_names(path, "metric", [name], sorted(known))
    ]
    weight = number(table["weight"]) if table.get("weight") is not None else 1.0
    if weight is None or weight < 0.0:
        problems.append(Problem(f"{path}.weight", "must be a number of at least 0."))
    scale = number(table["scale"]) if table.get("scale") is not None else None
    if table.get("scale") is not None and (scale is None or scale <= 0.0):
        problems.append(Problem(f"{path}.scale", "must be a number above 0."))
    direction = table.get("direction")
    if direction is None:
        direction = "maximize" if known.get(name, True) else "minimize"
    if direction not in ("minimize", "maximize"):
        problems.append(Problem(f"{path}.direction", "must be `minimize` or `maximize`."))
    return (
        ({"name": name, "weight": weight, "direction": direction, "scale": scale}, [])
        if not problems
        else (None, problems)
    )
