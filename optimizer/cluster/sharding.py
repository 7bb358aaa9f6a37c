"""Which shard a route belongs to: the hash that Kafka's own clients use for keys, over a number that never changes.

So a record that another system wrote with the route as its key is in the same partition as ours. The number of shards
is the topic's number of partitions when the cluster began; partitions that are added later stay empty, because a route
whose events were in two partitions would have two owners.
"""

from collections.abc import Iterable
from typing import Final

NO_ROUTE: Final = ""
"""The key of events that are about no route."""

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFF_FFFF


def shard_of(route: str, shards: int) -> int:
    """The shard of ``route``, 0 to ``shards`` - 1; ``shards`` is at least 1."""
    return (murmur2(route.encode()) & 0x7FFF_FFFF) % shards


def murmur2(data: bytes) -> int:
    """The 32-bit MurmurHash2 (Austin Appleby) with Kafka's seed, unsigned."""
    length = len(data)
    h = _SEED ^ length
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def listed(shards: Iterable[int]) -> str:
    """Shards for people: ``0-3, 7``."""
    runs: list[tuple[int, int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], shard)
        else:
            runs.append((shard, shard))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
