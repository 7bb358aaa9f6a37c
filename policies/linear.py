"""Linear beliefs about the arms of a route given a request's features: additive sums in, Gaussians over weights out.

y = level of the arm + (x - mean x of the arm)' (common + own), with ridge priors on the slope ``common`` to all arms
and on every arm's ``own`` deviation from it. How strongly to shrink is not a setting: it is averaged over a grid that
includes "no slope at all", weighted by marginal likelihood (empirical Bayes, MacKay 1992), so that features which
explain nothing leave the context-free belief as it is. Before that every feature is scaled by how much it tells the
arms apart (automatic relevance, Neal 1996; the same for all arms, by EM): a few words that decide everything must not
share one prior with thirty that mean nothing, and where they count, an arm that was hardly tried is worth trying.

Prompts that are hard for everybody move ``common``, which all arms' observations teach; it cancels out of the choice,
and takes its scatter out of what an arm's own slope is estimated from. The levels are not estimated here: they are the
context-free posteriors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.types import FloatArray

# Prior variance of a slope per standard deviation of its feature, relative to the scatter of one observation.
_RELATIVE = np.geomspace(1e-5, 10.0, 13)
# A feature that moves less than this among the observations, or in proportion to its mean, says nothing.
_LEAST_DEVIATION, _LEAST_RELATIVE = 1e-4, 1e-6
# Features are about 1. One that moved less than this so far has no steeper slope for it: what follows when it does move
# would be an extrapolation by tens of deviations.
_USUAL_DEVIATION = 0.1
# The scatter of one observation is estimated from the data and so many imagined ones of the expected scatter.
_IMAGINED = 4.0
# Steps of EM towards each feature's relevance.
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class LinearSums:
    """What was observed of one signal of one arm; additive. w: decayed weight, x: features (x[0] = 1), y: value.

    ``gram`` (d, d) = sum of w x x', ``moment`` (d,) = sum of w x y, ``square`` = sum of w y y.
    """

    gram: FloatArray
    moment: FloatArray
    square: float

    @property
    def weight(self) -> float:
        """Effective number of observations."""
        return float(self.gram[0, 0])


@dataclass(frozen=True, slots=True)
class Slopes:
    """How a signal of K arms depends on the d features.

    ``weights`` (K, d): slope of each arm, the constant chosen so that it is 0 at the arm's mean request; add the arm's
    level to ``weights[k, 0]``. ``spread`` (K, d, d): variance of the slope's part is x' spread x. ``mean`` (K, d): mean
    request of each arm (of all arms where it has none). ``scatter`` (K, d, d): covariance of the arm's requests.
    ``noise`` (K,): variance of one observation around the line. ``weight`` (K,): effective observations. ``gain`` 0..1:
    how sure it is that arms differ in their slopes.
    """

    weights: FloatArray
    spread: FloatArray
    mean: FloatArray
    scatter: FloatArray
    noise: FloatArray
    weight: FloatArray
    gain: float


@dataclass(frozen=True, slots=True)
class _Centred:
    """Sums of one arm about its own means, without the constant; all (d - 1)."""

    weight: float
    mean: FloatArray
    gram: FloatArray
    moment: FloatArray
    square: float


def fit_slopes(
    sums: Sequence[LinearSums | None], size: int, *, noise: float, max_memory: float = float("inf")
) -> Slopes:
    """Fit the slopes of all arms.

    Args:
        sums: One per arm; None where nothing was observed.
        size: Number of features d >= 1.
        noise: Variance of one observation to expect before any data, > 0.
        max_memory: Cap on the effective number of observations of an arm.
    """
    centred = [_centre(one, max_memory) for one in sums]
    n_arms = len(centred)
    weights, spread = np.zeros((n_arms, size)), np.zeros((n_arms, size, size))
    scatter, noises = np.zeros((n_arms, size, size)), np.full(n_arms, noise)
    weight = np.array([one.weight if one is not None else 0.0 for one in centred])
    seen = [one for one in centred if one is not None]
    everyone = np.zeros(size)
    everyone[0] = 1.0
    if seen:
        everyone[1:] = sum(one.weight * one.mean for one in seen) / weight.sum()
    mean = np.tile(everyone, (n_arms, 1))
    if not seen or size == 1:
        return Slopes(weights, spread, mean, scatter, noises, weight, 0.0)
    unit = _units(seen)
    common = _common_slope(seen, unit, noise)
    unit = unit * _relevance(seen, common, unit, noise)
    rotated = [None if one is None else _Rotated(one, common, unit, noise) for one in centred]
    trust = _trust([one for one in rotated if one is not None])
    for arm, (one, turned) in enumerate(zip(centred, rotated, strict=True)):
        slope = common
        if one is not None and turned is not None:
            own, covariance, noises[arm] = turned.posterior(trust, unit)
            slope = common + own
            mean[arm, 1:] = one.mean
            scatter[arm, 1:, 1:] = one.gram / one.weight
            to_centre = np.concatenate([-one.mean[:, None], np.eye(size - 1)], axis=1)
            spread[arm] = to_centre.T @ covariance @ to_centre
        weights[arm, 1:] = slope
        weights[arm, 0] = -float(slope @ mean[arm, 1:])
    return Slopes(weights, spread, mean, scatter, noises, weight, _gain(trust))


def _centre(sums: LinearSums | None, max_memory: float) -> _Centred | None:
    if sums is None or sums.weight <= 1e-6:
        return None
    weight = sums.weight
    mean, level = sums.gram[0] / weight, float(sums.moment[0]) / weight
    keep = min(1.0, max_memory / weight)
    gram = keep * (sums.gram - weight * np.outer(mean, mean))[1:, 1:]
    moment = keep * (sums.moment - weight * level * mean)[1:]
    return _Centred(
        keep * weight, mean[1:], gram, moment, max(keep * (sums.square - weight * level * level), 0.0)
    )


def _units(seen: Sequence[_Centred]) -> FloatArray:
    """What features are multiplied by: 1 / their standard deviation among the observations, 0 for mere rounding."""
    total = sum(one.weight for one in seen)
    deviation = np.sqrt(np.maximum(sum(np.diag(one.gram) for one in seen) / total, 0.0))
    largest = np.max([np.abs(one.mean) for one in seen], axis=0)
    least = np.maximum(_LEAST_DEVIATION, _LEAST_RELATIVE * largest)
    return np.where(deviation > least, 1.0 / np.maximum(deviation, _USUAL_DEVIATION), 0.0)


def _common_slope(seen: Sequence[_Centred], unit: FloatArray, noise: float) -> FloatArray:
    everybody = _Centred(
        sum(one.weight for one in seen),
        np.zeros_like(unit),
        np.sum([one.gram for one in seen], axis=0),
        np.sum([one.moment for one in seen], axis=0),
        sum(one.square for one in seen),
    )
    turned = _Rotated(everybody, np.zeros_like(unit), unit, noise)
    return turned.posterior(_trust([turned]), unit)[0]


def _relevance(seen: Sequence[_Centred], common: FloatArray, unit: FloatArray, noise: float) -> FloatArray:
    """How much wider or narrower each feature's prior is than the mean feature's, as a factor on the feature, (d - 1,).

    EM over one prior variance per feature, pooled over the arms; one with little data pulls towards the beginning.
    """
    rest = [_Rest.of(one, common, noise) for one in seen]
    trust = _trust([_Rotated(one, common, unit, noise) for one in seen])
    start = float(trust[1:] @ _RELATIVE) + _RELATIVE[0]
    variance = np.full(unit.size, start)
    # All arms at once: this is most of what a fit costs.
    grams = np.stack([unit[:, None] * one.gram * unit for one in rest])
    moments = np.stack([unit * one.moment for one in rest])
    for _ in range(_ROUNDS):
        root = np.sqrt(variance)
        covariance = np.linalg.inv(np.eye(unit.size) + root[:, None] * grams * root)
        covariance *= root[:, None] * root
        slopes = (covariance @ moments[..., None])[..., 0]
        explained = (moments * slopes).sum(axis=1)
        left = np.array([one.left(float(part)) for one, part in zip(rest, explained, strict=True)])
        total = (slopes * slopes / left[:, None] + np.diagonal(covariance, axis1=1, axis2=2)).sum(axis=0)
        variance = (start + total) / (len(rest) + 1.0)
    moving = unit > 0.0
    if not moving.any():
        return np.ones(unit.size)
    relevance: FloatArray = np.sqrt(variance / variance[moving].mean())
    return relevance


@dataclass(frozen=True, slots=True)
class _Rest:
    """What the common slope leaves of one arm's sums; ``count`` and ``square`` with the imagined observations."""

    gram: FloatArray
    moment: FloatArray
    square: float
    count: float

    @classmethod
    def of(cls, one: _Centred, common: FloatArray, noise: float) -> "_Rest":
        square = one.square - 2.0 * float(common @ one.moment) + float(common @ one.gram @ common)
        return cls(
            one.gram,
            one.moment - one.gram @ common,
            max(square, 0.0) + _IMAGINED * noise,
            one.weight + _IMAGINED,
        )

    def left(self, explained: float) -> float:
        """Variance of one observation when so much is explained."""
        return max(self.square - explained, 1e-9 * self.square) / self.count


class _Rotated:
    """One regression in the axes in which its (scaled) features are uncorrelated: every ridge costs O(d) there."""

    def __init__(self, one: _Centred, common: FloatArray, unit: FloatArray, noise: float) -> None:
        self._rest = _Rest.of(one, common, noise)
        values, self._axes = np.linalg.eigh(unit[:, None] * one.gram * unit)
        self._values = np.maximum(values, 0.0)
        self._moment = self._axes.T @ (unit * self._rest.moment)

    def evidence(self) -> FloatArray:
        """Log marginal likelihood for no slope at all and for every relative prior variance, up to a constant."""
        found = [0.0]
        for relative in _RELATIVE:
            left = self._left(self._moment**2 / (self._values + 1.0 / relative))
            unexplained = left * self._rest.count / self._rest.square
            found.append(
                -0.5 * float(np.log1p(relative * self._values).sum())
                - 0.5 * self._rest.count * float(np.log(unexplained))
            )
        return np.array(found)

    def posterior(self, trust: FloatArray, unit: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Slope (d - 1,), its covariance and the variance of one observation, averaged over the priors."""
        shrunk = trust[1:] @ (1.0 / (self._values + 1.0 / _RELATIVE[:, None]))
        noise = self._left(self._moment**2 * shrunk)
        axes = unit[:, None] * self._axes
        return axes @ (self._moment * shrunk), noise * (axes * shrunk) @ axes.T, noise

    def _left(self, explained: FloatArray) -> float:
        return self._rest.left(float(explained.sum()))


def _gain(trust: FloatArray) -> float:
    """How sure it is that there is a slope, from even odds: the grid alone would say so before any data."""
    none, some = float(trust[0]), float(trust[1:].mean())
    return some / (none + some)


def _trust(regressions: Sequence[_Rotated]) -> FloatArray:
    """Posterior weights of the priors: first "no slope", then ``_RELATIVE``; they sum to 1."""
    total = np.sum([one.evidence() for one in regressions], axis=0)
    weights = np.exp(total - total.max())
    found: FloatArray = weights / weights.sum()
    return found
