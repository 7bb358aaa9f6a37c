"""The tables and the nodes of a cluster, in Redis; implements ``optimizer.cluster.types.Exchange``.

Keys, below ``llm-optimizer:<cluster>:``

============ ====== ==========================================================================================
versions     hash   shard -> generation:number:bytes of its table
table:<n>    string the table, see ``optimizer.cluster.wire``
blob:<name>  string a file that tables name; ends by itself when nobody renews it
part:<name>  string the beginning of one that is on its way
nodes        hash   node id in hex -> milliseconds of Redis' clock, and what the node says of itself
changed      pubsub the number of a shard whose table was just stored
============ ====== ==========================================================================================

Nothing here is the only copy of anything: owners offer what they have again and again, which costs next to nothing
while it is there, so a Redis that was wiped is filled again.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from optimizer.cluster.redis_link import RedisLink, Script
from optimizer.cluster.types import Away, NodeState, SharedTable, Version
from optimizer.cluster.wire import (
    BLOB_BYTES,
    decode_node,
    decode_table,
    decode_version,
    encode_node,
    encode_table,
    encode_version,
    is_blob_name,
)

_log = logging.getLogger(__name__)

NODE_MS: Final = 60_000
BLOB_S: Final = 24 * 3600
_RENEW_S: Final = 3600.0
# One reply is at most about this large, unless a single table is larger.
_PORTION_BYTES: Final = 8 * 1024**2

_PIECE_BYTES: Final = 2 * 1024**2
_PART_S: Final = 300
_FENCED, _WANTED = -1, 1

# KEYS: versions, table. ARGV: shard, generation, number, version, channel and, unless it only asks, the table.
_PUBLISH: Final = Script("""
local generation, number = 0, -1
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored then
  local g, n = string.match(stored, '^(%d+):(%d+)')
  if g then generation, number = tonumber(g), tonumber(n) end
end
local my_generation, my_number = tonumber(ARGV[2]), tonumber(ARGV[3])
if my_generation < generation then return -1 end
if my_generation == generation then
  if my_number < number then return 0 end
  if my_number == number and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
end
if not ARGV[6] then return 1 end
redis.call('SET', KEYS[2], ARGV[6])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[1])
return 0
""")

# KEYS: part, blob. ARGV: how much is there already, size, seconds of a blob, of a part, and what comes next. It answers
# how much is there. A file goes in pieces, or a large one would fill the time of a call and make Redis look away.
_PUT: Final = Script("""
local size = tonumber(ARGV[2])
if redis.call('STRLEN', KEYS[2]) == size then
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  return size
end
local have = redis.call('STRLEN', KEYS[1])
if have == tonumber(ARGV[1]) then have = redis.call('APPEND', KEYS[1], ARGV[5]) end
if have < size then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  return have
end
if have > size then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return size
""")

# KEYS: nodes. ARGV: node, state. Nodes' clocks differ, so Redis' own says when this was.
_BEAT: Final = Script("""
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d%03d:', now[1], math.floor(now[2] / 1000)) .. ARGV[2])
return 0
""")

# KEYS: nodes. ARGV: milliseconds. A time that is to come was given by another clock, and would be young for ever.
_NODES: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local present = {}
for i = 1, #all, 2 do
  local at, state = string.match(all[i + 1], '^(%d+):(.*)$')
  if at and math.abs(now - tonumber(at)) <= tonumber(ARGV[1]) then
    present[#present + 1] = state
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return present
""")


class RedisExchange:
    """The exchange of one node over a link that it shares with others; closing that is its owner's business.

    ``counts`` are totals: ``unreadable`` entries that were left out, ``tables`` and ``blobs`` that were stored.
    """

    def __init__(self, link: RedisLink, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use ``link``; ``clock`` is monotonic seconds and says when blobs are renewed."""
        self.counts: Counter[str] = Counter()
        self._link = link
        self._clock = clock
        self._channel = link.key("changed")
        self._offered: dict[int, Version] = {}
        self._blobs: dict[int, tuple[str, ...]] = {}
        self._fetched: dict[str, bytearray] = {}  # one at most: the beginning of a blob that took too long
        self._renew_at = clock() + _RENEW_S

    @property
    def up(self) -> bool:
        """Whether the last call was answered."""
        return self._link.up

    async def publish(self, table: SharedTable) -> bool:
        """Offer a shard's table to all nodes; False when a later generation is there, so that the caller is fenced.

        Offering the same or an older number of the own generation changes nothing, and sends the table only if Redis
        has lost it; so it may be done every second. Put the table's blobs before.

        Raises:
            Away: It may be stored or not; offer it again.
            ValueError: It is larger than 32 MiB, or no table.
        """
        body = encode_table(table)
        version = encode_version(table.version, len(body))
        self._blobs[table.shard] = table.blobs
        left = self._stopwatch()
        if table.version <= self._offered.get(table.shard, Version(-1)):
            answer = await self._offer(table, version, left())
            if answer != _WANTED:
                return answer != _FENCED
        answer = await self._offer(table, version, left(), body)
        self._offered[table.shard] = table.version
        self.counts["tables"] += 1
        return answer != _FENCED

    async def _offer(self, table: SharedTable, version: bytes, timeout_s: float, *body: bytes) -> int:
        keys = (self._link.key("versions"), self._link.key("table", table.shard))
        words = (table.shard, table.version.generation, table.version.number, version, self._channel)
        answer: int = await self._link.script(_PUBLISH, keys, (*words, *body), timeout_s=timeout_s)
        return answer

    def _stopwatch(self) -> Callable[[], float]:
        """What is left of the time of a call that is made of several."""
        now = asyncio.get_running_loop().time
        until = now() + self._link.timeout_s
        return lambda: max(until - now(), 0.0)

    async def tables(self, known: Mapping[int, Version]) -> Sequence[SharedTable]:
        """The tables that are newer than what is known, or as many of them as fit into the time of a call.

        Raises:
            Away: None of them could be had.
        """
        left = self._stopwatch()
        flat = await self._link.command("HGETALL", self._link.key("versions"))
        newer: list[tuple[int, int]] = []
        for shard, text in zip(flat[::2], flat[1::2], strict=True):
            read = decode_version(text)
            if read is None or not shard.isdigit():
                self.counts["unreadable"] += 1
            elif int(shard) not in known or read[0] > known[int(shard)]:
                newer.append((int(shard), read[1]))
        found: list[SharedTable] = []
        for portion in _portions(sorted(newer)):
            if found and left() < self._link.timeout_s / 2:
                break  # A command that begins with little time would fail and tell nothing; the next poll goes on.
            try:
                found += await self._bodies(portion, known, left())
            except Away:
                if not found:
                    raise
                break
        return found

    async def _bodies(
        self, shards: Sequence[int], known: Mapping[int, Version], timeout_s: float
    ) -> list[SharedTable]:
        keys = [self._link.key("table", shard) for shard in shards]
        found = []
        for shard, body in zip(
            shards, await self._link.command("MGET", *keys, timeout_s=timeout_s), strict=True
        ):
            if body is None:
                continue  # Redis has dropped it; its owner offers it again.
            table = decode_table(body)
            if table is None or table.shard != shard:
                self.counts["unreadable"] += 1
                _log.warning("the table of shard %d in Redis cannot be read", shard)
            elif shard not in known or table.version > known[shard]:
                self._blobs[shard] = table.blobs
                found.append(table)
        return found

    async def put_blob(self, name: str, data: bytes) -> None:
        """Keep a content-named file for a day, or longer while a table names it; sent only when it is not there.

        Raises:
            Away: Not all of it may be there yet: the next call goes on.
            ValueError: It is larger than 64 MiB or empty, or the name is none.
        """
        if not 0 < len(data) <= BLOB_BYTES:
            raise ValueError(f"{name} has {len(data)} bytes; 1 to {BLOB_BYTES} are allowed")
        keys = (self._link.key("part", name), self._blob_key(name))
        left = self._stopwatch()
        have, piece = -1, b""
        while True:
            words = (have, len(data), BLOB_S, _PART_S, piece)
            have = await self._link.script(_PUT, keys, words, timeout_s=left())
            if have == len(data):
                break
            if left() < self._link.timeout_s / 2:
                raise Away(f"Redis has {have} of the {len(data)} bytes of {name}, call again")
            piece = data[have : have + _PIECE_BYTES]
        self.counts["blobs"] += bool(piece)

    async def get_blob(self, name: str) -> bytes | None:
        """The file, None when it is not there (any more).

        Raises:
            Away: Redis did not answer, or not in time for all of it: the next call for this file goes on.
            ValueError: The name is none.
        """
        key = self._blob_key(name)
        left = self._stopwatch()
        so_far = self._fetched.pop(name, None) or bytearray()
        self._fetched.clear()
        size = 0
        try:
            while not size or (len(so_far) < size and left() >= self._link.timeout_s / 2):
                piece = ("GETRANGE", key, len(so_far), len(so_far) + _PIECE_BYTES - 1)
                size, more = await self._link.pipeline([("STRLEN", key), piece], timeout_s=left())
                if not more or size > BLOB_BYTES:
                    return None
                so_far += more
        except Away:
            self._fetched[name] = so_far
            raise
        if len(so_far) == size:
            return bytes(so_far)
        self._fetched[name] = so_far
        raise Away(f"{len(so_far)} of the {size} bytes of {name} are here, call again")

    def _blob_key(self, name: str) -> str:
        if not is_blob_name(name):
            raise ValueError(f"{name!r} is no name of a blob")
        return self._link.key("blob", name)

    async def beat(self, state: NodeState) -> None:
        """Say how this node is, and once an hour that the blobs of all tables it knows are still needed.

        Raises:
            Away: Nobody may have heard it.
        """
        left = self._stopwatch()
        await self._link.script(_BEAT, (self._link.key("nodes"),), (f"{state.node:08x}", encode_node(state)))
        if self._clock() >= self._renew_at:
            names = sorted({name for blobs in self._blobs.values() for name in blobs})
            commands = [("EXPIRE", self._blob_key(name), BLOB_S) for name in names]
            await self._link.pipeline(commands, timeout_s=left())
            self._renew_at = self._clock() + _RENEW_S

    async def nodes(self) -> Sequence[NodeState]:
        """Every node that was heard of within the last minute, by Redis' clock, in the order of their ids.

        Raises:
            Away: Redis did not answer.
        """
        found = []
        for text in await self._link.script(_NODES, (self._link.key("nodes"),), (NODE_MS,)):
            state = decode_node(text)
            if state is None:
                self.counts["unreadable"] += 1
            else:
                found.append(state)
        return sorted(found, key=lambda state: state.node)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when somebody published since the last call, or after ``timeout_s``; a hint, and never an error."""
        await self._link.subscribe(self._channel).wait(timeout_s)


def _portions(sized: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Shards, put together so that no portion is large but those of one table."""
    portions: list[list[int]] = []
    room = 0
    for shard, size in sized:
        if size > room or not portions:
            portions.append([])
            room = _PORTION_BYTES
        portions[-1].append(shard)
        room -= size
    return portions
