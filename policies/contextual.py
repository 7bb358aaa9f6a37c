"""The frozen contextual policy: a request's features and one uniform number in, an arm and its propensity out.

Every arm has an index that is Gaussian given x: its mean is linear in x minus charges that are log-linear in x
(dollars and seconds: a penalty on log-prices would be no Lagrangian), its variance quadratic. The probability that an
arm's index is the greatest is found by quadrature (``policies.quadrature``), the given shares (floor and nursery) are
mixed in, and the arm is drawn from that final vector. So the propensity is exact by construction, whatever the
quadrature's error. numpy, for workers that serve contextual routes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.quadrature import best_shares
from policies.types import FloatArray

_LARGEST_EXPONENT = 60.0


@dataclass(frozen=True, slots=True)
class Index:
    """What a contextual selector computes with; K arms in the side's order, d features, C kinds of charges.

    ``value`` (K, d): the linear part of the mean. ``charges`` (C, K, d): each adds ``-exp(charge @ x)``.
    ``spread`` (K, d, d), positive semidefinite, and ``noise`` (K,) >= 0: variance = x' spread x + noise.
    ``given`` (K,): the share an arm has whatever x is (floor, nursery); they sum to at most 1. ``drawn`` (K,) bool: which
    arms compete for the rest. ``cost`` (K, d): ln of the predicted cost in USD is ``cost @ x``; arms beyond
    ``max_request_usd`` are not eligible while another one is.
    """

    value: FloatArray
    charges: FloatArray
    spread: FloatArray
    noise: FloatArray
    given: FloatArray
    drawn: FloatArray
    cost: FloatArray
    max_request_usd: float = float("inf")

    @property
    def n_arms(self) -> int:
        return int(self.value.shape[0])

    @property
    def size(self) -> int:
        """Number of features."""
        return int(self.value.shape[1])

    def mean(self, x: FloatArray) -> FloatArray:
        """Means of the indices, shape (..., K) for x of shape (..., d)."""
        mean: FloatArray = x @ self.value.T
        for charge in self.charges:
            mean = mean - np.exp(np.minimum(x @ charge.T, _LARGEST_EXPONENT))
        return mean

    def deviation(self, x: FloatArray) -> FloatArray:
        """Standard deviations of the indices, shape (..., K)."""
        variance = np.einsum("...d,kde,...e->...k", x, self.spread, x) + self.noise
        return np.sqrt(np.maximum(variance, 1e-18))

    def shares(self, x: FloatArray, eligible: FloatArray | None = None) -> FloatArray:
        """The final probability vector, shape (..., K); ``eligible`` (K,) bool leaves arms out."""
        allowed = np.ones(self.n_arms, dtype=np.bool_) if eligible is None else eligible.astype(np.bool_)
        competing = allowed & self.drawn.astype(np.bool_)
        given = np.where(allowed, self.given, 0.0)
        rest = 1.0 - given.sum()
        if not competing.any():
            competing = allowed
        mean, deviation = self.mean(x)[..., competing], self.deviation(x)[..., competing]
        shares = np.broadcast_to(given, (*mean.shape[:-1], self.n_arms)).copy()
        shares[..., competing] += rest * best_shares(mean, deviation)
        return shares


class ContextualSelector:
    """Draws arms by an ``Index``; the counterpart of ``policies.selector.TableSelector``."""

    __slots__ = ("full_mask", "index", "selector_id", "size")

    def __init__(self, selector_id: str, index: Index) -> None:
        self.selector_id = selector_id
        self.index = index
        self.size = index.n_arms
        self.full_mask = (1 << self.size) - 1

    def choose(self, u: float, eligible: int, x: FloatArray) -> tuple[int, Sequence[float]]:
        """The arm for the uniform draw ``u`` in [0, 1), and the probability of every arm (0 for ineligible ones).

        An arm's share of [0, 1) lies in arm order. Raises ``ValueError`` if no arm is eligible.
        """
        mask = np.array([eligible >> arm & 1 for arm in range(self.size)], dtype=np.bool_)
        if not mask.any():
            raise ValueError(f"selector {self.selector_id}: no eligible arm")
        shares = self.index.shares(x, mask)
        arm = int(np.searchsorted(np.cumsum(shares), u * shares.sum(), side="right"))
        arm = min(arm, int(np.flatnonzero(shares > 0.0)[-1]))
        return arm, [float(share) for share in shares]
