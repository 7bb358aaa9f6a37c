"""The optimizer's reading loop: log in, statistics and consumers updated, everything saved with the cursor.

One step polls the log, folds what it found and commits statistics, consumers and cursor in one transaction;
until that has succeeded nothing more is read, so memory is never more than one step ahead of the disk and a
crash at any point repeats exactly what was not saved. A consumer that raises loses that event, is
counted, and hurts nobody else.
"""

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import orjson

from optimizer import events
from optimizer.history_rings import HistoryRings
from optimizer.ids import RequestId, verify
from optimizer.learner import Joined, Learner, LearnerLimits, Reprice
from optimizer.linear_statistics import LinearStatistics
from optimizer.log.node import StateDirectory
from optimizer.log.position_index import PositionIndex, find_gaps, rebuild
from optimizer.log.reader import Entry, LogReader
from optimizer.log.segment import EventReader, Position
from optimizer.log.walk import Earlier
from optimizer.relearn import Relearn
from optimizer.reprice import CostRebuild
from optimizer.response_index import ResponseIndex
from optimizer.settings import Settings
from optimizer.statistics import Statistics
from optimizer.store import Commit, Dump, LearnerStore, StoreCorrupt, StoreError
from optimizer.vectors import Revise, Revision

_log = logging.getLogger(__name__)

# A step is sized to leave the event loop to others after about this long.
STEP_S = 0.012
_LEAST_BYTES = 32 * 1024
_FIRST_BYTES = 256 * 1024
MOST_BYTES = 1024 * 1024
_PRUNE_S = 60.0
_COUNTS = "ingest"
_PART = "/"


class Consumer(Protocol):
    """Something that follows the log beside the learner, each event once (metrics, savings)."""

    name: str

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """Take note of one event; it was folded into the statistics just before."""
        ...

    def snapshot(self) -> bytes:
        """Everything that must survive; saved with the cursor."""
        ...

    def restore(self, data: bytes) -> None:
        """Continue from a snapshot."""
        ...


@runtime_checkable
class PartedConsumer(Consumer, Protocol):
    """One whose snapshot is large though few of it changes: its parts are saved one by one, when they changed."""

    def snapshot_parts(self) -> Mapping[str, bytes]:
        """Instead of ``snapshot``; the one named "" is for ``restore``, all others for ``restore_part``.

        A part that is once there is there for ever, and did not change when it is the same bytes.
        """
        ...

    def restore_part(self, data: bytes) -> None:
        """Continue from one more part."""
        ...


class LoggedDecisions:
    """Decisions found again in the log by their position. Implements ``learner.Decisions``."""

    def __init__(self, positions: PositionIndex, log: EventReader) -> None:
        self._positions = positions
        self._log = log

    def locate(self, request: RequestId) -> Position | None:
        """Where the decision of a request stands; None when it is unknown."""
        return self._positions.find(request)

    def find(self, request_id: str, request: RequestId) -> Mapping[str, Any] | None:
        """See ``learner.Decisions``."""
        position = self._positions.find(request)
        event = self._log.read_event(position) if position is not None else None
        # After a power loss a slot may be newer than the log, so the event has to say that it is the one.
        if event is None or event.get("id") != request_id or event.get("type") != events.REQUEST:
            return None
        data = event.get("data")
        return data if isinstance(data, dict) else None


class Ingest:
    """Learner, store, indexes and consumers of one node, moved on by ``step`` or ``run``.

    ``counts`` are totals over the life of the store: ``events``, ``malformed``, ``consumer_errors``, and what the
    reader had to leave out: ``torn``, ``invalid``, ``dropped_segments``, ``read_errors`` (see ``LogReader``).
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        limits: LearnerLimits | None = None,
        clock: Callable[[], float] = time.time,
        most_bytes: int = MOST_BYTES,
        indexes: bool = True,
        joined: Joined | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        """Open the node's learned state and continue where it was saved; a step reads ``most_bytes`` at most.

        Args:
            state: Where the log and everything else is.
            limits: Bounds on feedback.
            clock: Unix seconds.
            most_bytes: See above.
            indexes: Whether decisions are found again by their position. Not so in a shard of a cluster: its log holds
                what many nodes decided, and feedback comes with its decision.
            joined: In a cluster the node's own log is not learned from: joined feedback goes there, see ``Learner``.
            earlier: What the log had before its files begin, for those who walk all of it.

        Raises:
            StoreError: If the database was written by a newer program.
            sqlite3.Error, OSError: If the disk refuses.
        """
        self._clock = clock
        self.store = LearnerStore(state.database_file)
        loaded = self.store.load()
        self._snapshots = loaded.snapshots
        self._verify = partial(_verify, key=state.id_key)
        self._open(state)
        self.statistics: Statistics = loaded.statistics
        self.linear: LinearStatistics = loaded.linear
        decisions = LoggedDecisions(self.positions, EventReader(state.log_directory))
        self.learner = Learner(
            loaded.statistics,
            loaded.linear,
            verify=self._verify,
            decisions=decisions,
            was_seen=self.store.has_seen,
            waiting=loaded.waiting,
            limits=limits,
            node=state.node if joined is not None else None,
            joined=joined,
        )
        self._indexes = indexes
        self.cursor: Mapping[str, tuple[int, int]] = loaded.cursor
        self.counts: Counter[str] = Counter()
        self._restore_counts()
        self.rebuild = CostRebuild(self.learner, LogReader(state.log_directory), earlier)
        self.relearning = Relearn(self.learner, LogReader(state.log_directory), decisions, earlier)
        self._restore_rebuilds()
        self._consumers: list[Consumer] = []
        self._most_bytes = most_bytes
        self._max_bytes = min(_FIRST_BYTES, most_bytes)
        self._uncommitted = self._more = False
        self._pruned_at = 0.0

    def add_consumer(self, consumer: Consumer) -> None:
        """Let ``consumer`` follow the log from where its snapshot was saved; call before the first step.

        A consumer without a usable snapshot starts at the cursor, not at the beginning of the log.
        """
        data = self._snapshots.get(consumer.name)
        if data is not None:
            try:
                consumer.restore(data)
                if isinstance(consumer, PartedConsumer):
                    for part in self._parts_of(consumer.name):
                        consumer.restore_part(part)
            except Exception:  # noqa: BLE001  # its state is its own; a damaged one must not stop learning
                self.counts["consumer_errors"] += 1
                _log.exception("consumer %s could not be restored; it starts afresh", consumer.name)
        self._consumers.append(consumer)

    def _parts_of(self, name: str) -> list[bytes]:
        return [data for key, data in self._snapshots.items() if key.startswith(name + _PART)]

    def configure(self, settings: Settings, *, reprice: Reprice | None = None) -> None:
        """Follow a configuration, at start and after every reload; see ``Learner.configure``."""
        self.learner.configure(settings, now=self._clock(), reprice=reprice)
        self.rebuild.configure(self.cursor)
        if self.rebuild.pending:
            self.relearning.postpone()
        self.learner.dirty_routes.update(route.name for route in settings.routes)
        self._uncommitted = True

    def reset(
        self,
        route: str,
        *,
        model_key: str = "",
        variant_key: str = "",
        keep: float = 0.0,
        at: float | None = None,
        signals: tuple[str, ...] = (),
    ) -> None:
        """Let what an arm (or the whole route, without keys) did before ``at`` count ``keep`` (0..1) times.

        ``at`` is Unix seconds, None is now. With ``signals`` only what is known about those counts less. Saved with the
        next step, or with the present one if a consumer calls.

        Raises:
            ValueError: If ``keep`` is not within 0..1.
        """
        moment = self._clock() if at is None else at
        self.statistics.reset(
            route, at=moment, model_key=model_key, variant_key=variant_key, keep=keep, signals=signals
        )
        self.learner.dirty_routes.add(route)
        self._uncommitted = True

    def relearn(self, route: str, version: str, revise: Revise) -> None:
        """Bring what is known about a route to a new version of its features, from the log; see ``Relearn``.

        ``revise`` makes the version's vector from an event's (version, x, sketch), raw; also of events that workers
        go on to log under other versions. Call it whenever the version changes, and again at every start before the
        first step; what was finished is not done again.
        """
        self.relearning.start(route, Revision(version, revise))

    def take_dirty_routes(self) -> set[str]:
        """Routes that learned something since the last call."""
        dirty = set(self.learner.dirty_routes)
        self.learner.dirty_routes.clear()
        return dirty

    def repair_index(self) -> int:
        """Index again what a power loss or a removed index left out; returns how many events were.

        Reads only files and writes through an index of its own, so it may run in a thread, before the first
        ``step``: feedback that is read before its decision can be found would be taken for early.
        """
        index = PositionIndex(self._index_directory)
        gaps = find_gaps(index, self._log_directory, self.cursor, self._sequence_of)
        if not gaps:
            return 0
        _log.warning("the position index lacks events of %s; it is made again from the log", ", ".join(gaps))
        start = {source: at for source, at in self.cursor.items() if source not in gaps}
        return rebuild(index, self._log_directory, self._sequence_of, start=start)

    def dump(self) -> Dump:
        """A copy of everything that is saved; for a thread, see ``LearnerStore.dump``.

        Raises:
            StoreError: It could not be made now.
        """
        try:
            return self.store.dump()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error

    def lag_bytes(self) -> int:
        """Bytes of the log that were not read yet."""
        return self.reader.lag_bytes(self.cursor)

    def step(self) -> int:
        """Read on, learn and save; returns the number of events, 0 when there is nothing new.

        Raises:
            StoreCorrupt: The database is damaged; opening it again learns from the log.
            sqlite3.Error, OSError: Nothing was lost; call again.
        """
        if self._uncommitted:
            self._commit()
        started = time.perf_counter()
        before = self.reader.counts
        batch = self.reader.poll(self.cursor, self._max_bytes)
        self._more = batch.more
        for kind, count in self.reader.counts.items():
            if count > before[kind]:
                self.counts[kind] += count - before[kind]
        if not batch.entries and batch.cursor == self.cursor:
            self._use_idle_moment()
            return 0
        for entry in batch.entries:
            self._take(entry)
        self.counts["events"] += len(batch.entries)
        self.cursor = batch.cursor
        self._uncommitted = True
        self._commit()
        self._adapt(time.perf_counter() - started)
        self._use_idle_moment()
        return len(batch.entries)

    async def run(self, interval_s: float = 0.05, checkpoint_s: float = 2.0) -> None:
        """Step for ever: at once while there is more, else every ``interval_s``. Ends when cancelled.

        Raises:
            StoreCorrupt: See ``step``; the process has to start again.
        """
        checkpointed = time.monotonic()
        pause = interval_s
        while True:
            try:
                self.step()
                if time.monotonic() - checkpointed > checkpoint_s:
                    await asyncio.to_thread(self.store.checkpoint)
                    checkpointed = time.monotonic()
                pause = interval_s
            except StoreCorrupt:
                raise
            except (sqlite3.Error, OSError) as error:
                self.counts["step_errors"] += 1
                pause = min(pause * 2, 5.0)
                self._more = False
                _log.error("learned state can not be saved (%s); trying again in %.1f s", error, pause)
            await asyncio.sleep(0.0 if self._more else pause)

    def close(self) -> None:
        """Save what is left, if that can be done, and close the store."""
        try:
            if self._uncommitted:
                self._commit()
        except (sqlite3.Error, OSError, StoreError) as error:
            _log.warning(
                "the last step was not saved (%s); its events are read again at the next start", error
            )
        finally:
            self.store.close()

    # --- inside -------------------------------------------------------------------------------------

    def _open(self, state: StateDirectory) -> None:
        """What lies beside the learned state, and what is written with it."""
        self._index_directory, self._log_directory = state.index_directory, state.log_directory
        self.positions = PositionIndex(state.index_directory)
        self.reader = LogReader(state.log_directory)
        self.responses = ResponseIndex(self.store.connection)
        self.history = HistoryRings(self.store.connection, now=self._clock)

    def _take(self, entry: Entry) -> None:
        position = entry.position
        try:
            event = orjson.loads(entry.line)
            if "type" not in event and "kafkaoffset" in event:
                return  # Another system's record in a shard's copy: its ratings come by the intake.
            if self._indexes and event["type"] == events.REQUEST:
                self._index(event, position)
            self.learner.fold(event)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            self.counts["malformed"] += 1
            if self.counts["malformed"] % 1000 == 1:
                _log.warning("an event at %s teaches nothing: %r", position, error)
            return
        for consumer in self._consumers:
            try:
                consumer.observe(event, position)
            except Exception:  # noqa: BLE001  # a consumer's fault must not stop learning
                self.counts["consumer_errors"] += 1
                if self.counts["consumer_errors"] % 1000 == 1:
                    _log.exception("consumer %s failed on the event at %s", consumer.name, position)

    def _index(self, event: Mapping[str, Any], position: Position) -> None:
        request_id = event["id"]
        request = self._verify(request_id)
        if request is None:
            return
        self.positions.record(position, request.sequence)
        response_id = event["data"].get("gen_ai.response.id")
        if isinstance(response_id, str):
            self.responses.add(response_id, request_id)

    def _sequence_of(self, event: Mapping[str, Any]) -> int | None:
        request = self._verify(str(event.get("id"))) if event.get("type") == events.REQUEST else None
        return None if request is None else request.sequence

    def _commit(self) -> None:
        now = self._clock()
        if now - self._pruned_at > _PRUNE_S:
            self.statistics.prune(now)
            self.linear.prune(now)
            self._pruned_at = now
        self.positions.flush()
        learned = self.learner.changes(now)
        step = Commit(
            statistics=self.statistics.changes(),
            latest=self.statistics.latest,
            cursor=self.cursor,
            waiting_added=learned.waiting_added,
            waiting_removed=learned.waiting_removed,
            seen=learned.seen,
            seen_before=learned.seen_before,
            snapshots=self._take_snapshots(),
            linear=self.linear.changes(now),
        )
        self.store.commit(step, (self.responses, self.history))
        self.statistics.stored()
        self.linear.stored()
        self.learner.stored()
        self._uncommitted = False

    def _take_snapshots(self) -> dict[str, bytes]:
        snapshots = {
            _COUNTS: orjson.dumps([self.counts, self.learner.counts]),
            self.rebuild.name: self.rebuild.snapshot(),
            self.relearning.name: self.relearning.snapshot(),
        }
        for consumer in self._consumers:
            try:
                if isinstance(consumer, PartedConsumer):
                    parts = consumer.snapshot_parts()
                    snapshots.update((f"{consumer.name}{_PART}{name}", parts[name]) for name in parts if name)
                    snapshots[consumer.name] = parts[""]
                else:
                    snapshots[consumer.name] = consumer.snapshot()
            except Exception:  # noqa: BLE001  # a consumer's fault must not stop learning
                self.counts["consumer_errors"] += 1
                _log.exception("consumer %s gave no snapshot; its last one stays", consumer.name)
        return snapshots

    def _restore_counts(self) -> None:
        try:
            own, learned = orjson.loads(self._snapshots.get(_COUNTS, b"[{},{}]"))
            self.counts.update(own)
            self.learner.counts.update(learned)
        except (ValueError, TypeError, AttributeError):
            _log.warning("the totals of %s are damaged; they start at 0", _COUNTS)

    def _use_idle_moment(self) -> None:
        """Without a backlog: price some old events again, or learn from them under new features."""
        if self._more:
            return
        if self.rebuild.step(self._max_bytes // 2):
            self._uncommitted = not self.rebuild.pending
            self._more = True
        elif self.relearning.step(self._max_bytes // 2, self.cursor):
            self._uncommitted = not self.relearning.pending
            self._more = True

    def _restore_rebuilds(self) -> None:
        for work in (self.rebuild, self.relearning):
            data = self._snapshots.get(work.name)
            if data is None:
                continue
            try:
                work.restore(data)
            except (ValueError, TypeError, KeyError):
                _log.warning("what was saved of %s is damaged; it starts afresh", work.name)

    def _adapt(self, took_s: float) -> None:
        """Size the next step by how long this one took."""
        if took_s > STEP_S:
            self._max_bytes = max(self._max_bytes * 3 // 4, _LEAST_BYTES)
        elif self._more and took_s < STEP_S * 0.7:
            self._max_bytes = min(self._max_bytes * 5 // 4, self._most_bytes)


def _verify(text: str, key: bytes) -> RequestId | None:
    return verify(text, key)
