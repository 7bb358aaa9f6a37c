"""What a cheaper or faster mixture has to keep: quality and success, at the unfavourable end of what is believed.

For one arm i against the baseline b the thing to keep is d_i = mean_i - ratio * mean_b. What counts is its lower
end, d_i - z * sqrt(sd_i**2 + (ratio * sd_b)**2), so the baseline's own uncertainty counts as well; the baseline
against itself has d_b = (1 - ratio) * mean_b with the standard deviation (1 - ratio) * sd_b. A mixture is charged the
sum of its arms' bounds. That is linear, exact for a single arm, and by the triangle inequality never more hopeful than
the bound of the mixture itself, whatever the correlations are. A bound on the mean alone would accept a bad arm
half of the time that its figures are on the edge; a bound per arm accepts it in 2.5 % of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from typing import Any, Final

import numpy as np

from optimizer.strategies.base import NOT_ENOUGH_DATA, NoProposal
from optimizer.strategies.figures import ENOUGH, MOST_SLOW, WIDTH, Belief, Figures, slower
from optimizer.strategies.solver import ArmMask, Constraint, LinearSolver, Solver, Task
from policies.types import FloatArray

SUCCESS_MARGIN: Final = 0.02
"""How much less often than the baseline a mixture may answer, at the unfavourable end."""

HARDLY_LATE: Final = 0.005
"""Share of late replies that is no reason to change a route again: what reaches a target exactly drifts about it."""

MATERIAL: Final = 0.02
"""Share of the baseline's cost, or of the expected duration, that is worth a change."""

_MORE: Final = tuple(1.25**step for step in range(1, 22))
"""Times as many observations as there are (up to some hundred) that are tried before something is called impossible."""

_STEPS: Final = 40

PACE: Final = "latency"

OWN: Final = "constraints"

_PACED: Final = frozenset(("cost_reduction", "multi_objective"))
"""Strategies that would trade speed away; the others have it as their aim."""


def relative(belief: Belief, baseline: int, ratio: float, *, width: float) -> FloatArray:
    """The bounds of d_i (see above) per arm, ``width`` standard deviations down."""
    spread = np.sqrt(belief.spread**2 + (ratio * belief.spread[baseline]) ** 2)
    spread[baseline] = abs(1.0 - ratio) * belief.spread[baseline]
    bounds: FloatArray = belief.mean - ratio * belief.mean[baseline] - width * spread
    return bounds


def on_time(late: FloatArray) -> Constraint:
    """At most 5 % of the replies are slower than the target, ``late`` being each arm's share."""
    return Constraint("target_p95_ms", -late, -MOST_SLOW)


def affordable(cost: Belief, baseline: int, reduction: float) -> Constraint:
    """The expected cost is less than the baseline's by at least ``reduction``."""
    return Constraint("target_reduction", -cost.mean, -(1.0 - reduction) * float(cost.mean[baseline]))


class Keeping:
    """The constraints of one proposal, and the search for mixtures that keep them."""

    def __init__(
        self,
        figures: Figures,
        parameters: Mapping[str, Any],
        *,
        strategy: str = "",
        solver: Solver | None = None,
    ) -> None:
        """``strategy`` is who asks; targets of the others that the configuration runs are kept where they are met."""
        self.figures = figures
        self._strategy = strategy
        self.ratio: float | None = parameters.get("quality_threshold")
        self.floor: float | None = parameters.get("quality_floor")
        self._solver = solver or LinearSolver()

    @property
    def asks_quality(self) -> bool:
        return self.ratio is not None or self.floor is not None

    @property
    def guarded_ratio(self) -> float | None:
        """What a rollout's quality guard has to tolerate, or it would take back what was promised; None for nothing."""
        asked = [] if self.ratio is None else [self.ratio]
        quality, baseline = self.figures.quality, self.figures.baseline
        if self.floor is not None and quality is not None and quality.mean[baseline] > 0.0:
            asked.append(min(1.0, self.floor / float(quality.mean[baseline])))
        return max(asked, default=None)

    def missing_quality(self) -> NoProposal | None:
        """Why quality can not be promised yet: the baseline is unrated, or all that could replace it is."""
        if not self.asks_quality:
            return None
        figures = self.figures
        quality = figures.quality
        weight = quality.weight if quality is not None else np.zeros(len(figures.ids))
        baseline = figures.baseline
        others = [int(index) for index in np.flatnonzero(figures.served) if index != baseline]
        if weight[baseline] >= ENOUGH and any(weight[index] >= ENOUGH for index in others):
            return None
        needed = {
            f"ratings of {figures.ids[index]}": float(np.ceil(ENOUGH - weight[index]))
            for index in (baseline, *others)
            if weight[index] < ENOUGH
        }
        wanted = (
            f"{ENOUGH:g} ratings of the baseline {figures.ids[baseline]} and of an arm that could replace it"
        )
        return NoProposal(
            NOT_ENOUGH_DATA,
            f"Quality is to be kept, but it has not been observed often enough: {wanted} are needed. Send ratings as "
            f"`quality` (0..1) with the request id to POST /v1/feedback.",
            needed,
        )

    def judged(self, *beliefs: Belief) -> ArmMask:
        """Arms of the route that may get more than the floor: observed often enough in everything that matters."""
        ready = self.figures.served & self.figures.success.known
        for belief in (*beliefs, *([self.figures.quality] if self.asks_quality else [])):
            ready = ready & (belief.known if belief is not None else False)
        ready[self.figures.baseline] = True
        return ready

    def constraints(self, *, width: float = WIDTH) -> list[Constraint]:
        """Quality and success, ``width`` standard deviations down (0: on the means alone)."""
        figures = self.figures
        baseline, quality = figures.baseline, figures.quality
        found = [
            Constraint("success", relative(figures.success, baseline, 1.0, width=width), -SUCCESS_MARGIN)
        ]
        if quality is not None and self.ratio is not None:
            found.append(
                Constraint("quality_threshold", relative(quality, baseline, self.ratio, width=width), 0.0)
            )
        if quality is not None and self.floor is not None:
            found.append(Constraint("quality_floor", quality.mean - width * quality.spread, self.floor))
        return [*found, *self.own(width=width), *self._pace(), *self.standing(width=width)]

    def own(self, *, width: float = WIDTH) -> list[Constraint]:
        """The constraints that the route has already: no proposal may ask for what breaks them."""
        figures, own = self.figures, self.figures.situation.route.constraints
        baseline, quality, cost = figures.baseline, figures.quality, figures.cost
        found: list[Constraint] = []
        if quality is not None and own.quality_ratio is not None:
            found.append(Constraint(OWN, relative(quality, baseline, own.quality_ratio, width=width), 0.0))
        if quality is not None and own.quality_floor is not None:
            found.append(Constraint(OWN, quality.mean - width * quality.spread, own.quality_floor))
        if cost is not None and own.cost_ratio is not None:
            found.append(affordable(cost, baseline, 1.0 - own.cost_ratio))
        if cost is not None and own.cost_per_request_usd is not None:
            found.append(Constraint(OWN, -cost.mean, -own.cost_per_request_usd))
        posterior = figures.posterior(figures.speed, maximize=False)
        if posterior is not None and own.latency_p95_ms is not None:
            found.append(on_time(slower(posterior, own.latency_p95_ms / 1000.0, width=width)))
        return found

    def best_at_any_pace(self, charges: FloatArray, free: ArmMask, also: Sequence[Constraint]) -> bool:
        """Whether something would do if slower arms were let pass; for explanations."""
        kept = [constraint for constraint in self.constraints() if constraint.name != PACE]
        return self.best(charges, free, [*kept, *also]) is not None

    def _pace(self) -> list[Constraint]:
        """Not known to be slower than what is served now: a rollout's latency guard would take it back.

        Charged is the favourable end, so that only what is proven counts, however narrow the other bounds are.
        """
        figures = self.figures
        posterior = figures.posterior(figures.speed, maximize=False)
        checks = figures.situation.settings.deployment.plan.checks
        if posterior is None or not checks.enabled or self._strategy not in _PACED:
            return []
        low, high = log(1e-6), log(1e6)
        for _ in range(_STEPS):
            middle = 0.5 * (low + high)
            share = float(figures.present @ slower(posterior, exp(middle), width=0.0))
            low, high = (middle, high) if share > MOST_SLOW else (low, middle)
        late = slower(posterior, exp(high), width=-WIDTH)
        # What nobody has timed is judged by its own observations first.
        seen = np.where(posterior.weight > 0.0, late, 0.0)
        return [Constraint(PACE, -seen, -MOST_SLOW)]

    def standing(self, *, width: float = WIDTH) -> list[Constraint]:
        """Targets of other strategies that the route meets now: strategies must not undo each other in turns."""
        found = []
        for now, (kept, tolerance) in zip(self._others(WIDTH), self._others(width), strict=True):
            slack = now[0].slack(self.figures.present)
            if slack >= -tolerance:
                # What was reached exactly moves about its target with every sample, and still counts as reached.
                found.append(kept if slack >= 0.0 else replace(kept, least=kept.least - tolerance))
        return found

    def _others(self, width: float) -> list[tuple[Constraint, float]]:
        """Targets of other strategies, each with what may be missing of it before it is missed."""
        figures = self.figures
        found: list[tuple[Constraint, float]] = []
        for other in figures.situation.settings.optimization.strategies:
            if other.name == self._strategy or (
                other.routes and figures.situation.file.name not in other.routes
            ):
                continue
            seconds, saved = other.parameters.get("target_p95_ms"), other.parameters.get("target_reduction")
            posterior = figures.posterior(figures.speed, maximize=False)
            if seconds is not None and posterior is not None:
                found.append((on_time(slower(posterior, float(seconds) / 1000.0, width=width)), HARDLY_LATE))
            if saved is not None and figures.cost is not None:
                base = float(figures.cost.mean[figures.baseline])
                found.append((affordable(figures.cost, figures.baseline, float(saved)), MATERIAL * base))
        return found

    def is_kept(self, shares: FloatArray) -> bool:
        """Whether ``shares`` keep all of ``constraints``."""
        return all(constraint.slack(shares) >= 0.0 for constraint in self.constraints())

    def best(
        self, charges: FloatArray, free: ArmMask, constraints: Sequence[Constraint]
    ) -> FloatArray | None:
        """The shares with the least charges, None when nothing keeps the constraints.

        The exploration floor gives way where it alone breaks one: first that of arms that may not get more anyway.
        """
        floors = self.figures.floors
        shares = self._solver.solve(Task(charges, constraints, floors, free))
        if shares is not None:
            return shares
        bare = self._solver.solve(Task(charges, constraints, np.zeros(len(charges)), free))
        if bare is None:
            return None
        partly = self._solver.solve(Task(charges, constraints, np.where(free, floors, 0.0), free))
        return bare if partly is None else partly

    def with_more(self, attempt: Callable[[float], FloatArray | None]) -> tuple[float, FloatArray] | None:
        """How many times as many observations would probably do, and the shares then; None when not even many.

        ``attempt`` looks for shares with every bound so many standard deviations away.
        """
        shares = attempt(WIDTH / _MORE[-1] ** 0.5)
        if shares is None:
            return None
        # Narrower intervals never make a mixture impossible, so the first that suffices is found by halving.
        low, high = 0, len(_MORE) - 1
        while low < high:
            middle = (low + high) // 2
            found = attempt(WIDTH / _MORE[middle] ** 0.5)
            if found is None:
                low = middle + 1
            else:
                high, shares = middle, found
        return _MORE[high], shares

    def still_needed(self, times: float, shares: FloatArray, belief: Belief) -> dict[str, float]:
        """What ``with_more`` found, as further observations per arm that would get more than the floor."""
        figures = self.figures
        rated = figures.quality if self.asks_quality else None
        needed: dict[str, float] = {}
        for index in np.flatnonzero((shares > figures.floors + 1e-9) | (figures.baseline_only > 0.0)):
            name = figures.ids[int(index)]
            if rated is not None:
                needed[f"ratings of {name}"] = float(np.ceil(rated.weight[index] * (times - 1.0)))
            else:
                needed[f"requests of {name}"] = float(np.ceil(belief.weight[index] * (times - 1.0)))
        return needed

    def first_needed(self, arms: ArmMask, belief: Belief) -> dict[str, float]:
        """What arms lack before they may get more than the floor at all."""
        figures, rated = self.figures, self.figures.quality
        needed: dict[str, float] = {}
        for index in np.flatnonzero(arms):
            name = figures.ids[int(index)]
            requests = min(float(figures.success.weight[index]), float(belief.weight[index]))
            ratings = float(rated.weight[index]) if rated is not None else 0.0
            if requests < ENOUGH:
                needed[f"requests of {name}"] = float(np.ceil(ENOUGH - requests))
            if self.asks_quality and ratings < ENOUGH:
                needed[f"ratings of {name}"] = float(np.ceil(ENOUGH - ratings))
        return needed

    def reluctant(self) -> FloatArray:
        """Charges of a change when nothing else tells mixtures apart: quality where it is rated, else every move.

        Strategies with a target to reach minimise these, so they change no more than the target asks for.
        """
        figures = self.figures
        moved = 1.0 - figures.baseline_only
        quality = figures.quality
        if quality is None or not quality.known[figures.baseline]:
            return moved
        # The bound and not the mean: an arm that nobody rated must not look better than one that is known.
        lower = quality.mean - WIDTH * quality.spread
        charges: FloatArray = lower.max() - lower + 1e-6 * moved
        return charges

    def kept_ratio(self, shares: FloatArray) -> float | None:
        """Share of the baseline's quality that ``shares`` keep at the unfavourable end; None while unknown."""
        quality, baseline = self.figures.quality, self.figures.baseline
        if quality is None or not quality.known[baseline]:
            return None
        low, high = 0.0, 2.0
        for _ in range(_STEPS):
            middle = 0.5 * (low + high)
            if float(shares @ relative(quality, baseline, middle, width=WIDTH)) >= 0.0:
                low = middle
            else:
                high = middle
        return low
