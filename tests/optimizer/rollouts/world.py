"""A node whose disks and database are in memory and outlive its process, which may be killed at any write.

The database, the log and the table behave as the real ones promise; nothing of the product is replaced.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from optimizer import events
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.overlays import effective, plain_overlays
from optimizer.rollouts.projection import Projection
from optimizer.rollouts.records import Candidate, Optimization, Proposal
from optimizer.settings import PolicySettings, Settings
from tests.optimizer.rollouts.conftest import PLAN, make_settings, route

SMALL = Candidate(baseline="small", policy=PolicySettings(name="fixed"))


class Crash(BaseException):
    """The process was killed."""


class StoreDown(Exception):
    """What a database says that does not work."""


def proposal(candidate: Candidate = SMALL, *, made_at: float = 1000.0) -> Proposal:
    return Proposal(candidate, "use the small one", (), {"small": 10.0}, 0.95, made_at)


class MemoryStore:
    """A database that keeps the highest revision. ``mode``: ok, refuse (nothing is done), lie (it is done all the
    same), hang (until ``release``; ``commits`` says whether it is done)."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.records: dict[str, bytes] = {}
        self.rows: dict[str, AuditRow] = {}
        self.ever: set[tuple[str, int]] = set()
        self.mode = "ok"
        self.commits = True
        self.waiting: list[asyncio.Future[bool]] = []

    async def _answer(self, effect: Callable[[], None]) -> None:
        mode = self.mode
        if mode == "hang":
            future = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            commits = self.commits
            try:
                answers = await future
            finally:
                # What was sent may be done even when nobody waits for the answer any more.
                if commits and not self._world.dead:
                    effect()
            if not answers:
                raise StoreDown("connection lost")
            return
        if mode != "refuse":
            self._world.write("store", effect)
        if mode != "ok":
            raise StoreDown(mode)

    def release(self, *, answers: bool) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(answers)

    def _put(self, record: Optimization) -> None:
        self.ever.add((record.id, record.revision))
        known = self.records.get(record.id)
        if known is None or record_of(orjson.loads(known)).revision < record.revision:
            self.records[record.id] = orjson.dumps(to_plain(record))

    async def save(self, record: Optimization, audit: AuditRow) -> None:
        known = self.get(record.id)
        if known is not None and known.revision >= record.revision and self.mode == "ok":
            raise StoreDown(f"{record.id} has revision {known.revision} already")

        def effect() -> None:
            self._put(record)
            self.rows.setdefault(audit.id, audit)

        await self._answer(effect)

    async def load(self) -> list[Optimization]:
        await self._answer(lambda: None)
        return [record_of(orjson.loads(raw)) for raw in self.records.values()]

    async def write(self, records: Sequence[Optimization], audit_rows: Sequence[AuditRow]) -> None:
        def effect() -> None:
            for record in records:
                self._put(record)
            for row in audit_rows:
                self.rows.setdefault(row.id, row)

        await self._answer(effect)

    def get(self, id_: str) -> Optimization | None:
        raw = self.records.get(id_)
        return None if raw is None else record_of(orjson.loads(raw))


class World:
    """All that outlives the process, and the process. ``fuse``: killed at this write; ``late``: just after it."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or make_settings(route("chat"), route("code"))
        self.settings = replace(settings, deployment=replace(settings.deployment, plan=PLAN))
        self.now = 1000.0
        self.fuse: int | None = None
        self.late = False
        self.dead = False
        self.writes = 0
        self.disk_full = False
        self.log_full = False
        self.sync_fails = False
        self.unbuildable: str | None = None
        self.measured: dict[str, Any] | None = None
        self.log: list[bytes] = []
        self.decoded: list[dict[str, Any]] = []
        self.table: bytes = b"[]"
        self.tables: list[dict[str, tuple[str | None, float]]] = []
        self.takings: list[bool] = []
        self.saved: tuple[bytes, int] | None = None
        self.store: Any = MemoryStore(self)
        self.ids = itertools.count(1)
        self.trace: list[str] = []
        self.start()

    # --- the process --------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on what the last one left."""
        self.dead = False
        self.fuse = None
        self.book, outbox = Book(), Outbox()
        self.projection = Projection(self.book, outbox)
        for raw in orjson.loads(self.table):
            self.book.join(record_of(raw))
        self.read = 0
        if self.saved is not None:
            data, self.read = self.saved
            self.projection.restore(data)
        for line in self.log[self.read :]:  # what ``read_ahead`` does with files
            event = orjson.loads(line)
            if event["type"] == events.TRANSITION:
                self.projection._take(record_of(event["data"]["record"]), is_stored=False)
        self.controller = Controller(
            self.book,
            store=self.store,
            journal=self._journal,
            sync_log=self._sync,
            publish=self._publish,
            settings=lambda: self.settings,
            now=lambda: self.now,
            new_id=lambda: f"{next(self.ids):016x}",
            requests_per_s=lambda route: 10.0,
            reference_ms=lambda route: 800.0,
            outbox=outbox,
            measured_of=lambda record: self.measured,
        )
        self._publish(False)

    async def restart(self) -> None:
        """Kill the process, if it lives, and start the next."""
        self.dead = True
        for task in list(self.controller._tasks):
            task.cancel()
        if isinstance(self.store, MemoryStore):
            self.store.waiting.clear()
        while self.controller._tasks:
            await asyncio.wait(self.controller._tasks)
        # Without room for its first table a process does not start; the supervisor tries until there is.
        self.disk_full = False
        self.start()

    def follow_log(self, most: int | None = None) -> None:
        """The learner reads on and saves."""
        for line in self.log[self.read :][:most]:
            self.projection.observe(orjson.loads(line), None)  # type: ignore[arg-type]
            self.read += 1
        data = self.projection.snapshot()
        self.write("snapshot", lambda: setattr(self, "saved", (data, self.read)))

    async def quiet(self) -> None:
        """Let the node do all that it wants to, the database answering."""
        for _ in range(8):
            self.now += 61.0
            await self.controller.tick()
            await self.controller.settled()
            self.follow_log()

    # --- its writes ---------------------------------------------------------------------------------

    def write(self, what: str, effect: Callable[[], Any]) -> None:
        if self.dead:
            raise Crash
        self.writes += 1
        burns = self.fuse is not None and self.writes >= self.fuse
        if not burns or self.late:
            effect()
            self.trace.append(what)
        if burns:
            self.dead = True
            raise Crash

    def _journal(self, type_: str, data: Mapping[str, Any], event_id: str) -> bool:
        if self.log_full:
            return False
        line = orjson.dumps(
            {
                "id": event_id,
                "type": type_,
                "time": datetime.fromtimestamp(self.now, UTC).isoformat(),
                "data": data,
            }
        )
        self.write("log", lambda: self.log.append(line))
        return True

    async def _sync(self) -> None:
        await asyncio.sleep(0)
        if self.sync_fails:
            raise OSError(5, "sync")
        self.write("sync", lambda: None)

    def _publish(self, taking: bool) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        records = self.controller.table_records()
        overlays = effective(self.settings, records)
        if self.unbuildable in [each.rollout for each in overlays.values() if each.candidate]:
            raise ValueError("the policy refuses its parameters")

        def effect() -> None:
            self.table = orjson.dumps(list(plain_overlays(records)))
            self.tables.append({name: (each.rollout, each.fraction) for name, each in overlays.items()})
            self.takings.append(taking)

        self.write("table", effect)

    # --- what can be seen from outside --------------------------------------------------------------

    def share(self, rollout: str) -> float:
        """What the last table gives to a rollout, 0..1."""
        return sum(fraction for name, fraction in self.tables[-1].values() if name == rollout)

    def transitions(self) -> list[Mapping[str, Any]]:
        """Data of every transition in the log."""
        for line in self.log[len(self.decoded) :]:
            self.decoded.append(orjson.loads(line))
        return [
            event["data"] for event in self.decoded[: len(self.log)] if event["type"] == events.TRANSITION
        ]

    def proposed(self, route_name: str = "chat", name: str = "one") -> Optimization:
        """A new optimization with a proposal."""
        made = self.controller.create(name, "manual", route_name, {}, actor="tester")
        return self.controller.settle(made.id, proposal())
