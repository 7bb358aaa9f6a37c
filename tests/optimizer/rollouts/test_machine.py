"""The table of transitions: what it allows, what it promises, and that the documentation is drawn from it."""

from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.rollouts import machine
from optimizer.rollouts.drawing import page
from optimizer.rollouts.machine import (
    APPROVAL,
    LIVE,
    TERMINAL,
    TRANSITIONS,
    Change,
    Direction,
    NotAllowed,
    allowed,
    apply_verb,
    find,
    first_stage,
    next_stage,
    next_step,
    verbs_for,
    wait_limit_s,
)
from optimizer.rollouts.records import OVERLAYING, SPLITTING, Status
from optimizer.rollouts.verdicts import (
    BASELINE_FAILING,
    BASELINE_OVER_THRESHOLD,
    FAILED,
    INSUFFICIENT,
    PASSED,
    SRM,
    Decision,
)
from optimizer.settings import RolloutPlan, Stage
from tests.optimizer.rollouts.conftest import PLAN

VERBS = sorted({row.verb for row in TRANSITIONS})
AT_ONCE = RolloutPlan(stages=())


def test_the_page_is_drawn_from_this_table():
    """`python -m optimizer.rollouts.drawing > docs/rollouts.md` makes it current."""
    path = Path(__file__).resolve().parents[3] / "docs" / "rollouts.md"
    assert path.read_text() == page()


def test_every_status_is_live_or_terminal():
    assert frozenset(Status) == LIVE | TERMINAL
    assert frozenset() == LIVE & TERMINAL
    assert OVERLAYING <= LIVE


def test_whatever_leads_to_more_traffic_gives():
    """Giving waits for the database, so nothing that gives may pass for something else."""
    share = {Status.DEPLOYED: 2, Status.RUNNING: 1, Status.PAUSED: 1}
    for row in TRANSITIONS:
        if row.target is None or row.verb == machine.WITHHOLD:
            continue
        for source in row.sources:
            if share.get(row.target, 0) > share.get(source, 0):
                assert row.direction is Direction.GIVE, row
            if share.get(row.target, 0) < share.get(source, 0):
                assert row.direction is Direction.TAKE, row


def test_nothing_leaves_deleted():
    left = {row.verb for row in TRANSITIONS if Status.DELETED in row.sources and row.target is not None}
    assert left == set()


def test_only_retry_and_delete_leave_an_aborted_one():
    left = {row.verb for row in TRANSITIONS if Status.ABORTED in row.sources and row.target is not None}
    assert left == {"retry", "delete"}


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("verb", VERBS)
def test_the_table_is_obeyed(running, status, verb):
    """For every status and verb: either a row applies and its target is reached, or a refusal says what else may be."""
    record = replace(running, status=status)
    rollout = replace(running.rollout, id="ro_2", attempt=2)
    change = Change(now=200.0, rollout=rollout, proposal=running.proposal, config_hash="h2")
    refusal = allowed(record, verb, rollout=rollout)
    if refusal is not None:
        rows = [row for row in TRANSITIONS if row.verb == verb and status in row.sources]
        assert all(row.condition is not None for row in rows)
        assert str(status) in refusal.message
        with pytest.raises(NotAllowed):
            apply_verb(record, verb, change)
        return

    after = apply_verb(record, verb, change)
    row = find(record, verb, rollout=rollout)
    assert after.status is (row.target or status)
    assert (after.revision, after.updated_at) == (record.revision + 1, 200.0)
    assert (after.id, after.created_at, after.parameters) == (
        record.id,
        record.created_at,
        record.parameters,
    )
    if row.direction is Direction.TAKE:
        assert after.candidate_percentage <= record.candidate_percentage


@pytest.mark.parametrize("status", list(Status))
def test_what_a_person_is_offered_can_be_done(running, status):
    record = replace(running, status=status)
    for verb in verbs_for(record):
        said = machine.REQUEST if verb == machine.DEPLOY and status is Status.COLLECTING else verb
        assert allowed(record, said, rollout=running.rollout) is None


def test_a_revision_only_rises(running):
    with pytest.raises(ValueError, match="not newer"):
        apply_verb(running, "pause", Change(now=1.0, revision=running.revision))
    assert apply_verb(running, "pause", Change(now=1.0, revision=77)).revision == 77


def test_waiting_for_approval_is_not_resumed(running):
    paused = replace(running, status=Status.PAUSED, reason=APPROVAL)
    assert "promote" in allowed(paused, "resume").message
    assert "resume" not in verbs_for(paused)
    assert allowed(replace(paused, reason="manual"), "resume") is None


def test_stages(running):
    assert (first_stage(PLAN), first_stage(AT_ONCE)) == (0, None)
    assert first_stage(RolloutPlan(stages=(Stage(100.0),))) is None
    assert first_stage(RolloutPlan(stages=(Stage(100.0, 60.0),))) == 0
    assert (next_stage(PLAN, 0), next_stage(PLAN, 1)) == (1, None)
    assert next_stage(RolloutPlan(stages=(Stage(5.0, 1.0), Stage(100.0, 60.0))), 0) == 1


def test_how_long_a_stage_waits():
    assert wait_limit_s(Stage(5.0, 60.0, 100, 90.0)) == 90.0
    assert wait_limit_s(Stage(5.0, 60.0)) == 600.0
    assert wait_limit_s(Stage(5.0)) is None


def test_stages_are_walked_through(running):
    second = apply_verb(running, "advance", Change(now=300.0, reference_ms=900.0, expected_s=70.0))
    rollout = second.rollout
    assert (rollout.stage, rollout.stage_started_at, rollout.waited_from) == (1, 300.0, 300.0)
    assert (rollout.id, rollout.reference_ms, rollout.expected_s) == (running.rollout.id, 900.0, 70.0)
    with pytest.raises(NotAllowed):
        apply_verb(second, "advance", Change(now=400.0))
    done = apply_verb(second, "complete", Change(now=400.0))
    assert (done.status, done.deployed_at, done.candidate_percentage) == (Status.DEPLOYED, 400.0, 100.0)


def test_promote_full_skips_what_is_left(running):
    assert apply_verb(running, "promote", Change(now=1e3)).rollout.stage == 1
    assert apply_verb(running, "promote", Change(now=1e3, full=True)).status is Status.DEPLOYED


@pytest.mark.parametrize(
    ("status", "kind", "verb", "reason"),
    [
        (Status.RUNNING, FAILED, "rollback", "guard:error"),
        (Status.PAUSED, FAILED, "rollback", "guard:error"),
        (Status.RUNNING, SRM, "pause", "srm"),
        (Status.RUNNING, BASELINE_FAILING, "pause", "baseline_failing"),
        (Status.RUNNING, BASELINE_OVER_THRESHOLD, "pause", "baseline_over_threshold"),
        (Status.RUNNING, PASSED, "advance", ""),
        (Status.RUNNING, INSUFFICIENT, None, None),
        (Status.PAUSED, PASSED, None, None),
        (Status.PAUSED, SRM, None, None),
        (Status.DEPLOYED, FAILED, None, None),
        (Status.ABORTED, PASSED, None, None),
    ],
)
def test_what_the_optimizer_does_by_itself(running, status, kind, verb, reason):
    step = next_step(replace(running, status=status), Decision(kind, "error", explanation="so"), now=110.0)
    assert (step and step.verb, step and step.reason) == (verb, reason)
    if step is not None:
        assert allowed(replace(running, status=status), step.verb) is None


def test_the_last_stage_completes(running):
    last = replace(running, rollout=replace(running.rollout, stage=1))
    assert next_step(last, Decision(PASSED), now=500.0).verb == "complete"


def test_approval_is_asked_once(running):
    """Before all traffic, and not again in a stage of 100 % that a person has promoted it to."""
    stages = (Stage(10.0, 60.0), Stage(50.0, 60.0), Stage(100.0, 60.0))
    rollout = replace(running.rollout, plan=RolloutPlan(stages=stages, approval=True))
    verbs = [
        next_step(replace(running, rollout=replace(rollout, stage=stage)), Decision(PASSED), now=500.0).verb
        for stage in range(3)
    ]
    assert verbs == ["advance", "pause", "complete"]


def test_too_little_data_pauses_at_the_end_of_the_wait(running):
    waiting = Decision(INSUFFICIENT, why="samples", explanation="3 of 100")
    assert next_step(running, waiting, now=100.0 + 599.0) is None
    step = next_step(running, waiting, now=100.0 + 600.0)
    assert (step.verb, step.reason) == ("pause", "insufficient")
    assert "3 of 100" in step.explanation
    assert next_step(running, Decision(INSUFFICIENT, why="time"), now=1e6) is None


def test_withholding_changes_nothing_but_the_revision(running):
    paused = replace(running, status=Status.PAUSED, reason="manual", explanation="x")
    after = apply_verb(paused, "withhold", Change(now=500.0, reason="other"))
    assert replace(after, revision=paused.revision, updated_at=paused.updated_at) == paused


def test_splitting_is_what_pauses_and_runs():
    assert frozenset({Status.RUNNING, Status.PAUSED}) == SPLITTING
