"""Quality floors on recorded function calls: eight arms, one of them really broken, half of them dear and no better.

The protocol of the reference figures: 6,000 calls (the 1,700 queries in seeded order, again and again), the first 1,000
of them learning, the rest reported. The least cost in hindsight is the context-free linear program's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loadtests.learning.routes import COST, route
from loadtests.learning.team import Team
from loadtests.learning.worlds import BEST, BROKEN, Recorded, bfcl
from optimizer.routing import ClientFeature
from optimizer.settings import STEERED_FLOOR, Constraints, ContextSettings, RouteSettings
from optimizer.simulating.experiment import mean_and_deviation
from optimizer.simulating.frontier import Hindsight, hindsight
from optimizer.simulating.playing import Course, play
from optimizer.simulating.product import product_loop
from optimizer.simulating.world import World
from policies.types import FloatArray

Row: TypeAlias = dict[str, Any]

CALLS = 6000
LEARNING = 1000
WINDOW = 500
TARGET = 0.89
RATIOS = (0.98, 0.99, 1.0)
STARVED = 100
"""The broken arm is starved where its mean share of so many decisions in a row is its floor's."""


@dataclass(frozen=True, slots=True)
class Task:
    """One seed of one route."""

    route: RouteSettings
    world: World
    floor: float
    seed: int


@dataclass(frozen=True, slots=True)
class Played:
    """What one seed gave. ``short`` is the share of windows more than 1.5 points under the floor."""

    quality: float
    cost: float
    short: float
    broken_pulls: int | None
    shares: tuple[float, ...]


def one(task: Task) -> Played:
    """Play one seed."""
    rng = np.random.default_rng([task.seed, 0xBFC1])
    n = task.world.n_queries
    order = np.concatenate([rng.permutation(n) for _ in range(CALLS // n + 1)])[:CALLS]
    course = play(task.world, order, product_loop(task.route, task.world.size), rng=rng)
    counted = course.since(LEARNING)
    edges = range(0, len(counted.row) + 1, WINDOW)
    windows = [float(counted.quality[a:b].mean()) for a, b in pairwise(edges)]
    return Played(
        float(counted.quality.mean()),
        float(counted.cost.mean()),
        float(np.mean([mean < task.floor - 0.015 for mean in windows])),
        _broken_pulls(task.world, course) if BROKEN in task.world.arms else None,
        tuple(counted.shares.tolist()),
    )


def _broken_pulls(world: World, course: Course) -> int | None:
    """Among the kinds of requests that it fails: where nothing is to be called it is the best of all, not broken."""
    arm = world.arms.index(BROKEN)
    good = [world.quality[world.group == group, arm].mean() for group in range(len(world.groups))]
    fails = np.array(good)[world.group[course.row]] < 0.5
    return pulls_until_starved(course.vector[fails, arm], course.arm[fails] == arm)


def pulls_until_starved(
    share: FloatArray, pulled: NDArray[np.bool_], floor: float = STEERED_FLOOR
) -> int | None:
    """How often an arm was pulled before its mean share of ``STARVED`` decisions fell to its floor; None if never."""
    if len(share) < STARVED:
        return None
    windows = np.convolve(share, np.full(STARVED, 1.0 / STARVED), mode="valid")
    starved = np.flatnonzero(windows <= 1.1 * floor)
    return int(pulled[: starved[0]].sum()) if len(starved) else None


def floors(team: Team) -> list[Row]:
    """The floor of 0.89, and 98, 99 and 100 % of the best model's quality; with and without context."""
    recorded = bfcl()
    seen = hindsight(recorded.world)
    goals = [("floor .89", TARGET, Constraints(quality_floor=TARGET))]
    goals += [
        (f"{ratio:.0%} of the best", ratio * seen.single[BEST][0], Constraints(quality_ratio=ratio))
        for ratio in RATIOS
    ]
    views = _views(recorded)
    plan = [
        (name, label, floor, task)
        for name, floor, constraints in goals
        for label, world, context in (views if floor == TARGET else views[1:2])
        for task in (_tasks(world, context, constraints, floor, team.seeds),)
    ]
    found = iter(team.run("bfcl", one, [task for *_, tasks in plan for task in tasks]))
    return [
        _row(name, label, floor, [next(found) for _ in tasks], seen) for name, label, floor, tasks in plan
    ]


def _views(recorded: Recorded) -> Sequence[tuple[str, World, ContextSettings | None]]:
    tasks = ClientFeature("task", "metadata", "task", recorded.world.groups)
    everyone = np.arange(recorded.world.n_queries)
    views: list[tuple[str, World, ContextSettings | None]] = [("no context", recorded.world, None)]
    for label, context in (
        ("built-in features", ContextSettings()),
        ("and the caller's word for the task", ContextSettings(client=(tasks,))),
    ):
        views.append((label, recorded.seen(context, everyone), context))
    return views


def _tasks(
    world: World, context: ContextSettings | None, constraints: Constraints, floor: float, seeds: int
) -> list[Task]:
    settings = route(world.arms, baseline=BEST, objectives=COST, constraints=constraints, context=context)
    return [Task(settings, world, floor, seed) for seed in range(seeds)]


def _row(name: str, label: str, floor: float, trials: Sequence[Played], seen: Hindsight) -> Row:
    quality, quality_sd = mean_and_deviation([trial.quality for trial in trials])
    cost, cost_sd = mean_and_deviation([trial.cost for trial in trials])
    least, dear = seen.mix.cost_at(floor), seen.single[BEST][1]
    pulls = [trial.broken_pulls for trial in trials]
    single = seen.cheapest_above(floor)
    return {
        "goal": name,
        "floor": floor,
        "context": label,
        "quality": quality,
        "sd": quality_sd,
        "cost": cost,
        "cost_sd": cost_sd,
        "seeds": len(trials),
        "least_cost": least,
        "category_cost": seen.category.cost_at(floor),
        "oracle_cost": seen.oracle.cost_at(floor),
        "single": None if single is None else {"arm": single, "cost": seen.single[single][1]},
        "times_least": None if not least else cost / least,
        "saving": 1.0 - cost / dear,
        "short_windows": float(np.mean([trial.short for trial in trials])),
        "broken_pulls": [None if count is None else int(count) for count in pulls],
        "shares": [float(share) for share in np.mean([trial.shares for trial in trials], axis=0)],
    }
