"""From a consumer to the learners of its shards: each shard from where its learner wants, whole and in order.

The learner's position is asked before every delivery, so nothing is remembered here that could be wrong: a learner that
begins anew somewhere else is followed. A record is given again until it was taken.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from optimizer.cluster.consuming import Incoming, Pauses, incoming, limited

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_SHORT_PAUSE_S: Final = 1.0
_UNREADABLE_PAUSE_S: Final = 10.0
_SINGLY_S: Final = 60.0
_UNREADABLE: Final = (UnsupportedCodecError, CorruptRecordException)


class Learners(Protocol):
    """Who takes the records of the shards."""

    def position(self, shard: int) -> int | None:
        """The next offset wanted (0: as early as there is); None: not ready, ask again soon."""
        ...

    def deliver(self, shard: int, records: Sequence[Incoming]) -> None:
        """Take records, ascending, the first at or after ``position``. OSError: the same ones again after a pause."""
        ...

    def gap(self, shard: int, wanted: int, found: int) -> None:
        """The topic has no ``wanted`` any more; it goes on with ``found``.

        ``found`` < ``wanted``: the topic was cut or made anew. Nothing is delivered then until ``position`` says
        something else.
        """
        ...


@dataclass(slots=True)
class _Lane:
    """One shard.

    ``at`` is the learner's position that the consumer was put to, None when it must be put somewhere; ``fetch_at`` is
    the offset that comes next, later than ``at`` when the topic has lost some. ``short_at`` is when the topic was first
    seen to end before the position, ``refused`` a position that it stayed so for.
    """

    shard: int
    partition: TopicPartition
    pauses: Pauses
    at: int | None = None
    fetch_at: int = 0
    end: int | None = None
    again_at: float = 0.0
    short_at: float | None = None
    refused: int | None = None
    error: str = ""


class Lanes:
    """The shards of one assignment; thrown away with it.

    Args:
        consumer: Assigned to the shards, all paused.
        learners: Who takes the records.
        partitions: Topic and partition of each shard.
        limit_s: Of a call to the brokers.
        patience_s: How long the topic may end before a position, as it may seem to after its leader changed.
        slice_bytes: Bound of one delivery; one record at least is in it.
        current: Whether the assignment still holds.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        learners: Learners,
        partitions: Iterable[TopicPartition],
        *,
        limit_s: float,
        patience_s: float,
        slice_bytes: int,
        current: Callable[[], bool],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._consumer = consumer
        self._learners = learners
        self._limit_s = limit_s
        self._patience_s = patience_s
        self._slice_bytes = slice_bytes
        self._current = current
        self._clock = clock
        self._singly_until = float("-inf")
        self._lanes = {
            item.partition: _Lane(item.partition, item, Pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, rng))
            for item in partitions
        }

    @property
    def last_error(self) -> str:
        """Why one of the shards does not go on at the moment; empty when all do."""
        return next((lane.error for lane in self._lanes.values() if lane.error), "")

    @property
    def lag(self) -> Mapping[int, int]:
        """Records between position and end, of each shard where it is known."""
        return {
            shard: max(lane.end - max(lane.at, lane.fetch_at), 0)
            for shard, lane in self._lanes.items()
            if lane.end is not None and lane.at is not None
        }

    async def place(self) -> None:
        """Put the consumer where the learners want it, and hold what they are not ready for."""
        due: dict[int, int] = {}
        for shard, lane in self._lanes.items():
            wanted = self._learners.position(shard)
            if wanted is None or wanted != lane.at:
                self._hold(lane)
                if wanted is not None and wanted != lane.refused and self._clock() >= lane.again_at:
                    due[shard] = wanted
        if not due:
            return
        partitions = [self._lanes[shard].partition for shard in due]
        begins = await limited(self._consumer.beginning_offsets(partitions), self._limit_s)
        ends = await limited(self._consumer.end_offsets(partitions), self._limit_s)
        if not self._current():
            return
        for shard, wanted in due.items():
            lane = self._lanes[shard]
            begin, lane.end = begins[lane.partition], ends[lane.partition]
            if lane.end < wanted:
                self._wait_for_end(lane, wanted, lane.end)
                continue
            if 0 < wanted < begin:
                self._learners.gap(shard, wanted, begin)
            lane.at, lane.fetch_at, lane.short_at, lane.refused = wanted, max(wanted, begin), None, None
            self._consumer.seek(lane.partition, lane.fetch_at)
            self._consumer.resume(lane.partition)

    async def poll(self, wait_s: float, most: int) -> Mapping[TopicPartition, Sequence[Any]]:
        """What aiokafka has fetched, at most ``most`` records of a partition; waits up to ``wait_s`` for it.

        A partition that can't be read (another system compressed it as we can't undo) holds no other up.
        """
        if self._clock() < self._singly_until:
            found = await self._poll_singly(most)
            if not found:
                await asyncio.sleep(wait_s)
            return found
        polling = self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=most)
        try:
            return await limited(polling, self._limit_s + self._patience_s)
        except _UNREADABLE:
            # What it had taken out of its other partitions is gone with the error, so all are begun again.
            self._singly_until = self._clock() + _SINGLY_S
            for lane in self._lanes.values():
                self._hold(lane)
            return {}

    async def _poll_singly(self, most: int) -> Mapping[TopicPartition, Sequence[Any]]:
        found: dict[TopicPartition, Sequence[Any]] = {}
        for lane in self._lanes.values():
            if lane.at is None or not self._current():
                continue
            try:
                asking = self._consumer.getmany(lane.partition, timeout_ms=0, max_records=most)
                found |= await limited(asking, self._limit_s)
            except _UNREADABLE as error:
                self._fail(lane, error, _UNREADABLE_PAUSE_S)
        return found

    async def take(self, shard: int, records: Sequence[Any]) -> None:
        """Deliver what aiokafka found for one shard, in slices between which others may run."""
        lane = self._lanes.get(shard)
        if lane is None or lane.at is None or not records:
            return
        first = records[0].offset
        if first < lane.fetch_at:
            # The brokers knew of no such offset, and aiokafka went back to the first: the topic may have been cut.
            self._hold(lane)
            return
        if first > lane.fetch_at:
            await self._look_for_gap(lane, first)
        if self._current():
            lane.end = self._consumer.highwater(lane.partition)
        for part in slices([incoming(record) for record in records], self._slice_bytes):
            if not self._current():
                return
            if self._learners.position(shard) != lane.at:
                self._hold(lane)
                return
            try:
                self._learners.deliver(shard, part)
            except OSError as error:
                self._fail(lane, error, lane.pauses.take())
                return
            lane.at = lane.fetch_at = part[-1].offset + 1
            lane.pauses.reset()
            lane.error = ""
            await asyncio.sleep(0)

    def _fail(self, lane: _Lane, error: Exception, pause_s: float) -> None:
        lane.error = f"{lane.partition.topic}/{lane.shard}: {error}"
        _log.warning("%s; again in %.1f s", lane.error, pause_s)
        lane.again_at = self._clock() + pause_s
        self._hold(lane)

    def _hold(self, lane: _Lane) -> None:
        if lane.at is not None:
            lane.at = None
            self._consumer.pause(lane.partition)

    def _wait_for_end(self, lane: _Lane, wanted: int, end: int) -> None:
        """The topic ends before ``wanted``: a new leader may only not know better yet."""
        now = self._clock()
        lane.short_at = lane.short_at if lane.short_at is not None else now
        if now - lane.short_at < self._patience_s:
            lane.again_at = now + _SHORT_PAUSE_S
            return
        lane.short_at, lane.refused = None, wanted
        lane.error = f"{lane.partition.topic}/{lane.shard} ends at {end}, before {wanted}: cut or made anew"
        _log.error(lane.error)
        self._learners.gap(lane.shard, wanted, end)

    async def _look_for_gap(self, lane: _Lane, found: int) -> None:
        """Offsets may be left out by transactions and compaction; what the topic's retention took is a gap."""
        begins = await limited(self._consumer.beginning_offsets([lane.partition]), self._limit_s)
        if lane.at and begins[lane.partition] > lane.fetch_at:
            self._learners.gap(lane.shard, lane.at, found)


def slices(records: Sequence[Incoming], limit: int) -> Iterable[Sequence[Incoming]]:
    """Consecutive parts whose values have at most ``limit`` bytes, or one record."""
    begin = size = 0
    for index, record in enumerate(records):
        if index > begin and size + len(record.value) > limit:
            yield records[begin:index]
            begin, size = index, 0
        size += len(record.value)
    if records:
        yield records[begin:]
