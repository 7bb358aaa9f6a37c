"""What another policy would have been worth, from decisions that were drawn with known probabilities.

Every row was decided with a logged probability vector, and the other policy gives a vector for the same request. A
row's *score* has as its expectation, given everything before it, the value of the other policy at that row; so scores
minus that value are martingale differences, and their mean is asymptotically normal although the logging policy
learned from the same rows. Three things are assumed: the logged probabilities are exact and not small compared with
one over the number of rows (an exploration floor), an outcome depends on the chosen arm and its own request only, and
an outcome that was not observed is missing at random given its arm. Models of the outcome are fitted on earlier rows
only, which keeps the scores unbiased however wrong the models are.

``ips`` and ``dr`` are unbiased, ``snips`` is consistent; ``clipped`` and ``switch`` trade bias for less variance, so
their intervals do not cover that bias; ``dm`` is the model alone and has none. Nothing here reads a clock or a file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.outcome_model import OutcomeModel
from policies.types import FloatArray

IntArray: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = Callable[[int, int], FloatArray]
"""Probability vectors of rows ``start`` up to ``stop``, shape (stop - start, K)."""

IPS: Final = "ips"
SNIPS: Final = "snips"
DM: Final = "dm"
DR: Final = "dr"
STABLE_DR: Final = "dr_stabilised"
CLIPPED: Final = "clipped"
SWITCH: Final = "switch"
METHODS: Final = (DR, STABLE_DR, SNIPS, IPS, SWITCH, CLIPPED, DM)

LEAST_EFFECTIVE: Final = 200.0
LARGEST_WEIGHT: Final = 20.0
"""Where ``clipped`` cuts and ``switch`` changes to the model."""

_FIRST_BLOCK = 8
_LARGEST_BLOCK = 1024
_STABLE_OVER = 256
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Logged:
    """What happened in n rows, in the order of their decisions.

    ``arms`` (n,) the chosen arms; ``propensity`` (n,) their probabilities, > 0. ``values`` (n,) the outcomes, NaN where
    none was observed; ``observed`` (n,) the probability that an outcome of that arm is observed, in (0, 1].
    ``vectors`` gives the whole logged vectors. ``x`` (n, d) features or None. ``units`` (n,): rows with equal numbers
    came from one caller that keeps its draw; None means all rows are independent.
    """

    arms: IntArray
    propensity: FloatArray
    values: FloatArray
    observed: FloatArray
    vectors: Vectors
    x: NDArray[np.float32] | None = None
    units: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.arms)
        if not len(self.propensity) == len(self.values) == len(self.observed) == n:
            raise ValueError("arms, propensity, values and observed must be of one length")
        if n and not (self.propensity.min() > 0.0 and self.observed.min() > 0.0):
            raise ValueError("propensity and observed must be positive")


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows with another policy applied to them, all of shape (n,).

    ``weight`` = other probability / logged one (and / probability of being observed; 0 where nothing was observed);
    ``overlap`` the same without regard to observation. ``value`` the outcomes, 0 where none. ``model`` is what earlier
    rows say the other policy is worth here, ``model_chosen`` what they say of the chosen arm; ``hindsight`` is
    ``model`` with all rows. ``second`` is the expectation of ``overlap`` squared. ``unsupported`` is the probability
    the other policy gives to arms that could not be drawn.
    """

    weight: FloatArray
    overlap: FloatArray
    value: FloatArray
    model: FloatArray
    model_chosen: FloatArray
    hindsight: FloatArray
    second: FloatArray
    unsupported: FloatArray
    units: IntArray | None = None

    @property
    def effective(self) -> float:
        """Effective sample size of the rows with an outcome."""
        return effective_size(self.weight)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and 95 % interval; NaN where a method has none.

    ``effective`` is the effective sample size behind it, ``refused`` why it must not be read as a verdict, "" when it
    may be.
    """

    method: str
    mean: float
    error: float
    low: float
    high: float
    effective: float
    refused: str = ""


def effective_size(weights: FloatArray) -> float:
    """Kish's effective sample size, (sum w)^2 / sum w^2; 0 without any weight."""
    largest = float(weights.max(initial=0.0))
    if largest <= 0.0:
        return 0.0
    scaled = weights / largest  # Squares of tiny weights would vanish.
    return float(scaled.sum() ** 2 / np.square(scaled).sum())


def apply(logged: Logged, other: Vectors, n_arms: int, *, guess: float = 0.0) -> Scored:
    """Apply another policy to logged rows, block after block, each predicted from those before it.

    Args:
        logged: The rows.
        other: The other policy's vectors; may look at anything that was known before a row's outcome.
        n_arms: K.
        guess: What to expect of the first rows, before any other is known; it only affects their noise.

    Raises:
        ValueError: If vectors are no probabilities of K arms.
    """
    n = len(logged.arms)
    seen = np.isfinite(logged.values)
    value = np.where(seen, logged.values, 0.0)
    overlap, second, unsupported = np.zeros(n), np.zeros(n), np.zeros(n)
    model, model_chosen, hindsight = np.zeros(n), np.zeros(n), np.zeros(n)
    features = 0 if logged.x is None else int(logged.x.shape[1])
    fitted = OutcomeModel(n_arms, features, guess=guess)
    for start, stop in _blocks(n):
        part = slice(start, stop)
        mine, theirs = _vectors(other, start, stop, n_arms), _vectors(logged.vectors, start, stop, n_arms)
        arms, rows = logged.arms[part], np.arange(stop - start)
        overlap[part] = mine[rows, arms] / logged.propensity[part]
        drawn = theirs > 0.0
        second[part] = np.divide(mine**2, theirs, out=np.zeros_like(mine), where=drawn).sum(axis=1)
        unsupported[part] = np.where(drawn, 0.0, mine).sum(axis=1)
        x = None if logged.x is None else logged.x[part]
        predicted = fitted.predict(x, stop - start)
        model[part] = (mine * predicted).sum(axis=1)
        model_chosen[part] = predicted[rows, arms]
        known = seen[part]
        fitted.learn(arms[known], value[part][known], None if x is None else x[known])
    for start, stop in _blocks(n):
        x = None if logged.x is None else logged.x[start:stop]
        mine = _vectors(other, start, stop, n_arms)
        hindsight[start:stop] = (mine * fitted.predict(x, stop - start)).sum(axis=1)
    weight = np.where(seen, overlap / logged.observed, 0.0)
    return Scored(weight, overlap, value, model, model_chosen, hindsight, second, unsupported, logged.units)


def scores(scored: Scored, method: str = DR) -> FloatArray:
    """One number per row whose mean estimates the other policy's value, shape (n,).

    Raises:
        ValueError: If there is no such method, or it is ``snips``, which is no mean.
    """
    correction = scored.value - scored.model_chosen
    if method == IPS:
        return scored.weight * scored.value
    if method in (DR, STABLE_DR):
        return scored.model + scored.weight * correction
    if method == CLIPPED:
        return scored.model + np.minimum(scored.weight, LARGEST_WEIGHT) * correction
    if method == SWITCH:
        return scored.model + np.where(scored.weight <= LARGEST_WEIGHT, scored.weight, 0.0) * correction
    if method == DM:
        return scored.hindsight
    raise ValueError(f"{method!r} has no score per row")


def estimate(scored: Scored, method: str = DR) -> Estimate:
    """The other policy's value by one of ``METHODS``; it says itself when it is no verdict."""
    effective = scored.effective
    if len(scored.weight) == 0:
        return Estimate(method, nan, nan, nan, nan, 0.0, "there are no rows to judge by.")
    if method == SNIPS:
        total = float(scored.weight.sum())
        mean = float(scored.weight @ scored.value) / total if total > 0.0 else nan
        error = _error(scored.weight * (scored.value - mean), scored.units) / total if total > 0.0 else nan
    elif method == DM:
        mean, error = float(scored.hindsight.mean()), nan
    else:
        trust = stabilisers(scored.second) if method == STABLE_DR else np.ones(len(scored.weight))
        mean, error = weighted_mean(scores(scored, method), trust, scored.units)
    return Estimate(
        method, mean, error, mean - _Z95 * error, mean + _Z95 * error, effective, doubt(effective, mean)
    )


def difference(one: Scored, other: Scored, method: str = DR) -> Estimate:
    """Value of ``one`` minus value of ``other`` on the same rows, each compared with itself.

    The effective sample size is the smaller of the two.
    """
    gaps = scores(one, method) - scores(other, method)
    trust = stabilisers(one.second) if method == STABLE_DR else np.ones(len(gaps))
    mean, error = weighted_mean(gaps, trust, one.units)
    effective = min(one.effective, other.effective)
    return Estimate(
        method, mean, error, mean - _Z95 * error, mean + _Z95 * error, effective, doubt(effective, mean)
    )


def doubt(effective: float, mean: float = 0.0) -> str:
    """Why an estimate with that effective sample size is no verdict, as a sentence; "" when it is one."""
    if effective < LEAST_EFFECTIVE:
        return (
            f"the log speaks for only {effective:.0f} effective requests of this policy, "
            f"{LEAST_EFFECTIVE:.0f} are needed."
        )
    return "" if isfinite(mean) else "the estimate is not a finite number."


def weighted_mean(rows: FloatArray, trust: FloatArray, units: IntArray | None = None) -> tuple[float, float]:
    """Mean of ``rows`` under weights ``trust`` and its standard error; rows of one unit count as one.

    Raises:
        ValueError: If there are no rows.
    """
    if len(rows) == 0:
        raise ValueError("a mean needs rows")
    total = float(trust.sum())
    mean = float(trust @ rows) / total
    error = _error(trust * (rows - mean), units) / total
    n = len(rows) if units is None else len(np.unique(units))
    return mean, error * sqrt(n / (n - 1)) if n > 1 else inf


def stabilisers(second: FloatArray) -> FloatArray:
    """Trust in each row, from the rows before it: one over the deviation that its weight is expected to have.

    Weights of an adaptive log grow when it stops drawing what the other policy wants; with these, late rows do not
    drown the early ones (Hadad et al. 2021; Bibaut et al. 2021). A trailing mean over earlier rows depends on nothing
    in the row itself, not even on its features, so the mean keeps its expectation as long as the value is the same all
    the time. A policy whose value changes over the log is averaged with these weights.
    """
    n = len(second)
    if n == 0:
        return np.zeros(0)
    sums = np.concatenate(([0.0], np.cumsum(second)))
    until = np.arange(n)
    since = np.maximum(until - _STABLE_OVER, 0)
    means: FloatArray = (sums[until] - sums[since]) / np.maximum(until - since, 1)
    means[0] = second[0]
    largest = float(means.max())
    if largest <= 0.0:  # Nothing of the other policy was ever drawn.
        return np.ones(n)
    floor = largest * 1e-9
    trust: FloatArray = 1.0 / np.sqrt(np.maximum(means, floor))
    return trust


def _error(parts: FloatArray, units: IntArray | None) -> float:
    """Square root of the sum of squares, of sums per unit where there are units."""
    if units is not None:
        _, place = np.unique(units, return_inverse=True)
        parts = np.bincount(place, weights=parts).astype(np.float64)
    return float(np.sqrt(np.square(parts).sum()))


def _vectors(source: Vectors, start: int, stop: int, n_arms: int) -> FloatArray:
    vectors = source(start, stop)
    if vectors.shape != (stop - start, n_arms):
        raise ValueError(f"vectors have shape {vectors.shape}, not {(stop - start, n_arms)}")
    return vectors


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Growing ranges: models are refitted after each, so the first ones are short."""
    start, size = 0, _FIRST_BLOCK
    while start < n:
        stop = min(start + size, n)
        yield start, stop
        start, size = stop, min(max(stop, _FIRST_BLOCK), _LARGEST_BLOCK)
