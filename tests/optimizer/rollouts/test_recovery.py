"""What a new process knows: from the table, the snapshot, the log's unread end and the database, on real files."""

from dataclasses import replace

import orjson
import pytest

from optimizer import events
from optimizer.control_store.store import SqlStore
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds, encode, event_source
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.book import RESTART_GAP, Book
from optimizer.rollouts.faults import StoreAway
from optimizer.rollouts.history import audit_data, transition_data, transition_id
from optimizer.rollouts.machine import Change, apply_verb
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.overlays import digests, named
from optimizer.rollouts.projection import Projection
from optimizer.rollouts.records import Rollout, Status
from tests.optimizer.rollouts.conftest import PLAN
from tests.optimizer.rollouts.world import World, proposal


class Log:
    """The optimizer's part of a node's event log, on disk."""

    def __init__(self, path):
        self.state = StateDirectory(path)
        incarnation = self.state.allocate_incarnation()
        self.source = event_source(self.state.node, "optimizer", incarnation)
        self.writer = LogWriter(
            self.state.log_directory,
            node=self.state.node,
            incarnation=incarnation,
            role="optimizer",
            bounds=WriterBounds(reserve_bytes=0),
        )

    def transition(self, old, new, verb):
        data = transition_data(old, new, verb=verb, actor="tester")
        self.writer.append(encode(transition_id(new), events.TRANSITION, self.source, 1_000_000, data))


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    yield made
    made.writer.close()


def event_of(old, new, verb):
    return {
        "id": transition_id(new),
        "type": events.TRANSITION,
        "time": "2026-11-22T20:00:00.000Z",
        "data": orjson.loads(orjson.dumps(transition_data(old, new, verb=verb, actor="tester"))),
    }


def test_the_end_of_the_log_is_read_before_anything_is_published(log, running):
    """The snapshot says running; the log's unread end says aborted."""
    aborted = apply_verb(running, "abort", Change(now=200.0))
    log.transition(None, running, "deploy")
    cursor = {log.writer.source: (1, log.writer.bytes_written)}
    log.transition(running, aborted, "abort")
    book = Book([running])

    found = Projection(book, Outbox()).read_ahead(log.state.log_directory, cursor)

    assert found == 1
    assert book.get(running.id) == aborted


def test_reading_ahead_skips_what_is_damaged(log, running):
    log.writer.append(b'{"type": "llm_optimizer.optimization.transition.v1", "data": {}}\n')
    log.writer.append(b"llm_optimizer.optimization.transition.v1 is no JSON\n")
    log.transition(None, running, "deploy")
    projection = Projection(book := Book(), Outbox())

    assert projection.read_ahead(log.state.log_directory, {}) == 1
    assert (projection.unreadable, book.get(running.id)) == (2, running)


def test_a_snapshot_brings_back_what_matters(running):
    book, outbox = Book(), Outbox()
    projection = Projection(book, outbox)
    projection.observe(event_of(None, running, "deploy"), None)
    rolled = apply_verb(replace(running, id="opt_2"), "rollback", Change(now=300.0))
    book.join(rolled)
    outbox.add(rolled)
    stored = apply_verb(replace(running, id="opt_3"), "abort", Change(now=300.0))
    book.join(stored)

    other, boxed = Book(), Outbox()
    Projection(other, boxed).restore(projection.snapshot())

    assert {record.id for record in other.everything()} == {running.id, "opt_2"}
    assert {record.id for record in boxed.records} == {running.id, "opt_2"}
    assert [row.id for row in boxed.rows] == [transition_id(running)]
    assert projection.snapshot() is projection.snapshot()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": 99}', b"[]"])
def test_a_snapshot_of_somebody_else_is_refused(data):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Projection(Book(), Outbox()).restore(data)


def test_audit_events_become_rows():
    outbox = Outbox()
    event = {
        "id": "audit_1",
        "type": events.AUDIT,
        "time": "2026-11-22T20:00:00.000Z",
        "data": audit_data("local", "keys.create", "key_1", {"name": "k"}),
    }
    Projection(Book(), outbox).observe(event, None)
    (row,) = outbox.rows
    assert (row.actor, row.action, row.target, row.detail) == ("local", "keys.create", "key_1", {"name": "k"})


def test_an_event_that_holds_nothing_is_counted():
    projection = Projection(Book(), Outbox())
    projection.observe({"id": "x", "type": events.TRANSITION, "time": "now", "data": {"record": {}}}, None)
    projection.observe({"id": "y", "type": events.REQUEST, "data": {}}, None)
    assert projection.unreadable == 1


def test_rows_that_are_stored_before_they_are_read_are_not_written_again():
    outbox = Outbox()
    row = AuditRow("1", 0.0, "a", "b", "c")
    outbox.add(row=row)
    outbox.confirm((), (row,))
    outbox.meet(row)
    assert not outbox


def test_the_outbox_is_bounded():
    outbox = Outbox(capacity=3)
    for number in range(5):
        outbox.add(row=AuditRow(str(number), 0.0, "a", "b", "c"))
    assert ([row.id for row in outbox.rows], outbox.lost) == (["2", "3", "4"], 2)


def test_a_newer_revision_that_came_meanwhile_stays_in_the_outbox(running):
    outbox = Outbox()
    outbox.add(running)
    newer = apply_verb(running, "pause", Change(now=1.0))
    outbox.add(newer)
    outbox.add(running)
    outbox.confirm([running], [])
    assert outbox.records == (newer,)


def test_the_book_forgets_what_has_ended_and_stays_deaf_to_it(running):
    book = Book(capacity=2)
    old = replace(running, id="opt_old", status=Status.ABORTED, revision=9)
    book.join(old)
    book.join(replace(running, id="opt_a"))
    book.join(replace(running, id="opt_b"))
    assert (len(book), book.forgotten, book.get("opt_old")) == (2, 1, None)
    assert book.is_full
    assert not book.join(replace(running, id="opt_old", revision=8))


def test_live_records_are_never_forgotten(running):
    book = Book([replace(running, id=f"opt_{number}") for number in range(5)], capacity=2)
    assert len(book) == 5


def test_revisions_leave_room_for_what_a_predecessor_reserved(running):
    book = Book([running])
    assert book.reserve(running.id) == running.revision + RESTART_GAP
    assert book.reserve(running.id) == running.revision + RESTART_GAP + 1
    assert (book.reserve("opt_new"), book.reserve("opt_new")) == (1, 2)


@pytest.fixture
async def world():
    made = World()
    await made.quiet()
    return made


async def test_a_commit_that_nobody_heard_of_is_found_and_logged(world):
    """Killed between the database and the log."""
    record = world.proposed()
    await world.quiet()
    base = digests(world.settings.routes[0], named(record.proposal.candidate))
    rollout = Rollout("ro_unheard", 1, PLAN, base, world.now, 0, world.now, world.now)
    given = apply_verb(record, "deploy", Change(now=world.now, rollout=rollout, revision=40))
    await world.store.write([given], [])
    await world.restart()
    assert world.tables[-1]["chat"] == (None, 0.0)

    await world.quiet()

    assert world.controller.get(record.id) == given
    assert world.transitions()[-1]["verb"] == "recover"
    assert world.share(given.rollout.id) == 0.1


async def test_without_its_database_a_node_serves_what_was_deployed(world):
    record = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    world.store.mode = "refuse"
    world.saved, world.log = None, []
    await world.restart()
    await world.controller.tick()
    await world.controller.settled()
    assert world.share(record.rollout.id) == 0.1
    after = await world.controller.command(record.id, "rollback", actor="tester")
    assert (after.status, world.share(record.rollout.id)) == (Status.ROLLED_BACK, 0.0)


async def test_an_abort_that_the_log_could_not_hold_survives_in_the_table(world):
    """The disk keeps room for the table when it has none for events."""
    record = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    world.log_full, world.store.mode = True, "refuse"
    await world.controller.command(record.id, "abort", actor="tester")
    await world.controller.settled()

    await world.restart()
    assert world.share(record.rollout.id) == 0.0
    world.store.mode, world.log_full = "ok", False
    await world.quiet()

    assert world.store.get(record.id).status is Status.ABORTED
    assert world.share(record.rollout.id) == 0.0


async def test_a_database_that_lost_everything_gets_it_again(world):
    record = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    world.store.records.clear()
    await world.restart()
    await world.quiet()
    assert world.store.get(record.id) == world.controller.get(record.id)


async def test_of_two_rollouts_on_a_route_the_first_goes_on(world):
    """As when the database of another node is put in the place of this one's."""
    first = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    rival = replace(
        first,
        id="opt_rival",
        rollout=replace(first.rollout, id="ro_rival", started_at=first.rollout.started_at + 1),
    )
    await world.store.write([rival], [])
    await world.restart()
    await world.quiet()
    assert world.controller.get(first.id).status is Status.RUNNING
    assert world.controller.get("opt_rival").reason == "route_taken"
    assert world.store.get("opt_rival").status is Status.SUPERSEDED


async def test_the_configuration_that_changed_while_nobody_was_there(world):
    record = await world.controller.command(world.proposed().id, "deploy", actor="tester")
    await world.quiet()
    world.settings = replace(world.settings, routes=world.settings.routes[1:])
    await world.restart()
    await world.quiet()
    assert world.controller.get(record.id).reason == "route_vanished"


async def test_a_proposal_survives_every_restart(world):
    made = world.controller.create("one", "manual", "chat", {"a": [1, {"b": None}]}, actor="tester")
    for step in (lambda: None, lambda: world.controller.settle(made.id, proposal())):
        step()
        before = world.controller.get(made.id)
        await world.restart()
        assert world.controller.get(made.id) == before


async def test_with_the_real_database(world, tmp_path):
    """What the controller asks of it and what it promises fit together, over a restart too."""
    world.store = SqlStore(None, directory=tmp_path)
    await world.store.open()
    await world.restart()
    record = await world.controller.command(world.proposed(name="two").id, "deploy", actor="tester")
    await world.quiet()
    assert {one.id: one for one in await world.store.load()}[record.id] == record

    aborted = await world.controller.command(record.id, "abort", actor="tester")
    await world.store.close()
    await world.controller.settled()
    assert world.controller.store_away
    with pytest.raises(StoreAway):
        await world.controller.command(record.id, "retry", actor="tester")

    world.store = SqlStore(None, directory=tmp_path)
    await world.store.open()
    await world.restart()
    await world.quiet()
    assert {one.id: one for one in await world.store.load()}[record.id] == aborted
    rows = await world.store.audit_page(AuditFilter(target=record.id), limit=10)
    assert [row.action for row in rows][:2] == ["optimization.abort", "optimization.deploy"]
    assert world.controller.pending_rows == 0
    await world.store.close()
