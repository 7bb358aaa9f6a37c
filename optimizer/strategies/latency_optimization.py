"""``latency_optimization``: the mixture of arms whose 95th percentile reaches a target while quality is kept.

A percentile of a mixture is not the mixture of percentiles, but a share of slow replies is: P(slower than the target)
of each arm, from its log-normal posterior at the unfavourable end, mixes linearly, and at most 5 % may be slower. Of
all mixtures that reach the target the one is proposed that loses least quality (while it is rated), else moves the
fewest requests. A steered route is held to the target by constraints instead. Without a target the expected duration
is minimised. Time is that to the first token when most replies are streams.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, exp, log
from typing import Any, Final

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
from optimizer.strategies.figures import ENOUGH, MOST_SLOW, WIDTH, Belief, Figures, slower
from optimizer.strategies.keeping import HARDLY_LATE, MATERIAL, Keeping, on_time
from optimizer.strategies.solver import ArmMask
from optimizer.strategies.steering import bounds, bounds_text, held_already, tightened
from optimizer.strategies.words import arms_text, fixed_candidate, ids_at, learning_off, percent
from policies.posterior import Posterior
from policies.types import FloatArray

_NAMES: Final = {"ttft": "time to the first token", "latency": "duration"}
_STEPS: Final = 16


class LatencyOptimization:
    """See the module."""

    name = "latency_optimization"
    summary = "Bring the 95th percentile of the latency to a target and keep quality and success."
    parameters = (
        Parameter(
            "target_p95_ms",
            "number",
            "The percentile to reach: time to first token where most replies are streams, else in all. Left out: as "
            "fast as what has to be kept allows.",
            low=0.0,
            open_low=True,
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
        refused = learning_off(situation) or _untimed(figures) or keeping.missing_quality()
        if refused is not None:
            return refused
        speed = figures.belief(figures.speed, maximize=False)
        posterior = figures.posterior(figures.speed, maximize=False)
        assert speed is not None
        assert posterior is not None
        target = parameters["target_p95_ms"]
        if target is None and takes_constraints(situation.route):
            return NoProposal(
                NOT_APPLICABLE,
                f"The route {situation.route.name} decides by context or keeps constraints, so it can be held to a "
                f"`target_p95_ms`, but not to fixed shares; without a target give `latency` more weight.",
            )
        if target is None:
            return _fastest(figures, keeping, speed)
        return _Reach(keeping, speed, posterior, float(target) / 1000.0).answer()


class _Reach:
    """The search for a mixture that keeps the target."""

    def __init__(self, keeping: Keeping, speed: Belief, posterior: Posterior, target_s: float) -> None:
        self._keeping = keeping
        self._speed = speed
        self._posterior = posterior
        self._target_s = target_s
        self._judged = keeping.judged(speed)
        self._wish = f"a 95th percentile of the {_NAMES[speed.metric]} of {1000.0 * target_s:g} ms"

    def answer(self) -> Proposal | NoProposal:
        """A proposal, or why none."""
        keeping, figures = self._keeping, self._keeping.figures
        late = slower(self._posterior, self._target_s)
        present = figures.present
        if present @ late <= MOST_SLOW and keeping.is_kept(present):
            return NoProposal(
                NO_IMPROVEMENT,
                f"The route keeps {self._wish} already: at most {percent(float(present @ late))} of the replies take "
                f"longer.",
            )
        shares = self._shares()
        if shares is None:
            return self._why_not()
        if float((present - shares) @ late) < HARDLY_LATE and keeping.is_kept(present):
            return NoProposal(
                NO_IMPROVEMENT,
                f"The route misses {self._wish} by too little for another change: at most "
                f"{percent(float(present @ late))} of the replies take longer, {percent(MOST_SLOW)} may.",
            )
        likely = slower(self._posterior, self._target_s, width=0.0)
        slow = Belief("slow", "ratio", likely, (late - likely) / WIDTH, self._speed.weight)
        if takes_constraints(figures.situation.route):
            return self._steered(shares, slow)
        summary = (
            f"Serve {arms_text(figures, shares)} for {self._wish}: at most {percent(float(shares @ late))} of the "
            f"replies take longer, on the baseline about {percent(float(likely[figures.baseline]))}."
        )
        proposal = figures.proposal(fixed_candidate(figures, shares), shares, summary, beliefs=[slow])
        return replace(proposal, quality_ratio=keeping.guarded_ratio)

    def _steered(self, shares: FloatArray, slow: Belief) -> Proposal | NoProposal:
        """Bounds instead of shares; ``shares`` keep them and tell what is expected at least."""
        keeping, figures = self._keeping, self._keeping.figures
        route = figures.situation.route
        wanted = bounds(
            p95_ms=round(1000.0 * self._target_s, 6), quality_ratio=keeping.ratio, quality_floor=keeping.floor
        )
        candidate = tightened(route, wanted)
        if candidate is None:
            return held_already(route)
        summary = (
            f"Hold {route.name} to {bounds_text(wanted)} while it goes on learning; the same shares for all requests, "
            f"{arms_text(figures, shares)}, would keep that."
        )
        proposal = figures.proposal(candidate, shares, summary, beliefs=[slow])
        return replace(proposal, quality_ratio=keeping.guarded_ratio)

    def _shares(self, width: float = WIDTH) -> FloatArray | None:
        keeping = self._keeping
        late = slower(self._posterior, self._target_s, width=width)
        constraints = [*keeping.constraints(width=width), on_time(late)]
        return keeping.best(keeping.reluctant(), self._judged, constraints)

    def _why_not(self) -> NoProposal:
        keeping, figures = self._keeping, self._keeping.figures
        later = keeping.with_more(self._shares)
        if later is not None:
            return NoProposal(
                NOT_ENOUGH_DATA,
                f"{arms_text(figures, later[1])} would probably keep {self._wish}, but the intervals are too wide to "
                f"promise it.",
                keeping.still_needed(*later, self._speed),
            )
        likely = slower(self._posterior, self._target_s, width=0.0)
        fast = (likely <= MOST_SLOW) | ~self._speed.known
        unseen = figures.served & ~self._judged & fast
        if unseen.any():
            return NoProposal(
                NOT_ENOUGH_DATA,
                f"The arms that are known well can not keep {self._wish}; {', '.join(ids_at(figures, unseen))} might, "
                f"after more observations.",
                keeping.first_needed(unseen, self._speed),
            )
        nearest = _nearest(keeping, self._judged, self._posterior, self._target_s)
        if nearest is None:
            offer, needed = "No percentile can be promised.", {}
        else:
            target_ms = float(ceil(1000.0 * nearest))
            offer, needed = (
                f"The nearest that can be promised is {target_ms:g} ms.",
                {"target_p95_ms": target_ms},
            )
        return NoProposal(
            INFEASIBLE,
            f"No mixture of the arms keeps {self._wish} and what else has to be kept. {offer}",
            needed,
        )


def _nearest(keeping: Keeping, judged: ArmMask, posterior: Posterior, target_s: float) -> float | None:
    """The lowest percentile that can be promised, found by halving in logarithms; None when quality forbids all."""
    low, high = log(target_s), log(target_s) + log(1000.0)
    if not _feasible(keeping, judged, posterior, exp(high)):
        return None
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if _feasible(keeping, judged, posterior, exp(middle)):
            high = middle
        else:
            low = middle
    return exp(high)


def _feasible(keeping: Keeping, judged: ArmMask, posterior: Posterior, seconds: float) -> bool:
    late = slower(posterior, seconds)
    return keeping.best(late, judged, [*keeping.constraints(), on_time(late)]) is not None


def _fastest(figures: Figures, keeping: Keeping, speed: Belief) -> Proposal | NoProposal:
    shares = keeping.best(speed.mean, keeping.judged(speed), keeping.constraints())
    before = float(figures.present @ speed.mean)
    if shares is None or before - float(shares @ speed.mean) < MATERIAL * before:
        return NoProposal(
            NO_IMPROVEMENT,
            f"No mixture that keeps quality and success is noticeably faster than the {1000.0 * before:.0f} ms that "
            f"the route takes now ({_NAMES[speed.metric]}).",
        )
    after = float(shares @ speed.mean)
    summary = (
        f"Serve {arms_text(figures, shares)}: a mean {_NAMES[speed.metric]} of {1000.0 * after:.0f} ms instead of "
        f"{1000.0 * before:.0f} ms now."
    )
    proposal = figures.proposal(fixed_candidate(figures, shares), shares, summary)
    return replace(proposal, quality_ratio=keeping.guarded_ratio)


def _untimed(figures: Figures) -> NoProposal | None:
    speed = figures.belief(figures.speed, maximize=False)
    seen = float(speed.weight[figures.baseline]) if speed is not None else 0.0
    if seen >= ENOUGH:
        return None
    name = figures.ids[figures.baseline]
    return NoProposal(
        NOT_ENOUGH_DATA,
        f"The {_NAMES[figures.speed]} of the baseline {name} is known of {seen:.0f} requests; {ENOUGH:g} are needed.",
        {f"requests of {name}": float(np.ceil(ENOUGH - seen))},
    )
