"""Members of a group for tests: a listener that remembers what it was told, in this process or in one of its own."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from optimizer.cluster.consuming import Incoming
from optimizer.cluster.membership import GroupMember, GroupTuning
from optimizer.settings import KafkaSettings

QUICK = GroupTuning(
    session_s=3.0, heartbeat_s=0.5, rebalance_s=2.4, metadata_s=0.5, first_pause_s=0.1, longest_pause_s=0.5
)


class Book:
    """What all owners of a test know together: the next offset of each shard, and every record that was taken."""

    def __init__(self) -> None:
        self.next: dict[int, int] = {}
        self.taken: dict[int, list[int]] = {}


class Learner:
    """A listener over ``book``; ``told`` is everything it was told, in order."""

    def __init__(self, book: Book, say: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.book = book
        self.owned: frozenset[int] = frozenset()
        self.told: list[tuple[str, Any]] = []
        self.gaps: list[tuple[int, int, int]] = []
        self.ready = True
        self.refusing = 0
        self._say = say

    def _tell(self, word: str, what: Any) -> None:
        self.told.append((word, what))
        if self._say:
            self._say({word: what})

    async def assigned(self, shards: frozenset[int]) -> None:
        self.owned = shards
        self._tell("assigned", sorted(shards))

    async def revoked(self, shards: frozenset[int]) -> None:
        self.owned -= shards
        self._tell("revoked", sorted(shards))

    def position(self, shard: int) -> int | None:
        assert shard in self.owned
        return self.book.next.get(shard, 0) if self.ready else None

    def deliver(self, shard: int, records: Sequence[Incoming]) -> None:
        assert shard in self.owned
        if self.refusing:
            self.refusing -= 1
            raise OSError("the disk is full")
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= self.book.next.get(shard, 0)
        self.book.next[shard] = offsets[-1] + 1
        self.book.taken.setdefault(shard, []).extend(offsets)
        self._tell("took", [shard, offsets[0], offsets[-1]])

    def gap(self, shard: int, wanted: int, found: int) -> None:
        self.gaps.append((shard, wanted, found))


def settings_for(address: str, topic: str) -> KafkaSettings:
    return KafkaSettings((address,), topic=topic, group_id=f"group-{topic}", request_timeout_s=3.0)


class Running:
    """A member that runs in this process."""

    def __init__(
        self,
        address: str,
        topic: str,
        book: Book,
        *,
        shards: Any = 4,
        tuning: GroupTuning = QUICK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.learner = Learner(book)
        self.member = GroupMember(
            settings_for(address, topic), listener=self.learner, shards=shards, tuning=tuning, clock=clock
        )
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.member.run(self._stop))

    async def stop(self) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        self._stop.set()
        await self._task
        return time.monotonic() - began


@asynccontextmanager
async def running(*args: Any, **options: Any) -> AsyncIterator[Running]:
    member = Running(*args, **options)
    try:
        yield member
    finally:
        await member.stop()


async def eventually(condition: Callable[[], Any], seconds: float = 40.0) -> float:
    """Wait for something to come true; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come true in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def _main(address: str, topic: str, shards: int) -> None:
    def say(what: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    member = GroupMember(
        settings_for(address, topic), listener=Learner(Book(), say), shards=shards, tuning=QUICK
    )
    await member.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
