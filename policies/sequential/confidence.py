"""Intervals for means that hold at all times at once: asymptotic confidence sequences.

Look as often as you like and stop when you like: the chance that an interval ever misses the truth stays near the
level that was asked for. "Asymptotic": as with every interval built on a sample variance, the promise is for means of
enough observations, so callers set a least number. Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences" (2024).
"""

from dataclasses import dataclass
from math import inf, log, log1p, sqrt
from typing import Final

TARGET: Final = 3000.0
"""Observations (per side) at which an interval is tightest, unless the caller knows better."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Additive sums of one quantity: how many, their sum, and the sum of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @classmethod
    def of_share(cls, events: float, outcomes: float) -> "Sample":
        """Yes/no outcomes as ones and zeros."""
        return cls(outcomes, events, events)

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count > 0.0 else 0.0

    def variance(self, *, unit: bool) -> float:
        """Variance of one observation. ``unit``: values lie in 0..1.

        Values in 0..1 are joined by one imaginary pair at the ends, because a sample without any scatter (all
        requests succeeded) proves no certainty.
        """
        if self.count <= 0.0:
            return inf
        if unit:
            joined = Sample(self.count + 2.0, self.total + 1.0, self.squares + 1.0)
            return max(0.0, joined.squares / joined.count - joined.mean**2)
        return max(0.0, self.squares / self.count - self.mean * self.mean)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a mean, or a difference of means, lies."""

    low: float
    estimate: float
    high: float


def width_factor(count: float, alpha: float, *, target: float = TARGET) -> float:
    """Half the width of a two-sided interval, in standard errors of the mean of ``count`` observations.

    Raises:
        ValueError: If ``alpha`` is outside (0, 1) or ``target`` is not positive.
    """
    scaled = _scaled(count, alpha, target)
    if scaled <= 0.0:
        return inf
    return sqrt((scaled + 1.0) / scaled * (log1p(scaled) - 2.0 * log(alpha)))


def one_sided_factor(count: float, alpha: float, *, target: float = TARGET) -> float:
    """The same for a bound on one side only; raises as ``width_factor`` does."""
    scaled = _scaled(count, 2.0 * alpha if alpha < 0.5 else alpha, target)
    if scaled <= 0.0:
        return inf
    return sqrt(2.0 * (scaled + 1.0) / scaled * log1p(sqrt(scaled + 1.0) / (2.0 * alpha)))


def _scaled(count: float, alpha: float, target: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), not {alpha}")
    if target <= 0.0:
        raise ValueError(f"target must be positive, not {target}")
    spent = -2.0 * log(alpha)
    return max(0.0, count) / target * (spent + log(spent) + 1.0 if spent > 0.5 else spent + 0.5)


def mean_sequence(sample: Sample, alpha: float, *, unit: bool = False, target: float = TARGET) -> Interval:
    """A two-sided interval for a mean, valid at all times at once with probability 1 - ``alpha``."""
    if sample.count <= 0.0:
        return Interval(-inf, 0.0, inf)
    error = sqrt(sample.variance(unit=unit) / sample.count)
    half = width_factor(sample.count, alpha, target=target) * error
    return Interval(sample.mean - half, sample.mean, sample.mean + half)


def difference_sequence(
    control: Sample, candidate: Sample, alpha: float, *, unit: bool = False, target: float = TARGET
) -> Interval:
    """A two-sided interval for candidate's mean - control's mean, valid at all times at once.

    The sides may be of different size; ``target`` is per side, for sides of the same size.
    """
    return _difference(
        control, candidate, unit, width_factor(even_count(control, candidate), alpha, target=target)
    )


def difference_bounds(
    control: Sample, candidate: Sample, alpha: float, *, unit: bool = False, target: float = TARGET
) -> Interval:
    """As ``difference_sequence``, but each end by itself holds with probability 1 - ``alpha``: for one-sided claims."""
    return _difference(
        control, candidate, unit, one_sided_factor(even_count(control, candidate), alpha, target=target)
    )


def mean_bounds(sample: Sample, alpha: float, *, unit: bool = False, target: float = TARGET) -> Interval:
    """As ``mean_sequence``, but each end by itself holds with probability 1 - ``alpha``: for one-sided claims."""
    if sample.count <= 0.0:
        return Interval(-inf, 0.0, inf)
    error = sqrt(sample.variance(unit=unit) / sample.count)
    half = one_sided_factor(sample.count, alpha, target=target) * error
    return Interval(sample.mean - half, sample.mean, sample.mean + half)


def even_count(control: Sample, candidate: Sample) -> float:
    """Observations per side of an even split that would tell as much: the harmonic mean of both counts."""
    if control.count <= 0.0 or candidate.count <= 0.0:
        return 0.0
    return 2.0 / (1.0 / control.count + 1.0 / candidate.count)


def _difference(control: Sample, candidate: Sample, unit: bool, factor: float) -> Interval:
    if control.count <= 0.0 or candidate.count <= 0.0:
        return Interval(-inf, 0.0, inf)
    error = sqrt(
        control.variance(unit=unit) / control.count + candidate.variance(unit=unit) / candidate.count
    )
    gap = candidate.mean - control.mean
    return Interval(gap - factor * error, gap, gap + factor * error)
