"""Beliefs about an arm's mean, from its moments and a prior that the arms of a route share.

The prior of one signal is hierarchical and learned from the arms themselves. Its centre is their
pooled mean, moved a little to the good side: a prior that is worse than reality makes the first arm
tried look best for ever. Its width is what one pull scatters divided by the prior strength, plus how
far the arms lie apart; so arms whose prices span three orders of magnitude are hardly pulled towards
each other, while near-equal arms are. Nothing is observed = the prior stands: missing is not zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.types import FloatArray, Moments

# How far to the good side the prior lies, in standard deviations of the prior.
_OPTIMISM = 0.5
# A new arm is believed to answer: success starts at this rate.
_SUCCESS_PRIOR = 0.98
# A scatter beyond this (a factor e**2 per standard deviation) is not log-normal any more but a mixture,
# say of free and paid replies; its exp(variance / 2) would be astronomy.
_MOST_LOG_NOISE = 4.0
# Knowledge that has faded below this many observations is forgotten; it would underflow one day.
_FADED = 1e-6


@dataclass(frozen=True, slots=True)
class Scatter:
    """What to expect of a signal before any data: variance of one pull, and of the arms' means.

    ``centre`` is the mean to start from where the unit gives one; None waits for the first observation.
    """

    within: float
    between: float
    centre: float | None = None


UNIT_SCATTER = Scatter(within=0.04, between=0.01, centre=0.75)
LOG_SCATTER = Scatter(within=0.25, between=0.25)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Gaussian beliefs about the means of one signal; all arrays of shape (n_arms,).

    ``mean`` and ``spread`` (standard deviation) describe the belief about the mean, ``noise`` is the
    variance of a single observation, ``weight`` the effective number of observations behind it.
    """

    mean: FloatArray
    spread: FloatArray
    noise: FloatArray
    weight: FloatArray


def believe(
    moments: Sequence[Moments],
    expected: Scatter | None,
    *,
    better: int,
    strength: float,
    max_memory: float,
) -> Posterior | None:
    """Beliefs about one signal of all arms, or None if nobody has an observation and there is no centre.

    A normal mean with unknown variance under a normal-inverse-gamma prior; the Student marginal is
    replaced by the Gaussian of the same first two moments.

    Args:
        moments: One per arm.
        expected: Prior scatter; None derives it from the data (a metric of unknown unit).
        better: +1 when more is better, -1 when less is: the direction of optimism.
        strength: Prior strength in pulls, > 0.
        max_memory: Cap on the effective number of observations, > 0.
    """
    if strength <= 0.0 or max_memory <= 0.0:
        raise ValueError(f"prior strength {strength} and memory {max_memory} must be positive")
    weight = _effective(moments, max_memory)
    known = weight > 0.0
    start = expected.centre if expected is not None else None
    if start is None and not known.any():
        return None
    mean = np.where(known, [m.mean for m in moments], 0.0)
    variance = np.where(known, [m.variance for m in moments], 0.0)
    votes = weight / (weight + strength)
    centre = float((votes * mean).sum() / votes.sum()) if known.any() else float(start or 0.0)
    if expected is None:
        unit = float((votes * variance).sum() / votes.sum()) + (0.1 * centre) ** 2 + 1e-12
        expected = Scatter(within=unit, between=unit)
    within = (expected.within + float((votes * variance).sum())) / (1.0 + float(votes.sum()))
    apart = float((votes * (mean - centre) ** 2).sum())
    between = (expected.between + apart) / (1.0 + max(0.0, float(votes.sum()) - 1.0))
    width = within / strength + between
    prior_mean = centre + better * _OPTIMISM * width**0.5
    noise = (strength * within + weight * variance) / (strength + weight)
    pulls = noise / width
    freedom = strength + weight
    # Student t with ``freedom`` degrees has this variance; bounded for freedom <= 2, where it has none.
    tails = freedom / np.maximum(freedom - 2.0, 0.5)
    return Posterior(
        mean=(pulls * prior_mean + weight * mean) / (pulls + weight),
        spread=np.sqrt(noise * tails / (pulls + weight)),
        noise=noise,
        weight=weight,
    )


def _effective(moments: Sequence[Moments], max_memory: float) -> FloatArray:
    weight: FloatArray = np.minimum([m.weight for m in moments], max_memory)
    weight[weight < _FADED] = 0.0
    return weight


def log_noise(posterior: Posterior) -> FloatArray:
    """Variance of one observation of a log-normal signal, bounded where exp() needs a bound."""
    return np.minimum(posterior.noise, _MOST_LOG_NOISE)


def believe_success(moments: Sequence[Moments], *, strength: float, max_memory: float) -> Posterior:
    """Beliefs about each arm's success probability: a Beta posterior, described by its first two moments."""
    weight = _effective(moments, max_memory)
    rate = np.where(weight > 0.0, [m.mean for m in moments], _SUCCESS_PRIOR).clip(0.0, 1.0)
    total = strength + weight
    mean = (strength * _SUCCESS_PRIOR + weight * rate) / total
    return Posterior(
        mean=mean,
        spread=np.sqrt(mean * (1.0 - mean) / (total + 1.0)),
        noise=mean * (1.0 - mean),
        weight=weight,
    )
