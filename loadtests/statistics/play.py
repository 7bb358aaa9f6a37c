"""Simulated rollouts through the real ``Evaluation``: seeded traffic in, the optimizer's own decisions out.

Requests are drawn one by one and handed over in portions, as workers report them; after every portion the decision is
asked for, so "continuous peeking" here means a look at every report.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.rollouts.evaluation import Decision, Evaluation
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.settings import RolloutPlan

_PORTIONS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one side does: shares of requests, and cost as a log-normal with median ``cost_usd``.

    ``rated`` is the share of completed requests that get a thumb, up with probability ``quality``.
    """

    error: float = 0.02
    rejected: float = 0.01
    invalid: float = 0.01
    slow: float = 0.05
    late: float = 0.02
    cost_usd: float = 0.002
    cost_spread: float = 0.8
    rated: float = 0.2
    quality: float = 0.8

    @property
    def mean_cost_usd(self) -> float:
        """Expected cost of a request."""
        return float(self.cost_usd * np.exp(self.cost_spread**2 / 2.0))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated rollout ended. ``canary`` and ``requests`` count what had been assigned by then."""

    kind: str
    guard: str | None
    stage: int
    canary: int
    requests: int


def traffic(
    sides: tuple[Behaviour, Behaviour], fraction: float, requests: int, portion: int, rng: np.random.Generator
) -> Iterator[Observation]:
    """Observations of ``portion`` requests each; ``sides`` are control and candidate."""
    # Drawn in pieces: most simulated rollouts end long before their traffic does.
    piece = portion * _PORTIONS_AT_ONCE
    for begun in range(0, requests, piece):
        yield from _piece(sides, fraction, min(piece, requests - begun), portion, rng)


def _piece(
    sides: tuple[Behaviour, Behaviour], fraction: float, requests: int, portion: int, rng: np.random.Generator
) -> Iterator[Observation]:
    side = rng.random(requests) < fraction
    group = (np.arange(requests) // portion) * 2 + side
    groups = 2 * -(-requests // portion)

    def drawn(name: str) -> NDArray[np.bool_]:
        control, candidate = (getattr(behaviour, name) for behaviour in sides)
        return np.asarray(rng.random(requests) < np.where(side, candidate, control))

    def counted(chosen: NDArray[np.bool_]) -> list[int]:
        return [int(count) for count in np.bincount(group[chosen], minlength=groups)]

    def summed(values: NDArray[np.float64]) -> list[float]:
        return [float(total) for total in np.bincount(group, weights=values, minlength=groups)]

    resolved = ~drawn("rejected")
    error = drawn("error") & resolved
    completed = resolved & ~error
    median = np.where(side, sides[1].cost_usd, sides[0].cost_usd)
    spread = np.where(side, sides[1].cost_spread, sides[0].cost_spread)
    cost = np.where(completed, median * np.exp(spread * rng.standard_normal(requests)), 0.0)
    rated = completed & drawn("rated")
    up = (rated & drawn("quality")).astype(np.float64)
    done = counted(completed)
    columns = (
        counted(np.ones(requests, dtype=bool)),
        counted(resolved),
        counted(error),
        counted(~resolved),
        counted(completed & drawn("invalid")),
        done,
        counted(completed & drawn("slow")),
        counted(completed & drawn("late")),
        done,
        summed(cost),
        summed(cost**2),
        counted(rated),
        summed(up),
        summed(up),
    )
    rows = [SideCounts(*row) for row in zip(*columns, strict=True)]
    return (Observation(*pair) for pair in zip(rows[0::2], rows[1::2], strict=True))


def play(
    plan: RolloutPlan,
    sides: tuple[Behaviour, Behaviour],
    lengths: Sequence[int],
    rng: np.random.Generator,
    *,
    portion: int,
    hurry: bool = False,
) -> Outcome:
    """One rollout through all stages of ``plan``, or until a decision ends it.

    Args:
        plan: Its stages' percentages are the traffic.
        sides: Control and candidate.
        lengths: Requests of the route per stage.
        rng: Source of all randomness.
        portion: Requests per look.
        hurry: Leave a stage as soon as it may pass, instead of watching its whole length.

    Returns:
        ``kind`` is that of the decision that ended it, ``pass`` when every stage passed, ``insufficient`` otherwise.
    """
    canary = requests = 0
    for stage, (row, length) in enumerate(zip(plan.stages, lengths, strict=True)):
        fraction = row.percentage / 100.0
        evaluation = Evaluation(plan, stage, fraction, stages=len(plan.stages))
        decision = Decision("insufficient")
        for seen in traffic(sides, fraction, length, portion, rng):
            evaluation.observe(seen)
            canary += seen.candidate.assigned
            requests += seen.candidate.assigned + seen.control.assigned
            decision = evaluation.decision(enough_time=True)
            if decision.kind not in ("pass", "insufficient"):
                return Outcome(decision.kind, decision.guard, stage, canary, requests)
            if hurry and decision.kind == "pass":
                break
        if decision.kind != "pass":
            return Outcome(decision.kind, decision.guard, stage, canary, requests)
    return Outcome("pass", None, len(plan.stages) - 1, canary, requests)
