"""What a policy is told and what it answers: plain frozen values and one protocol.

Everything a policy may use is in its arguments: decayed statistics, goals, parameters and a random
generator. To a policy an arm is an opaque id; it never sees a model, a prompt or a price list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """How much was observed, around what, and how widely.

    ``weight`` is the (decayed) number of observations, >= 0; with weight 0 the other fields mean
    nothing. ``variance`` is the population variance, >= 0. Merging is additive: the moments of two
    disjoint sets of observations give exactly the moments of their union, in any order.
    """

    weight: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> "Moments":
        """Moments of equally weighted observations."""
        seen = [float(value) for value in values]
        if not seen:
            return NOTHING
        mean = sum(seen) / len(seen)
        return cls(float(len(seen)), mean, sum((value - mean) ** 2 for value in seen) / len(seen))

    @classmethod
    def from_sums(cls, weight: float, total: float, squares: float) -> "Moments":
        """Moments from sum(w), sum(w x), sum(w x x); rounding can not make the variance negative."""
        if weight <= 0.0:
            return NOTHING
        mean = total / weight
        return cls(weight, mean, max(0.0, squares / weight - mean * mean))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union of both sets of observations."""
        weight = self.weight + other.weight
        if weight <= 0.0:
            return NOTHING
        share = other.weight / weight
        gap = other.mean - self.mean
        return Moments(
            weight,
            self.mean + gap * share,
            self.variance * (1.0 - share) + other.variance * share + gap * gap * share * (1.0 - share),
        )


NOTHING = Moments()


@dataclass(frozen=True, slots=True)
class ArmEvidence:
    """All that is known about one arm.

    ``pulls`` counts completed and failed attempts, undecayed. ``success`` holds 1 for a completed and
    0 for a failed attempt. ``signals`` holds ``quality`` (0..1), ``cost`` (ln USD), ``latency`` and
    ``ttft`` (ln seconds) and custom metrics (raw units); an absent name means nothing was observed.
    """

    arm: str
    pulls: float = 0.0
    success: Moments = NOTHING
    signals: Mapping[str, Moments] = field(default_factory=dict)

    def signal(self, name: str) -> Moments:
        return self.signals.get(name, NOTHING)


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to pursue. ``weight`` >= 0 is relative to the other goals.

    ``scale`` > 0 is the amount that counts as 1, in USD, seconds or the metric's own unit; None takes 1
    for ``quality`` and the largest posterior mean among the arms for everything else.
    """

    metric: str
    weight: float
    maximize: bool
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyParams:
    """Knobs of all policies; each reads what concerns it.

    ``floor`` is the least probability of an arm, as long as the floors of all arms together leave half
    of the traffic to the policy (``policies.mixing``). ``min_pulls`` is when an arm leaves the nursery.
    ``max_memory`` caps the effective sample size, ``prior_strength`` > 0 is counted in pulls.
    ``epsilon`` and ``fixed`` (arm -> share; empty = baseline only) serve the policies of these names.
    ``draws`` bounds the Monte-Carlo error of a probability by 0.5 / sqrt(draws); beyond 64 arms Thompson
    sampling makes fewer.
    """

    floor: float = 0.02
    min_pulls: float = 20
    max_memory: float = 5000.0
    prior_strength: float = 5.0
    epsilon: float = 0.1
    fixed: Mapping[str, float] = field(default_factory=dict)
    draws: int = 4096


class Policy(Protocol):
    """Turns evidence into selection probabilities."""

    def probabilities(
        self,
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        baseline: int,
        params: PolicyParams,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Share of traffic for each arm.

        Args:
            evidence: One entry per arm, at least one, with distinct arm ids.
            goals: What to pursue; at least one weight is positive.
            baseline: Index of the arm that a route falls back to.
            params: Knobs.
            rng: The only source of randomness; one seed gives one answer.

        Returns:
            Shape (n_arms,), each >= 0, summing to 1; permuting ``evidence`` permutes it alike.

        Raises:
            ValueError: If there is no arm, no goal with positive weight, or a parameter out of range.
        """
        ...
