"""From a recording and what was asked for to an experiment: the route, its features, who burns in and who reports.

The policy file holds the keys of a route block and goes through the same compiler as a configuration file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.routing import ClientFeature
from optimizer.settings import Constraints, ContextSettings, Objective, RouteSettings
from optimizer.simulating.experiment import Experiment, split
from optimizer.simulating.features import vectors
from optimizer.simulating.playing import Feedback
from optimizer.simulating.world import IntArray, World
from proxy.cli.recorded import BadRecording, Query, Recording
from proxy.config.load import load_text

ROUTE: Final = "simulated"
MOST_WORDS: Final = 16
"""More different words of a feature than this are no words but names."""

_QUALITY: Final = (Objective("quality", 1.0, maximize=True),)
_COST: Final = (Objective("cost", 1.0, maximize=False),)


class BadPolicy(ValueError):
    """The policy file is no YAML, or no mapping; the message says which file."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for. ``burn_in`` is a recording of its own, or a share of the data."""

    policy: Path | None = None
    constraints: Constraints = field(default_factory=Constraints)
    burn_in: Recording | float = 0.0
    feedback: Feedback = field(default_factory=Feedback)
    baseline: str | None = None


def experiment(data: Recording, asked: Asked) -> Experiment:
    """What is played.

    Raises:
        BadRecording: The burn-in does not go with the data, or leaves nothing of it.
        BadPolicy: The policy file can not be read.
        ConfigProblems: The policy file is not the block of a route.
    """
    queries = list(data.queries)
    if isinstance(asked.burn_in, Recording):
        if set(asked.burn_in.arms) != set(data.arms):
            raise BadRecording("the burn-in has other arms than the data.")
        before = len(asked.burn_in.queries)
        queries = [*asked.burn_in.queries, *queries]
        burn_in, report = np.arange(before), np.arange(before, len(queries))
    else:
        burn_in, report = split(len(queries), asked.burn_in)
        if not len(report):
            raise BadRecording("that burn-in leaves no query to report.")
    known = queries if not len(burn_in) else [queries[row] for row in burn_in]
    route = route_of(data.arms, asked, known)
    world = world_of(queries, data.arms, route.context, burn_in if len(burn_in) else report)
    return Experiment(route, world, burn_in, report, asked.feedback)


def route_of(arms: Sequence[str], asked: Asked, known: Sequence[Query]) -> RouteSettings:
    """The route: the policy file's, or one that looks at all there is; constraints of the command line on top.

    Args:
        arms: Names of the arms.
        asked: The command line.
        known: Queries whose features may be looked at beforehand, for the ranges of numbers.
    """
    block = _block(asked.policy)
    if asked.baseline is not None:
        block = {**block, "baseline": asked.baseline}
    route = compile_route(block, arms)
    given = asked.constraints
    if given.any:
        route = replace(route, constraints=given)
    if "objectives" not in block:
        floors = route.constraints.quality_floor is not None or route.constraints.quality_ratio is not None
        budget = (route.constraints.cost_per_request_usd, route.constraints.cost_per_day_usd)
        cheap = floors and budget == (None, None) and route.constraints.cost_ratio is None
        route = replace(route, objectives=_COST if cheap else _QUALITY)
    if "context" not in block and len(arms) <= INLINE_VECTOR_ARMS:
        texts = any(query.text for query in known)
        client = client_features(known)
        if texts or client:
            route = replace(route, context=ContextSettings(client=client, lexical=texts))
    return route


def compile_route(block: Mapping[str, Any], arms: Sequence[str]) -> RouteSettings:
    """The keys of a route block, compiled for these arms as a configuration file would be."""
    document = {
        "upstreams": {ROUTE: {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "auth": "none"}},
        "models": {arm: {"upstream": ROUTE, "price": {"input": 1.0, "output": 1.0}} for arm in arms},
        "routes": {ROUTE: {"baseline": arms[-1], "arms": list(arms), **block}},
    }
    settings = load_text(yaml.safe_dump(document), {}).settings
    route = settings.route(ROUTE)
    assert route is not None
    return route


def _block(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadPolicy(f"cannot read {path}: {error}") from error
    if not isinstance(block, dict):
        raise BadPolicy(f"{path}: not the keys of a route block.")
    if "arms" in block:
        raise BadPolicy(f"{path}: `arms` has no meaning here; the arms are those of the data.")
    return {str(key): value for key, value in block.items()}


def client_features(known: Sequence[Query]) -> tuple[ClientFeature, ...]:
    """The caller's features as a route would be told of them: numbers by their range, words by name."""
    seen: dict[str, list[float | str]] = {}
    for query in known:
        for name, value in query.features.items():
            seen.setdefault(name, []).append(value)
    found = []
    for name, values in seen.items():
        numbers = [value for value in values if isinstance(value, float)]
        if len(numbers) == len(values):
            if min(numbers) < max(numbers):
                found.append(ClientFeature(name, "metadata", name, (), min(numbers), max(numbers)))
            continue
        words = sorted({str(value) for value in values})
        if len(words) <= MOST_WORDS:
            found.append(ClientFeature(name, "metadata", name, tuple(words)))
    return tuple(found)


def world_of(
    queries: Sequence[Query], arms: Sequence[str], context: ContextSettings | None, fitted_on: IntArray
) -> World:
    """The world of some queries. Without context every vector is the single 1."""
    shape = (len(queries), len(arms))
    quality, cost, latency = (np.full(shape, np.nan) for _ in range(3))
    for row, query in enumerate(queries):
        for column, arm in enumerate(arms):
            cell = query.cells.get(arm)
            if cell is not None:
                quality[row, column], cost[row, column] = cell.quality, cell.cost_usd
                latency[row, column] = np.nan if cell.latency_s is None else cell.latency_s
    labels = [query.category or "" for query in queries]
    groups = tuple(sorted(set(labels)))
    numbers = np.array([groups.index(label) for label in labels], dtype=np.int64)
    x = np.ones((len(queries), 1))
    if context is not None:
        x = vectors([body_of(query) for query in queries], context, fitted_on)
    return World(tuple(arms), quality, cost, latency, x, numbers, groups)


def body_of(query: Query) -> dict[str, Any]:
    """The request that a query stands for."""
    return {"messages": [{"role": "user", "content": query.text or ""}], "metadata": query.features}
