"""The statistics of a prompt test: every variant against the unchanged prompt, valid at every look.

Each metric of each variant has an asymptotic confidence sequence of the difference to the unchanged prompt, each end of
it at ``alpha / (variants x metrics)``: the chance that anything is ever declared better that is not is at most alpha,
however much is compared and however often somebody looks. A variant wins when one metric is proven better and nothing
is proven worse, success and validity of the replies included. A split that is not the one that was drawn voids the
test.

How often it errs and how much it takes to find a gain is measured by ``python -m loadtests.statistics prompts``;
``docs/statistics.md`` has the figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Final

from optimizer.feedback import QUALITY
from optimizer.reward import SUCCESS, VALID
from optimizer.strategies.base import TrialResults
from policies.sequential.confidence import Interval, Sample, difference_bounds, even_count, one_sided_factor
from policies.sequential.ratio import log_mismatch

LEAST: Final = 100
"""Observations per prompt before a metric may decide: the intervals are asymptotic."""

MISMATCH_ALPHA: Final = 0.001
"""Chance of a false alarm about the split, over all looks."""

ALWAYS: Final = (SUCCESS, VALID)
"""What a winner must not be proven worse at, whatever the metrics are."""

SHARES: Final = frozenset((QUALITY, SUCCESS, VALID))
MOST_NEEDED: Final = 10_000_000
_HARDLY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one variant. ``interval`` bounds variant - unchanged; ``sign`` is +1 where more is better."""

    metric: str
    sign: int
    control: Sample
    variant: Sample
    interval: Interval

    @property
    def ready(self) -> bool:
        return min(self.control.count, self.variant.count) >= LEAST

    @property
    def better(self) -> bool:
        low = self.interval.low if self.sign > 0 else -self.interval.high
        return self.ready and low > 0.0

    @property
    def worse(self) -> bool:
        high = self.interval.high if self.sign > 0 else -self.interval.low
        return self.ready and high < 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One variant. ``comparisons`` are of the metrics asked for, ``guarded`` of those that must not suffer."""

    arm: str
    comparisons: tuple[Comparison, ...]
    guarded: tuple[Comparison, ...]

    @property
    def wins(self) -> bool:
        return any(c.better for c in self.comparisons) and not self.loses

    @property
    def loses(self) -> bool:
        return any(c.worse for c in (*self.comparisons, *self.guarded))

    @property
    def lead(self) -> float:
        """The surest gain, in units of the unchanged prompt's mean."""
        sure = [
            (c.interval.low if c.sign > 0 else -c.interval.high) / max(abs(c.control.mean), _HARDLY)
            for c in self.comparisons
            if c.better
        ]
        return max(sure, default=-inf)


def judge(
    trial: TrialResults, control: str, variants: Sequence[str], metrics: Mapping[str, bool], alpha: float
) -> list[Verdict]:
    """A verdict per variant. ``metrics`` says of each whether more is better; ``alpha`` is of the whole test."""
    guarded = {name: True for name in ALWAYS if name not in metrics}
    level = alpha / max(1, len(variants) * len(metrics))
    return [
        Verdict(
            arm=variant,
            comparisons=_compare(trial, control, variant, metrics, level),
            guarded=_compare(trial, control, variant, guarded, level),
        )
        for variant in variants
    ]


def mismatch(trial: TrialResults, arms: Sequence[str]) -> bool:
    """Whether decisions fell otherwise than their probabilities said."""
    expected = [trial.arms[arm].expected if arm in trial.arms else 0.0 for arm in arms]
    counts = [float(trial.arms[arm].assigned) if arm in trial.arms else 0.0 for arm in arms]
    total = sum(expected)
    if total <= 0.0:
        return False
    shares = [value / total for value in expected]
    return log_mismatch(counts, [share / sum(shares) for share in shares]) > -log(MISMATCH_ALPHA)


def still_needed(comparison: Comparison, alpha: float) -> float:
    """Further observations of the variant until the present difference would decide; ``MOST_NEEDED`` at most."""
    control, variant = comparison.control, comparison.variant
    unit = comparison.metric in SHARES
    if min(control.count, variant.count) < LEAST:
        return float(max(1.0, LEAST - min(control.count, variant.count)))
    gap = abs(comparison.interval.estimate)
    error = sqrt(control.variance(unit=unit) / control.count + variant.variance(unit=unit) / variant.count)
    times = 1.0
    count = even_count(control, variant)
    while times * variant.count < MOST_NEEDED:
        if one_sided_factor(times * count, alpha) * error / sqrt(times) <= gap:
            return float(round((times - 1.0) * variant.count))
        times *= 1.05
    return float(MOST_NEEDED)


def _compare(
    trial: TrialResults, control: str, variant: str, metrics: Mapping[str, bool], level: float
) -> tuple[Comparison, ...]:
    found = []
    for metric, maximize in metrics.items():
        before, after = (_sample(trial, arm, metric) for arm in (control, variant))
        interval = difference_bounds(before, after, level, unit=metric in SHARES)
        found.append(Comparison(metric, 1 if maximize else -1, before, after, interval))
    return tuple(found)


def _sample(trial: TrialResults, arm: str, metric: str) -> Sample:
    counts = trial.arms.get(arm)
    return counts.metrics.get(metric, Sample()) if counts is not None else Sample()
