"""One number per arm from separate beliefs about quality, cost, latency and custom metrics.

Utility = sum of w * gain - sum of w * penalty, with weights that sum to 1 and every quantity divided by
its scale. Cost and latency are known in logarithms but enter in dollars and seconds: a penalty on
log-prices is no Lagrangian and over-charges arms in the middle. A failed attempt gains nothing and is
charged twice the dearest arm's penalty, because the request has to be paid and waited for again; so
no weighting makes an arm attractive that fails cheaply and fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.posterior import (
    LOG_SCATTER,
    UNIT_SCATTER,
    Posterior,
    Scatter,
    believe,
    believe_success,
    log_noise,
)
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

QUALITY = "quality"
LOG_METRICS = frozenset(("cost", "latency", "ttft"))

_LARGEST_EXPONENT = 60.0
_FAILURE_CHARGES = 2.0


def scatter_of(metric: str) -> Scatter | None:
    """Prior scatter of a metric; None for a custom metric, whose unit nobody knows."""
    if metric in LOG_METRICS:
        return LOG_SCATTER
    return UNIT_SCATTER if metric == QUALITY else None


def posterior_of(
    metric: str, evidence: Sequence[ArmEvidence], params: PolicyParams, *, maximize: bool
) -> Posterior | None:
    """Beliefs about one metric of all arms, in its stored unit (logarithms for ``LOG_METRICS``)."""
    return believe(
        [arm.signal(metric) for arm in evidence],
        scatter_of(metric),
        better=1 if maximize else -1,
        strength=params.prior_strength,
        max_memory=params.max_memory,
    )


def linear(posterior: Posterior, logs: FloatArray) -> FloatArray:
    """Mean of the log-normal in dollars or seconds whose log-mean is ``logs``, shape (..., n_arms)."""
    return np.exp(np.minimum(logs + log_noise(posterior) / 2.0, _LARGEST_EXPONENT))


@dataclass(frozen=True, slots=True)
class Term:
    """One goal with the beliefs it needs. ``sign`` is +1 for a gain, -1 for a penalty, ``weight`` its share of all."""

    metric: str
    posterior: Posterior
    is_log: bool
    weight: float
    sign: int
    scale: float
    failed: float

    def scaled(self, values: FloatArray) -> FloatArray:
        """Values of the signal (stored unit, shape (..., n_arms)) in units of the scale."""
        return (linear(self.posterior, values) if self.is_log else values) / self.scale

    def slope(self) -> FloatArray:
        """Standard deviation of the scaled mean, to first order, shape (n_arms,)."""
        spread = self.posterior.spread
        if not self.is_log:
            return spread / self.scale
        return self.scaled(self.posterior.mean) * np.sqrt(np.expm1(np.minimum(spread**2, 4.0)))


def _term(goal: Goal, weight: float, posterior: Posterior) -> Term:
    is_log = goal.metric in LOG_METRICS
    means = linear(posterior, posterior.mean) if is_log else posterior.mean
    if goal.scale is not None:
        scale = goal.scale
    elif goal.metric == QUALITY:
        scale = 1.0
    else:
        scale = float(np.abs(means).max()) or 1.0
    sign = 1 if goal.maximize else -1
    if goal.maximize:
        failed = min(0.0, float(means.min()) / scale)
    else:
        failed = _FAILURE_CHARGES * max(1.0, float(means.max()) / scale)
    return Term(goal.metric, posterior, is_log, weight, sign, scale, failed)


class Utility:
    """The utility of every arm as a random quantity: its mean, its spread, and joint draws of it.

    It is success * (bare + sum of the terms) + (1 - success) * failed.
    """

    def __init__(self, evidence: Sequence[ArmEvidence], goals: Sequence[Goal], params: PolicyParams) -> None:
        """Form the beliefs that ``goals`` ask for.

        A goal that no arm has any observation of is left out until one has, except quality, whose prior
        stands: equally unknown is not known to be equal.

        Raises:
            ValueError: If a weight is negative, none is positive, or a scale is not positive.
        """
        if not evidence:
            raise ValueError("a policy needs at least one arm")
        for goal in goals:
            if goal.weight < 0.0:
                raise ValueError(f"weight of {goal.metric} must not be negative, not {goal.weight}")
            if goal.scale is not None and goal.scale <= 0.0:
                raise ValueError(f"scale of {goal.metric} must be positive, not {goal.scale}")
        total = sum(goal.weight for goal in goals)
        if total <= 0.0:
            raise ValueError("at least one goal needs a positive weight")
        self.n_arms = len(evidence)
        self.success = believe_success(
            [arm.success for arm in evidence], strength=params.prior_strength, max_memory=params.max_memory
        )
        self.terms: list[Term] = []
        for goal in goals:
            posterior = posterior_of(goal.metric, evidence, params, maximize=goal.maximize)
            if posterior is not None and goal.weight > 0.0:
                self.terms.append(_term(goal, goal.weight / total, posterior))
        # With nothing known of any goal, answering at all is what is left to tell the arms apart.
        self.bare = 0.0 if self.terms else 1.0
        self.failed = sum(term.sign * term.weight * term.failed for term in self.terms)

    def mean(self) -> FloatArray:
        """Utility at the posterior means, shape (n_arms,)."""
        return self._combine(self.success.mean, [term.scaled(term.posterior.mean) for term in self.terms])

    def spread(self, *, without: str | None = None) -> FloatArray:
        """Standard deviation of the utility, to first order, shape (n_arms,), as if one metric were certain."""
        answered = np.full(self.n_arms, self.bare)
        variance = np.zeros(self.n_arms)
        for term in self.terms:
            answered += term.sign * term.weight * term.scaled(term.posterior.mean)
            if term.metric != without:
                variance += (term.weight * self.success.mean * term.slope()) ** 2
        variance += ((answered - self.failed) * self.success.spread) ** 2
        return np.sqrt(variance)

    def draw(self, rng: np.random.Generator, count: int) -> FloatArray:
        """``count`` joint draws of the utilities, shape (count, n_arms)."""
        shape = (count, self.n_arms)
        success = self.success.mean + self.success.spread * rng.standard_normal(shape)
        values = [
            term.scaled(term.posterior.mean + term.posterior.spread * rng.standard_normal(shape))
            for term in self.terms
        ]
        # Not clipped to [0, 1]: ties at 1 would all go to the arm that happens to stand first.
        return self._combine(success, values)

    def _combine(self, success: FloatArray, values: Sequence[FloatArray]) -> FloatArray:
        answered = np.full(success.shape, self.bare)
        for term, value in zip(self.terms, values, strict=True):
            answered += term.sign * term.weight * value
        utility: FloatArray = success * answered + (1.0 - success) * self.failed
        return utility
