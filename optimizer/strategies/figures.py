"""What is believed about the arms of a route, in units people read, and what a mixture of them would do.

Every array is in the order of the file's arms. Costs are in dollars: the arithmetic mean where an arm has enough
requests, because that is what a bill adds up, else what the log-normal posterior says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import NormalDist
from typing import Final

import numpy as np

from optimizer import reward
from optimizer.feedback import QUALITY
from optimizer.publisher import build_side, params_of, rounded
from optimizer.rollouts.records import Candidate, Effect, Proposal
from optimizer.routing import Side
from optimizer.settings import RouteSettings
from optimizer.strategies.base import CONFIDENCE, Situation, takes_constraints
from optimizer.strategies.solver import ArmMask
from policies.mixing import effective_floor
from policies.objective import LOG_METRICS, Utility, linear, posterior_of
from policies.posterior import Posterior, believe_success, log_noise
from policies.types import FloatArray, Goal

ENOUGH: Final = 30.0
"""Observations from which an arm's mean may decide something."""

WIDTH: Final = 1.959964
"""Standard deviations to each end of an interval of ``CONFIDENCE``."""

MOST_SLOW: Final = 0.05
"""Share of replies that may be slower than a 95th percentile."""

_NORMAL: Final = NormalDist()
_DAY_S: Final = 86400.0
_UNITS: Final[Mapping[str, str]] = {
    "cost": "usd",
    "latency": "s",
    "ttft": "s",
    "quality": "ratio",
    "success": "ratio",
    "utility": "ratio",
}


@dataclass(frozen=True, slots=True)
class Belief:
    """Mean, its standard deviation and the observations behind it, per arm, in ``unit``."""

    metric: str
    unit: str
    mean: FloatArray
    spread: FloatArray
    weight: FloatArray

    @property
    def known(self) -> ArmMask:
        """Which arms have been observed often enough to be judged by it."""
        return self.weight >= ENOUGH

    def effect(self, before: FloatArray, after: FloatArray) -> Effect:
        """What moving the shares from ``before`` to ``after`` changes; what both share has no uncertainty."""
        moved = after - before
        change = float(moved @ self.mean)
        reach = WIDTH * float(np.sqrt(((moved * self.spread) ** 2).sum()))
        return Effect(
            metric=self.metric,
            unit=self.unit,
            baseline=float(before @ self.mean),
            candidate=float(after @ self.mean),
            change=change,
            low=change - reach,
            high=change + reach,
        )


def slower(posterior: Posterior, seconds: float, *, width: float = WIDTH) -> FloatArray:
    """P(a reply takes longer than ``seconds``) per arm, with the location ``width`` standard deviations up."""
    location = posterior.mean + width * posterior.spread
    scores = (log(seconds) - location) / np.sqrt(log_noise(posterior))
    return np.array([_NORMAL.cdf(-float(score)) for score in scores])


class Figures:
    """Beliefs about one situation."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.ids = [arm.id for arm in situation.file.arms]
        self._params = params_of(situation.route)
        self._at = {arm: index for index, arm in enumerate(self.ids)}

    # --- beliefs ------------------------------------------------------------------------------------

    @cached_property
    def success(self) -> Belief:
        """Share of answered requests."""
        found = believe_success(
            [arm.success for arm in self.situation.evidence],
            strength=self._params.prior_strength,
            max_memory=self._params.max_memory,
        )
        return Belief("success", "ratio", found.mean, found.spread, found.weight)

    @cached_property
    def quality(self) -> Belief | None:
        """Quality 0..1, None while nobody rated anything."""
        return self.belief(QUALITY, maximize=True)

    @cached_property
    def cost(self) -> Belief | None:
        """Dollars per completed request, None while no cost is known."""
        found = self.belief("cost", maximize=False)
        if found is None:
            return None
        mean, spread, weight = found.mean.copy(), found.spread.copy(), found.weight
        for index, arm in enumerate(self.situation.evidence):
            dollars = arm.signal(reward.COST_USD)
            count = min(dollars.weight, self._params.max_memory)
            if count >= ENOUGH:
                mean[index] = dollars.mean
                spread[index] = (dollars.variance / (count - 1.0)) ** 0.5
        return Belief("cost", "usd", mean, spread, weight)

    @property
    def speed(self) -> str:
        """The metric of speed: to the first token when most replies are streams, else in all."""
        streams = sum(arm.signal("ttft").weight for arm in self.situation.evidence)
        replies = sum(arm.signal("latency").weight for arm in self.situation.evidence)
        return "ttft" if streams > 0.5 * replies else "latency"

    def posterior(self, metric: str, *, maximize: bool) -> Posterior | None:
        """As selectors see it, None while nobody observed it."""
        if all(arm.signal(metric).weight <= 0.0 for arm in self.situation.evidence):
            return None
        return posterior_of(metric, self.situation.evidence, self._params, maximize=maximize)

    def belief(self, metric: str, *, maximize: bool) -> Belief | None:
        """About any metric but ``success``; None while nobody observed it."""
        found = self.posterior(metric, maximize=maximize)
        if found is None:
            return None
        unit = _UNITS.get(metric, metric)
        if metric not in LOG_METRICS:
            return Belief(metric, unit, found.mean, found.spread, found.weight)
        means = linear(found, found.mean)
        # Of a log-normal mean: the uncertainty of the variance counts beside that of the location.
        relative = found.spread**2 + log_noise(found) ** 2 / (2.0 * np.maximum(found.weight, 1.0))
        return Belief(metric, unit, means, means * np.sqrt(np.expm1(np.minimum(relative, 4.0))), found.weight)

    def utility(self, goals: tuple[Goal, ...]) -> Belief:
        """What a policy that pursues ``goals`` values; never None, the prior speaks where nothing was seen."""
        evidence = self.situation.evidence
        found = Utility(evidence, goals, self._params)
        weight = np.array([arm.pulls for arm in evidence], dtype=np.float64)
        return Belief("utility", "ratio", found.mean(), found.spread(), weight)

    # --- shares -------------------------------------------------------------------------------------

    def index(self, arm: str) -> int:
        return self._at[arm]

    @property
    def baseline(self) -> int:
        """Index of the baseline arm of the route as it is served."""
        return self._at[self.situation.route.baseline]

    @cached_property
    def served(self) -> ArmMask:
        """Which arms the route has at present, bool."""
        own = {arm.id for arm in self.situation.route.arms}
        return np.array([arm in own for arm in self.ids], dtype=np.bool_)

    @property
    def baseline_only(self) -> FloatArray:
        shares = np.zeros(len(self.ids))
        shares[self.baseline] = 1.0
        return shares

    @cached_property
    def present(self) -> FloatArray:
        """The shares that the route gives now; where each request has its own, their mean."""
        route, published = self.situation.route, self.situation.published
        if takes_constraints(route) and {arm.id for arm in route.arms} == set(published):
            return np.array([published.get(arm, 0.0) for arm in self.ids])
        return self.shares_of(route)

    def shares_of(self, route: RouteSettings) -> FloatArray:
        """The shares that ``route``, made of this file's arms, would give on this evidence.

        Raises:
            ValueError: If it can not be served; see ``publisher.build_side``.
        """
        return self._spread_out(
            build_side(route, [self.situation.evidence[self._at[arm.id]] for arm in route.arms], seed=0)
        )

    def _spread_out(self, side: Side) -> FloatArray:
        shares = np.zeros(len(self.ids))
        for arm, share in zip(side.arms, side.selector.probabilities, strict=True):
            shares[self._at[arm.id]] = share
        return shares

    @property
    def floors(self) -> FloatArray:
        """The exploration floor of every arm that the route has."""
        floor = effective_floor(self._params.floor, int(self.served.sum()))
        return np.where(self.served, floor, 0.0)

    def fixed(self, shares: FloatArray) -> dict[str, float]:
        """``shares`` as they are published, by arm id, without those that get nothing."""
        short = rounded([float(share) for share in shares])
        return {arm: share for arm, share in zip(self.ids, short, strict=True) if share > 0.0}

    # --- saying it ----------------------------------------------------------------------------------

    def standard(self) -> list[Belief]:
        """What people ask about any change: cost, quality, success and speed, as far as known."""
        found = (self.cost, self.quality, self.success, self.belief(self.speed, maximize=False))
        return [belief for belief in found if belief is not None]

    def proposal(
        self, candidate: Candidate, shares: FloatArray, summary: str, *, beliefs: list[Belief] | None = None
    ) -> Proposal:
        """A proposal to give ``shares``, its effects measured against the baseline arm."""
        extra = [
            belief for belief in beliefs or [] if belief.metric not in {b.metric for b in self.standard()}
        ]
        chosen = [*extra, *self.standard()]
        evidence = self.situation.evidence
        return Proposal(
            candidate=candidate,
            summary=summary,
            effects=tuple(belief.effect(self.baseline_only, shares) for belief in chosen),
            samples={
                arm: float(evidence[index].pulls)
                for arm, index in self._at.items()
                if self._counts(index, shares)
            },
            confidence=CONFIDENCE,
            made_at=self.situation.now,
            saving_usd_per_day=self.saving_per_day(shares),
        )

    def saving_per_day(self, shares: FloatArray) -> float | None:
        """Dollars a day against what the route serves now; None when cost or traffic is unknown."""
        rate = self.situation.requests_per_s
        if self.cost is None or rate <= 0.0:
            return None
        return float((self.present - shares) @ self.cost.mean) * rate * _DAY_S

    def _counts(self, index: int, shares: FloatArray) -> bool:
        return bool(shares[index] > 0.0) or index == self.baseline
