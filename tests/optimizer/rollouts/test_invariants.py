"""The invariants of rollouts, whatever people, guards, databases and disks do, and wherever the process is killed.

I1 what was taken away never gets traffic again; I2 no share above the stage's; I3 no change without an event; I4 the
events rebuild the records, in any order; I5 a kill between any two writes converges; I6 an older controller can't
overwrite a newer one's record.
"""

import asyncio
import random
from contextlib import suppress

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from optimizer.rollouts import machine
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.controller import Conflict, NotFound, StoreAway
from optimizer.rollouts.machine import TERMINAL, TRANSITIONS, Direction
from optimizer.rollouts.overlays import effective
from optimizer.rollouts.records import SPLITTING, Status
from optimizer.rollouts.verdicts import FAILED, INSUFFICIENT, PASSED, SRM, Decision
from optimizer.settings import RolloutPlan
from tests.optimizer.rollouts.conftest import edited
from tests.optimizer.rollouts.world import Crash, StoreDown, World, proposal

VERBS = ("deploy", "request", "promote", "pause", "resume", "rollback", "abort", "retry", "delete")
ALWAYS_GIVE = {row.verb for row in TRANSITIONS if row.direction is Direction.GIVE} - {"retry"}
picks = st.integers(0, 5)


class Lacking:
    reason = "not_enough_data"
    explanation = "too little"


class Rollouts(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = self.run(self.make())
        self.taken = set()
        self.seen_tables = 0
        self.edits = 0

    async def make(self):
        return World()

    def run(self, work):
        return self.loop.run_until_complete(work)

    async def some_turns(self):
        for _ in range(12):
            await asyncio.sleep(0)

    # --- helpers ------------------------------------------------------------------------------------

    def pick(self, number):
        known = self.world.book.everything()
        return known[number % len(known)] if known else None

    def acknowledge(self, record):
        """A caller was told so."""
        if record is not None and record.status in TERMINAL and record.rollout is not None:
            self.taken.add(record.rollout.id)

    async def guarded(self, work):
        """Do something; whoever is killed meanwhile starts again."""
        try:
            result = work()
            if asyncio.iscoroutine(result):
                result = await result
            self.acknowledge(result if hasattr(result, "rollout") else None)
        except (Conflict, NotFound, StoreAway):
            pass
        except Crash:
            pass
        await self.some_turns()
        if self.world.dead:
            await self.world.restart()

    # --- what happens -------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.book) < 6)
    @rule(
        route=st.sampled_from(["chat", "code"]),
        at_once=st.booleans(),
        origin=st.sampled_from(["api", "loop"]),
    )
    def create(self, route, at_once, origin):
        async def work():
            made = self.world.controller.create("one", "manual", route, {}, actor="tester", origin=origin)
            self.world.controller.settle(made.id, proposal())
            if at_once:
                await self.world.controller.command(
                    made.id, "deploy", actor="tester", plan=RolloutPlan(stages=())
                )

        self.run(self.guarded(work))

    @rule(which=picks, lacks=st.booleans())
    def settle(self, which, lacks):
        record = self.pick(which)
        if record is not None:
            answer = Lacking() if lacks else proposal(made_at=self.world.now)
            self.run(self.guarded(lambda: self.world.controller.settle(record.id, answer)))

    @rule(which=picks, verb=st.sampled_from(VERBS), full=st.booleans())
    def command(self, which, verb, full):
        record = self.pick(which)
        if record is not None:
            order = self.world.controller.command
            self.run(self.guarded(lambda: order(record.id, verb, actor="tester", full=full)))

    @rule(which=picks, kind=st.sampled_from([PASSED, PASSED, FAILED, SRM, INSUFFICIENT]))
    def judge(self, which, kind):
        record = self.pick(which)
        if record is not None and record.rollout is not None:
            decision = Decision(kind, "error")
            self.run(self.guarded(lambda: self.world.controller.judge(record.rollout.id, decision)))

    @rule(seconds=st.sampled_from([0.3, 3.0, 70.0, 900.0]))
    def time(self, seconds):
        self.world.now += seconds
        self.run(self.guarded(self.world.controller.tick))

    @rule(lines=st.integers(0, 20))
    def learn(self, lines):
        self.run(self.guarded(lambda: self.world.follow_log(lines)))

    @rule(mode=st.sampled_from(["ok", "ok", "refuse", "lie"]))
    def database(self, mode):
        self.world.store.mode = mode

    @rule(
        which=picks,
        verb=st.sampled_from(["deploy", "promote", "resume", "retry"]),
        meanwhile=st.sampled_from(["rollback", "abort", "pause", "reload", "learn", "kill", None]),
        commits=st.booleans(),
        answers=st.booleans(),
    )
    def hang(self, which, verb, meanwhile, commits, answers):
        """The database swallows a gift, something else happens, then it answers, or the connection breaks."""
        record = self.pick(which)
        if record is None:
            return
        # A database that confirms has committed; no order of writes helps against one that does not keep that.
        answers = answers and commits

        async def work():
            store, controller = self.world.store, self.world.controller
            before, store.mode, store.commits = store.mode, "hang", commits
            going = asyncio.ensure_future(controller.command(record.id, verb, actor="tester"))
            await self.some_turns()
            if meanwhile == "kill":
                store.mode = before
                if commits and store.waiting:
                    store.release(answers=True)
                    await asyncio.sleep(0)
                going.cancel()
                await self.world.restart()
                return
            try:
                if meanwhile == "reload":
                    self.reload_now()
                elif meanwhile == "learn":
                    self.world.follow_log()
                elif meanwhile is not None:
                    self.acknowledge(await controller.command(record.id, meanwhile, actor="tester"))
            except (Conflict, NotFound):
                pass
            store.mode = "ok" if answers else "refuse"
            while not going.done():
                store.release(answers=answers)
                await asyncio.sleep(0)
            store.release(answers=answers)
            store.mode = before
            with suppress(Conflict, NotFound, StoreAway):
                self.acknowledge(await going)

        self.run(self.guarded(work))

    @rule(writes=st.integers(1, 6), late=st.booleans())
    def kill_soon(self, writes, late):
        self.world.fuse, self.world.late = self.world.writes + writes, late

    @rule()
    def kill(self):
        self.run(self.world.restart())

    def reload_now(self):
        self.edits += 1
        self.world.settings = edited(self.world.settings, baseline=("big", "mid")[self.edits % 2])
        for record in self.world.controller.follow(self.world.settings):
            self.acknowledge(record)

    @precondition(lambda self: self.edits < 2)
    @rule()
    def reload(self):
        self.run(self.guarded(self.reload_now_async))

    async def reload_now_async(self):
        self.reload_now()

    @rule(full=st.booleans())
    def disk(self, full):
        self.world.disk_full = full

    # --- what holds ---------------------------------------------------------------------------------

    @invariant()
    def taken_traffic_stays_away(self):
        """I1."""
        if not self.world.controller.unpublished_takes:
            for rollout in self.taken:
                assert self.world.share(rollout) == 0.0

    @invariant()
    def no_table_gives_more_than_was_decided(self):
        """I2: and what was decided is in the log, after it was in the database."""
        decided = {}
        for data in self.world.transitions():
            if data["verb"] in ALWAYS_GIVE:
                assert (data["optimization"], data["revision"]) in self.world.store.ever
            if data["percentage"]:
                decided.setdefault(data["rollout"], set()).add(data["percentage"] / 100.0)
        for table in self.world.tables[self.seen_tables :]:
            for rollout, share in table.values():
                assert rollout is None or share in decided[rollout]
        self.seen_tables = len(self.world.tables)

    @invariant()
    def every_change_has_its_event(self):
        """I3."""
        logged = {(data["optimization"], data["revision"]) for data in self.world.transitions()}
        for record in self.world.book.everything():
            assert (record.id, record.revision) in logged

    @invariant()
    def events_rebuild_the_records(self):
        """I4."""
        told = self.world.transitions()
        random.Random(len(told)).shuffle(told)
        rebuilt = Book(record_of(data["record"]) for data in told)
        # A new process reads what has ended, and is stored, when the database answers.
        ended = {
            record.id
            for record in rebuilt.everything()
            if record.status in TERMINAL and self.world.book.get(record.id) is None
        }
        assert all(self.world.store.get(id_) == rebuilt.get(id_) for id_ in ended)
        told_of = {id_: one for id_, one in plain(rebuilt).items() if id_ not in ended}
        assert told_of == plain(self.world.book)

    @invariant()
    def one_rollout_per_route(self):
        for route in ("chat", "code"):
            assert len([one for one in self.world.book.on_route(route) if one.status in SPLITTING]) <= 1

    def teardown(self):
        """I5: database, log, book and table agree in the end."""
        try:
            self.run(self.converge())
        finally:
            self.loop.close()

    async def converge(self):
        world = self.world
        world.fuse = None
        if world.dead:
            await world.restart()
        world.store.mode, world.disk_full = "ok", False
        await world.quiet()
        assert world.controller.pending_records == world.controller.pending_rows == 0
        assert {id_: orjson.loads(raw) for id_, raw in world.store.records.items()} == plain(world.book)
        self.events_rebuild_the_records()
        self.taken_traffic_stays_away()
        overlays = effective(world.settings, world.book.overlaying())
        assert world.tables[-1] == {name: (one.rollout, one.fraction) for name, one in overlays.items()}
        ids = {f"{data['optimization']}:{data['revision']}" for data in world.transitions()}
        assert ids <= set(world.store.rows)
        await world.restart()
        assert world.tables[-1] == world.tables[-2]
        await world.quiet()


def plain(book):
    return {record.id: to_plain(record) for record in book.everything()}


def run_examples(examples, steps):
    run_state_machine_as_test(
        Rollouts,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_invariants_hold():
    run_examples(30, 25)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_invariants_hold_for_long():
    run_examples(80, 50)


async def life(world, reached):
    """A whole life; ``reached`` is told of every acknowledged step."""
    controller = world.controller
    made = controller.create("one", "manual", "chat", {}, actor="tester")
    reached(made)
    reached(controller.settle(made.id, proposal()))
    for verb in ("deploy", "promote", "pause", "resume", "promote", "rollback", "retry", "abort"):
        reached(await controller.command(made.id, verb, actor="tester"))
    await controller.settled()
    world.follow_log()


async def count_writes():
    world = World()
    await life(world, lambda record: None)
    return world.writes


WRITES = asyncio.run(count_writes())


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fuse", range(2, WRITES + 1))
async def test_a_kill_at_any_write_converges(fuse, late):
    """What a caller was told still holds after the restart, or something newer does; and all four places agree."""
    world = World()
    world.fuse, world.late = fuse, late
    seen = []
    # The writes of the background come in an order of their own, so the fuse may not be reached.
    with suppress(Crash):
        await life(world, seen.append)

    await world.restart()
    if seen:
        known = world.book.get(seen[-1].id)
        assert known.revision >= seen[-1].revision
        if seen[-1].status in TERMINAL and known.revision == seen[-1].revision:
            assert world.tables[-1]["chat"] == (None, 0.0)
    await world.quiet()

    assert {id_: orjson.loads(raw) for id_, raw in world.store.records.items()} == plain(world.book)
    rebuilt = Book(record_of(data["record"]) for data in world.transitions())
    assert plain(rebuilt) == plain(world.book)
    overlay = effective(world.settings, world.book.overlaying())["chat"]
    assert world.tables[-1]["chat"] == (overlay.rollout, overlay.fraction)
    assert world.controller.pending_rows == 0


async def test_an_older_controller_can_not_overwrite_a_newer_one():
    """I6: the database refuses an older revision, and whoever was refused learns what is true."""
    world = World()
    record = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    newer = machine.apply_verb(record, "abort", machine.Change(now=world.now, revision=record.revision + 50))
    await world.store.write([newer], [])

    with pytest.raises(StoreDown):
        await world.store.save(record, next(iter(world.store.rows.values())))
    with pytest.raises(StoreAway):
        await world.controller.command(record.id, "promote", actor="tester")
    await world.quiet()

    assert world.controller.get(record.id).status is Status.ABORTED
    assert world.share(record.rollout.id) == 0.0
