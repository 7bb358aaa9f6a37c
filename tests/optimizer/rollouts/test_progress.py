"""What a stage still needs, as people are told."""

from dataclasses import replace

import pytest

from optimizer.rollouts.evaluation import Evaluation
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.rollouts.progress import Needs, progress_of
from optimizer.rollouts.records import Rollout, Status
from optimizer.settings import HealthChecks, RolloutPlan, Stage

STAGE = Stage(percentage=10.0, duration_s=60.0, min_samples=100, max_wait_s=600.0)


def needs(
    *,
    resolved: int,
    elapsed: float,
    rate: float,
    status: Status = Status.RUNNING,
    stage: Stage = STAGE,
    **checks: float,
) -> Needs:
    plan = RolloutPlan(stages=(stage,), checks=replace(HealthChecks(), **checks))
    rollout = Rollout("ro_1", 1, plan, {}, 1000.0, 0, 1000.0, 1000.0)
    evaluation = Evaluation(plan, 0, stage.percentage / 100.0, stages=1)
    side = SideCounts(assigned=resolved, resolved=resolved)
    control = SideCounts(assigned=9 * resolved, resolved=9 * resolved)
    evaluation.observe(Observation(control, side))
    return progress_of(evaluation, rollout, status, now=1000.0 + elapsed, requests_per_s=rate).needs


def test_samples_take_as_long_as_the_traffic_lets_them() -> None:
    """75 more at one candidate request a second are 75 s, which is longer than the stage lasts."""
    found = needs(resolved=25, elapsed=10.0, rate=10.0)

    assert (found.waits_for, found.samples, found.time_s) == ("samples", 75.0, 50.0)
    assert found.expected_s == pytest.approx(75.0)
    assert found.pauses_in_s == pytest.approx(590.0)


def test_without_traffic_nobody_can_tell_how_long() -> None:
    assert needs(resolved=0, elapsed=10.0, rate=0.0).expected_s is None


def test_with_enough_samples_only_time_is_missing() -> None:
    found = needs(resolved=100, elapsed=10.0, rate=10.0)

    assert (found.waits_for, found.samples, found.time_s, found.expected_s) == ("time", 0.0, 50.0, 50.0)


def test_nothing_is_missing_when_both_are_there() -> None:
    found = needs(resolved=100, elapsed=61.0, rate=10.0)

    assert (found.waits_for, found.samples, found.expected_s) == ("", 0.0, 0.0)


def test_a_margin_that_is_not_proven_is_what_it_waits_for() -> None:
    found = needs(resolved=100, elapsed=61.0, rate=10.0, non_inferiority_margin=0.02)

    assert found.waits_for == "margin"
    assert found.samples is None or found.samples > 0


def test_a_paused_one_waits_for_a_person_and_has_no_end() -> None:
    found = needs(resolved=25, elapsed=10.0, rate=10.0, status=Status.PAUSED)

    assert (found.waits_for, found.samples) == ("person", 75.0)
    assert (found.expected_s, found.pauses_in_s) == (None, None)
