"""Recorded outcomes of several arms on the same queries: what a simulated route draws its outcomes from.

Invariant: a world is the same for every policy and seed; who is drawn on which query is the player's. A cell that was
not recorded is NaN, and its arm is not eligible for that query.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import FloatArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class World:
    """n queries, K arms, d features.

    ``quality`` (n, K) in 0..1, ``cost`` (n, K) in USD, ``latency`` (n, K) in seconds or NaN. ``x`` (n, d) with
    ``x[:, 0] = 1``. ``group`` (n,) numbers the query's category in ``groups``.
    """

    arms: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray
    latency: FloatArray
    x: FloatArray
    group: IntArray
    groups: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        n, k = self.quality.shape
        fits = (
            self.cost.shape == self.latency.shape == (n, k)
            and self.x.ndim == 2
            and self.x.shape[0] == self.group.shape[0] == n
        )
        if k != len(self.arms) or not fits:
            raise ValueError("every array of a world has one row per query, and one column per arm")
        if not self.known.any(axis=1).all():
            raise ValueError("every query needs an arm with quality and cost")

    @property
    def n_queries(self) -> int:
        return int(self.quality.shape[0])

    @property
    def size(self) -> int:
        """Number of features."""
        return int(self.x.shape[1])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which cells were recorded, shape (n, K)."""
        known: NDArray[np.bool_] = np.isfinite(self.quality) & np.isfinite(self.cost)
        return known

    def eligible(self) -> IntArray:
        """The recorded arms of every query as a bit mask, shape (n,)."""
        return self.known.astype(np.int64) @ (1 << np.arange(len(self.arms), dtype=np.int64))

    def means(self) -> tuple[FloatArray, FloatArray]:
        """Mean quality and mean cost of every arm, shape (K,) each; NaN for an arm without a recorded cell."""
        recorded = np.where(self.known, 1.0, np.nan)
        return _column_means(self.quality * recorded), _column_means(self.cost * recorded)

    def part(self, rows: Sequence[int] | IntArray) -> "World":
        """The world of some queries, in the order given."""
        taken = np.asarray(rows, dtype=np.int64)
        return World(
            self.arms,
            self.quality[taken],
            self.cost[taken],
            self.latency[taken],
            self.x[taken],
            self.group[taken],
            self.groups,
        )

    def with_features(self, x: FloatArray) -> "World":
        """The same outcomes with other features."""
        return World(self.arms, self.quality, self.cost, self.latency, x, self.group, self.groups)

    def blind(self) -> "World":
        """The same outcomes without features: what a route without context sees."""
        return self.with_features(np.ones((self.n_queries, 1)))


def _column_means(values: FloatArray) -> FloatArray:
    seen = np.isfinite(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    means: FloatArray = np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return means
