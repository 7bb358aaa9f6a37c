"""What must not happen whatever the disk, the clock, the database or two people at once do."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.controller import Conflict, StoreAway
from optimizer.rollouts.fitting import KEPT_COVERED, covered
from optimizer.rollouts.overlays import effective
from optimizer.rollouts.records import Candidate, Optimization, Status
from optimizer.settings import PolicySettings, RolloutPlan
from tests.optimizer.rollouts.conftest import arm, edited, make_record, make_settings
from tests.optimizer.rollouts.world import SMALL, World, proposal

AT_ONCE = RolloutPlan(stages=())


@pytest.fixture
async def world():
    made = World()
    await made.controller.tick()
    await made.controller.settled()
    yield made
    made.store.release(answers=False)
    await made.controller.settled()


async def do(world: World, record: Optimization, verb: str, **more: Any) -> Optimization:
    return await world.controller.command(record.id, verb, actor="tester", **more)


# --- a log that takes nothing -----------------------------------------------------------------------


async def test_nothing_is_given_that_the_log_does_not_take(world):
    record = world.proposed()
    await world.quiet()
    world.log_full = True
    with pytest.raises(StoreAway, match="event log"):
        await do(world, record, "deploy")
    assert world.tables[-1]["chat"] == (None, 0.0)
    assert world.controller.get(record.id).status is Status.PROPOSED


async def test_what_a_full_log_did_not_take_is_in_it_afterwards(world):
    """Replaying the log rebuilds the record, without a restart."""
    record = await do(world, world.proposed(), "deploy")
    world.log_full = True
    await do(world, record, "abort")
    await world.controller.tick()
    assert [row["verb"] for row in world.transitions()][-1] == "deploy"
    world.log_full = False
    await world.quiet()
    rebuilt = Book(record_of(data["record"]) for data in world.transitions())
    assert rebuilt.get(record.id) == world.controller.get(record.id)
    assert [row["verb"] for row in world.transitions()].count("abort") == 1


# --- two commands at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["rollback", "abort"])
@pytest.mark.parametrize("commits", [True, False])
async def test_a_retry_under_way_can_be_taken_back(world, verb, commits):
    """Who changes their mind while the database is slow must not find the candidate running afterwards."""
    record = await do(world, world.proposed(), "deploy")
    await do(world, record, "rollback")
    await world.quiet()
    world.store.mode, world.store.commits = "hang", commits
    retrying = asyncio.create_task(do(world, record, "retry"))
    while not world.store.waiting:
        await asyncio.sleep(0)

    after = await do(world, record, verb)
    assert after.status is Status.ROLLED_BACK
    world.store.mode = "ok"
    world.store.release(answers=True)
    with pytest.raises(Conflict):
        await retrying
    await world.quiet()
    assert world.controller.get(record.id).status is Status.ROLLED_BACK
    assert world.store.get(record.id).status is Status.ROLLED_BACK
    assert not [table for table in world.tables if table["chat"][0] not in (None, record.rollout.id)]


async def test_a_file_that_changes_while_the_disk_writes_stops_the_gift(world):
    """Otherwise it would be called running, on values that are no longer there, and nobody would end it."""
    record = world.proposed()
    await world.controller.settled()
    sync = world._sync
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await go_on.wait()
        await sync()

    world.controller._giving._sync_log = slow
    giving = asyncio.create_task(do(world, record, "deploy"))
    await begun.wait()
    world.settings = edited(world.settings, policy=PolicySettings(name="fixed", floor=0.07))
    world.controller.follow(world.settings)
    go_on.set()
    with pytest.raises(Conflict):
        await giving
    assert world.controller.get(record.id).status is Status.PROPOSED
    assert world.tables[-1]["chat"] == (None, 0.0)


# --- a database that lies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        {"rollout": None},
        {"proposal": None},
        {"revision": 0},
        {"revision": "7"},
        {"id": 7},
        {"status": "flying"},
    ],
)
def test_a_record_that_can_not_be_is_none(running, damage):
    with pytest.raises((TypeError, ValueError)):
        record_of({**to_plain(running), **damage})


@pytest.mark.parametrize("stage", [-1, 3, 99])
def test_a_stage_that_is_not_in_the_plan_is_none(running, stage):
    raw = to_plain(running)
    raw["rollout"]["stage"] = stage
    with pytest.raises(ValueError, match="stage"):
        record_of(raw)


async def test_before_the_database_was_read_nobody_says_that_something_does_not_exist(world):
    record = await do(world, world.proposed(), "deploy")
    await do(world, record, "abort")
    await world.quiet()
    world.store.mode = "refuse"
    await world.restart()
    with pytest.raises(StoreAway):
        await do(world, record, "retry")
    world.store.mode = "ok"
    await world.quiet()
    assert world.controller.get(record.id).status is Status.ABORTED


async def test_changes_that_wait_for_the_database_are_bounded(world, monkeypatch):
    monkeypatch.setattr("optimizer.rollouts.controller.MAX_PENDING", 20)
    world.store.mode = "refuse"
    for _ in range(20):
        await do(world, world.controller.create("one", "manual", "chat", {}, actor="tester"), "delete")
    with pytest.raises(Conflict, match="database"):
        world.controller.create("one", "manual", "chat", {}, actor="tester")
    world.store.mode = "ok"
    await world.quiet()
    world.controller.create("one", "manual", "chat", {}, actor="tester")


def test_a_big_database_is_joined_in_linear_time(settings, small):
    """Forgetting the oldest of 30,000 finished records looked at all of them for each."""
    base = make_record(settings, small, status=Status.ROLLED_BACK)
    looked = 0

    class Counting(dict[str, Any]):
        def __iter__(self) -> Any:
            nonlocal looked
            looked += 1
            return super().__iter__()

    book = Book(capacity=100)
    book._records = Counting()
    for number in range(1000):
        book.join(replace(base, id=f"opt_{number}"))
    assert len(book) == 100
    assert looked == 0
    assert not book.join(replace(base, id="opt_0")), "forgotten, not unknown"
    assert book.all()[0].id == "opt_900"


# --- deployments that pile up -----------------------------------------------------------------------


def deployed(number: int, candidate: Candidate) -> Optimization:
    return make_record(
        make_settings(),
        candidate,
        status=Status.DEPLOYED,
        name=f"opt_{number:02d}",
        deployed_at=float(number),
    )


def test_only_what_newer_ones_hide_altogether_ends():
    wide = Candidate(arms=("big", "small"), baseline="small")
    narrow = Candidate(baseline="big")
    other = Candidate(policy=PolicySettings(name="fixed", fixed={"big": 1.0}))
    stack = [deployed(1, other), deployed(2, wide), deployed(3, narrow), deployed(4, narrow)]
    assert covered(stack, keep=0) == [stack[2]]
    assert covered(stack, keep=1) == []
    assert covered([deployed(1, narrow), deployed(2, wide)], keep=0)[0].id == "opt_01"


async def test_deployments_of_months_do_not_pile_up(world):
    for number in range(12):
        world.now += 10.0
        record = world.proposed(name=f"number {number}")
        await do(world, record, "deploy", plan=AT_ONCE)
        before = effective(world.settings, world.book.overlaying())["chat"].control
        await world.quiet()
        assert effective(world.settings, world.book.overlaying())["chat"].control == before
    left = world.book.overlaying()
    assert len(left) == 1 + KEPT_COVERED
    ended = [one for one in world.book.all() if one.status is Status.SUPERSEDED]
    assert {one.reason for one in ended} == {"covered"}
    assert len(ended) == 12 - len(left)
    newest = world.controller.get(record.id)
    await do(world, newest, "rollback")
    assert effective(world.settings, world.book.overlaying())["chat"].control.baseline == "small"
    assert arm("small") in effective(world.settings, world.book.overlaying())["chat"].control.arms
    assert proposal().candidate == SMALL
