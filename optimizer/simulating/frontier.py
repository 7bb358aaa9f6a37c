"""What could have been had at what cost, in hindsight: exact solutions of the linear programs that routers are held to.

Queries fall into groups; within a group a fixed random mix of arms is played. One group is the best context-free mix,
a group per category the best table of mixes, a group per query the oracle. The program (best mean quality at a mean
cost, or least cost at a mean quality) is the relaxed multiple-choice knapsack: each group climbs the concave hull of
its arms, and the steepest steps over all groups are taken first. So the whole frontier comes from one sort.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from optimizer.simulating.world import IntArray, World
from policies.types import FloatArray


@dataclass(frozen=True, slots=True)
class Frontier:
    """The best mean quality for every mean cost: corners of a concave curve, both rising.

    ``cost`` (m,) in USD per query, ``quality`` (m,). Between two corners lie the mixes.
    """

    cost: FloatArray
    quality: FloatArray

    def quality_at(self, cost: float) -> float:
        """Best mean quality for at most ``cost``; below the cheapest point the cheapest one's."""
        return float(np.interp(cost, self.cost, self.quality))

    def cost_at(self, quality: float) -> float | None:
        """Least mean cost for at least ``quality``; None where no mix reaches it."""
        if quality > self.quality[-1] + 1e-12:
            return None
        return float(np.interp(quality, self.quality, self.cost))


def frontier(cost: FloatArray, quality: FloatArray, weight: FloatArray) -> Frontier:
    """The frontier of G groups.

    Args:
        cost: Mean cost of every arm in every group, shape (G, K); NaN where an arm is not to be had.
        quality: Mean quality, same shape.
        weight: Share of the queries in each group, shape (G,), summing to 1.
    """
    start_cost = start_quality = 0.0
    steps: list[tuple[float, float]] = []
    for group, share in enumerate(weight):
        corners = hull(cost[group], quality[group])
        start_cost += share * corners[0][0]
        start_quality += share * corners[0][1]
        steps += [
            (share * (after[0] - before[0]), share * (after[1] - before[1]))
            for before, after in pairwise(corners)
        ]
    steps.sort(key=lambda step: -step[1] / step[0])
    moves = np.array([(0.0, 0.0), *steps])
    return Frontier(start_cost + np.cumsum(moves[:, 0]), start_quality + np.cumsum(moves[:, 1]))


def hull(cost: FloatArray, quality: FloatArray) -> list[tuple[float, float]]:
    """Corners (cost, quality) of the concave hull of one group's arms, from the cheapest arm up to the best one."""
    points = sorted(
        (
            (float(c), float(q))
            for c, q in zip(cost, quality, strict=True)
            if np.isfinite(c) and np.isfinite(q)
        ),
        key=lambda point: (point[0], -point[1]),
    )
    if not points:
        raise ValueError("a group without any recorded arm has no frontier")
    corners: list[tuple[float, float]] = []
    for point in points:
        if corners and point[1] <= corners[-1][1]:
            continue
        while len(corners) > 1 and _rise(corners[-2], point) >= _rise(corners[-2], corners[-1]):
            corners.pop()
        corners.append(point)
    return corners


def _rise(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


@dataclass(frozen=True, slots=True)
class Hindsight:
    """Every yardstick of a world. ``single`` maps an arm to its mean (quality, cost), over what was recorded."""

    single: dict[str, tuple[float, float]]
    mix: Frontier
    category: Frontier
    oracle: Frontier

    @property
    def best(self) -> str:
        """The arm with the best mean quality."""
        return max(self.single, key=lambda arm: (self.single[arm][0], -self.single[arm][1]))

    def best_within(self, cost: float) -> str | None:
        """The best single arm whose mean cost is at most ``cost``."""
        inside = [arm for arm, (_, mean) in self.single.items() if mean <= cost]
        return max(inside, key=lambda arm: self.single[arm][0], default=None)

    def cheapest_above(self, quality: float) -> str | None:
        """The cheapest single arm whose mean quality is at least ``quality``."""
        inside = [arm for arm, (mean, _) in self.single.items() if mean >= quality]
        return min(inside, key=lambda arm: self.single[arm][1], default=None)


def hindsight(world: World) -> Hindsight:
    """All yardsticks, with the world's own means: no policy can know them beforehand."""
    quality, cost = world.means()
    single = {
        arm: (float(q), float(c))
        for arm, q, c in zip(world.arms, quality, cost, strict=True)
        if np.isfinite(q) and np.isfinite(c)
    }
    everyone = np.zeros(world.n_queries, dtype=np.int64)
    each = np.arange(world.n_queries, dtype=np.int64)
    return Hindsight(single, grouped(world, everyone), grouped(world, world.group), grouped(world, each))


def grouped(world: World, group: IntArray) -> Frontier:
    """The frontier when queries are told apart by ``group`` (n,), any integers."""
    _, number = np.unique(group, return_inverse=True)
    count = int(number.max()) + 1
    cost, quality = (_group_means(world, values, number, count) for values in (world.cost, world.quality))
    weight = np.bincount(number, minlength=count) / world.n_queries
    return frontier(cost, quality, weight)


def _group_means(world: World, values: FloatArray, number: IntArray, count: int) -> FloatArray:
    known = world.known
    means = np.full((count, len(world.arms)), np.nan)
    for arm in range(len(world.arms)):
        seen = known[:, arm]
        weight = np.bincount(number[seen], minlength=count)
        total = np.bincount(number[seen], weights=values[seen, arm], minlength=count)
        means[:, arm] = np.divide(total, weight, out=np.full(count, np.nan), where=weight > 0)
    return means
