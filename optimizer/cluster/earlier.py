"""What a partition had before the owner's copy of it begins, copied when somebody has to walk all of it.

An owner's copy begins where the owner before had saved last. Whoever learns from the log again (a price has changed, or
the features of a route) needs what was there before, too, as far as the topic still has it; it is copied into a log of
its own beside the other, and thrown away after the walk. Invariant: together they have every record once.
"""

import asyncio
import logging
import random
import shutil
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from optimizer.cluster.consuming import (
    FAILURES,
    Pauses,
    Security,
    end_consumer,
    fetching_error,
    incoming,
    limited,
    make_consumer,
    security_of,
)
from optimizer.cluster.marks import Marks
from optimizer.cluster.mirror import Mirror
from optimizer.log.reader import LogReader
from optimizer.settings import KafkaSettings

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
STALLED_S: Final = 30.0
_WAIT_MS: Final = 200
_RECORDS: Final = 500
_LOG: Final = "log"


class Beginnings:
    """Copies the beginnings of partitions of ``settings.topic``; of one topic, for any number of shards."""

    def __init__(self, settings: KafkaSettings, *, security: Security | None = None) -> None:
        self._settings = settings
        self._security = security

    async def copy(self, shard: int, below: int, into: Path, *, segment_bytes: int) -> None:
        """Write what is below an offset into a log directory, which has nothing yet.

        Raises:
            KafkaError, OSError, TimeoutError: It did not come, or the disk refuses; some may be there.
        """
        mirror, marks = Mirror(into, shard, segment_bytes=segment_bytes), Marks()
        security = await security_of(self._security)
        consumer = make_consumer(
            self._settings, security, group=None, max_poll_records=_RECORDS, auto_offset_reset="earliest"
        )
        try:
            await limited(consumer.start(), self._settings.request_timeout_s)
            await self._read(consumer, TopicPartition(self._settings.topic, shard), below, mirror, marks)
        finally:
            mirror.close()
            await end_consumer(consumer)

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        below: int,
        mirror: Mirror,
        marks: Marks,
    ) -> None:
        limit, loop = self._settings.request_timeout_s, asyncio.get_running_loop()
        consumer.assign([partition])
        begin = (await limited(consumer.beginning_offsets([partition]), limit))[partition]
        consumer.seek(partition, begin)
        at, moved_at = begin, loop.time()
        while at < below:
            failure = fetching_error(consumer)
            if failure is not None:
                raise failure
            found = (await limited(consumer.getmany(partition, timeout_ms=_WAIT_MS), limit)).get(
                partition, []
            )
            records = [incoming(record) for record in found if record.offset < below]
            fresh = marks.fresh(records)
            mirror.append(fresh.lines)
            marks.taken(fresh)
            after = await limited(consumer.position(partition), limit)
            if after > at:
                at, moved_at = after, loop.time()
            elif loop.time() - moved_at > STALLED_S:
                raise TimeoutError(f"nothing came of partition {partition.partition} for {STALLED_S:g} s")


class EarlierLog:
    """That of one shard. Implements ``optimizer.log.walk.Earlier``; ``run`` is a task of the shard's.

    Args:
        shard: Whose.
        directory: Its own; what is in it goes.
        mirror: The copy that is to be added to.
        beginnings: Where it comes from.
        segment_bytes: When a segment is closed.
        rng: Draws the pauses.
    """

    def __init__(
        self,
        shard: int,
        directory: Path,
        mirror: Mirror,
        beginnings: Beginnings,
        *,
        segment_bytes: int,
        rng: random.Random | None = None,
    ) -> None:
        self._shard = shard
        self._directory = directory
        self._mirror = mirror
        self._beginnings = beginnings
        self._segment_bytes = segment_bytes
        self._wanted = asyncio.Event()
        self._is_here = False
        self._pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S, rng or random.Random())  # noqa: S311 - spreads load

    def fetched(self) -> bool:
        """See ``Earlier``; so it is with all of these."""
        if not self._is_here:
            self._wanted.set()
        return self._is_here

    def reader(self) -> LogReader | None:
        return LogReader(self._directory / _LOG) if self._is_here else None

    def forget(self) -> None:
        self._wanted.clear()
        self._is_here = False
        shutil.rmtree(self._directory, ignore_errors=True)

    async def run(self) -> None:
        """Fetch whenever it is wanted, for ever."""
        while True:
            await self._wanted.wait()
            try:
                await self._fetch()
            except FAILURES as error:
                pause = self._pauses.take()
                _log.warning("shard %d: its earlier records can't be read (%s)", self._shard, error)
                await asyncio.sleep(pause)
            else:
                self._wanted.clear()
                self._pauses.reset()

    async def _fetch(self) -> None:
        log = self._directory / _LOG
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        below = await asyncio.to_thread(self._mirror.offset_at, 0, 0)
        log.mkdir(mode=0o700, parents=True)
        if below > 0:
            await self._beginnings.copy(self._shard, below, log, segment_bytes=self._segment_bytes)
        self._is_here = True
