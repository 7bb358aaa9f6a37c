"""How far a rollout's stage is at this moment, and what it still needs: for people, never for decisions.

Nothing here moves traffic or changes evidence; the same evidence and the same time give the same answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.evaluation import Evaluation
from optimizer.rollouts.machine import wait_limit_s
from optimizer.rollouts.records import Rollout, Status
from optimizer.rollouts.verdicts import INSUFFICIENT, Verdict

TIME: Final = "time"
PERSON: Final = "person"


@dataclass(frozen=True, slots=True)
class Needs:
    """What the present stage waits for.

    ``waits_for`` is ``time``, ``samples`` or ``margin``; ``person`` while it is paused; empty when nothing is missing.
    ``samples`` are outcomes of the candidate, None where nobody can tell how many. ``expected_s`` is when time and
    samples will probably be there at the present traffic, None without any. ``pauses_in_s`` is how long it may go on
    waiting before it pauses as ``insufficient``, None for ever.
    """

    waits_for: str
    explanation: str
    time_s: float
    samples: float | None
    expected_s: float | None
    pauses_in_s: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The guards as they stand, and the needs of the stage."""

    verdicts: tuple[Verdict, ...]
    needs: Needs

    def by_guard(self) -> dict[str, Any]:
        """The verdicts as plain values."""
        return plain_verdicts(self.verdicts)


def plain_verdicts(verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    """Verdicts by guard, as plain values: the form in which a record keeps them."""
    return {verdict.guard: to_plain(verdict) for verdict in verdicts}


def progress_of(
    evaluation: Evaluation, rollout: Rollout, status: Status, *, now: float, requests_per_s: float
) -> Progress:
    """How far the present stage of ``rollout`` is.

    Args:
        evaluation: Of the present stage.
        rollout: Of a record with ``status``, running or paused.
        status: What the record is.
        now: Unix seconds.
        requests_per_s: Of the whole route.
    """
    stage = rollout.plan.stages[rollout.stage]
    decision = evaluation.decision(enough_time=True)
    time_s = max(rollout.stage_started_at + stage.duration_s - now, 0.0)
    waiting = decision.kind == INSUFFICIENT
    samples = _samples(decision.needed) if waiting else 0.0
    per_second = requests_per_s * evaluation.fraction
    expected: float | None = None
    if samples == 0.0:
        expected = time_s
    elif samples is not None and per_second > 0.0:
        expected = max(time_s, samples / per_second)
    limit = wait_limit_s(stage)
    waits_for, said = (decision.why, decision.explanation) if waiting else ("", decision.explanation)
    if not waiting and time_s > 0.0 and decision.guard is None:
        waits_for, said = TIME, f"the stage lasts {time_s:.0f} s more"
    if status is Status.PAUSED:
        waits_for = PERSON
    return Progress(
        evaluation.verdicts(),
        Needs(
            waits_for,
            said,
            time_s,
            samples,
            expected if status is Status.RUNNING else None,
            max(rollout.waited_from + limit - now, 0.0) if limit and status is Status.RUNNING else None,
        ),
    )


def _samples(needed: Mapping[str, float]) -> float | None:
    return needed.get("samples")
