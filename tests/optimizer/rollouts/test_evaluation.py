"""The evidence of a stage and what follows from it, and how often that is wrong."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.evaluation import Evaluation, expected_stage_s, guard_names
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.settings import HealthChecks, RolloutPlan, Stage

STAGES = (Stage(10.0, 60.0, 100, 600.0), Stage(50.0, 60.0, 100, 600.0), Stage(100.0))
ALL_CHECKS = HealthChecks(
    error_rate=0.05,
    latency_p95_ms=2000.0,
    cost_per_request_usd=0.01,
    quality_ratio=0.95,
    non_inferiority_margin=0.02,
)


def evaluation(
    checks: HealthChecks | None = None, *, stage: int = 0, fraction: float = 0.1, **more
) -> Evaluation:
    plan = RolloutPlan(stages=STAGES, checks=checks or HealthChecks())
    return Evaluation(plan, stage, fraction, stages=len(STAGES), **more)


def side(requests: int, *, cost: float = 0.002, quality: float = 0.8, **more) -> SideCounts:
    """Requests that all complete unless told otherwise, each priced and rated."""
    done = requests - more.get("errors", 0)
    usual = {
        "assigned": requests,
        "resolved": requests,
        "timed": done,
        "priced": done,
        "cost_usd": done * cost,
        "cost_usd2": done * cost * cost * 1.5,
        "rated": done,
        "quality": done * quality,
        "quality2": done * quality,
    }
    return SideCounts(**(usual | more))


def shown(watched: Evaluation, control: SideCounts, candidate: SideCounts, times: int = 1) -> Evaluation:
    for _ in range(times):
        watched.observe(Observation(control, candidate))
    return watched


def verdict(watched: Evaluation, guard: str):
    return next(verdict for verdict in watched.verdicts() if verdict.guard == guard)


small = st.integers(0, 5)
sides = st.builds(
    lambda errors, fine, bad, slow, up: SideCounts(
        assigned=errors + fine,
        resolved=errors + fine,
        errors=errors,
        rejected=bad,
        invalid=min(bad, fine),
        timed=fine,
        slow=min(slow, fine),
        late=min(slow, fine),
        priced=fine,
        cost_usd=0.01 * fine,
        cost_usd2=0.0002 * fine,
        rated=fine,
        quality=float(min(up, fine)),
        quality2=float(min(up, fine)),
    ),
    small,
    small,
    small,
    small,
    small,
)
observations = st.lists(st.builds(Observation, sides, sides), max_size=20)


@given(sides, sides, sides)
def test_counts_add_up_in_any_order(one, other, third):
    """Sums do not care how they were portioned, and nothing is the zero."""
    assert one + SideCounts() == one
    left, right = (one + other) + third, third + (other + one)
    assert all(
        getattr(left, field.name) == pytest.approx(getattr(right, field.name)) for field in fields(SideCounts)
    )


@given(observations, st.integers(0, 20))
def test_a_restart_changes_nothing(rows, cut):
    """Saving and restoring at any point gives the very same verdicts and the same snapshot."""
    plan = RolloutPlan(stages=STAGES, checks=ALL_CHECKS)
    straight, restarted = (Evaluation(plan, 0, 0.1, stages=3) for _ in range(2))
    for place, row in enumerate(rows):
        straight.observe(row)
        if place == cut:
            saved = json.loads(json.dumps(restarted.snapshot()))
            restarted = Evaluation(plan, 0, 0.1, stages=3)
            restarted.restore(saved)
        restarted.observe(row)

    assert restarted.verdicts() == straight.verdicts()
    assert restarted.snapshot() == straight.snapshot()
    assert restarted.decision(enough_time=True) == straight.decision(enough_time=True)


def test_verdicts_and_decisions_are_plain_values():
    """They go into events and the database: no infinity, every name announced."""
    watched = shown(evaluation(ALL_CHECKS), side(9), side(1), 40)

    verdicts = watched.verdicts()

    assert [found.guard for found in verdicts] == list(guard_names(ALL_CHECKS))
    json.dumps(to_plain(verdicts), allow_nan=False)
    json.dumps(to_plain(watched.decision(enough_time=True)), allow_nan=False)
    json.dumps(to_plain(evaluation(ALL_CHECKS).verdicts()), allow_nan=False)


def test_a_stage_wants_samples_then_time():
    """Neither silence nor haste promotes."""
    watched = evaluation()

    first = shown(watched, side(9), side(1), 40).decision(enough_time=True)
    second = shown(watched, side(9), side(1), 60).decision(enough_time=False)
    third = watched.decision(enough_time=True)

    assert (first.kind, first.why, first.needed) == ("insufficient", "samples", {"samples": 60.0})
    assert (second.kind, second.why) == ("insufficient", "time")
    assert third.kind == "pass"


@pytest.mark.parametrize(
    ("guard", "bad"),
    [
        ("error", {"errors": 3}),
        ("rejected", {"rejected": 3}),
        ("invalid", {"invalid": 3}),
        ("latency", {"slow": 5}),
        ("quality", {"quality": 0.4}),
    ],
)
def test_each_comparison_finds_its_harm(guard, bad):
    """The guard in question fails, names itself and says what was measured."""
    watched = shown(evaluation(), side(90), side(10), 3)

    shown(watched, side(90), side(10, **bad), 40)
    decision = watched.decision(enough_time=True)

    assert (decision.kind, decision.guard) == ("fail", guard)
    assert decision.explanation.startswith(guard)
    assert verdict(watched, guard).verdict == "fail"


@pytest.mark.parametrize(
    ("guard", "bad"),
    [
        ("error_rate", {"errors": 1}),
        ("latency_p95", {"late": 2}),
        ("cost_per_request", {"cost": 0.02}),
    ],
)
def test_a_threshold_that_control_breaks_too_is_not_the_candidates_fault(guard, bad):
    """Candidate alone: rolled back for it. Both alike: a pause."""
    checks = replace(ALL_CHECKS, quality_ratio=None, non_inferiority_margin=None)
    alone, both = evaluation(checks, fraction=1.0, stage=2), evaluation(checks)

    shown(alone, SideCounts(), side(10, **bad), 80)
    many = {name: value * 9 if name != "cost" else value for name, value in bad.items()}
    shown(both, side(90, **many), side(10, **bad), 80)

    assert (alone.decision(enough_time=True).kind, alone.decision(enough_time=True).guard) == ("fail", guard)
    found = both.decision(enough_time=True)
    assert (found.kind, found.guard) == ("baseline_over_threshold", guard)
    assert verdict(both, guard).control_fails


def test_when_both_sides_are_down_it_is_the_baseline():
    """More than half of the requests fail on both sides: a pause, not a rollback."""
    watched = shown(
        evaluation(), side(9, errors=8), side(1, errors=1, rated=0, quality=0.0, quality2=0.0), 60
    )

    assert watched.decision(enough_time=True).kind == "baseline_failing"


def test_a_wrong_split_pauses_unless_units_are_sticky():
    """Twice the share that was meant; with sticky units a few large ones explain it."""
    drawn, sticky = evaluation(), evaluation(sticky=True)

    for watched in (drawn, sticky):
        shown(watched, side(80), side(20), 10)

    assert drawn.decision(enough_time=True).kind == "srm"
    assert sticky.decision(enough_time=True).kind == "pass"
    assert verdict(sticky, "sample_ratio").verdict == "insufficient"


def test_without_control_comparisons_hold_nothing_up():
    """At 100 % only the absolute guards can speak, and a margin cannot be proven."""
    watched = shown(evaluation(ALL_CHECKS, stage=2, fraction=1.0), SideCounts(), side(10), 20)

    assert watched.decision(enough_time=True).kind == "pass"
    assert verdict(watched, "error").verdict == "insufficient"
    assert verdict(watched, "success_margin").verdict == "insufficient"
    assert verdict(watched, "error_rate").verdict == "pass"


def test_a_margin_waits_for_proof():
    """Enough time and samples do not pass a stage; what is missing is told, and shrinks until the proof is there."""
    checks = HealthChecks(non_inferiority_margin=0.02)
    watched = evaluation(checks)
    unrated = {"rated": 0, "quality": 0.0, "quality2": 0.0}

    early = shown(watched, side(9, **unrated), side(1, **unrated), 100).decision(enough_time=True)
    late = shown(watched, side(9, **unrated), side(1, **unrated), 300).decision(enough_time=True)

    assert (early.kind, early.guard, early.why) == ("insufficient", "success_margin", "margin")
    assert 0.0 < early.needed["samples"] < 300.0
    assert late.kind == "pass"


def test_ratings_must_prove_the_margin_too_once_there_are_any():
    """Success is proven, quality is not."""
    watched = evaluation(HealthChecks(non_inferiority_margin=0.02))

    shown(watched, side(9), side(1), 400)
    decision = watched.decision(enough_time=True)

    assert (decision.kind, decision.guard) == ("insufficient", "quality_margin")


def test_quality_may_lose_what_the_ratio_allows():
    """0.74 against 0.80 breaks a ratio of 1 but not one of 0.9."""
    strict, lenient = evaluation(), evaluation(HealthChecks(quality_ratio=0.9))

    for watched in (strict, lenient):
        shown(watched, side(900), side(100, quality=0.74), 40)

    assert strict.decision(enough_time=True).guard == "quality"
    assert lenient.decision(enough_time=True).kind == "pass"


def test_checks_that_are_off_judge_nothing():
    """Only samples and time are left."""
    watched = shown(evaluation(HealthChecks(enabled=False)), side(9), side(1, errors=1), 100)

    assert watched.verdicts() == ()
    assert watched.decision(enough_time=True).kind == "pass"
    assert guard_names(HealthChecks(enabled=False)) == ()


@pytest.mark.parametrize(("stage", "fraction"), [(0, 1.5), (0, -0.1), (7, 0.1)])
def test_stage_and_fraction_are_checked(stage, fraction):
    """A stage that is not there, or no share of traffic, is a mistake of the caller."""
    with pytest.raises(ValueError, match=r"fraction|stage"):
        evaluation(stage=stage, fraction=fraction)


def test_the_expected_time_follows_traffic():
    """Samples over traffic, at least the duration; without traffic nobody can tell."""
    plan = RolloutPlan(stages=STAGES)
    careful = replace(plan, checks=HealthChecks(non_inferiority_margin=0.02))

    assert expected_stage_s(plan, 0, 0.1, 1.0) == pytest.approx(1000.0)
    assert expected_stage_s(plan, 0, 0.1, 1000.0) == 60.0
    assert expected_stage_s(plan, 0, 0.1, 0.0) is None
    assert (expected_stage_s(careful, 0, 0.1, 1.0) or 0.0) > 3000.0
    assert expected_stage_s(careful, 2, 1.0, 1.0) == pytest.approx(100.0)
    assert expected_stage_s(RolloutPlan(stages=(Stage(10.0, 5.0, 0),)), 0, 0.1, 0.0) == 5.0


def answered(rng, *, seconds: int, later_s: float, gone: float) -> list[Observation]:
    """Reports of a quarter second at 100 requests a second and 2 % errors on both sides; control takes 1 s."""
    requests = 100 * seconds
    begun = np.sort(rng.random(requests) * seconds)
    mine, failed = rng.random(requests) < 0.1, rng.random(requests) < 0.02
    left = mine & (rng.random(requests) < gone)
    ended = begun + np.where(mine, 1.0 + later_s, 1.0)

    def reports(which) -> list[SideCounts]:
        came, went, erred = (
            np.bincount((at[chosen] * 4).astype(int), minlength=4 * seconds).tolist()
            for at, chosen in (
                (begun, which),
                (ended, which & ~left),
                (ended, which & ~left & failed),
            )
        )
        rows = zip(came, went, erred, strict=False)
        return [SideCounts(assigned=one, resolved=two, errors=three) for one, two, three in rows]

    rows = zip(reports(~mine), reports(mine), strict=False)
    return [Observation(*row) for row in rows][: 4 * seconds]


@pytest.mark.parametrize(
    ("later_s", "gone", "seconds"), [(10.0, 0.0, 30), (0.0, 0.3, 60)], ids=["answers late", "callers leave"]
)
def test_requests_that_have_no_outcome_are_no_errors(later_s, gone, seconds):
    """A candidate as good as control has fewer outcomes than were assigned to it; alpha is below .01.

    Of 20 seeded rollouts each more than two are rolled back with a probability below .0011.
    """
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(20):
        watched = evaluation()
        for seen in answered(rng, seconds=seconds, later_s=later_s, gone=gone):
            watched.observe(seen)
        alarms += watched.decision(enough_time=False).kind == "fail"

    assert alarms <= 2


def test_without_a_reference_latency_is_not_compared():
    """Nothing can be slow then, which proves nothing."""
    plan = RolloutPlan(stages=STAGES)
    watched = shown(Evaluation(plan, 0, 0.1, stages=3, times=False), side(90), side(10), 20)

    assert verdict(watched, "latency").verdict == "insufficient"
    assert watched.decision(enough_time=True).kind == "pass"


def test_checks_that_are_off_do_not_find_a_failing_baseline():
    """Who switched them off wants no pause either."""
    watched = shown(evaluation(HealthChecks(enabled=False)), side(9, errors=9), side(1, errors=1), 200)

    assert watched.decision(enough_time=True).kind == "pass"


huge = st.sampled_from((0, 1, 10**6, 10**12))


@given(
    st.sampled_from((1e-6, 0.001, 0.1, 0.999, 1.0)), huge, huge, st.sampled_from((0.0, 1e-9, 1e150, 1e300))
)
def test_whatever_was_counted_can_be_shown(fraction, control, candidate, cost):
    """Nothing, everything or too much on either side: finite numbers, plain JSON, and a decision."""
    watched = Evaluation(RolloutPlan(stages=STAGES, checks=ALL_CHECKS), 0, fraction, stages=3)
    for errors in (0, 1):
        mine, others = (
            SideCounts(
                assigned=count,
                resolved=count,
                errors=count * errors,
                timed=count * (1 - errors),
                late=count * (1 - errors),
                priced=count,
                cost_usd=cost * count,
                cost_usd2=cost * cost * count,
                rated=count,
                quality=float(count),
                quality2=float(count),
            )
            for count in (candidate, control)
        )
        watched.observe(Observation(others, mine))
        for verdicts in (watched.verdicts(), watched.decision(enough_time=True)):
            json.dumps(to_plain(verdicts), allow_nan=False)


def test_ten_percent_errors_are_taken_back_soon():
    """2 % against 10 % at a 10 % canary, all guards on: median of 200 seeded runs at most 80 (about 66)."""
    rng = np.random.default_rng(9)
    spent = []
    for _ in range(200):
        watched, count = evaluation(), 0
        while watched.decision(enough_time=False).kind != "fail":
            count += 1
            watched.observe(
                Observation(
                    SideCounts(assigned=9, resolved=9, errors=int(rng.binomial(9, 0.02))),
                    SideCounts(assigned=1, resolved=1, errors=int(rng.random() < 0.1)),
                )
            )
        spent.append(count)

    assert np.median(spent) <= 80
