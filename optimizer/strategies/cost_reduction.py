"""``cost_reduction``: the mixture of arms that costs least while quality and success are kept.

With a quality threshold or floor the expected cost is minimised under it. Without one the target alone was asked for:
then exactly the target is saved, with as little loss of quality (while it is rated) or as few moved requests as
possible. A steered route is held to the target by constraints instead. Costs are dollars per request against the
baseline arm; a target that can not be met is answered with the nearest one that can.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import floor
from typing import Any

import numpy as np

from optimizer.rollouts.records import Proposal
from optimizer.settings import RouteSettings, Settings
from optimizer.strategies.base import (
    INFEASIBLE,
    NO_IMPROVEMENT,
    NOT_APPLICABLE,
    NOT_ENOUGH_DATA,
    QUALITY_FLOOR,
    QUALITY_THRESHOLD,
    Checked,
    NoProposal,
    Parameter,
    Situation,
    read_keeping,
    takes_constraints,
)
from optimizer.strategies.figures import ENOUGH, WIDTH, Belief, Figures
from optimizer.strategies.keeping import MATERIAL, Keeping, affordable
from optimizer.strategies.steering import bounds, bounds_text, held_already, tightened, unpriced
from optimizer.strategies.words import arms_text, fixed_candidate, ids_at, learning_off, percent, usd
from policies.types import FloatArray


class CostReduction:
    """See the module."""

    name = "cost_reduction"
    summary = "Serve the mixture of arms that costs least and keeps quality and success."
    parameters = (
        Parameter(
            "target_reduction",
            "number",
            "Share of the baseline's cost to save.",
            default=0.3,
            low=0.0,
            high=1.0,
            open_low=True,
            open_high=True,
            aliases=("target",),
        ),
        QUALITY_THRESHOLD,
        QUALITY_FLOOR,
    )

    def check(
        self, parameters: Mapping[str, Any], settings: Settings, route: RouteSettings | None
    ) -> Checked:
        """See ``base.Strategy``."""
        return read_keeping(parameters, self.parameters, settings)

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """See ``base.Strategy``."""
        figures = Figures(situation)
        keeping = Keeping(figures, parameters, strategy=self.name)
        refused = learning_off(situation) or _unpriced(figures) or keeping.missing_quality()
        if refused is not None:
            return refused
        cost = figures.cost
        assert cost is not None
        if cost.mean[figures.baseline] <= 0.0:
            name = figures.ids[figures.baseline]
            return NoProposal(
                NO_IMPROVEMENT, f"The baseline {name} costs nothing, so there is nothing to save."
            )
        target = float(parameters["target_reduction"])
        if affordable(cost, figures.baseline, target).slack(figures.present) >= 0.0 and keeping.is_kept(
            figures.present
        ):
            saved = 1.0 - float(figures.present @ cost.mean) / float(cost.mean[figures.baseline])
            return NoProposal(
                NO_IMPROVEMENT,
                f"The route saves {percent(saved)} already and keeps what has to be kept; the target is "
                f"{percent(target)}.",
            )
        steered = takes_constraints(situation.route)
        search = _Search(keeping, cost, target, exactly=steered or not keeping.asks_quality)
        shares = search.answer()
        if shares is None:
            return search.why_not()
        if steered:
            return self._steered(figures, keeping, shares, target)
        return self._proposal(figures, keeping, cost, shares, target)

    def _steered(
        self, figures: Figures, keeping: Keeping, shares: FloatArray, target: float
    ) -> Proposal | NoProposal:
        """Bounds instead of shares; ``shares`` keep them and tell what is expected at least."""
        route = figures.situation.route
        strangers = unpriced(route, figures.situation.settings)
        if strangers:
            return NoProposal(
                NOT_APPLICABLE,
                f"The price of {', '.join(strangers)} is unknown, so {route.name} can not be held to a cost. Give "
                f"`price` under models.",
            )
        wanted = bounds(reduction=target, quality_ratio=keeping.ratio, quality_floor=keeping.floor)
        candidate = tightened(route, wanted)
        if candidate is None:
            return held_already(route)
        summary = (
            f"Hold {route.name} to {bounds_text(wanted)} while it goes on learning; the same shares for all requests, "
            f"{arms_text(figures, shares)}, would keep that."
        )
        proposal = figures.proposal(candidate, shares, summary)
        return replace(proposal, quality_ratio=keeping.guarded_ratio)

    def _proposal(
        self, figures: Figures, keeping: Keeping, cost: Belief, shares: FloatArray, target: float
    ) -> Proposal | NoProposal:
        base, after = float(cost.mean[figures.baseline]), float(shares @ cost.mean)
        before = float(figures.present @ cost.mean)
        if before - after < MATERIAL * base:
            return NoProposal(
                NO_IMPROVEMENT,
                f"The route costs {usd(before)} a request, {percent(1.0 - before / base)} less than its baseline; what "
                f"could be promised ({usd(after)}) is no noticeable saving beyond that.",
            )
        kept = keeping.kept_ratio(shares)
        promise = (
            f"at least {percent(kept)} of its quality is kept" if kept is not None else "quality is not rated"
        )
        summary = (
            f"Serve {arms_text(figures, shares)}: {usd(after)} a request instead of {usd(base)} on the baseline, "
            f"{percent(1.0 - after / base)} less (target {percent(target)}); {promise}."
        )
        proposal = figures.proposal(fixed_candidate(figures, shares), shares, summary)
        return replace(proposal, quality_ratio=keeping.guarded_ratio)


class _Search:
    """The mixture that may be proposed, or why there is none."""

    def __init__(self, keeping: Keeping, cost: Belief, target: float, *, exactly: bool) -> None:
        """``exactly``: save the target and no more, with the least loss of quality."""
        self._keeping = keeping
        self._exactly = exactly
        self._cost = cost
        self._target = target
        self._base = float(cost.mean[keeping.figures.baseline])
        self._judged = keeping.judged(cost)
        self._affordable = affordable(cost, keeping.figures.baseline, target)

    def answer(self, width: float = WIDTH) -> FloatArray | None:
        """The shares to propose, with every bound ``width`` standard deviations away."""
        keeping = self._keeping
        constraints = keeping.constraints(width=width)
        if self._exactly:
            return keeping.best(keeping.reluctant(), self._judged, [*constraints, self._affordable])
        shares = keeping.best(self._cost.mean, self._judged, constraints)
        return shares if shares is not None and self._affordable.slack(shares) >= 0.0 else None

    def why_not(self) -> NoProposal:
        """More observations could still show that the target is met; else say what can be met."""
        keeping, figures = self._keeping, self._keeping.figures
        later = keeping.with_more(self.answer)
        if later is not None:
            return NoProposal(
                NOT_ENOUGH_DATA,
                f"{arms_text(figures, later[1])} would probably save {percent(self._target)} and keep what has to be "
                f"kept, but the intervals are too wide to promise it. {self._offer()}",
                keeping.still_needed(*later, self._cost),
            )
        # What nobody has tried yet may cost anything.
        cheap = (self._cost.mean < (1.0 - self._target) * self._base) | ~self._cost.known
        unseen = figures.served & ~self._judged & cheap
        if unseen.any():
            return NoProposal(
                NOT_ENOUGH_DATA,
                f"The arms that are known well can not save {percent(self._target)}; "
                f"{', '.join(ids_at(figures, unseen))} might, after more observations. {self._offer()}",
                keeping.first_needed(unseen, self._cost),
            )
        return NoProposal(
            INFEASIBLE,
            f"A reduction of {percent(self._target)} against {figures.ids[figures.baseline]} ({usd(self._base)} a "
            f"request) can not be met while what has to be kept is kept. {self._slowness()}{self._offer()}",
            {"target_reduction": floor(1e4 * self._nearest()[0]) / 1e4},
        )

    def _slowness(self) -> str:
        keeping = self._keeping
        if not keeping.best_at_any_pace(self._cost.mean, self._judged, [self._affordable]):
            return ""
        return (
            "Arms that would do are slower than what is served now, and the latency guard of a rollout "
            "(`deployment.health_check`) would take them back. "
        )

    def _nearest(self) -> tuple[float, FloatArray | None]:
        """The greatest reduction that can be promised now, and how."""
        keeping = self._keeping
        shares = keeping.best(self._cost.mean, self._judged, keeping.constraints())
        return (
            0.0 if shares is None else max(0.0, 1.0 - float(shares @ self._cost.mean) / self._base)
        ), shares

    def _offer(self) -> str:
        reached, shares = self._nearest()
        if shares is None or reached < MATERIAL:
            return "No mixture of the arms can be promised to save anything."
        mixture = arms_text(self._keeping.figures, shares)
        return f"The nearest that can be promised is {percent(reached)}, with {mixture}."


def _unpriced(figures: Figures) -> NoProposal | None:
    cost, baseline = figures.cost, figures.baseline
    seen = float(cost.weight[baseline]) if cost is not None else 0.0
    if seen >= ENOUGH:
        return None
    name = figures.ids[baseline]
    return NoProposal(
        NOT_ENOUGH_DATA,
        f"What a request costs on the baseline {name} is known of {seen:.0f} requests; {ENOUGH:g} are needed, with a "
        f"price of its model.",
        {f"priced requests of {name}": float(np.ceil(ENOUGH - seen))},
    )
