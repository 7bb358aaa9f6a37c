"""Who owns which shard, and what owners learned: a ``ShardBook`` over the database."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from optimizer.cluster.types import Holder, Snapshot, Tenure
from optimizer.control_store.errors import SnapshotTooLarge

if TYPE_CHECKING:
    from optimizer.control_store.store import SqlStore

MAX_SNAPSHOT_BYTES: Final = 64 << 20


class SqlShardBook:
    """See ``optimizer.cluster.types.ShardBook``. Every call raises ``StoreError`` when the database is away.

    Generations are never less than the Unix seconds, so that they grow on when the database was lost or put back.
    Snapshots have a connection of their own, and 60 s; everything else has the store's time-out.
    """

    def __init__(self, store: "SqlStore", *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._topic = ""

    async def shards(self, topic: str, partitions: int) -> int:
        """How many shards ``topic`` has: what the first caller for it gave.

        From then on snapshots are those of this topic: offsets into another one mean nothing.
        """
        found = await self._store.ask(lambda database: database.shards(topic, partitions), "write")
        self._topic = topic
        return found

    async def take(self, shard: int, owner: str) -> Tenure:
        """Begin a tenure, ending the present one. Writes of that one that are under way are waited for.

        Raises:
            Fenced: Somebody else took it before the snapshot was here.
            StoreError: A tenure may have begun that nobody has; it is taken again by calling again.
        """
        now, topic = self._now(), self._topic
        generation = await self._store.ask(lambda database: database.take(shard, owner, now), "write")
        tenure = Tenure(shard, generation)
        left = await self._store.ask(lambda database: database.snapshot(tenure, topic), "bulk")
        return replace(tenure, snapshot=left)

    async def save(self, tenure: Tenure, snapshot: Snapshot) -> None:
        """Keep what was learned instead of what was kept before.

        Raises:
            Fenced: The tenure is over; nothing was stored.
            SnapshotTooLarge: It has more than ``MAX_SNAPSHOT_BYTES``; nothing was stored.
            StoreError: It may be stored or not.
        """
        if len(snapshot.data) > MAX_SNAPSHOT_BYTES:
            raise SnapshotTooLarge(len(snapshot.data), MAX_SNAPSHOT_BYTES)
        topic = self._topic
        await self._store.ask(lambda database: database.save_snapshot(tenure, topic, snapshot), "bulk")

    async def holders(self) -> Mapping[int, Holder]:
        """Who owns what; shards that nobody owns are left out."""
        return await self._store.ask(lambda database: database.holders(), "read")

    async def forget(self) -> None:
        """Throw away every snapshot and end every tenure, so that owners learn anew from the beginning of the topic."""
        now = self._now()
        await self._store.ask(lambda database: database.forget(now), "write")
