"""A policy on a world, seed by seed: burn-in, then the requests that count, and what came of them.

Invariant: what is reported is measured on queries of the reporting part alone, in an order that the seed alone decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from optimizer.settings import RouteSettings
from optimizer.simulating.playing import Course, Feedback, Learning, play
from optimizer.simulating.world import IntArray, World
from policies.types import FloatArray

Learner: TypeAlias = Callable[[RouteSettings, int], Learning]
"""Makes what is played, of a route and its number of features."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A route on a world. ``burn_in`` and ``report`` are rows of it.

    ``passes`` is how often the burn-in is gone through. ``told`` (n, K) is what ratings say, where that is not the
    truth. With ``afresh`` budgets and floors are kept over the reporting part alone, else over both together.
    """

    route: RouteSettings
    world: World
    burn_in: IntArray
    report: IntArray
    feedback: Feedback = field(default_factory=Feedback)
    passes: int = 1
    interval_s: float = 1.0
    told: FloatArray | None = None
    afresh: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """What one seed gave, over the reporting part. ``late`` is the share of replies over the limit."""

    quality: float
    cost: float
    latency: float | None
    late: float | None
    shares: dict[str, float]


def perform(
    experiment: Experiment, learner: Learner, seed: int, show: Callable[[int], None] | None = None
) -> tuple[Course, Course]:
    """Burn-in and report of one seed."""
    rng = np.random.default_rng([seed, 0x51])
    world = experiment.world
    orders = [rng.permutation(experiment.burn_in) for _ in range(experiment.passes)]
    before = sum(len(order) for order in orders)
    order = np.concatenate([*orders, rng.permutation(experiment.report)]).astype(np.int64)
    course = play(
        world,
        order,
        learner(experiment.route, world.size),
        rng=rng,
        feedback=experiment.feedback,
        told=experiment.told,
        interval_s=experiment.interval_s,
        afresh=before if experiment.afresh and before else None,
        show=show,
    )
    return course.until(before), course.since(before)


def trial(course: Course, arms: Sequence[str], *, limit_s: float | None = None) -> Trial:
    """The figures of a course."""
    known = course.latency[np.isfinite(course.latency)]
    late = course.late_share(limit_s) if limit_s is not None and len(known) else None
    return Trial(
        quality=float(course.quality.mean()),
        cost=float(course.cost.mean()),
        latency=float(known.mean()) if len(known) else None,
        late=late,
        shares={arm: float(share) for arm, share in zip(arms, course.shares, strict=True)},
    )


def split(n_queries: int, share: float) -> tuple[IntArray, IntArray]:
    """Rows of burn-in and report: the same for every seed, so that every seed is held to the same yardsticks."""
    if not 0.0 <= share < 1.0:
        raise ValueError("the share of the burn-in must lie in [0, 1)")
    shuffled = np.random.default_rng(0x51).permutation(n_queries)
    count = round(n_queries * share)
    return np.sort(shuffled[:count]), np.sort(shuffled[count:])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation between seeds (0 for one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
