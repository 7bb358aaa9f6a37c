"""One node of a cluster: which shards are its own, and the table that comes of them and of those of others.

It is what the rest of the process asks as ``Learners``, and what the consumer group tells of its shards. The engines
are asked in tasks of their own; until they answer, the node serves from the table that was there at start, or from its
configuration.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from optimizer.cluster.consuming import Incoming
from optimizer.cluster.sharding import shard_of
from optimizer.cluster.types import NodeState, SharedTable, Version
from optimizer.control_store.errors import StoreError
from optimizer.control_store.shard_book import SqlShardBook
from optimizer.control_store.store import SqlStore
from optimizer.durable import replace_file
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.routing import RoutingTable
from optimizer.settings import Settings
from proxy.control.cluster.assembly import Assembly
from proxy.control.cluster.engines import Engines
from proxy.control.cluster.neighbours import Neighbours, late
from proxy.control.cluster.shard import House, OwnedShard
from proxy.control.cluster.workers import Workers
from proxy.control.journal import Journal
from proxy.control.learning import Learning
from proxy.control.product import product_version
from proxy.control.tasks import Tasks
from proxy.logs import LOGGER_NAME

HANDING_S: Final = 3.0
"""How long the group waits for what a node hands on."""
COUNT_S: Final = 1.0

_log = logging.getLogger(LOGGER_NAME)


class Cluster:
    """The learners of a node of a cluster.

    Args:
        state: The node's state directory.
        settings: Its configuration, which has a cluster, Kafka and Redis.
        address: host:port under which others reach its public listener.
        ingest: Reads the node's own log, and joins the feedback in it.
        store: The database.
        engines: The clients of Kafka and Redis.
        journal: Where it writes what it did.
        now: Unix seconds.

    Raises:
        ValueError: The configuration can't be built into a table.
    """

    def __init__(
        self,
        state: StateDirectory,
        settings: Settings,
        *,
        address: str,
        ingest: Ingest,
        store: SqlStore,
        engines: Engines,
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self.address = address
        self.shards: int | None = _read_count(state)
        self.owned: dict[int, OwnedShard] = {}
        self.is_counted = False
        self.times_fenced = 0
        """Tenures that somebody else ended, of shards that this node has no more."""
        self.book = SqlShardBook(store, now=now)
        self.assembly = Assembly(state, shard_of=self.shard_of, journal=journal, now=now)
        self.workers = Workers()
        ingest.configure(settings)
        ingest.add_consumer(self.workers)
        self.engines = engines
        self.neighbours: Neighbours | None = None
        self._state = state
        self._settings = settings
        self._ingest = ingest
        self._store = store
        self._journal = journal
        self.now = now
        self._tasks: Tasks | None = None
        self._leaving: dict[int, asyncio.Task[None]] = {}

    # --- as Learners ----------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """See ``Learners``; so it is with all of these."""
        return self._settings

    @property
    def table(self) -> RoutingTable | None:
        return self.assembly.table

    @property
    def table_version(self) -> int:
        return self.assembly.version

    @property
    def is_guarding(self) -> bool:
        """Also of candidates whose guards are elsewhere: as far as their owner is heard, and hears of this node."""
        candidates = self.assembly.candidates()
        if not candidates:
            return True
        if self.assembly.is_uncertain or not self.engines.ships:
            return False
        return all(self._is_guarded(shard) for shard in candidates)

    def all(self) -> Sequence[Learning]:
        found = (shard.learning for _, shard in sorted(self.owned.items()))
        return [learning for learning in found if learning is not None]

    def of(self, route: str) -> Learning | None:
        number = self.shard_of(route)
        shard = self.owned.get(number) if number is not None else None
        known = self._settings.route(route) is not None
        return shard.learning if shard is not None and known else None

    def is_testing_prompts(self, route: str) -> bool:
        learning = self.of(route)
        if learning is not None:
            return learning.optimizing.is_testing_prompts(route)
        return any(route in node.tests for node in self._heard())

    def start(self) -> None:
        self.assembly.write(self._settings)

    def spawn(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.neighbours = Neighbours(
            self.engines.exchange,
            self.assembly,
            myself=self.state_of_node,
            offers=self._offers,
            fenced=self._fence,
            received=self._write_soon,
        )
        for name, work in (
            ("beat", self.neighbours.beat),
            ("tables-out", self.neighbours.send),
            ("tables-in", self.neighbours.receive),
            ("shard-count", self._count),
            ("table-repair", self._repair),
        ):
            tasks.spawn(name, work)
        self.engines.spawn(tasks, self, self.counted)

    async def prepare(self, settings: Settings) -> None:
        for shard in list(self.owned.values()):
            await shard.prepare(settings)

    def use(self, settings: Settings) -> None:
        self.assembly.check(settings)
        old, self._settings = self._settings, settings
        done: list[OwnedShard] = []
        try:
            for shard in self.owned.values():
                done.append(shard)
                shard.use(settings)
            self.assembly.write(settings, always=True)
            self._ingest.configure(settings)
        except (ValueError, OSError):
            self._settings = old
            for shard in done:
                shard.use(old)
            raise

    def follow(self) -> list[str]:
        return [ended for learning in self.all() for ended in learning.follow()]

    def republish(self) -> None:
        self.assembly.write(self._settings, always=True)

    async def close(self) -> None:
        """Hand every shard on, leave the group, let go of the engines."""
        self.engines.stop()
        shards = list(self.owned.values())
        self.owned.clear()
        await asyncio.gather(
            *(shard.end() for shard in shards), *self._leaving.values(), return_exceptions=True
        )
        await self.engines.close()

    # --- from the consumer group ----------------------------------------------------------------------

    async def assigned(self, shards: frozenset[int]) -> None:
        """See ``GroupListener``; so it is with all of these."""
        house = self._house()
        for number in sorted(shards - self.owned.keys()):
            shard = self.owned[number] = OwnedShard(number, house)
            # One that is still being handed on has the same files.
            house.tasks.spawn(shard.task, partial(_run_after, self._leaving.get(number), shard))

    async def revoked(self, shards: frozenset[int]) -> None:
        leaving = [self.owned.pop(number) for number in sorted(shards & self.owned.keys())]
        if leaving:
            tasks = {
                shard.number: asyncio.create_task(self._hand_on(shard, self._leaving.get(shard.number)))
                for shard in leaving
            }
            self._leaving.update(tasks)
            await asyncio.wait(tasks.values(), timeout=HANDING_S)

    def position(self, shard: int) -> int | None:
        owned = self.owned.get(shard)
        return owned.position() if owned is not None else None

    def deliver(self, shard: int, records: Sequence[Incoming]) -> None:
        owned = self.owned.get(shard)
        if owned is not None:
            owned.deliver(records)

    def gap(self, shard: int, wanted: int, found: int) -> None:
        if found > wanted:
            _log.error(
                "shard %d: Kafka kept no records from %d to %d; they teach nothing", shard, wanted, found - 1
            )
            return
        _log.error(
            "shard %d: the topic ends at %d, not %d: made anew, it is read from its beginning",
            shard,
            found,
            wanted,
        )
        owned = self.owned.get(shard)
        if owned is not None:
            owned.begin_again()

    # --- what others ask ------------------------------------------------------------------------------

    def counted(self) -> int | None:
        """How many shards there are, once the database has said so to this process."""
        return self.shards if self.is_counted else None

    def shard_of(self, route: str) -> int | None:
        """The shard of a route; None while their number is not known."""
        return shard_of(route, self.shards) if self.shards is not None else None

    def state_of_node(self) -> NodeState:
        """What this node says of itself."""
        owns = {n: shard.tenure.generation for n, shard in self.owned.items() if shard.tenure is not None}
        guards = (
            n
            for n, shard in self.owned.items()
            if shard.learning is not None and shard.learning.optimizing.is_guarding
        )
        return NodeState(
            node=self._state.node,
            address=self.address,
            at=self.now(),
            owns=owns,
            runs=self.running(),
            guards=frozenset(guards),
            program=product_version(),
            tests=frozenset(
                route.name
                for learning in self.all()
                for route in learning.settings.routes
                if learning.optimizing.is_testing_prompts(route.name)
            ),
        )

    def running(self) -> Mapping[int, Version]:
        """By shard, the version of its table that all workers of this node use."""
        tables = [self.assembly.running(version) for version in self.workers.tables(self.now())]
        if not tables:
            return {}
        first, *others = tables
        return {
            shard: min([version, *(table.get(shard, Version()) for table in others)])
            for shard, version in first.items()
        }

    # --- inside ---------------------------------------------------------------------------------------

    def _house(self) -> House:
        tasks, neighbours = self._tasks, self.neighbours
        assert tasks is not None
        assert neighbours is not None
        return House(
            directory=self._state.shards_directory,
            owner=f"{self._state.node:08x}",
            is_mine=lambda number, route: self.shard_of(route) == number,
            settings=lambda: self._settings,
            end=self.engines.end_of,
            last_table=neighbours.table_of,
            changed=neighbours.changed,
            obstacle=self._obstacle,
            book=self.book,
            store=self._store,
            assembly=self.assembly,
            journal=self._journal,
            heard_at=self.engines.heard_at,
            beginnings=self.engines.beginnings,
            tasks=tasks,
            now=self.now,
        )

    async def _hand_on(self, shard: OwnedShard, before: "asyncio.Task[None] | None") -> None:
        self.times_fenced += shard.times_fenced
        assert self._tasks is not None
        try:
            await self._tasks.cancel(shard.task)
            if before is not None:
                await asyncio.wait((before,))
            await shard.end()
        except Exception:  # noqa: BLE001 - nobody waits for it, and whoever is next begins with what was saved
            _log.exception("shard %d could not be handed on", shard.number)

    def _is_guarded(self, number: int | None) -> bool:
        if number is None:
            return False
        shard = self.owned.get(number)
        if shard is not None and shard.learning is not None:
            return shard.learning.optimizing.is_guarding
        # While Redis is away, what was heard last stays, and the workers' own hard stops are what is left. Who has
        # heard nothing since its start knows nothing of a candidate that may be long over.
        return any(number in node.guards for node in self._heard())

    def _heard(self) -> Sequence[NodeState]:
        if self.neighbours is None:
            return ()
        return self.neighbours.alive() if self.neighbours.up else self.neighbours.nodes()

    def _obstacle(self, number: int) -> str | None:
        """Why no candidate of a shard may be given traffic: others would not hear of it, or have not yet."""
        if self.neighbours is None or not self.neighbours.up:
            return "Redis does not answer, so the other nodes could not be told"
        if not self.neighbours.is_settled:
            return "Redis has answered for a moment only, so not all nodes may have been heard yet"
        shard = self.owned.get(number)
        wanted = shard.settled_version() if shard is not None else None
        behind = late(self.neighbours.alive(), number, wanted) if wanted is not None else {}
        if not behind:
            return None
        return f"not all nodes use the route's last table yet: {', '.join(f'{node:08x}' for node in sorted(behind))}"

    def _offers(self) -> Sequence[SharedTable]:
        return [shard.table for shard in self.owned.values() if shard.table is not None and not shard.is_over]

    def _fence(self, number: int) -> None:
        shard = self.owned.get(number)
        if shard is not None:
            shard.fenced.set()

    def _write_soon(self) -> None:
        try:
            self.assembly.write(self._settings)
        except (OSError, ValueError) as error:
            _log.error("the routing table can not be written: %s", error)

    async def _repair(self) -> None:
        """Write the table again after the disk has refused it."""
        while True:
            await asyncio.sleep(COUNT_S)
            if self.assembly.is_uncertain:
                self._write_soon()

    async def _count(self) -> None:
        """Learn how many shards there are, once and for all."""
        kafka = self._settings.kafka
        assert kafka is not None
        while True:
            partitions = self.engines.partitions
            if partitions:
                try:
                    counted = await self.book.shards(kafka.topic, partitions)
                except StoreError as error:
                    _log.info("the number of shards is not known yet: %s", error)
                else:
                    self._use_count(counted)
                    return
            await asyncio.sleep(COUNT_S)

    def _use_count(self, counted: int) -> None:
        self.is_counted = True
        if self.shards is not None and self.shards != counted:
            _log.error("there are %d shards, not %d as this node believed", counted, self.shards)
        if self.shards != counted:
            self.shards = counted
            replace_file(self._state.shard_count_file, b"%d\n" % counted)
            self._write_soon()


async def _run_after(before: "asyncio.Task[None] | None", shard: OwnedShard) -> None:
    if before is not None:
        await asyncio.wait((before,))
    await shard.run()


def _read_count(state: StateDirectory) -> int | None:
    try:
        return int(state.shard_count_file.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return None
