"""One tenure of one shard on this node: taken, caught up with, learned, handed on.

The order is the point. The database numbers the tenure and gives what the owner before had learned; then the copy of
the partition is brought to where its end was at that moment, so that everything which was written under the tenure
before is here; only then is there a table, which nobody can mistake for an older one. What is learned is saved under
the tenure's number again and again; whoever is told that the number is over stops at once and saves nothing more.
"""

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from optimizer.cluster.consuming import Incoming
from optimizer.cluster.earlier import Beginnings, EarlierLog
from optimizer.cluster.marks import Marks
from optimizer.cluster.mirror import Mirror
from optimizer.cluster.types import Fenced, ShardBook, SharedTable, Snapshot, Tenure, Version
from optimizer.control_store.errors import StoreError
from optimizer.control_store.shard_store import ShardStore
from optimizer.control_store.store import SqlStore
from optimizer.durable import replace_file
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.position_index import PositionIndex
from optimizer.log.retention import Retention
from optimizer.log_sync import LogSyncer
from optimizer.routing import RoutingTable
from optimizer.settings import RetentionSettings, Settings
from optimizer.store import StoreCorrupt, restore
from optimizer.store import StoreError as LearnerStoreError
from proxy.control.cluster.assembly import Assembly, Piece, blobs_of
from proxy.control.cluster.tenure_journal import TenureJournal, alarms_told
from proxy.control.journal import Journal
from proxy.control.learning import Learning
from proxy.control.learning_tasks import LearningTasks
from proxy.control.tasks import Tasks
from proxy.logs import LOGGER_NAME

T = TypeVar("T")

SNAPSHOT_S: Final = 10.0
UNSAVED: Final = (StoreError, LearnerStoreError, OSError)
FENCED_S: Final = 8.0
GRACE_S: Final = 5.0
"""For so long a node may run an older table before it keeps stages from advancing."""
RETRY_S: Final = 2.0
LOOK_S: Final = 0.05
SWEEP_S: Final = 30.0

_log = logging.getLogger(LOGGER_NAME)


class TopicMadeAnew(Exception):
    """Offsets mean something else than they did; the shard is taken again."""


@dataclass(frozen=True, slots=True)
class House:
    """What all shards of a node share.

    Attributes:
        directory: Where each has a state directory of its own.
        owner: What this node is called in the database.
        is_mine: Whether a route belongs to a shard.
        settings: The node's configuration.
        end: By shard and what was read of it, the first offset after everything that it holds; None while unknown.
        last_table: By shard, the table that its owner published last.
        changed: Called when a shard has a new table for the other nodes.
        heard_at: When the topic was seen to its end last, Unix seconds.
        obstacle: By shard, why no candidate may be given traffic at present.
        beginnings: What a partition had before its copy here begins.
    """

    directory: Path
    owner: str
    is_mine: Callable[[int, str], bool]
    settings: Callable[[], Settings]
    end: Callable[[int, int], int | None]
    last_table: Callable[[int], SharedTable | None]
    changed: Callable[[], None]
    obstacle: Callable[[int], str | None]
    heard_at: Callable[[], float]
    beginnings: Beginnings
    book: ShardBook
    store: SqlStore
    assembly: Assembly
    journal: Journal
    tasks: Tasks
    now: Callable[[], float]


class OwnedShard:
    """See the module. Its life is a task of ``run``; who ends that calls ``end``.

    Attributes:
        word: What it is doing, for people.
        is_over: It is nothing to this node any more.
        fenced: To be set by whoever is told that the tenure is over.
        table: What the other nodes are to have.
        saved_at: When what was learned was saved last, Unix seconds.
    """

    def __init__(self, number: int, house: House) -> None:
        self.number = number
        self.task = f"shard-{number}"
        self.word = "is being taken"
        self.is_over = False
        self.taken_at = 0.0
        self.times_fenced = 0
        self.marks = Marks()
        self.saved_at: float | None = None
        self.learning: Learning | None = None
        self.tenure: Tenure | None = None
        self.table: SharedTable | None = None
        self.fenced = asyncio.Event()
        self.moved = asyncio.Event()
        self._house = house
        self._state: StateDirectory | None = None
        self._mirror: Mirror | None = None
        self._ingest: Ingest | None = None
        self._earlier: EarlierLog | None = None
        self._tasks: LearningTasks | None = None
        self._saved: int | None = None
        """How many rows the learner had changed when it was saved last."""
        self._saving = asyncio.Lock()
        self._begin_at: int | None = None
        self._delivered = 0
        self._versions: deque[tuple[float, Version]] = deque(maxlen=64)

    # --- from the consumer group ----------------------------------------------------------------------

    def position(self) -> int | None:
        """The next offset that is wanted; None while there is no place for it."""
        if self._mirror is None:
            return None
        return max(self._mirror.next_offset or 0, self._delivered)

    def deliver(self, records: Sequence[Incoming]) -> None:
        """Keep records.

        Raises:
            OSError: The disk refuses.
        """
        if self._mirror is not None:
            fresh = self.marks.fresh(records)
            self._mirror.append(fresh.lines)
            self.marks.taken(fresh)
            self._delivered = records[-1].offset + 1

    # --- life -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the shard until ``end``; for a task."""
        while not self.is_over:
            await self._own()
            # Whoever has it by now: the group soon says so, or, if it does not, everything is to be learned anew.
            await asyncio.sleep(FENCED_S)

    async def _own(self) -> None:
        """Until the tenure is over."""
        self.fenced.clear()
        try:
            await self._take()
            await self._catch_up()
            await self._learn()
        except* Fenced:
            self.times_fenced += 1
            # Offered on, it would be refused, and end the next tenure as well.
            self.table = None
            await self._close("was taken by somebody else")
        except* Exception:  # whatever it is, the next try begins with a tenure of its own
            await self._close("failed and begins anew")
            raise

    async def end(self) -> None:
        """Hand the shard on: save what was learned, within the database's time, and stop."""
        self.is_over = True
        try:
            if self._tasks is not None:
                await self._tasks.stop()
            if self._ingest is not None:
                self._ingest.step()
            await self._save()
        except Exception as error:  # noqa: BLE001 - the next owner begins with an older snapshot, and reads more
            _log.warning("shard %d is handed on without its newest state: %s", self.number, error)
        finally:
            await self._close("was handed on")

    def use(self, settings: Settings) -> None:
        """Follow another configuration.

        Raises:
            ValueError, OSError: It can't be published; the old one stays in use.
        """
        if self.learning is not None:
            self.learning.use(self._cut(settings))
            if self._tasks is not None:
                self._tasks.reloaded()

    async def prepare(self, settings: Settings) -> None:
        """See ``Learners``."""
        if self.learning is not None:
            await self.learning.prepare(self._cut(settings))

    def settled_version(self) -> Version | None:
        """The newest version of the table that is old enough for every node to use it; None while there is none."""
        latest = time.monotonic() - GRACE_S
        old = [version for at, version in self._versions if at <= latest]
        return old[-1] if old else None

    def begin_again(self) -> None:
        """The topic was made anew or cut: keep what was learned, and read it from its beginning.

        What was read before is known by where it was shipped from (``optimizer.cluster.marks``), so that it teaches
        nothing twice; and what came into the new topic before anybody noticed is not left out.
        """
        self._begin_at = 0
        self.moved.set()

    async def _take(self) -> None:
        house = self._house
        tenure = self.tenure = await self._answered(lambda: house.book.take(self.number, house.owner))
        self.taken_at, self._begin_at, self._saved = house.now(), None, None
        self.moved.clear()
        self.word = "makes its files"
        path = house.directory / f"{self.number:04d}"
        snapshot = tenure.snapshot
        try:
            self._state = await asyncio.to_thread(_furnished, path, snapshot)
        except StoreCorrupt as error:
            _log.error(
                "what shard %d had learned is damaged (%s): it learns from the topic again",
                self.number,
                error,
            )
            snapshot = None
            self._state = await asyncio.to_thread(_furnished, path, None)
        last = house.last_table(self.number)
        if last is not None:
            # What it says of overlays and indices holds until there is a table of this tenure.
            await asyncio.to_thread(replace_file, self._state.table_file, last.data)
            for name in last.blobs:
                await asyncio.to_thread(house.assembly.lend, name, self._state.selector_directory)
        segment_bytes = house.settings().retention.segment_bytes
        mirror = Mirror(self._state.log_directory, self.number, segment_bytes=segment_bytes, resume=snapshot)
        marks = Marks()
        try:
            earlier = self._earlier = EarlierLog(
                self.number, path / "earlier", mirror, house.beginnings, segment_bytes=segment_bytes
            )
            ingest = self._ingest = Ingest(self._state, clock=house.now, indexes=False, earlier=earlier)
            ingest.add_consumer(marks)
            await asyncio.to_thread(marks.begin, self._state.log_directory, ingest.cursor)
        except BaseException:
            mirror.close()  # or nobody in this process could ever open it again
            raise
        # From here on records may come.
        self.marks, self._delivered, self._mirror = marks, 0, mirror
        _log.info("shard %d is ours, generation %d", self.number, tenure.generation)

    async def _catch_up(self) -> None:
        """Wait until everything is here that was in the partition when the tenure had begun."""
        target: int | None = None
        while (target is None or (self.position() or 0) < target) and not self.moved.is_set():
            if target is None:
                target = self._house.end(self.number, self.position() or 0)
            self.word = "waits for Kafka" if target is None else f"reads the log up to record {target}"
            await asyncio.sleep(LOOK_S)

    async def _learn(self) -> None:
        house, state, tenure = self._house, self._state, self.tenure
        assert state is not None
        assert tenure is not None
        store = ShardStore(
            house.store, tenure, lambda route: house.is_mine(self.number, route), fenced=self.fenced.set
        )
        records = await self._answered(store.load)
        ingest, earlier = self._ingest, self._earlier
        assert ingest is not None
        assert earlier is not None
        told = await asyncio.to_thread(alarms_told, state.log_directory, ingest.cursor)
        learning = Learning(
            state,
            self._cut(house.settings()),
            ingest=ingest,
            journal=TenureJournal(house.journal, self.fenced, told),
            store=store,
            now=house.now,
            obstacle=lambda: house.obstacle(self.number),
            withdraw=house.assembly.withdraw,
        )
        for record in records:
            learning.optimizing.book.join(record)
        learning.publication.published = self._published
        learning.optimizing.heard_at = house.heard_at
        learning.start()
        self.learning = learning
        self._tasks = LearningTasks(learning, house.tasks, prefix=f"shard-{self.number}-")
        self._tasks.start()
        self.word = "is learned"
        async with asyncio.TaskGroup() as group:
            syncer = LogSyncer([state.log_directory])
            works = (
                ingest.run(),
                self._keep(),
                syncer.run(),
                earlier.run(),
                self._end_fenced(),
                self._end_moved(),
            )
            for work in works:
                group.create_task(work)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the database answers, however long that takes."""
        while True:
            try:
                return await ask()
            except StoreError as error:
                self.word = f"waits for the database: {error}"
                await asyncio.sleep(RETRY_S)

    async def _end_fenced(self) -> None:
        """Raise when the tenure is over."""
        await self.fenced.wait()
        raise Fenced

    async def _end_moved(self) -> None:
        """Raise when the tenure has to begin anew."""
        await self.moved.wait()
        while self._ingest is not None and self._ingest.step():
            pass  # What was read of the old topic is in no other copy.
        await self._save()
        raise TopicMadeAnew

    async def _keep(self) -> None:
        """Save now and then, and keep the copy of the log within its bounds."""
        state, ingest = self._state, self._ingest
        assert state is not None
        assert ingest is not None
        swept_at = 0.0
        while True:
            await asyncio.sleep(SNAPSHOT_S)
            try:
                if not await self._save():
                    await self._must_hold()
            except UNSAVED as error:
                _log.warning("what shard %d has learned can't be saved: %s", self.number, error)
            if self._house.now() - swept_at >= SWEEP_S:
                swept_at = self._house.now()
                retention = Retention(
                    state.log_directory, self._bounds(), index=PositionIndex(state.index_directory)
                )
                await asyncio.to_thread(retention.sweep, swept_at, read=dict(ingest.cursor), shipped=None)

    async def _save(self) -> bool:
        """Save what was learned; False when there is nothing new.

        Raises:
            Fenced: The tenure is over.
            StoreError, OSError: It could not be saved.
        """
        ingest, mirror, tenure = self._ingest, self._mirror, self.tenure
        if ingest is None or mirror is None or tenure is None:
            return False
        async with self._saving:
            # Resets, prices and half-lives change what is known without anything being read.
            changes = ingest.store.connection.total_changes
            if changes == self._saved and self._begin_at is None:
                return False
            dump = await asyncio.to_thread(ingest.dump)
            place = dump.cursor.get(mirror.source)
            if place is None:
                return False
            offset = await asyncio.to_thread(mirror.offset_at, *place)
            if self._begin_at is not None:
                offset = self._begin_at
            saved_at = self._house.now()
            await self._house.book.save(tenure, Snapshot(offset, *place, data=dump.data, saved_at=saved_at))
            self._saved, self.saved_at = changes, saved_at
            return True

    async def _must_hold(self) -> None:
        """See whether the tenure is over, which nobody says to an owner that has nothing to write.

        Raises:
            Fenced: It is.
            StoreError: The database does not answer.
        """
        holders = await self._house.book.holders()
        holder, tenure = holders.get(self.number), self.tenure
        if tenure is not None and (holder is None or holder.generation != tenure.generation):
            raise Fenced(f"shard {self.number}: generation {tenure.generation} is over")

    def _published(self, table: RoutingTable, taking: bool) -> None:
        """Give the node's workers a table at once, and the other nodes soon.

        Raises:
            OSError: The disk refuses.
        """
        house, state, tenure = self._house, self._state, self.tenure
        assert state is not None
        assert tenure is not None
        if self.is_over or self.fenced.is_set():
            return
        version = Version(tenure.generation, table.version)
        blobs = tuple(dict.fromkeys(name for route in table.routes for name in blobs_of(route)))
        for name in blobs:
            house.assembly.adopt(name, state.selector_directory)
        house.assembly.offer(Piece(self.number, version, table))
        self.table = SharedTable(self.number, version, state.table_file.read_bytes(), blobs)
        self._versions.append((time.monotonic(), version))
        house.changed()
        house.assembly.write(house.settings(), taking=taking)

    async def _close(self, word: str) -> None:
        """Stop without a word to anybody."""
        self.word = word
        _log.info("shard %d %s", self.number, word)
        learning, self.learning = self.learning, None
        if self._tasks is not None:
            await self._tasks.stop()
        if learning is not None:
            learning.publication.published = None
        if self._ingest is not None:
            ingest, self._ingest = self._ingest, None
            ingest.store.close()
        if self._mirror is not None:
            mirror, self._mirror = self._mirror, None
            mirror.close()

    def _cut(self, settings: Settings) -> Settings:
        """The configuration with the shard's routes only."""
        routes = tuple(route for route in settings.routes if self._house.is_mine(self.number, route.name))
        return replace(settings, routes=routes)

    def _bounds(self) -> RetentionSettings:
        """A shard's part of what the node's own log may take."""
        settings = self._house.settings()
        shards = settings.cluster.shards if settings.cluster is not None else 1
        whole = settings.retention
        return replace(
            whole,
            max_bytes=max(whole.max_bytes // shards, 4 * whole.segment_bytes),
            max_disk_fraction=whole.max_disk_fraction / shards,
        )


def _furnished(path: Path, snapshot: Snapshot | None) -> StateDirectory:
    """The shard's directory with what the last owner had learned, or empty.

    Raises:
        OSError, ValueError: The disk refuses, or the snapshot is damaged.
    """
    if snapshot is None and path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    state = StateDirectory(path)
    for name in ("", "-wal", "-shm"):
        state.database_file.with_name(state.database_file.name + name).unlink(missing_ok=True)
    if snapshot is not None:
        restore(state.database_file, snapshot.data)
    return state
