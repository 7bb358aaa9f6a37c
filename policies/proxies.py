"""Cheap signals about all answers, corrected by the few that a judge rated: prediction-powered means.

A heuristic sees every answer but is biased; a judge sees a random sample of them. With proxy p and rating j,

    mean = w * mean_all(p) + mean_sampled(j - w * p)

is unbiased for the judge's mean whatever p is worth and whatever w is, provided that who is judged was drawn at random;
its variance is smallest at w = cov(j, p) / var(p) / (1 + m / n) (Angelopoulos, Duchi, Zrnic 2023, "PPI++"). A
worthless proxy gets w near 0 and costs nothing.

Sums are additive, so they merge and replay in any order. Which judge rated is the caller's to keep apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

LEAST_JUDGED = 8
"""Below this many ratings the weight of the proxy can not be told, and it is left out."""


@dataclass(slots=True)
class ProxySums:
    """Sums over answers that a proxy saw (``seen``) and over those of them that were judged (``judged``)."""

    seen: float = 0.0
    proxy: float = 0.0
    proxy_square: float = 0.0
    judged: float = 0.0
    rating: float = 0.0
    rating_square: float = 0.0
    judged_proxy: float = 0.0
    judged_proxy_square: float = 0.0
    product: float = 0.0

    def see(self, proxy: float, weight: float = 1.0) -> None:
        """An answer came; judged or not."""
        self.seen += weight
        self.proxy += weight * proxy
        self.proxy_square += weight * proxy * proxy

    def judge(self, proxy: float, rating: float, weight: float = 1.0) -> None:
        """One of the answers seen was rated."""
        self.judged += weight
        self.rating += weight * rating
        self.rating_square += weight * rating * rating
        self.judged_proxy += weight * proxy
        self.judged_proxy_square += weight * proxy * proxy
        self.product += weight * proxy * rating


@dataclass(frozen=True, slots=True)
class Corrected:
    """An estimate of the judge's mean over all answers. ``variance`` is of the mean; ``weight`` is w, 0..1 mostly.

    ``effective`` is how many ratings alone would be worth as much.
    """

    mean: float
    variance: float
    weight: float
    effective: float


def corrected_mean(sums: ProxySums) -> Corrected | None:
    """The judge's mean over all answers; None before the first rating."""
    m, n = sums.judged, max(sums.seen, sums.judged)
    if m <= 0.0:
        return None
    mean = sums.rating / m
    rating_variance = _variance(m, sums.rating, sums.rating_square)
    weight = _weight(sums, m, n)
    if weight == 0.0 or sums.seen <= 0.0:
        variance = rating_variance / m if m > 1.0 else inf
        return Corrected(mean, variance, 0.0, m)
    corrected = weight * sums.proxy / sums.seen + mean - weight * sums.judged_proxy / m
    seen_variance = _variance(sums.seen, sums.proxy, sums.proxy_square)
    covariance = _covariance(sums, m)
    proxy_variance = _variance(m, sums.judged_proxy, sums.judged_proxy_square)
    rest = max(0.0, rating_variance - 2.0 * weight * covariance + weight * weight * proxy_variance)
    # The judged are among the seen; counting them in both terms errs on the wide side by m / n.
    variance = rest / m + weight * weight * seen_variance / sums.seen
    effective = rating_variance / variance if variance > 0.0 else m
    return Corrected(corrected, variance, weight, effective)


def prediction_powered_mean(seen: Sequence[float], judged: Sequence[tuple[float, float]]) -> Corrected | None:
    """``corrected_mean`` of plain data: the proxy of all answers, and (proxy, rating) of those that were judged."""
    sums = ProxySums()
    for proxy in seen:
        sums.see(proxy)
    for proxy, rating in judged:
        sums.judge(proxy, rating)
    return corrected_mean(sums)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one judge's ratings relate to a reference's on the same answers.

    ``shift`` is the mean difference, ``residual_sd`` what is left of the ratings once the best line through the
    reference's is taken away, ``correlation`` Pearson's (0 when one of them never varies).
    """

    count: int
    correlation: float
    shift: float
    slope: float
    residual_sd: float


def agreement(reference: Sequence[float], ratings: Sequence[float]) -> Agreement:
    """Compare two judges; what is needed to make a judge as noisy as a measured one.

    Raises:
        ValueError: If there are fewer than 3, or not equally many.
    """
    count = len(reference)
    if count < 3 or count != len(ratings):
        raise ValueError(f"needs 3 or more ratings of the same answers, got {count} and {len(ratings)}")
    mean_x, mean_y = sum(reference) / count, sum(ratings) / count
    xx = sum((x - mean_x) ** 2 for x in reference)
    yy = sum((y - mean_y) ** 2 for y in ratings)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in zip(reference, ratings, strict=True))
    slope = xy / xx if xx > 0.0 else 0.0
    rest = max(0.0, yy - slope * xy)
    correlation = xy / sqrt(xx * yy) if xx > 0.0 and yy > 0.0 else 0.0
    return Agreement(count, correlation, mean_y - mean_x, slope, sqrt(rest / (count - 2)))


def noisy(value: float, *, gauss: float, sd: float, shift: float = 0.0, slope: float = 1.0) -> float:
    """What a judge of that noise says of an answer worth ``value``, within 0..1; ``gauss`` is a standard draw."""
    return min(1.0, max(0.0, 0.5 + slope * (value - 0.5) + shift + sd * gauss))


def _weight(sums: ProxySums, m: float, n: float) -> float:
    if m < LEAST_JUDGED:
        return 0.0
    variance = _variance(m, sums.judged_proxy, sums.judged_proxy_square)
    if variance <= 1e-12:
        return 0.0
    # Beyond 0..1 no proxy of quality makes sense; a negative weight would reward failing.
    return min(1.0, max(0.0, _covariance(sums, m) / variance / (1.0 + m / n)))


def _covariance(sums: ProxySums, m: float) -> float:
    return (sums.product - sums.judged_proxy * sums.rating / m) / (m - 1.0) if m > 1.0 else 0.0


def _variance(count: float, total: float, squares: float) -> float:
    if count <= 1.0:
        return 0.0
    return max(0.0, (squares - total * total / count) / (count - 1.0))
