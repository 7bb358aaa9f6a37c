"""The frozen contextual policy: a request's features and one uniform number in, an arm and its propensity out.

Every arm has an index that is Gaussian given x: its mean is linear in x minus charges that are log-linear in x
(dollars and seconds: a penalty on log-prices would be no Lagrangian), its variance quadratic. The probability that an
arm's index is the greatest is found by quadrature (``policies.quadrature``), the given shares (floor and nursery) are
mixed in, and the arm is drawn from that final vector. So the propensity is exact by construction, whatever the
quadrature's error. numpy, for workers that serve contextual routes.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, inf, isfinite, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.quadrature import POINTS, Floats, best_of, best_shares
from policies.types import FloatArray

_LARGEST_EXPONENT = 60.0
_LEAST_VARIANCE = 1e-18
_CACHED_MASKS = 64


@dataclass(frozen=True, slots=True)
class Index:
    """What a contextual selector computes with; K arms in the side's order, d features, C kinds of charges.

    ``value`` (K, d): the linear part of the mean. ``charges`` (C, K, d): each adds ``-exp(charge @ x)``.
    ``spread`` (K, d, d), positive semidefinite, and ``noise`` (K,) >= 0: variance = x' spread x + noise.
    ``given`` (K,): the share an arm has whatever x is (floor, nursery); they sum to at most 1. ``drawn`` (K,) bool:
    which arms compete for the rest. ``cost`` (K, d): ln of the predicted cost in USD is ``cost @ x``; arms beyond
    ``max_request_usd`` are not eligible; if none is within, the one predicted cheapest alone is.
    """

    value: Floats
    charges: Floats
    spread: Floats
    noise: Floats
    given: Floats
    drawn: NDArray[Any]
    cost: Floats
    max_request_usd: float = float("inf")

    @property
    def n_arms(self) -> int:
        return int(self.value.shape[0])

    @property
    def size(self) -> int:
        """Number of features."""
        return int(self.value.shape[1])

    def mean(self, x: Floats) -> Floats:
        """Means of the indices, shape (..., K) for x of shape (..., d)."""
        mean: Floats = x @ self.value.T
        for charge in self.charges:
            mean = mean - np.exp(np.minimum(x @ charge.T, _LARGEST_EXPONENT))
        return mean

    def deviation(self, x: Floats) -> Floats:
        """Standard deviations of the indices, shape (..., K)."""
        turned = (x @ self.spread.reshape(-1, self.size).T).reshape(*x.shape[:-1], self.n_arms, self.size)
        variance = np.einsum("...kd,...d->...k", turned, x) + self.noise
        deviation: Floats = np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
        return deviation

    def affordable(self, x: Floats, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The arms of ``eligible`` (..., K) that a request with features x may go to at all, never none of them."""
        if not isfinite(self.max_request_usd):
            return np.broadcast_to(eligible, (*x.shape[:-1], self.n_arms))
        cost = np.where(eligible, x @ self.cost.T, np.inf)
        cheapest = cost <= cost.min(axis=-1, keepdims=True)
        kept: NDArray[np.bool_] = eligible & ((cost <= np.log(self.max_request_usd)) | cheapest)
        return kept

    def shares(self, x: Floats, eligible: NDArray[Any] | None = None, *, points: int = POINTS) -> FloatArray:
        """The final probability vector, shape (..., K); ``eligible`` (K,) bool leaves arms out.

        ``points`` is the quadrature's: fewer are quicker where a thousandth does not matter.
        """
        every = np.ones(self.n_arms, dtype=np.bool_)
        allowed = self.affordable(x, every if eligible is None else every & eligible.astype(np.bool_))
        mean, deviation = self.mean(x), self.deviation(x)
        if x.ndim == 1:
            return self._shares(mean, deviation, allowed, points)
        rows = allowed.reshape(-1, self.n_arms)
        shares = np.empty(rows.shape)
        flat_mean, flat_deviation = mean.reshape(rows.shape), deviation.reshape(rows.shape)
        # Rows with the same arms are computed together, and mostly there is only one kind.
        for kind in np.unique(rows, axis=0):
            same = (rows == kind).all(axis=1)
            shares[same] = self._shares(flat_mean[same], flat_deviation[same], kind, points)
        return shares.reshape(mean.shape)

    def _shares(self, mean: Floats, deviation: Floats, allowed: NDArray[np.bool_], points: int) -> FloatArray:
        """``shares`` where the same arms are allowed throughout."""
        competing = allowed & self.drawn.astype(np.bool_)
        if not competing.any():
            competing = allowed
        given = np.where(allowed, self.given, 0.0).astype(np.float64)
        rest = max(0.0, 1.0 - float(given.sum()))
        shares = np.broadcast_to(given, mean.shape).copy()
        shares[..., competing] += rest * best_shares(
            mean[..., competing], deviation[..., competing], points=points
        )
        return shares


class _Kind:
    """What is the same for all requests with one eligible set."""

    __slots__ = ("allowed", "competing", "given", "rest", "whole")

    def __init__(self, index: Index, eligible: int) -> None:
        self.allowed = np.array([eligible >> arm & 1 for arm in range(index.n_arms)], dtype=np.bool_)
        competing = self.allowed & index.drawn.astype(np.bool_)
        if not competing.any():
            competing = self.allowed
        self.competing: list[int] = np.flatnonzero(competing).tolist()
        self.whole = bool(competing.all())
        self.given: list[float] = np.where(self.allowed, index.given, 0.0).astype(np.float64).tolist()
        # Shares that make up everything may do so by a rounding error more.
        self.rest = max(0.0, 1.0 - sum(self.given))


class ContextualSelector:
    """Draws arms by an ``Index``; the counterpart of ``policies.selector.TableSelector``.

    ``choose`` gives what ``Index.shares`` gives, up to rounding, with whatever can be prepared prepared.
    """

    __slots__ = (
        "_flat",
        "_kinds",
        "_linear",
        "_most",
        "_noise",
        "capped",
        "full_mask",
        "index",
        "selector_id",
        "size",
    )

    def __init__(self, selector_id: str, index: Index) -> None:
        self.selector_id = selector_id
        self.index = index
        self.size = index.n_arms
        self.full_mask = (1 << self.size) - 1
        self.capped = isfinite(index.max_request_usd)
        self._most = log(index.max_request_usd) if self.capped else inf
        # One product for all that is linear in x.
        self._linear = np.concatenate([index.value[None], index.charges]).reshape(-1, index.size)
        self._flat = np.ascontiguousarray(index.spread).reshape(-1, index.size)
        self._noise: list[float] = (index.noise + _LEAST_VARIANCE).tolist()
        self._kinds: dict[int, _Kind] = {}

    @property
    def n_features(self) -> int:
        """How long x is."""
        return self.index.size

    def affordable(self, x: Floats, eligible: int) -> int:
        """The bits of ``eligible`` that ``Index.affordable`` leaves."""
        if not self.capped:
            return eligible
        costs: list[float] = (self.index.cost @ x).tolist()
        asked = [arm for arm in range(self.size) if eligible >> arm & 1]
        limit = max(self._most, min((costs[arm] for arm in asked), default=0.0))
        return sum(1 << arm for arm in asked if costs[arm] <= limit)

    def choose(self, u: float, eligible: int, x: Floats) -> tuple[int, Sequence[float]]:
        """The arm for the uniform draw ``u`` in [0, 1), and the probability of every arm (0 for ineligible ones).

        ``eligible`` has bit i set when arm i may be chosen; a cap on the predicted cost may leave fewer. An arm's share
        of [0, 1) lies in arm order, so a unit with a fixed ``u`` moves only when its own probabilities move past it.

        Raises:
            ValueError: If no arm is eligible.
        """
        if self.capped:
            eligible = self.affordable(x, eligible)
        kind = self._kind(eligible)
        linear: list[float] = (self._linear @ x).tolist()
        means, size = linear[: self.size], self.size
        for start in range(size, len(linear), size):
            charges = linear[start : start + size]
            means = [
                mean - exp(min(charge, _LARGEST_EXPONENT))
                for mean, charge in zip(means, charges, strict=True)
            ]
        variances: list[float] = ((self._flat @ x).reshape(size, -1) @ x).tolist()
        deviations = [
            sqrt(max(variance, 0.0) + noise) for variance, noise in zip(variances, self._noise, strict=True)
        ]
        rest, vector = kind.rest, kind.given
        if kind.whole:
            found = best_of(means, deviations)
            vector = [share + rest * won for share, won in zip(vector, found, strict=True)]
        else:
            chosen, vector = kind.competing, vector.copy()
            found = best_of([means[arm] for arm in chosen], [deviations[arm] for arm in chosen])
            for arm, won in zip(chosen, found, strict=True):
                vector[arm] += rest * won
        sums = list(accumulate(vector))
        arm = bisect_right(sums, u * sums[-1])
        if arm >= self.size or not vector[arm]:  # rounding may carry u * total up to total itself
            arm = max(place for place, share in enumerate(vector) if share > 0.0)
        return arm, vector

    def _kind(self, eligible: int) -> _Kind:
        kind = self._kinds.get(eligible)
        if kind is None:
            if not eligible & self.full_mask:
                raise ValueError(f"selector {self.selector_id}: no eligible arm")
            if len(self._kinds) >= _CACHED_MASKS:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[eligible] = _Kind(self.index, eligible)
        return kind
