"""Reports show posteriors in dollars, seconds and shares, and say where nothing is known."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from optimizer.arm_report import selection_report
from optimizer.publisher import build_table
from optimizer.routing import Arm
from optimizer.settings import CustomMetric, Objective, RouteSettings, Settings
from policies.types import ArmEvidence, Moments

ARMS = (Arm("a", "gpt", "default", "m-a", "v"), Arm("b", "gpt", "terse", "m-a", "w"))
ROUTE = RouteSettings("chat", ARMS, "a", (Objective("quality", 0.7, True), Objective("cost", 0.3, False)))
SETTINGS = Settings(
    "hash", (), (), (), (ROUTE,), custom_metrics=(CustomMetric("joy"), CustomMetric("silent"))
)


class OneArmKnown:
    """Arm ``a`` has 1,000 outcomes, arm ``b`` none."""

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        if arm.id == "b":
            return ArmEvidence("b")
        return ArmEvidence(
            "a",
            1000.0,
            Moments(1000, 0.95, 0.0475),
            {
                "quality": Moments(800, 0.9, 0.01),
                "cost": Moments(1000, log(0.002), 0.5),
                "latency": Moments(1000, log(1.5), 0.1),
                "joy": Moments(50, 7.0, 4.0),
            },
        )


def test_a_known_arm_is_reported_in_units_people_read() -> None:
    """Means in dollars and seconds are means, not medians, and lie inside their intervals."""
    table = build_table(SETTINGS, OneArmKnown(), version=1, now=0.0, rng=np.random.default_rng(0))

    known, _ = selection_report(SETTINGS, OneArmKnown(), table, now=0.0)["chat"]

    assert (known.arm, known.model, known.variant, known.pulls) == ("a", "gpt", "default", 1000.0)
    assert known.probability == table.routes[0].control.selector.probabilities[0]
    assert known.quality is not None
    assert known.quality.mean == pytest.approx(0.9, abs=0.002)
    assert known.quality.high - known.quality.low == pytest.approx(2 * 1.96 * 0.1 / 800**0.5, rel=0.1)
    assert known.cost_usd is not None
    assert known.cost_usd.mean == pytest.approx(0.002 * exp(0.25), rel=0.02)
    assert known.cost_usd.low < known.cost_usd.mean < known.cost_usd.high
    assert known.latency_s is not None
    assert known.latency_s.mean == pytest.approx(1.5 * exp(0.05), rel=0.02)
    assert known.success.mean == pytest.approx(0.95, abs=0.005)
    assert known.custom["joy"].mean == pytest.approx(7.0, abs=0.1)


def test_an_unknown_arm_shows_its_prior_with_weight_zero() -> None:
    """The prior is visible, wide, and marked as such; bounds of [0, 1] hold."""
    _, unknown = selection_report(SETTINGS, OneArmKnown(), None, now=0.0)["chat"]

    assert (unknown.probability, unknown.pulls) == (0.0, 0.0)
    assert unknown.quality is not None
    assert unknown.quality.weight == 0.0
    assert 0.0 <= unknown.quality.low < unknown.quality.mean < unknown.quality.high <= 1.0
    assert unknown.success.high <= 1.0


def test_what_nobody_observed_is_not_reported() -> None:
    """No time to first token and no value of a silent metric: none is invented."""
    for arm in selection_report(SETTINGS, OneArmKnown(), None, now=0.0)["chat"]:
        assert arm.ttft_s is None
        assert set(arm.custom) == {"joy"}


def test_an_arm_that_the_table_does_not_have_yet_has_no_share() -> None:
    """Between a reload and the next table the old shares are shown for the arms that had one."""
    old = replace(SETTINGS, routes=(replace(ROUTE, arms=ARMS[:1]),))
    table = build_table(old, OneArmKnown(), version=1, now=0.0, rng=np.random.default_rng(0))

    report = selection_report(SETTINGS, OneArmKnown(), table, now=0.0)["chat"]

    assert [arm.probability for arm in report] == [1.0, 0.0]
