"""What is believed about each arm, as curves: the same posteriors as ``arm_report``, at places where they can be seen.

Arms differ in how much is known about them by orders of magnitude, so each has places of its own, close together where
its density is; all arms of a signal begin and end at the same two, so that they can be drawn over each other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import erf, pi, sqrt
from typing import Final

import numpy as np

from optimizer.arm_report import ArmReport, Estimate, arm_report
from optimizer.publisher import params_of
from optimizer.reward import COST, LATENCY
from optimizer.settings import RouteSettings
from policies.objective import QUALITY, posterior_of
from policies.posterior import Posterior, believe_success, log_noise
from policies.types import ArmEvidence, FloatArray

PLACES: Final = 65
# The axis of a signal holds so many standard deviations of each arm; an arm's own places reach a little further.
_SHOWN: Final = 2.5
_REACH: Final = 4.5
_LEAST_SPREAD: Final = 1e-9
_LARGEST_LOG: Final = 80.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm: its estimate, and ``density`` (per unit of ``x``) at ``PLACES`` places."""

    arm: str
    mean: float
    low: float
    high: float
    weight: float
    x: list[float]
    density: list[float]


@dataclass(frozen=True, slots=True)
class Curves:
    """One signal of all arms of a route, in the route's order."""

    signal: str
    arms: list[Curve]


def densities(route: RouteSettings, evidence: Sequence[ArmEvidence]) -> list[Curves]:
    """Beliefs about a route's arms; signals that nobody has observed are left out."""
    params = params_of(route)
    reports = arm_report(route, evidence, None)
    success = believe_success(
        [arm.success for arm in evidence], strength=params.prior_strength, max_memory=params.max_memory
    )
    found = [
        _curves(
            "quality", reports, posterior_of(QUALITY, evidence, params, maximize=True), bounds=(0.0, 1.0)
        ),
        _curves("success", reports, success, bounds=(0.0, 1.0)),
    ]
    for signal, metric in (("cost_usd", COST), ("latency_s", LATENCY)):
        found.append(_curves(signal, reports, posterior_of(metric, evidence, params, maximize=False)))
    return [curves for curves in found if curves is not None]


def _curves(
    signal: str,
    reports: Sequence[ArmReport],
    posterior: Posterior | None,
    *,
    bounds: tuple[float, float] | None = None,
) -> Curves | None:
    """Without ``bounds`` the signal is learned as a logarithm, and shown is the mean of what it is the logarithm of."""
    estimates: list[Estimate | None] = [getattr(report, signal) for report in reports]
    if posterior is None or any(estimate is None for estimate in estimates):
        return None
    low, high = bounds if bounds is not None else (-_LARGEST_LOG, _LARGEST_LOG)
    shift = log_noise(posterior) / 2.0 if bounds is None else 0.0
    centre = (posterior.mean + shift).clip(low, high)
    spread = np.maximum(posterior.spread, _LEAST_SPREAD)
    axis = (
        max(float((centre - _SHOWN * spread).min()), low),
        min(float((centre + _SHOWN * spread).max()), high),
    )
    arms = []
    for report, estimate, mean, deviation in zip(
        reports, estimates, centre.tolist(), spread.tolist(), strict=True
    ):
        assert estimate is not None
        x, density = _curve(mean, deviation, axis, (low, high))
        if bounds is None:
            x = np.exp(x)
            density = density / x
        # Straight lines between few places are a little more than a curve, and the axis leaves a little out.
        density = density / np.trapezoid(density, x)
        arms.append(Curve(report.arm, **asdict(estimate), x=x.tolist(), density=density.tolist()))
    return Curves(signal, arms)


def _curve(
    mean: float, deviation: float, axis: tuple[float, float], bounds: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Places along ``axis``, and the density there of a Gaussian that can't be outside of ``bounds``."""
    begin, end = axis
    low, high = max(mean - _REACH * deviation, begin), min(mean + _REACH * deviation, end)
    before, after = low > begin, high < end
    x = np.linspace(low, high, PLACES - before - after)
    inside = _below((bounds[1] - mean) / deviation) - _below((bounds[0] - mean) / deviation)
    density = np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (sqrt(2.0 * pi) * deviation * inside)
    # From its last own place to the end of the axis there is nothing of it, however far that is.
    if before:
        x, density = np.append(begin, x), np.append(0.0, density)
        density[1] = 0.0
    if after:
        x, density = np.append(x, end), np.append(density, 0.0)
        density[-2] = 0.0
    return x, density


def _below(deviations: float) -> float:
    """Share of a Gaussian below a place."""
    return 0.5 * (1.0 + erf(deviations / sqrt(2.0)))
