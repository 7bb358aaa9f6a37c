"""The one that changes optimizations: every verb of a person and every step of the optimizer.

Traffic is **given** only after everything that must remember it has it: database, event log, disk, then the table.
Traffic is **taken** by the event log and the table at once; disk and database follow and are never waited for. There is
no ``await`` before the table is in place, so a database that swallows calls can't delay an abort. Whatever stops
between two writes, the highest revision of a record wins at the next start, and what one place lacks it gets again.

Everything runs in one event loop; nothing here blocks but the writes of the log and the table.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from optimizer.rollouts import machine
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.draft import Drafts, Order
from optimizer.rollouts.faults import Conflict, NotFound, Outdated, Refused, StoreAway
from optimizer.rollouts.fitting import overtaken, tried
from optimizer.rollouts.giving import Giving
from optimizer.rollouts.machine import OPTIMIZER, Direction
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.reconciling import Reconciler, table_records
from optimizer.rollouts.records import (
    API,
    LOOP,
    OVERLAYING,
    Candidate,
    Optimization,
    Proposal,
    Status,
)
from optimizer.rollouts.scribe import Scribe
from optimizer.rollouts.store_link import Store, StoreLink
from optimizer.rollouts.verdicts import BASELINE_FAILING, FAILED, INSUFFICIENT, Decision, Verdict
from optimizer.settings import RolloutPlan, Settings

__all__ = (
    "Conflict",
    "Controller",
    "NotFound",
    "Outdated",
    "Refused",
    "Store",
    "StoreAway",
)

MAX_NAME: Final = 100
MAX_EXPLANATION: Final = 1000
MAX_PENDING: Final = 1000

_ASKED: Final[Mapping[str, str]] = {
    machine.PAUSE: machine.MANUAL,
    machine.ROLLBACK: machine.ROLLBACK_REQUESTED,
    machine.ABORT: machine.ABORT_REQUESTED,
}
_COMMANDS: Final = frozenset(row.verb for row in machine.TRANSITIONS if row.who != machine.OPTIMIZER) - {
    machine.CREATE
}

T = TypeVar("T")

_log = logging.getLogger(__name__)


class NothingProposed(Protocol):
    """A strategy's answer that is no proposal."""

    @property
    def reason(self) -> str:
        """A stable word."""
        ...

    @property
    def explanation(self) -> str:
        """A sentence for people."""
        ...


class Controller:
    """See the module.

    Args:
        book: What is known; shared with the log's projection.
        store: The database.
        journal: Appends an event (type, data, id) to the log; never raises, but says whether the log took it.
        sync_log: Returns when what was appended is on the disk.
        publish: Writes the table from the book; True renames before it syncs. Raises OSError when the disk refuses and
            ValueError when no table can be built.
        settings: The configuration in use.
        now: Unix seconds.
        new_id: At least 16 random hex digits.
        requests_per_s: Recent traffic of a route.
        reference_ms: What control's 95th percentile is on a route, None while unknown.
        outbox: What the database lacks; shared with the projection.
        measured_of: The guards' verdicts on a rollout now, by guard; None when nobody can tell.
        obstacle: Why no traffic can be given at present, though the database answers; None when nothing is in the way.
    """

    def __init__(  # noqa: PLR0913  # each is one thing that the controller must not know the inside of
        self,
        book: Book,
        *,
        store: Store,
        journal: Callable[[str, Mapping[str, Any], str], bool],
        sync_log: Callable[[], Awaitable[object]],
        publish: Callable[[bool], None],
        settings: Callable[[], Settings],
        now: Callable[[], float],
        new_id: Callable[[], str],
        requests_per_s: Callable[[str], float],
        reference_ms: Callable[[str], float | None],
        outbox: Outbox | None = None,
        measured_of: Callable[[Optimization], Mapping[str, Any] | None] | None = None,
        obstacle: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.book = book
        self.outbox = outbox if outbox is not None else Outbox()
        self._scribe = Scribe(book, self.outbox, journal=journal, publish=publish, now=now)
        self._sync_log = sync_log
        self._settings = settings
        self._now = now
        self._new_id = new_id
        self._link = StoreLink(
            store,
            self.outbox,
            joined=lambda records: self._reconciler.join_stored(records),  # noqa: PLW0108 - it is made below
            now=now,
            timeout_s=lambda: settings().database.timeout_s + 1.0,
        )
        self._drafts = Drafts(
            book,
            settings=settings,
            now=now,
            new_id=new_id,
            requests_per_s=requests_per_s,
            reference_ms=reference_ms,
            measured_of=measured_of,
        )
        self._giving = Giving(
            book, self._drafts, self._scribe, self._link, sync_log=sync_log, now=now, obstacle=obstacle
        )
        self._reconciler = Reconciler(
            book, self.outbox, self._scribe, self._giving, settings=settings, apply=self._apply
        )
        self._started_at = now()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeping: asyncio.Task[None] | None = None

    # --- what can be seen ---------------------------------------------------------------------------

    @property
    def transitions(self) -> Counter[str]:
        """How many there were in this process, by verb."""
        return self._scribe.transitions

    @property
    def unpublished_takes(self) -> bool:
        """Traffic was taken away and the table that says so could not be written.

        The guard file must not be renewed meanwhile: workers then leave the candidate when their lease ends.
        """
        return self._scribe.unpublished_takes

    @property
    def store_away(self) -> bool:
        """The database did not answer when it was asked last, or was not asked yet."""
        return not self._link.is_joined

    @property
    def knows_all(self) -> bool:
        """Whether the database was read since the start; until then finished records may be known to it only."""
        return self._link.was_joined

    @property
    def store_error(self) -> str:
        """What it said; empty while it answers."""
        return self._link.last_error

    @property
    def store_retries(self) -> int:
        """How often writing behind failed and had to be tried again."""
        return self._link.retries

    @property
    def pending_rows(self) -> int:
        """Audit rows that the database has not confirmed."""
        return self.outbox.pending_rows

    @property
    def pending_records(self) -> int:
        """Records of which the database has not confirmed the newest revision."""
        return self.outbox.pending_records

    @property
    def lost_rows(self) -> int:
        """Audit rows that found no room while the database was away; the log has them."""
        return self.outbox.lost

    def table_records(self) -> list[Optimization]:
        """See ``reconciling.table_records``."""
        return table_records(self.book, self.outbox)

    def get(self, id_: str) -> Optimization:
        """A record.

        Raises:
            NotFound: There is none, or it was deleted.
            StoreAway: Nobody can tell before the database was read.
        """
        record = self.book.get(id_)
        if record is None and not self.knows_all:
            raise StoreAway(f"the database was not read since the start; it may know {id_!r}")
        if record is None or record.status is Status.DELETED:
            raise NotFound(f"there is no optimization {id_!r}")
        return record

    def blocked(self, route: str, candidate: Candidate, config_hash: str) -> Optimization | None:
        """The record of the same change that was taken back under this configuration; none is tried twice."""
        return tried(reversed(self.book.all()), route, candidate, config_hash)

    # --- what people and strategies ask for ---------------------------------------------------------

    def create(
        self,
        name: str,
        strategy: str,
        route: str,
        parameters: Mapping[str, Any],
        *,
        actor: str,
        origin: str = API,
    ) -> Optimization:
        """A new optimization, without a proposal yet.

        Raises:
            Refused: The name is empty or too long, or there is no such route among those that there are.
            Conflict: There are as many live ones as can be kept.
        """
        name = name.strip()
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise Refused("name", f"must have 1 to {MAX_NAME} printable characters, it has {len(name)}")
        settings = self._settings()
        if settings.routes and settings.route(route) is None:
            raise Refused("route", f"there is no route {route!r}")
        if self.book.is_full:
            raise Conflict("too many optimizations are live; roll back or delete some")
        if self.outbox.pending_records >= MAX_PENDING:
            raise Conflict("the database is away and too many changes wait for it")
        now = self._now()
        record = Optimization(
            id=f"opt_{self._new_id()[:16]}",
            name=name,
            strategy=strategy,
            route=route,
            parameters=dict(parameters),
            status=Status.COLLECTING,
            revision=1,
            origin=origin,
            created_at=now,
            updated_at=now,
            auto_deploy=origin == LOOP,
            config_hash=settings.config_hash,
        )
        self.book.reserve(record.id)
        self._write_down(None, record, machine.CREATE, actor)
        return record

    async def command(
        self,
        id_: str,
        verb: str,
        *,
        actor: str,
        revision: int | None = None,
        reason: str = "",
        full: bool = False,
        plan: RolloutPlan | None = None,
    ) -> Optimization:
        """Carry out what a person says; see ``machine.TRANSITIONS`` for the verbs.

        ``deploy`` of an optimization that has no proposal yet is a ``request``.

        Args:
            id_: Which one.
            verb: What to do.
            actor: Who says so.
            revision: What the person has seen; None does not care.
            reason: In their words.
            full: ``promote`` past all stages.
            plan: ``deploy``, ``request`` and ``retry``: instead of the configuration's.

        Raises:
            NotFound: See ``get``.
            Outdated: It has another revision.
            Conflict: Not in this state, or the route is taken.
            StoreAway: Traffic was to be given and the database does not answer; nothing was given.
        """
        record = self.get(id_)
        if revision is not None and revision != record.revision:
            raise Outdated(f"{id_} has revision {record.revision}, not {revision}", record)
        if verb == machine.DEPLOY and record.status is Status.COLLECTING:
            verb = machine.REQUEST
        if verb not in _COMMANDS:
            raise Conflict(f"there is no verb {verb!r}", record)
        order = Order(
            verb,
            actor,
            _ASKED.get(verb, ""),
            reason[:MAX_EXPLANATION],
            full=full,
            plan=plan if verb in (machine.DEPLOY, machine.REQUEST, machine.RETRY) else None,
        )
        if verb in (machine.ROLLBACK, machine.ABORT) and self._giving.is_under_way(id_):
            dropped = self._giving.drop(record, order)
            if dropped is not None:
                self._kick()
                return dropped
        direction = self._drafts.direction(record, order)
        if direction is not Direction.GIVE:
            return self._apply(record, order)
        # A caller that goes away must not leave a gift half given.
        return await asyncio.shield(self._spawn(self._giving.give(record, order)))

    def settle(self, id_: str, result: Proposal | NothingProposed) -> Optimization:
        """Take a strategy's answer: propose, propose anew, withdraw, or say why not.

        Raises:
            NotFound: See ``get``.
            Conflict: It is past being proposed, or is being deployed this moment.
        """
        record = self.get(id_)
        if record.status not in (Status.COLLECTING, Status.PROPOSED):
            raise Conflict(f"{id_} is {record.status}", record)
        if isinstance(result, Proposal):
            known = record.proposal
            same = known is not None and replace(known, made_at=result.made_at) == result
            # The same answer about another route is a new one; ``Giving`` waits for it.
            if same and not overtaken(record, self.book.all()):
                return record
            return self._apply(
                record, Order(machine.PROPOSE, OPTIMIZER, explanation=result.summary), proposal=result
            )
        verb = machine.WITHDRAW if record.status is Status.PROPOSED else machine.NOTE
        if verb == machine.NOTE and (record.reason, record.explanation) == (
            result.reason,
            result.explanation,
        ):
            return record
        return self._apply(record, Order(verb, OPTIMIZER, result.reason, result.explanation))

    def audit(self, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Write down what somebody did that is no transition; never raises for any disk or database."""
        self._scribe.audit(f"audit_{self._new_id()[:16]}", actor, action, target, detail)
        self._kick()

    # --- what the guards say ------------------------------------------------------------------------

    def judge(
        self, rollout_id: str, decision: Decision, verdicts: Sequence[Verdict] = ()
    ) -> Optimization | None:
        """Follow what the guards of a rollout say: traffic is taken at once, given with the next ``tick``.

        Returns:
            The record as it is then; None when the rollout is over.
        """
        record = self.book.with_rollout(rollout_id)
        if record is None:
            return None
        step = machine.next_step(record, decision, now=self._now())
        waits = self._giving.is_wanted(record.id) and step is not None and step.reason == INSUFFICIENT
        if step is None or waits:
            return record
        measured = {verdict.guard: to_plain(verdict) for verdict in verdicts} if verdicts else None
        order = Order(step.verb, OPTIMIZER, step.reason, step.explanation, measured)
        if self._drafts.direction(record, order) is Direction.GIVE:
            self._giving.want(record, step, measured)
            return record
        return self._apply(record, order)

    def stop(self, rollout_id: str, reason: str, explanation: str = "") -> Optimization | None:
        """Follow a worker that has stopped a candidate by itself: ``hard_stop`` or ``baseline_failing``."""
        if reason == BASELINE_FAILING:
            said = explanation or "requests fail on both sides; that is not the candidate's fault"
            return self.judge(rollout_id, Decision(BASELINE_FAILING, explanation=said))
        said = explanation or "a worker stopped the candidate after too many errors in a row"
        return self.judge(rollout_id, Decision(FAILED, machine.HARD_STOP, explanation=said))

    # --- what the configuration says ----------------------------------------------------------------

    def follow(self, settings: Settings) -> list[Optimization]:
        """End what the file no longer allows; returns the superseded ones, as they are then."""
        return self._reconciler.follow(settings)

    # --- time ---------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Do what time asks for; to be called several times a second. Never waits."""
        if not self._scribe.is_published:
            self._scribe.publish(taking=self.unpublished_takes)
        self._scribe.log_again()
        self._watch_clocks()
        self._reconciler.end_covered()
        for record in self.book.live():
            order = self._giving.due(record)
            if order is not None:
                _ = self._spawn(self._giving.attempt(record, order))
        self._giving.forget()
        self._kick()

    async def close(self) -> None:
        """Finish what is under way and try once more to tell the database; bounded by the database's own bounds."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._keep()

    async def settled(self) -> None:
        """Return when nothing is under way in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- inside: taking and neutral -----------------------------------------------------------------

    def _apply(self, record: Optimization, order: Order, proposal: Proposal | None = None) -> Optimization:
        """A transition that takes traffic or moves none. There is no ``await`` in it."""
        withdraws = order.verb == machine.WITHDRAW or self._drafts.direction(record, order) is Direction.TAKE
        if not withdraws:
            self._giving.must_be_quiet(record)
        changed = self._drafts.changed(record, order, proposal=proposal)
        self._write_down(record, changed, order.verb, order.actor)
        if record.status in OVERLAYING:
            self._reconciler.end_misfits(self._settings())
        return changed

    def _write_down(self, old: Optimization | None, new: Optimization, verb: str, actor: str) -> None:
        self._scribe.write_down(old, new, verb, actor)
        self._kick()

    # --- inside: by itself --------------------------------------------------------------------------

    def _watch_clocks(self) -> None:
        """Pause what nobody has judged until long after its time, so that no stage lasts for ever."""
        now = self._now()
        for record in self.book.live():
            rollout = record.rollout
            if record.status is not Status.RUNNING or rollout is None or self._giving.is_wanted(record.id):
                continue
            limit = machine.wait_limit_s(rollout.plan.stages[rollout.stage])
            if limit is None:
                continue
            # A process that was away has to look at the evidence first.
            since = max(rollout.waited_from, self._started_at)
            if now - since > limit + 2.0 * rollout.plan.checks.interval_s:
                said = (
                    f"after {now - rollout.waited_from:.0f} s, of {limit:.0f} s at most, nothing was decided"
                )
                self._apply(record, Order(machine.PAUSE, OPTIMIZER, INSUFFICIENT, said))

    # --- inside: behind -----------------------------------------------------------------------------

    def _kick(self) -> None:
        """See to disk and database in the background."""
        if self._keeping is not None and not self._keeping.done():
            return
        if not self._scribe.is_unsynced and not (self._link.has_work and self._link.is_due):
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # Before the loop runs; the first tick sees to it.
        self._keeping = self._spawn(self._keep())

    async def _keep(self) -> None:
        if self._scribe.is_unsynced:
            self._scribe.is_unsynced = False
            try:
                await self._sync_log()
            except OSError as error:
                self._scribe.is_unsynced = True
                _log.error("the event log can not be made durable: %s", error)
        if self._link.has_work and self._link.is_due:
            await self._link.flush()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # Whoever waits for it gets the error too; nobody may be waiting any more.
        if error is not None and not isinstance(error, Conflict | StoreAway):
            _log.error("a change of an optimization failed", exc_info=error)
