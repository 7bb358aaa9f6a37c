"""The frozen policy that workers draw from: one uniform number in, an arm and its exact propensity out.

Standard library only. The propensity returned by ``choose`` is the entry of ``vector`` for the same
eligible set, so a decision can be replayed from (selector, eligible set, arm) alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, compress
from math import fsum, isfinite

_CACHED_MASKS = 64
_BITS = bytes.maketrans(b"01", b"\x00\x01")
_SUM_TOLERANCE = 1e-4


class _Slice:
    """The arms of one eligible set: their indices, weights and running sums."""

    __slots__ = ("arms", "last", "sums", "total", "weights")

    def __init__(self, arms: tuple[int, ...], weights: tuple[float, ...]) -> None:
        sums = list(accumulate(weights))
        if sums[-1] <= 0.0:
            # Every eligible arm is one the policy never plays: none is preferred to another.
            weights = (1.0,) * len(arms)
            sums = list(accumulate(weights))
        self.arms = arms
        self.weights = weights
        self.sums = sums
        self.total = sums[-1]
        last = len(weights) - 1
        while weights[last] <= 0.0:
            last -= 1
        self.last = last


class TableSelector:
    """Draws an arm by its published probability, renormalised over the arms that are eligible."""

    __slots__ = ("_probabilities", "_slices", "full_mask", "selector_id", "size")

    def __init__(self, selector_id: str, probabilities: Sequence[float]) -> None:
        """Freeze ``probabilities`` (one per arm, >= 0, summing to 1).

        Raises:
            ValueError: If there are none, one is negative or not finite, or they do not sum to 1.
        """
        if not probabilities:
            raise ValueError(f"selector {selector_id}: no arms")
        for index, probability in enumerate(probabilities):
            if not (isfinite(probability) and probability >= 0.0):
                raise ValueError(f"selector {selector_id}: probability {index} is {probability}")
        total = fsum(probabilities)
        if abs(total - 1.0) > _SUM_TOLERANCE:
            raise ValueError(f"selector {selector_id}: probabilities sum to {total}")
        self.selector_id = selector_id
        self.size = len(probabilities)
        self.full_mask = (1 << self.size) - 1
        self._probabilities = tuple(map(float, probabilities))
        self._slices: dict[int, _Slice] = {}

    def choose(self, u: float, eligible: int) -> tuple[int, float]:
        """The arm for the uniform draw ``u`` in [0, 1) and its probability among the eligible.

        ``eligible`` has bit i set when arm i may be chosen. An arm's share of [0, 1) lies in arm
        order, so a unit with a fixed ``u`` moves only when the probabilities move past it.

        Raises:
            ValueError: If no arm is eligible.
        """
        part = self._slices.get(eligible)
        if part is None:
            part = self._slice(eligible)
        place = bisect_right(part.sums, u * part.total)
        # Rounding may carry u * total up to total itself.
        place = min(place, part.last)
        return part.arms[place], part.weights[place] / part.total

    def vector(self, eligible: int) -> tuple[float, ...]:
        """The probability of every arm given the eligible set; 0 for the others."""
        part = self._slices.get(eligible) or self._slice(eligible)
        shares = [0.0] * self.size
        for arm, weight in zip(part.arms, part.weights, strict=True):
            shares[arm] = weight / part.total
        return tuple(shares)

    def _slice(self, eligible: int) -> _Slice:
        bits = bin(eligible & self.full_mask)[:1:-1].encode().translate(_BITS)
        arms = tuple(compress(range(self.size), bits))
        if not arms:
            raise ValueError(f"selector {self.selector_id}: no eligible arm")
        part = _Slice(arms, tuple(compress(self._probabilities, bits)))
        if len(self._slices) >= _CACHED_MASKS:
            del self._slices[next(iter(self._slices))]
        self._slices[eligible] = part
        return part
