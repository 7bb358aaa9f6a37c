"""What is believed about each arm, in units people read: for the admin API, the page and the metrics.

Reads the same posteriors that selectors are built from, so what is shown is what decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.evidence import EvidenceSource
from optimizer.publisher import gather, params_of
from optimizer.routing import Route, RoutingTable
from optimizer.settings import RouteSettings, Settings
from policies.objective import LOG_METRICS, QUALITY, linear, posterior_of
from policies.posterior import Posterior, believe_success
from policies.types import ArmEvidence, FloatArray

# Two-sided 95 % of a Gaussian.
_WIDTH = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """Posterior mean with its central 95 % interval. ``weight`` 0 means only the prior speaks."""

    mean: float
    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm of a route. ``None`` means that no arm of the route has an observation of it.

    ``probability`` is the published share on the control side, 0 if the table does not have the arm.
    """

    arm: str
    model: str
    variant: str
    probability: float
    pulls: float
    success: Estimate
    quality: Estimate | None
    cost_usd: Estimate | None
    latency_s: Estimate | None
    ttft_s: Estimate | None
    custom: Mapping[str, Estimate]


def selection_report(
    settings: Settings, source: EvidenceSource, table: RoutingTable | None, *, now: float
) -> dict[str, tuple[ArmReport, ...]]:
    """Reports of all routes by name, each in the route's arm order."""
    published = {route.name: route for route in table.routes} if table is not None else {}
    return {
        route.name: arm_report(
            route, gather(route, source, now=now), published.get(route.name), custom=_custom(settings, route)
        )
        for route in settings.routes
    }


def arm_report(
    route: RouteSettings,
    evidence: Sequence[ArmEvidence],
    published: Route | None,
    *,
    custom: Mapping[str, bool] | None = None,
) -> tuple[ArmReport, ...]:
    """Reports of one route. ``custom`` maps a custom metric to whether more of it is better."""
    params = params_of(route)
    shares = published.control.shares if published is not None else {}
    directions = {QUALITY: True, **dict.fromkeys(sorted(LOG_METRICS), False), **(custom or {})}
    estimates = {
        metric: _estimates(metric, posterior_of(metric, evidence, params, maximize=maximize), evidence)
        for metric, maximize in directions.items()
    }
    success = believe_success(
        [arm.success for arm in evidence], strength=params.prior_strength, max_memory=params.max_memory
    )
    answered = _read(success.mean, success.spread, success.weight, bounds=(0.0, 1.0))
    return tuple(
        ArmReport(
            arm=arm.id,
            model=arm.model,
            variant=arm.variant,
            probability=shares.get(arm.id, 0.0),
            pulls=evidence[index].pulls,
            success=answered[index],
            quality=_at(estimates[QUALITY], index),
            cost_usd=_at(estimates["cost"], index),
            latency_s=_at(estimates["latency"], index),
            ttft_s=_at(estimates["ttft"], index),
            custom={
                metric: known[index] for metric in (custom or {}) if (known := estimates[metric]) is not None
            },
        )
        for index, arm in enumerate(route.arms)
    )


def _custom(settings: Settings, route: RouteSettings) -> dict[str, bool]:
    directions = {metric.name: metric.maximize for metric in settings.custom_metrics}
    directions.update({goal.metric: goal.maximize for goal in route.objectives})
    return {name: up for name, up in directions.items() if name != QUALITY and name not in LOG_METRICS}


def _estimates(
    metric: str, posterior: Posterior | None, evidence: Sequence[ArmEvidence]
) -> list[Estimate] | None:
    if posterior is None or all(arm.signal(metric).weight <= 0.0 for arm in evidence):
        return None
    if metric not in LOG_METRICS:
        bounds = (0.0, 1.0) if metric == QUALITY else (-np.inf, np.inf)
        return _read(posterior.mean, posterior.spread, posterior.weight, bounds=bounds)
    reach = _WIDTH * posterior.spread
    columns = (linear(posterior, posterior.mean + shift) for shift in (0.0 * reach, -reach, reach))
    return [Estimate(*map(float, row)) for row in zip(*columns, posterior.weight, strict=True)]


def _read(
    mean: FloatArray, spread: FloatArray, weight: FloatArray, *, bounds: tuple[float, float]
) -> list[Estimate]:
    columns = ((mean + shift * spread).clip(*bounds) for shift in (0.0, -_WIDTH, _WIDTH))
    return [Estimate(*map(float, row)) for row in zip(*columns, weight, strict=True)]


def _at(estimates: list[Estimate] | None, index: int) -> Estimate | None:
    return None if estimates is None else estimates[index]
