"""Every verb through the controller: what it writes, in which order, and what happens when a write fails."""

import asyncio
from dataclasses import replace

import pytest

from optimizer.rollouts import machine
from optimizer.rollouts.controller import Conflict, NotFound, Outdated, Refused, StoreAway
from optimizer.rollouts.records import LOOP, Candidate, Status
from optimizer.rollouts.verdicts import (
    BASELINE_OVER_THRESHOLD,
    FAILED,
    INSUFFICIENT,
    PASSED,
    Decision,
    Verdict,
)
from optimizer.settings import HealthChecks, PolicySettings, RolloutPlan, Stage
from tests.optimizer.rollouts.conftest import PLAN, edited
from tests.optimizer.rollouts.world import SMALL, World, proposal

AT_ONCE = RolloutPlan(stages=())


class Lacking:
    """An answer of a strategy that is no proposal."""

    def __init__(self, reason: str, explanation: str) -> None:
        self.reason = reason
        self.explanation = explanation


@pytest.fixture
async def world():
    made = World()
    await made.controller.tick()
    await made.controller.settled()
    yield made
    made.store.release(answers=False)
    await made.controller.settled()


async def do(world, record, verb, **more):
    return await world.controller.command(record.id, verb, actor="tester", **more)


async def running(world, **more):
    return await do(world, world.proposed(), "deploy", **more)


async def test_a_whole_life(world):
    """Created, proposed, deployed in stages that pass, rolled back."""
    record = world.proposed()
    assert (record.status, record.revision, record.id[:4]) == (Status.PROPOSED, 2, "opt_")

    record = await do(world, record, "deploy")
    assert (record.status, record.rollout.stage, record.attempts) == (Status.RUNNING, 0, 1)
    assert record.rollout.id.startswith("ro_")
    assert (record.rollout.reference_ms, record.rollout.expected_s) == (800.0, 100.0)
    assert world.tables[-1]["chat"] == (record.rollout.id, 0.1)

    for share in (0.5, 0.0):
        world.controller.judge(record.rollout.id, Decision(PASSED))
        await world.controller.tick()
        await world.controller.settled()
        assert world.share(record.rollout.id) == share
    record = world.controller.get(record.id)
    assert (record.status, record.deployed_at) == (Status.DEPLOYED, world.now)

    record = await do(world, record, "rollback", reason="we liked the old one better")
    assert (record.status, record.reason) == (Status.ROLLED_BACK, "rollback_requested")
    assert record.explanation == "we liked the old one better"
    assert [row["verb"] for row in world.transitions()] == [
        *("create", "propose", "deploy", "advance", "complete", "rollback")
    ]


async def test_giving_writes_database_log_disk_table_in_this_order(world):
    record = world.proposed()
    await world.controller.settled()
    world.trace.clear()

    await do(world, record, "deploy")

    assert world.trace[:4] == ["store", "log", "sync", "table"]
    assert world.takings[-1] is False


@pytest.mark.parametrize("verb", ["rollback", "abort", "pause"])
async def test_taking_writes_log_and_table_before_anything_else(world, verb):
    """And without a single turn of the loop, so that nothing can hold it up."""
    record = await running(world)
    await world.controller.settled()
    world.trace.clear()
    world.store.mode = "hang"

    step = world.controller.command(record.id, verb, actor="tester")
    with pytest.raises(StopIteration):
        step.send(None)

    assert world.trace == ["log", "table"]
    assert world.takings[-1] is True
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.trace == ["log", "table", "sync"]


async def test_what_was_taken_reaches_the_database_when_it_answers_again(world):
    record = await running(world)
    world.store.mode = "refuse"
    await do(world, record, "abort")
    await world.controller.settled()
    assert world.controller.store_away
    assert (world.controller.pending_records, world.store.get(record.id).status) == (1, Status.RUNNING)
    assert world.controller.store_retries == 1
    assert world.controller.store_error == "refuse"

    world.store.mode = "ok"
    await world.quiet()

    assert world.store.get(record.id).status is Status.ABORTED
    assert (world.controller.pending_records, world.controller.pending_rows) == (0, 0)
    assert not world.controller.store_away


async def test_without_the_database_nothing_is_given(world):
    record = world.proposed()
    await world.controller.settled()
    world.store.mode = "refuse"

    with pytest.raises(StoreAway, match="nothing was given"):
        await do(world, record, "deploy")

    assert world.controller.get(record.id).status is Status.PROPOSED
    assert world.tables[-1]["chat"] == (None, 0.0)


async def test_a_commit_without_an_answer_is_overwritten(world):
    """The database has stored the deployment and not said so: the state before is written again, newer."""
    record = world.proposed()
    await world.controller.settled()
    world.store.mode = "lie"
    with pytest.raises(StoreAway):
        await do(world, record, "deploy")
    assert world.store.get(record.id).status is Status.RUNNING

    world.store.mode = "ok"
    await world.quiet()

    stored, known = world.store.get(record.id), world.controller.get(record.id)
    assert stored.status is known.status is Status.PROPOSED
    assert stored.revision == known.revision == record.revision + 2
    assert known.reason == record.reason
    assert [row["verb"] for row in world.transitions()][-1] == "withhold"


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("commits", [True, False])
async def test_traffic_that_is_taken_while_it_is_given_stays_away(world, answers, commits):
    """An advance waits for the database, somebody aborts, then the database answers, or not."""
    record = await running(world)
    await world.controller.settled()
    world.store.mode, world.store.commits = "hang", commits
    going = asyncio.ensure_future(do(world, record, "promote"))
    while not world.store.waiting:
        await asyncio.sleep(0)

    aborted = await do(world, record, "abort")
    world.store.mode = "ok"
    world.store.release(answers=answers)

    with pytest.raises((Conflict, StoreAway)):
        await going
    await world.quiet()
    assert world.controller.get(record.id) == aborted
    assert world.store.get(record.id).status is Status.ABORTED
    assert world.share(record.rollout.id) == 0.0


async def test_only_taking_may_overtake_a_gift(world):
    record = world.proposed()
    await world.controller.settled()
    world.store.mode = "hang"
    going = asyncio.ensure_future(do(world, record, "deploy"))
    while not world.store.waiting:
        await asyncio.sleep(0)

    with pytest.raises(Conflict, match="under way"):
        await do(world, record, "delete")
    with pytest.raises(Conflict, match="under way"):
        await do(world, record, "deploy")
    with pytest.raises(Conflict, match="is being deployed"):
        await do(world, world.proposed(name="two"), "deploy")

    world.store.mode = "ok"
    world.store.release(answers=True)
    assert (await going).status is Status.RUNNING


async def test_a_caller_who_leaves_does_not_stop_a_gift(world):
    record = world.proposed()
    await world.controller.settled()
    world.store.mode = "hang"
    going = asyncio.ensure_future(do(world, record, "deploy"))
    while not world.store.waiting:
        await asyncio.sleep(0)

    going.cancel()
    await asyncio.sleep(0)
    world.store.mode = "ok"
    world.store.release(answers=True)
    await world.controller.settled()

    assert world.controller.get(record.id).status is Status.RUNNING


async def test_a_second_rollout_on_a_route_names_the_first(world):
    first = await running(world)
    second = world.proposed(name="two")

    with pytest.raises(Conflict, match=first.id) as raised:
        await do(world, second, "deploy")
    assert raised.value.current == first

    other = await do(world, world.proposed("code"), "deploy")
    assert other.status is Status.RUNNING


async def test_deploy_before_there_is_a_proposal_is_kept(world):
    """It deploys with its own plan as soon as there is a proposal, and not before the route is free."""
    first = await running(world)
    waiting = world.controller.create("two", "manual", "chat", {}, actor="tester")
    waiting = await do(world, waiting, "deploy", plan=AT_ONCE)
    assert (waiting.status, waiting.auto_deploy) == (Status.COLLECTING, True)
    world.controller.settle(waiting.id, proposal())

    await world.quiet()
    assert world.controller.get(waiting.id).status is Status.PROPOSED

    await do(world, first, "rollback")
    await world.quiet()
    assert world.controller.get(waiting.id).status is Status.DEPLOYED


async def test_rolling_one_back_leaves_what_lies_below(world):
    """Deployed ones stack, and each is taken off alone."""
    first = await running(world, plan=AT_ONCE)
    world.now += 1
    second = world.controller.create("two", "manual", "chat", {}, actor="tester")
    world.controller.settle(second.id, proposal(Candidate(baseline="mid")))
    second = await do(world, second, "deploy", plan=AT_ONCE)
    assert (first.status, second.status) == (Status.DEPLOYED, Status.DEPLOYED)

    await do(world, second, "rollback")

    assert [record.id for record in world.book.overlaying()] == [first.id]


async def deployed(world, name, candidate, **more):
    made = world.controller.create(name, "manual", "chat", {}, actor="tester")
    world.controller.settle(made.id, proposal(candidate))
    world.now += 1
    return await do(world, made, "deploy", **more)


async def test_a_rollout_that_no_longer_fits_what_lies_below_ends(world):
    """Its arms lack the baseline that comes to light when the layer between is taken off."""
    await deployed(world, "one", Candidate(baseline="mid"), plan=AT_ONCE)
    between = await deployed(world, "two", Candidate(baseline="small"), plan=AT_ONCE)
    above = await deployed(world, "three", Candidate(arms=("big", "small")))
    assert world.share(above.rollout.id) == 0.1

    await do(world, between, "rollback")

    assert world.controller.get(above.id).status is Status.SUPERSEDED
    assert world.share(above.rollout.id) == 0.0


async def test_what_does_not_fit_the_layers_below_is_not_deployed(world):
    await deployed(world, "one", Candidate(baseline="mid"), plan=AT_ONCE)
    with pytest.raises(Conflict, match="baseline"):
        await deployed(world, "two", Candidate(arms=("big", "small")))


async def test_failing_guards_take_at_once_and_say_what_was_measured(world):
    record = await running(world)
    verdict = Verdict("error", "fail", 0.001, control=0.01, candidate=0.2)

    after = world.controller.judge(
        record.rollout.id, Decision(FAILED, "error", explanation="20 % against 1 %"), [verdict]
    )

    assert (after.status, after.reason, after.explanation) == (
        Status.ROLLED_BACK,
        "guard:error",
        "20 % against 1 %",
    )
    assert after.measured["error"]["candidate"] == 0.2
    assert world.transitions()[-1]["measured"]["error"]["candidate"] == 0.2
    assert world.share(record.rollout.id) == 0.0
    assert world.controller.judge(record.rollout.id, Decision(PASSED)) is None


async def test_guards_go_on_while_paused(world):
    record = await running(world)
    paused = await do(world, record, "pause")
    assert (paused.reason, world.share(record.rollout.id)) == ("manual", 0.1)

    world.controller.judge(record.rollout.id, Decision(PASSED))
    await world.quiet()
    assert world.controller.get(record.id) == paused

    world.controller.judge(record.rollout.id, Decision(FAILED, "error"))
    assert world.share(record.rollout.id) == 0.0


@pytest.mark.parametrize(
    ("reason", "status", "kept"),
    [("hard_stop", Status.ROLLED_BACK, "hard_stop"), ("baseline_failing", Status.PAUSED, "baseline_failing")],
)
async def test_a_worker_that_stopped_is_followed(world, reason, status, kept):
    record = await running(world)
    after = world.controller.stop(record.rollout.id, reason)
    assert (after.status, after.reason) == (status, kept)


async def test_too_little_traffic_pauses_and_resuming_waits_anew(world):
    record = await running(world)
    waiting = Decision(INSUFFICIENT, why="samples", explanation="7 of 100")
    world.now += 599
    assert world.controller.judge(record.rollout.id, waiting).status is Status.RUNNING
    world.now += 1
    paused = world.controller.judge(record.rollout.id, waiting)
    assert (paused.status, paused.reason) == (Status.PAUSED, "insufficient")
    assert "7 of 100" in paused.explanation

    resumed = await do(world, paused, "resume")
    assert (resumed.status, resumed.rollout.waited_from) == (Status.RUNNING, world.now)
    assert world.controller.judge(record.rollout.id, waiting).status is Status.RUNNING


async def test_a_stage_that_nobody_judges_ends(world):
    record = await running(world)
    world.now += 600 + 2 * 30 + 1
    await world.controller.tick()
    assert world.controller.get(record.id).reason == "insufficient"


async def test_a_stage_that_has_passed_does_not_run_out_of_time(world):
    """It waits for the database, not for data."""
    record = await running(world)
    world.store.mode = "refuse"
    world.controller.judge(record.rollout.id, Decision(PASSED))
    world.now += 1e6
    waiting = Decision(INSUFFICIENT, why="samples")
    assert world.controller.judge(record.rollout.id, waiting).status is Status.RUNNING
    world.store.mode = "ok"
    await world.quiet()
    assert world.controller.get(record.id).rollout.stage == 1


async def test_approval_stops_before_all_traffic(world):
    """The stages below 100 % run; what follows is a person's decision."""
    record = await running(world, plan=replace(PLAN, approval=True))
    for _ in range(2):
        world.controller.judge(record.rollout.id, Decision(PASSED))
        await world.quiet()
    paused = world.controller.get(record.id)
    assert (paused.status, paused.reason, world.share(record.rollout.id)) == (
        Status.PAUSED,
        "approval",
        0.5,
    )

    with pytest.raises(Conflict, match="promote"):
        await do(world, paused, "resume")
    assert (await do(world, paused, "promote")).status is Status.DEPLOYED


async def test_the_loop_asks_before_it_moves_all_traffic_at_once(world):
    settings = world.settings
    plan = RolloutPlan(stages=(), approval=True)
    world.settings = replace(settings, deployment=replace(settings.deployment, plan=plan))
    made = world.controller.create("loop", "manual", "chat", {}, actor="optimizer", origin=LOOP)
    assert made.auto_deploy
    made = world.controller.settle(made.id, proposal())

    await world.quiet()
    assert world.controller.get(made.id).status is Status.PROPOSED
    assert (await do(world, made, "deploy")).status is Status.DEPLOYED


async def test_the_loop_deploys_by_itself(world):
    made = world.controller.create("loop", "manual", "chat", {}, actor="optimizer", origin=LOOP)
    world.controller.settle(made.id, proposal())
    await world.controller.tick()
    await world.controller.settled()
    assert world.controller.get(made.id).status is Status.RUNNING


async def test_baseline_over_threshold_pauses(world):
    record = await running(world)
    after = world.controller.judge(record.rollout.id, Decision(BASELINE_OVER_THRESHOLD, "error_rate"))
    assert (after.status, after.reason) == (Status.PAUSED, "baseline_over_threshold")


async def test_abort_is_latched_and_retry_draws_units_anew(world):
    record = await running(world)
    aborted = await do(world, record, "abort")
    for verb in ("deploy", "resume", "promote", "rollback", "pause", "abort"):
        with pytest.raises(Conflict):
            await do(world, aborted, verb)

    again = await do(world, aborted, "retry")
    assert (again.status, again.attempts, again.rollout.attempt) == (Status.RUNNING, 2, 2)
    assert again.rollout.id != record.rollout.id
    assert world.share(record.rollout.id) == 0.0
    assert world.share(again.rollout.id) == 0.1


async def test_promote_full_skips_the_rest(world):
    record = await running(world)
    assert (await do(world, record, "promote", full=True)).status is Status.DEPLOYED


async def test_promote_goes_one_stage_on(world):
    record = await running(world)
    world.now += 5
    record = await do(world, record, "promote")
    assert (record.rollout.stage, record.rollout.stage_started_at) == (1, world.now)
    assert world.share(record.rollout.id) == 0.5


async def test_a_revision_that_somebody_has_not_seen_is_refused(world):
    record = world.proposed()
    with pytest.raises(Outdated) as raised:
        await do(world, record, "delete", revision=record.revision - 1)
    assert raised.value.current == record
    assert (await do(world, record, "delete", revision=record.revision)).status is Status.DELETED


async def test_what_is_deleted_is_gone(world):
    record = world.proposed()
    await do(world, record, "delete")
    with pytest.raises(NotFound):
        world.controller.get(record.id)
    with pytest.raises(NotFound):
        await do(world, record, "retry")
    assert record.id not in [known.id for known in world.book.all()]


@pytest.mark.parametrize("verb", ["advance", "supersede", "withhold", "create", "nonsense"])
async def test_nobody_may_say_what_the_optimizer_says(world, verb):
    record = world.proposed()
    with pytest.raises(Conflict):
        await do(world, record, verb)


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb"])
async def test_a_bad_name_is_refused(world, name):
    with pytest.raises(Refused) as raised:
        world.controller.create(name, "manual", "chat", {}, actor="tester")
    assert raised.value.field == "name"


async def test_an_unknown_route_is_refused(world):
    with pytest.raises(Refused) as raised:
        world.controller.create("one", "manual", "nowhere", {}, actor="tester")
    assert raised.value.field == "route"


# --- strategies ------------------------------------------------------------------------------------


async def test_a_strategy_may_change_its_mind_before_anything_is_deployed(world):
    made = world.controller.create("one", "manual", "chat", {}, actor="tester")
    lacking = Lacking("not_enough_data", "12 of 100 samples")
    noted = world.controller.settle(made.id, lacking)
    assert (noted.status, noted.reason) == (Status.COLLECTING, "not_enough_data")
    assert world.controller.settle(made.id, lacking) == noted

    proposed = world.controller.settle(made.id, proposal())
    assert world.controller.settle(made.id, proposal(made_at=2000.0)) == proposed

    withdrawn = world.controller.settle(made.id, Lacking("no_improvement", "the effect is gone"))
    assert (withdrawn.status, withdrawn.proposal) == (Status.COLLECTING, None)


async def test_a_strategy_has_no_say_about_a_rollout(world):
    record = await running(world)
    with pytest.raises(Conflict):
        world.controller.settle(record.id, Lacking("no_improvement", ""))


@pytest.mark.parametrize("verb", ["rollback", "abort"])
async def test_what_was_taken_back_is_blocked_under_the_same_configuration(world, verb):
    record = await running(world)
    blocked = world.controller.blocked
    assert blocked("chat", SMALL, "h") is None

    ended = await do(world, record, verb)

    assert blocked("chat", SMALL, "h") == ended
    assert blocked("chat", SMALL, "another") is None
    assert blocked("code", SMALL, "h") is None
    assert blocked("chat", Candidate(baseline="mid"), "h") is None


async def test_a_mixture_that_moved_a_little_is_the_same_change(world):
    def mixture(share):
        fixed = {"small": share, "big": 1.0 - share}
        return Candidate(policy=PolicySettings(name="fixed", fixed=fixed))

    made = world.controller.create("one", "manual", "chat", {}, actor="tester")
    world.controller.settle(made.id, proposal(mixture(0.63)))
    await do(world, made, "rollback")

    assert world.controller.blocked("chat", mixture(0.66), "h") is not None
    assert world.controller.blocked("chat", mixture(0.8), "h") is None


# --- the configuration -----------------------------------------------------------------------------


async def test_an_edit_below_an_overlay_ends_it(world):
    record = await running(world)
    world.settings = edited(world.settings, baseline="mid")
    (ended,) = world.controller.follow(world.settings)
    assert (ended.id, ended.status, ended.reason) == (record.id, Status.SUPERSEDED, "file_changed")
    assert world.share(record.rollout.id) == 0.0


async def test_an_edit_elsewhere_changes_nothing(world):
    record = await running(world)
    world.settings = edited(world.settings, match=("gpt-*",))
    assert world.controller.follow(world.settings) == []
    assert world.share(record.rollout.id) == 0.1


async def test_a_route_that_vanishes_ends_all_of_its_optimizations(world):
    record = await running(world)
    waiting = world.proposed(name="two")
    collecting = world.controller.create("three", "manual", "chat", {}, actor="tester")
    world.settings = replace(world.settings, routes=world.settings.routes[1:])
    ended = world.controller.follow(world.settings)
    assert {one.id for one in ended} == {record.id, waiting.id, collecting.id}
    assert {one.reason for one in ended} == {"route_vanished"}


async def test_an_arm_that_vanishes_withdraws_a_proposal_and_ends_a_rollout(world):
    record = await running(world)
    waiting = world.proposed(name="two")
    first = world.settings.routes[0]
    world.settings = edited(world.settings, arms=first.arms[:2])
    (ended,) = world.controller.follow(world.settings)
    assert (ended.id, ended.reason) == (record.id, "arm_vanished")
    assert world.controller.get(waiting.id).status is Status.COLLECTING


async def test_a_reload_during_a_gift_stops_it(world):
    record = world.proposed()
    await world.controller.settled()
    world.store.mode = "hang"
    going = asyncio.ensure_future(do(world, record, "deploy"))
    while not world.store.waiting:
        await asyncio.sleep(0)
    world.settings = edited(world.settings, baseline="mid")
    world.controller.follow(world.settings)
    world.store.mode = "ok"
    world.store.release(answers=True)

    with pytest.raises(Conflict, match="file changed"):
        await going
    await world.quiet()
    assert world.store.get(record.id).status is Status.PROPOSED


async def test_retry_of_a_superseded_one_starts_from_the_new_file(world):
    record = await running(world)
    world.settings = edited(world.settings, baseline="mid")
    world.controller.follow(world.settings)
    again = await do(world, record, "retry")
    assert again.rollout.base != record.rollout.base
    assert world.controller.follow(world.settings) == []


# --- disks -----------------------------------------------------------------------------------------


async def test_a_take_whose_table_can_not_be_written_is_remembered(world):
    """Until it is, the guard must not be renewed."""
    record = await running(world)
    world.disk_full = True
    after = await do(world, record, "abort")
    assert after.status is Status.ABORTED
    assert world.controller.unpublished_takes
    await world.controller.tick()
    assert world.controller.unpublished_takes

    world.disk_full = False
    await world.controller.tick()
    assert not world.controller.unpublished_takes
    assert world.share(record.rollout.id) == 0.0
    assert world.takings[-1] is True


async def test_a_gift_whose_table_can_not_be_written_comes_later(world):
    record = world.proposed()
    world.disk_full = True
    record = await do(world, record, "deploy")
    assert record.status is Status.RUNNING
    assert not world.controller.unpublished_takes
    world.disk_full = False
    await world.controller.tick()
    assert world.share(record.rollout.id) == 0.1


async def test_a_candidate_that_makes_no_table_is_taken_back(world):
    record = world.proposed()
    world.unbuildable = f"ro_{world_id(world, ahead=2)}"
    with pytest.raises(Conflict, match="refuses its parameters"):
        await do(world, record, "deploy")
    assert world.controller.get(record.id).status is Status.PROPOSED
    await world.quiet()
    assert world.store.get(record.id).status is Status.PROPOSED


def world_id(world, *, ahead):
    """The id that will be given ``ahead`` calls from now."""
    last = next(world.ids)
    return f"{last + ahead:016x}"


async def test_a_log_that_can_not_be_synced_gives_nothing(world):
    record = world.proposed()
    world.sync_fails = True
    with pytest.raises(StoreAway, match="durable"):
        await do(world, record, "deploy")
    assert world.tables[-1]["chat"] == (None, 0.0)
    world.sync_fails = False
    await world.quiet()
    assert world.store.get(record.id).status is Status.PROPOSED


# --- audit and figures -----------------------------------------------------------------------------


async def test_every_change_and_deed_has_its_row(world):
    record = await running(world)
    world.controller.audit("tester", "keys.create", "key_1", {"name": "k"})
    await do(world, record, "abort", reason="enough")
    await world.quiet()

    actions = [row.action for row in world.store.rows.values()]
    assert sorted(actions) == sorted(
        [f"optimization.{verb}" for verb in ("create", "propose", "deploy", "abort")] + ["keys.create"]
    )
    abort = next(row for row in world.store.rows.values() if row.action == "optimization.abort")
    assert (abort.actor, abort.target, abort.detail["explanation"]) == ("tester", record.id, "enough")
    assert (abort.detail["from"], abort.detail["to"]) == ("running", "aborted")


async def test_transitions_are_counted(world):
    record = await running(world)
    await do(world, record, "abort")
    assert world.controller.transitions == {"create": 1, "propose": 1, "deploy": 1, "abort": 1}


async def test_automatic_gifts_are_not_tried_all_the_time(world):
    """Each attempt that fails leaves a trace, so there is a pause between them."""
    world.store.mode = "refuse"
    made = world.controller.create("loop", "manual", "chat", {}, actor="optimizer", origin=LOOP)
    world.controller.settle(made.id, proposal())
    for _ in range(100):
        world.now += 0.25
        await world.controller.tick()
        await world.controller.settled()
    tried = world.controller.store_retries
    assert tried < 12
    assert world.controller.transitions.get(machine.WITHHOLD, 0) <= 1

    world.store.mode = "ok"
    world.now += 61
    for _ in range(3):
        await world.controller.tick()
        await world.controller.settled()
    assert world.controller.get(made.id).status is Status.RUNNING


async def test_closing_tells_the_database_what_is_left(world):
    record = await running(world)
    await do(world, record, "abort")
    await world.controller.close()
    assert world.store.get(record.id).status is Status.ABORTED


async def test_checks_that_are_off_still_end(world):
    plan = RolloutPlan(stages=(Stage(5.0),), checks=HealthChecks(enabled=False))
    record = await running(world, plan=plan)
    world.now += 1e6
    await world.controller.tick()
    assert world.controller.get(record.id).status is Status.RUNNING
    world.controller.judge(record.rollout.id, Decision(PASSED))
    await world.quiet()
    assert world.controller.get(record.id).status is Status.DEPLOYED


@pytest.mark.parametrize("verb", ["pause", "promote", "rollback", "abort"])
async def test_a_persons_verb_keeps_what_was_measured_at_that_moment(world, verb):
    """Not what was measured when an earlier stage passed: in the event, the audit row and the record."""
    record = await running(world)
    earlier = [Verdict("error", "pass", 0.001, control=0.01, candidate=0.01)]
    world.controller.judge(record.rollout.id, Decision(PASSED), earlier)
    await world.controller.tick()
    await world.controller.settled()
    assert world.book.get(record.id).rollout.stage == 1
    assert world.transitions()[-1]["measured"]["error"]["candidate"] == 0.01
    world.measured = {"error": {"verdict": "insufficient", "candidate": 0.3}}

    after = await world.controller.command(record.id, verb, actor="ann")
    await world.controller.settled()

    assert after.measured == world.measured
    assert world.transitions()[-1]["measured"] == world.measured
    [row] = [row for row in world.store.rows.values() if row.action == f"optimization.{verb}"]
    assert row.detail["measured"] == world.measured


async def test_what_stops_without_verdicts_keeps_what_was_measured(world):
    """A worker's hard stop brings none, the guards have them."""
    record = await running(world)
    world.measured = {"error": {"verdict": "insufficient", "candidate": 1.0}}

    after = world.controller.stop(record.rollout.id, "hard_stop")

    assert (after.status, after.measured) == (Status.ROLLED_BACK, world.measured)


async def test_nothing_is_measured_once_it_is_deployed(world):
    """Taking a deployed change back is not explained with the verdicts that let it through."""
    record = await running(world)
    world.measured = {"error": {"verdict": "pass", "candidate": 0.01}}
    done = await world.controller.command(record.id, "promote", actor="ann", full=True)
    assert (done.status, done.measured) == (Status.DEPLOYED, world.measured)

    after = await world.controller.command(record.id, "rollback", actor="ann")

    assert after.measured == {}
    assert world.transitions()[-1]["measured"] == {}
