"""Effective route = file + overlays, and the table that carries both."""

from dataclasses import replace

import pytest

from optimizer.evidence import NoEvidence
from optimizer.publisher import Publisher
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.fitting import alike
from optimizer.rollouts.overlays import (
    ARM_VANISHED,
    FILE_CHANGED,
    ROUTE_VANISHED,
    apply,
    effective,
    obstacle,
)
from optimizer.rollouts.records import Candidate, Status
from optimizer.settings import Constraints, Objective, PolicySettings
from optimizer.table_file import decode, encode
from tests.optimizer.rollouts.conftest import arm, edited, make_record, make_settings, route


def test_a_record_survives_being_written_as_json(running):
    assert record_of(to_plain(running)) == running


def test_a_reader_ignores_what_a_newer_program_added(running):
    raw = to_plain(running)
    raw["from_the_future"] = 1
    raw["rollout"]["plan"]["stages"][0]["from_the_future"] = 1
    assert record_of(raw) == running


def test_a_running_rollout_splits_the_route(settings, running):
    overlay = effective(settings, [running])["chat"]
    assert overlay.control == settings.routes[0]
    assert overlay.candidate is not None
    assert overlay.candidate.baseline == "small"
    assert (overlay.fraction, overlay.rollout) == (0.1, running.rollout.id)


@pytest.mark.parametrize(
    "status",
    [
        Status.COLLECTING,
        Status.PROPOSED,
        Status.ROLLED_BACK,
        Status.ABORTED,
        Status.SUPERSEDED,
        Status.DELETED,
    ],
)
def test_no_other_status_gives_the_candidate_anything(settings, running, status):
    overlay = effective(settings, [replace(running, status=status)])["chat"]
    assert (overlay.control, overlay.candidate, overlay.fraction) == (settings.routes[0], None, 0.0)


def test_a_deployed_one_is_the_route(settings, small):
    record = make_record(settings, small, status=Status.DEPLOYED, deployed_at=200.0)
    overlay = effective(settings, [record])["chat"]
    assert overlay.candidate is None
    assert overlay.control.baseline == "small"


def test_overlays_stack_and_taking_one_away_leaves_the_other(settings, small):
    narrow = make_record(
        settings,
        Candidate(arms=("big", "small"), policy=PolicySettings(name="thompson")),
        status=Status.DEPLOYED,
        deployed_at=100.0,
        name="opt_a",
    )
    later = make_record(settings, small, status=Status.DEPLOYED, deployed_at=200.0, name="opt_b")
    both = effective(settings, [later, narrow])["chat"].control
    assert ([a.id for a in both.arms], both.baseline) == (["big", "small"], "small")
    alone = effective(settings, [narrow])["chat"].control
    assert ([a.id for a in alone.arms], alone.baseline) == (["big", "small"], "big")


def test_a_candidate_may_bring_back_an_arm_that_an_older_overlay_left_out(settings):
    narrow = make_record(
        settings, Candidate(arms=("big",)), status=Status.DEPLOYED, deployed_at=1.0, name="opt_a"
    )
    wide = make_record(settings, Candidate(arms=("big", "mid")), name="opt_b")
    overlay = effective(settings, [narrow, wide])["chat"]
    assert [a.id for a in overlay.control.arms] == ["big"]
    assert overlay.candidate is not None
    assert [a.id for a in overlay.candidate.arms] == ["big", "mid"]


def test_an_edit_of_a_named_field_ends_the_overlay(settings, running):
    changed = edited(settings, baseline="mid")
    assert obstacle(running, changed) == FILE_CHANGED
    assert effective(changed, [running])["chat"].candidate is None


def test_an_edit_of_another_field_does_not(settings, running):
    changed = edited(settings, objectives=(Objective("cost", 1.0, maximize=False),))
    assert obstacle(running, changed) is None
    assert effective(changed, [running])["chat"].candidate is not None


def test_constraints_are_a_field_like_the_others(settings):
    """The candidate's side has them, control does not, and they survive the table and the database."""
    wanted = Constraints(cost_ratio=0.6, quality_floor=0.5)
    record = make_record(settings, Candidate(constraints=wanted))
    overlay = effective(settings, [record])["chat"]

    assert overlay.control.constraints == Constraints()
    assert overlay.candidate is not None
    assert overlay.candidate.constraints == wanted
    assert record_of(to_plain(record)) == record
    assert not alike(Candidate(constraints=wanted), Candidate(constraints=Constraints(cost_ratio=0.5)))
    assert obstacle(record, edited(settings, constraints=Constraints(quality_floor=0.9))) == FILE_CHANGED


def test_an_edited_prompt_is_an_edit_of_the_arms(settings):
    record = make_record(settings, Candidate(arms=("big", "small")))
    changed = edited(settings, arms=(arm("big"), arm("mid"), replace(arm("small"), variant_key="other")))
    assert obstacle(record, changed) == FILE_CHANGED


def test_an_arm_or_a_route_that_is_gone_ends_it(settings, running):
    assert obstacle(running, edited(settings, arms=(arm("big"), arm("mid")))) == ARM_VANISHED
    assert obstacle(running, make_settings(route("other"))) == ROUTE_VANISHED


def test_shares_of_no_arm_are_refused(settings):
    with pytest.raises(ValueError, match="nobody"):
        apply(settings.routes[0], Candidate(policy=PolicySettings(name="fixed", fixed={"nobody": 1.0})))


def test_the_table_has_both_sides_and_the_record_whole(settings, running):
    table = Publisher(seed=1).build(settings, NoEvidence(), version=1, now=0.0, records=[running])
    published = table.routes[0]
    assert published.candidate is not None
    assert (published.candidate_fraction, published.rollout) == (0.1, running.rollout.id)
    read, _ = decode(encode(table))
    assert read == table
    assert [record_of(raw) for raw in read.overlays] == [running]


def test_only_a_route_whose_overlay_changed_is_built_again(settings, running):
    publisher = Publisher(seed=1)
    two = make_settings(route("chat"), route("code"))
    first = publisher.build(two, NoEvidence(), version=1, now=0.0, dirty=())
    second = publisher.build(two, NoEvidence(), version=2, now=0.0, dirty=(), records=[running])
    assert second.routes[1] is first.routes[1]
    assert second.routes[0].candidate is not None
    third = publisher.build(two, NoEvidence(), version=3, now=0.0, dirty=())
    assert third.routes[0].candidate is None
    assert third.routes[0].candidate_fraction == 0.0
