"""The copies of a partition that its owners make one after the other, with a real broker between them."""

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer

from loadtests.servers.kafka import KafkaBroker
from optimizer.cluster.consuming import Incoming
from optimizer.cluster.membership import GroupMember
from optimizer.cluster.mirror import Mirror
from optimizer.cluster.types import Snapshot
from optimizer.log.reader import LogReader
from tests.optimizer.cluster.group_helpers import QUICK, eventually, settings_for

SHARDS = 3
_names = itertools.count()


class Owner:
    """Keeps copies and reads them, and leaves in ``saved`` where it got to; ``read`` has what all owners read."""

    def __init__(self, home: Path, saved: dict[int, Snapshot], read: dict[int, list[int]]) -> None:
        self._home = home
        self._saved = saved
        self._read = read
        self._open: dict[int, tuple[Mirror, LogReader, dict[str, tuple[int, int]]]] = {}

    async def assigned(self, shards: frozenset[int]) -> None:
        for shard in shards - set(self._open):
            saved = self._saved.get(shard)
            log = self._home / str(shard)
            mirror = Mirror(log, shard, segment_bytes=2000, resume=saved)
            cursor = {mirror.source: (saved.segment, saved.byte)} if saved else {}
            self._open[shard] = mirror, LogReader(log), cursor
            self.learn(shard)

    async def revoked(self, shards: frozenset[int]) -> None:
        for shard in shards:
            self._open.pop(shard)[0].close()

    def position(self, shard: int) -> int | None:
        return self._open[shard][0].next_offset or 0

    def deliver(self, shard: int, records: Sequence[Incoming]) -> None:
        self._open[shard][0].append([(record.offset, record.value) for record in records])
        self.learn(shard)

    def gap(self, shard: int, wanted: int, found: int) -> None:
        raise AssertionError((shard, wanted, found))

    def learn(self, shard: int) -> None:
        """What is read and where it ended are saved as one, but not always."""
        mirror, reader, cursor = self._open[shard]
        batch = reader.poll(cursor, 1500)
        read = self._read.setdefault(shard, [])
        for entry in batch.entries:
            number = orjson.loads(entry.line)["number"]
            # Read again after an owner went without saving; never left out.
            assert number <= len(read)
            if number == len(read):
                read.append(number)
        self._open[shard] = mirror, reader, batch.cursor
        place = batch.cursor.get(mirror.source)
        if place is not None and len(read) % 3 == 0:
            self._saved[shard] = Snapshot(mirror.offset_at(*place), *place, b"", 0.0)

    def learn_all(self) -> None:
        for shard in self._open:
            self.learn(shard)


@pytest.mark.slow
async def test_owners_that_follow_each_other_read_every_record_in_order(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    topic = kafka.make_topic(f"mirrors-{os.getpid()}-{next(_names)}", SHARDS)
    saved: dict[int, Snapshot] = {}
    read: dict[int, list[int]] = {}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    running: dict[int, tuple[asyncio.Event, asyncio.Task[None], Owner]] = {}
    written = 0
    for step in range(8):
        # Nodes come and go: 0; 0 1; 1; 1 2; 2; 2 0; ...
        node = (step + 1) // 2 % 3
        if step % 2 == 0 and step:
            stop, task, _ = running.pop((node - 1) % 3)
            stop.set()
            await task
        elif node not in running:
            stop, owner = asyncio.Event(), Owner(tmp_path / str(node), saved, read)
            member = GroupMember(
                settings_for(kafka.bootstrap, topic), listener=owner, shards=SHARDS, tuning=QUICK
            )
            running[node] = stop, asyncio.create_task(member.run(stop)), owner
        for number in range(written, written + 100):
            for partition in range(SHARDS):
                value = orjson.dumps({"number": number, "room": "x" * (number % 90)})
                producer.produce(topic, value, partition=partition)
        written += 100
        assert producer.flush(20) == 0

        def all_read(written: int = written) -> bool:
            for _, _, owner in running.values():
                owner.learn_all()
            return [len(numbers) for numbers in read.values()] == [written] * SHARDS

        await eventually(all_read)
    for stop, task, _ in running.values():
        stop.set()
        await task
