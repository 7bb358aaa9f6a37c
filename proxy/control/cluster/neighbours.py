"""What a node says to the others and hears of them, through Redis: tables of shards, the files they name, beats.

Nothing is waited for by anybody. While Redis is away, what was heard last stays; what is to be said is said when it is
back. A node counts as alive while its beats change, by this node's own clock: clocks of different nodes are never
compared.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from optimizer.cluster.types import Away, Exchange, NodeState, SharedTable, Version
from optimizer.table_file import TableRefused, decode
from proxy.control.cluster.assembly import Assembly, Piece
from proxy.logs import LOGGER_NAME

BEAT_S: Final = 1.0
ALIVE_S: Final = 5.0
POLL_S: Final = 0.5
RETRY_S: Final = 0.5
OFFER_AGAIN_S: Final = 5.0
SETTLED_S: Final = 3.0
"""How long after Redis has begun to answer every living node has said how it is."""
SWEEP_S: Final = 60.0

_log = logging.getLogger(LOGGER_NAME)


@dataclass(slots=True)
class _Heard:
    state: NodeState
    at: float


class Neighbours:
    """See the module.

    Args:
        exchange: The way to them.
        assembly: Gets the tables.
        myself: How this node is.
        offers: The tables of this node's shards.
        fenced: Told when a shard's table was refused, because somebody else has it by now.
        received: Called when there is something new to be put into the node's table.
        clock: Monotonic seconds.

    Attributes:
        publications: Tables that were offered.
    """

    def __init__(
        self,
        exchange: Exchange,
        assembly: Assembly,
        *,
        myself: Callable[[], NodeState],
        offers: Callable[[], Sequence[SharedTable]],
        fenced: Callable[[int], None],
        received: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.publications = 0
        self._exchange = exchange
        self._assembly = assembly
        self._myself = myself
        self._offers = offers
        self._fenced = fenced
        self._received = received
        self._clock = clock
        self._changed = asyncio.Event()
        self._told: dict[int, Version] = {}
        self._counted: dict[int, Version] = {}
        self._put: set[str] = set()
        self._tables: dict[int, SharedTable] = {}
        self._refused: dict[int, Version] = {}
        self._incomplete: dict[int, Version] = {}
        self._heard: dict[int, _Heard] = {}
        self._answering_since: float | None = None

    @property
    def up(self) -> bool:
        """Whether the last call to Redis was answered."""
        return self._exchange.up

    @property
    def is_settled(self) -> bool:
        """Whether ``alive`` names all that are alive: after a silence of Redis they come back one by one."""
        since = self._answering_since
        return since is not None and self._clock() - since >= SETTLED_S

    def nodes(self) -> Sequence[NodeState]:
        """Every node that was heard of within the last minute, alive or not, this one too."""
        return [heard.state for _, heard in sorted(self._heard.items())]

    def alive(self) -> Sequence[NodeState]:
        """Those whose beats still change."""
        since = self._clock() - ALIVE_S
        return [heard.state for _, heard in sorted(self._heard.items()) if heard.at >= since]

    def table_of(self, shard: int) -> SharedTable | None:
        """What a shard's owner published last, as far as it is known here."""
        return self._tables.get(shard)

    def changed(self) -> None:
        """There is something new to offer."""
        self._changed.set()

    async def beat(self) -> None:
        """Say how this node is and hear of the others, for ever."""
        while True:
            try:
                await self._exchange.beat(self._myself())
                self._hear(await self._exchange.nodes())
            except Away:
                # It is shown as away, and there is nothing else to be done about it.
                self._answering_since = None
            else:
                if self._answering_since is None:
                    self._answering_since = self._clock()
            await asyncio.sleep(BEAT_S)

    async def send(self) -> None:
        """Offer this node's tables whenever they change, for ever; what was not taken is offered again."""
        again_at = self._clock() + OFFER_AGAIN_S
        while True:
            self._changed.clear()
            if self._clock() >= again_at:
                # Redis may have lost what it was told, and does nothing if it has not.
                again_at = self._clock() + OFFER_AGAIN_S
                self._told.clear()
                self._put.clear()
            is_done = await self._offer_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(again_at - self._clock(), 0.0) if is_done else RETRY_S):
                    await self._changed.wait()

    async def receive(self) -> None:
        """Take what others publish, for ever."""
        swept_at = self._clock()
        while True:
            with suppress(Away):
                await self._take(await self._exchange.tables(self._known()))
            if self._clock() - swept_at > SWEEP_S:
                swept_at = self._clock()
                await asyncio.to_thread(self._assembly.sweep)
            await self._exchange.wait_for_change(POLL_S)

    def _known(self) -> Mapping[int, Version]:
        """What need not be sent to this node any more, though it may be of no use to it."""
        known = dict(self._assembly.known)
        for shard, version in self._refused.items():
            known[shard] = max(version, known.get(shard, version))
        return known

    async def _offer_all(self) -> bool:
        """Offer what others may not have yet; whether they have it all then."""
        is_done = True
        # A table that takes traffic away does not wait for the files of another.
        for table in sorted(self._offers(), key=lambda table: not self._put.issuperset(table.blobs)):
            if self._told.get(table.shard) == table.version:
                continue
            try:
                await self._send(table)
            except ValueError as error:
                self._told[table.shard] = table.version
                _log.error("the table of shard %d can't be given to others: %s", table.shard, error)
            except Away:
                is_done = False
                if not self._exchange.up:
                    break
        return is_done

    async def _send(self, table: SharedTable) -> None:
        for name in table.blobs:
            if name in self._put:
                continue
            data = await asyncio.to_thread(self._assembly.read, name)
            if data is not None:
                await self._exchange.put_blob(name, data)
                self._put.add(name)
        if await self._exchange.publish(table):
            self._told[table.shard] = table.version
            if self._counted.get(table.shard) != table.version:
                self._counted[table.shard] = table.version
                self.publications += 1
        else:
            self._fenced(table.shard)

    async def _take(self, tables: Sequence[SharedTable]) -> None:
        """Use what can be used at once, and then what needs files that have to be fetched first."""
        complete = [shared for shared in tables if all(map(self._assembly.has, shared.blobs))]
        used = [self._use(shared) for shared in complete]
        if any(used):
            self._received()
        for shared in tables:
            if shared in complete:
                continue
            try:
                await self._fetch(shared.blobs)
            except OSError as error:
                if self._incomplete.get(shared.shard) != shared.version:
                    self._incomplete[shared.shard] = shared.version
                    _log.error("the table of shard %d can't be used yet: %s", shared.shard, error)
                continue
            except Away:
                # A large file takes more than one call. What came of it is kept, and lost if another is asked for.
                return
            if self._use(shared):
                self._received()

    def _use(self, shared: SharedTable) -> bool:
        try:
            table, _ = decode(shared.data)
        except TableRefused as error:
            # The same bytes are no better the next time.
            self._refused[shared.shard] = shared.version
            _log.error("the table of shard %d can't be used: %s", shared.shard, error)
            return False
        self._refused.pop(shared.shard, None)
        self._incomplete.pop(shared.shard, None)
        self._tables[shared.shard] = shared
        return self._assembly.offer(Piece(shared.shard, shared.version, table))

    async def _fetch(self, names: Sequence[str]) -> None:
        """Have the files that a table names before it is used.

        Raises:
            FileNotFoundError: Redis does not have one (any more); the next table will name another.
            OSError: The disk refuses.
        """
        for name in names:
            if self._assembly.has(name):
                continue
            data = await self._exchange.get_blob(name)
            if data is None:
                raise FileNotFoundError(f"{name} is not there")
            await asyncio.to_thread(self._assembly.keep, name, data)

    def _hear(self, states: Sequence[NodeState]) -> None:
        now = self._clock()
        known = {state.node for state in states}
        for state in states:
            last = self._heard.get(state.node)
            if last is None or last.state != state:
                self._heard[state.node] = _Heard(state, now)
        # A Redis that was wiped names nobody until they have said how they are again.
        silent = [n for n, heard in self._heard.items() if n not in known and now - heard.at > ALIVE_S]
        for node in silent:
            del self._heard[node]


def late(nodes: Sequence[NodeState], shard: int, wanted: Version) -> Mapping[int, Version]:
    """Which nodes do not run a version of a shard's table yet, and what they run instead."""
    return {
        state.node: state.runs.get(shard, Version())
        for state in nodes
        if state.runs.get(shard, Version()) < wanted
    }
