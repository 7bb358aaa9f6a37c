"""What the guards of a rollout say, and how much error each of them may make.

The chance of rolling back a candidate that is as good as control is at most ``FALSE_ROLLBACK`` over the whole rollout:
every guard of every stage has its own share of it, fixed beforehand, and the shares sum to no more. They are uneven.
Upstream errors hurt most and the first stage is where a bad candidate is found, so these get most.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from optimizer.settings import HealthChecks

FALSE_ROLLBACK: Final = 0.01
"""Greatest chance to roll back a candidate without fault, over all guards and stages, however often one looks."""
FALSE_PROMOTION: Final = 0.04
"""Greatest chance to promote a candidate that is worse by the non-inferiority margin. The promise is 5 %."""
FALSE_MISMATCH: Final = 0.001
"""Greatest chance to pause a rollout for a sample ratio that is right."""

PASSED: Final = "pass"
FAILED: Final = "fail"
INSUFFICIENT: Final = "insufficient"
BASELINE_OVER_THRESHOLD: Final = "baseline_over_threshold"
BASELINE_FAILING: Final = "baseline_failing"
SRM: Final = "srm"

SAMPLE_RATIO: Final = "sample_ratio"
SUCCESS_MARGIN: Final = "success_margin"
QUALITY_MARGIN: Final = "quality_margin"

_WEIGHTS: Final[Mapping[str, float]] = {"error": 20.0, "error_rate": 2.0}
_FIRST_STAGE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """One guard's opinion. ``verdict`` is ``pass``, ``fail`` or ``insufficient``.

    ``control`` and ``candidate`` are what was measured (shares, USD, or quality), None where nothing was.
    ``threshold`` is what the candidate, or its difference to control, is held to. ``e_value`` is the evidence, to be
    compared with 1 / ``alpha``; ``low`` and ``high`` bound the difference (or the mean, for an absolute guard), None
    where a guard has no interval. ``control_fails``: control breaks the same absolute threshold.
    """

    guard: str
    verdict: str
    alpha: float
    control: float | None = None
    candidate: float | None = None
    threshold: float | None = None
    e_value: float | None = None
    low: float | None = None
    high: float | None = None
    control_samples: int = 0
    candidate_samples: int = 0
    control_fails: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from all verdicts.

    ``kind`` is ``fail`` (take the traffic back), ``baseline_over_threshold``, ``baseline_failing`` or ``srm`` (pause),
    ``pass`` (the stage is done) or ``insufficient`` (go on). ``guard`` names who said so. ``why`` tells what an
    insufficient stage waits for: ``time``, ``samples`` or ``margin``; ``needed`` how much of it, where that is known.
    """

    kind: str
    guard: str | None = None
    why: str = ""
    explanation: str = ""
    needed: Mapping[str, float] = field(default_factory=dict)


def harm_guards(checks: HealthChecks) -> tuple[str, ...]:
    """The guards that can roll back, in the order in which they are asked."""
    if not checks.enabled:
        return ()
    absolute = (
        ("error_rate", checks.error_rate),
        ("latency_p95", checks.latency_p95_ms),
        ("cost_per_request", checks.cost_per_request_usd),
    )
    named = tuple(name for name, threshold in absolute if threshold is not None)
    return ("error", "rejected", "invalid", "latency", *named, "quality")


def guard_names(checks: HealthChecks) -> tuple[str, ...]:
    """Every name that a verdict may have under ``checks``."""
    if not checks.enabled:
        return ()
    margins = (SUCCESS_MARGIN, QUALITY_MARGIN) if checks.non_inferiority_margin is not None else ()
    return (*harm_guards(checks), *margins, SAMPLE_RATIO)


def alphas(checks: HealthChecks, stage: int, stages: int) -> dict[str, float]:
    """What each guard of ``stage`` (from 0) may err with; over all ``stages`` they sum to ``FALSE_ROLLBACK``.

    Raises:
        ValueError: If there is no such stage.
    """
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} of {stages}")
    names = harm_guards(checks)
    total = sum(_WEIGHTS.get(name, 1.0) for name in names)
    budget = FALSE_ROLLBACK * stage_share(stage, stages)
    return {name: budget * _WEIGHTS.get(name, 1.0) / total for name in names}


def stage_share(stage: int, stages: int) -> float:
    """The part of an error budget that a stage gets; over all stages they sum to 1."""
    if stages == 1:
        return 1.0
    return _FIRST_STAGE if stage == 0 else (1.0 - _FIRST_STAGE) / (stages - 1)
