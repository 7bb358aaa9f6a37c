"""Beliefs as curves: each holds all of what is believed, and says the same as the report."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.arm_densities import PLACES, densities
from optimizer.arm_report import arm_report
from optimizer.routing import Arm
from optimizer.settings import Objective, RouteSettings
from policies.types import NOTHING, ArmEvidence, Moments

IDS = ("a", "b", "c")
ROUTE = RouteSettings(
    "chat",
    tuple(Arm(name, "gpt", "default", name, "v") for name in IDS),
    "a",
    (Objective("quality", 1.0, True),),
)
WEIGHTS = st.one_of(st.just(0.0), st.floats(0.01, 1e7))


@st.composite
def evidence(draw, name):
    """An arm with any knowledge that outcomes can lead to."""

    def share():
        mean = draw(st.floats(0.0, 1.0))
        return Moments(draw(WEIGHTS), mean, draw(st.floats(0.0, 1.0)) * mean * (1.0 - mean))

    def logarithm(low, high):
        return Moments(draw(WEIGHTS), draw(st.floats(low, high)), draw(st.floats(0.0, 6.0)))

    return ArmEvidence(
        name,
        10.0,
        share(),
        {"quality": share(), "cost": logarithm(-20.0, 3.0), "latency": logarithm(-6.0, 6.0)},
    )


def inside(curve):
    """How much of a curve lies in its interval."""
    x = np.unique(np.concatenate((curve.x, np.geomspace(curve.low, curve.high, 4001))))
    x = x[(x >= curve.low) & (x <= curve.high)]
    return np.trapezoid(np.interp(x, curve.x, curve.density), x)


@given(st.tuples(*(evidence(name) for name in IDS)))
def test_curves_hold_what_is_believed(arms):
    """Each is about 1 in all, is never negative, and spans the axis that all arms of the signal share."""
    reports = arm_report(ROUTE, arms, None)

    for curves in densities(ROUTE, arms):
        assert [curve.arm for curve in curves.arms] == list(IDS)
        assert len({(curve.x[0], curve.x[-1]) for curve in curves.arms}) == 1
        for curve, report in zip(curves.arms, reports, strict=True):
            x, density = np.array(curve.x), np.array(curve.density)
            estimate = getattr(report, curves.signal)
            assert len(x) == len(density) == PLACES
            assert np.isfinite(x).all()
            assert np.isfinite(density).all()
            assert (np.diff(x) > 0.0).all()
            assert (density >= 0.0).all()
            assert np.trapezoid(density, x) == pytest.approx(1.0)
            assert (curve.mean, curve.low, curve.high, curve.weight) == (
                estimate.mean,
                estimate.low,
                estimate.high,
                estimate.weight,
            )
            if curves.signal in ("quality", "success"):
                assert 0.0 <= x[0] < x[-1] <= 1.0
            else:
                # All of it was cut to the axis, so what lies in the interval is a little more than 95 %.
                assert inside(curve) == pytest.approx(0.955, abs=0.025)


def test_what_nobody_observed_has_no_curves():
    """Success always has a prior; quality has one on its own scale, though nobody was rated."""
    nothing = tuple(ArmEvidence(name, 0.0, NOTHING, {}) for name in IDS)

    assert [curves.signal for curves in densities(ROUTE, nothing)] == ["success"]


def test_the_interval_holds_most_of_the_curve():
    """95 % of it, for an arm in the middle of the scale."""
    known = ArmEvidence("a", 1000.0, Moments(1000, 0.9, 0.09), {"cost": Moments(400, -6.0, 0.3)})
    arms = (known, ArmEvidence("b", 0.0, NOTHING, {}), ArmEvidence("c", 0.0, NOTHING, {}))

    for curves in densities(ROUTE, arms):
        assert inside(curves.arms[0]) == pytest.approx(0.95, abs=0.015), curves.signal
