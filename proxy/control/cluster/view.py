"""The cluster as the admin surface of one node sees it: implements ``Peers``."""

from collections.abc import Callable, Sequence

from optimizer.cluster.types import NodeState, Version
from proxy.control.cluster.facts import ClusterFacts, ShardFacts
from proxy.control.cluster.neighbours import late
from proxy.control.cluster.node import Cluster
from proxy.control.cluster.peers import Peer, Place

UNCOUNTED = -1
_NOBODY = (
    "no node that is heard of has taken it; Kafka or the database may be away, or a node may have another "
    "cluster.name or redis.url"
)


class ClusterView:
    """See ``Peers``.

    Args:
        cluster: This node's part of it.
        node: This node's id.
        token: What only nodes of the cluster know.
        database: Whether the database answers, and its last error.
    """

    def __init__(
        self, cluster: Cluster, *, node: int, token: bytes, database: Callable[[], tuple[bool, str]]
    ) -> None:
        self.node = node
        self.token = token
        self._cluster = cluster
        self._database = database
        self._late_since: float | None = None

    def others(self) -> Sequence[Peer]:
        """See ``Peers``; so it is with all of these."""
        return [Peer(state.node, state.address) for state in self._known() if state.node != self.node]

    def places(self) -> Sequence[Place]:
        shards = self._cluster.shards or 0
        return [self._place(shard) for shard in range(shards)]

    def place_of(self, route: str) -> Place:
        shard = self._cluster.shard_of(route)
        if shard is None:
            return Place(
                UNCOUNTED, why="the number of shards is not known yet: Kafka or the database is away"
            )
        return self._place(shard)

    def facts(self) -> ClusterFacts:
        cluster = self._cluster
        neighbours, engines = cluster.neighbours, cluster.engines
        up, error = self._database()
        lag = engines.member.lag if engines.member is not None else {}
        owned = [
            ShardFacts(
                shard=number,
                generation=shard.tenure.generation,
                taken_at=shard.taken_at,
                offset=shard.position() or 0,
                lag=lag.get(number),
                saved_at=shard.saved_at,
                is_guarding=shard.learning is not None and shard.learning.optimizing.is_guarding,
            )
            for number, shard in sorted(cluster.owned.items())
            if shard.tenure is not None
        ]
        return ClusterFacts(
            node=self.node,
            shards=cluster.shards or 0,
            partitions=engines.partitions,
            nodes=neighbours.nodes() if neighbours is not None else (),
            engines=engines.facts(database_up=up, database_error=error),
            owned=owned,
            waiting={n: shard.word for n, shard in cluster.owned.items() if shard.learning is None},
            tables=dict(cluster.assembly.known),
            fenced=cluster.times_fenced + sum(shard.times_fenced for shard in cluster.owned.values()),
            publications=neighbours.publications if neighbours is not None else 0,
            unacknowledged_s=self._unacknowledged_s(),
            feedback={
                "forwarded": engines.forwarder.stats.delivered,
                "received": engines.receiver.counts["received"],
                "undeliverable": engines.forwarder.stats.dead_lettered,
                "dead_lettered": engines.receiver.counts["malformed"],
            },
        )

    async def rebuild(self) -> None:
        await self._cluster.book.forget()

    def _alive(self) -> Sequence[NodeState]:
        return self._cluster.neighbours.alive() if self._cluster.neighbours is not None else ()

    @property
    def _hears(self) -> bool:
        return self._cluster.neighbours is not None and self._cluster.neighbours.up

    def _known(self) -> Sequence[NodeState]:
        """Those that can be asked; while Redis is away all heard of last, who say themselves what they own."""
        neighbours = self._cluster.neighbours
        return neighbours.nodes() if neighbours is not None and not neighbours.up else self._alive()

    def _place(self, number: int) -> Place:
        shard = self._cluster.owned.get(number)
        if shard is not None:
            if shard.learning is not None:
                return Place(number, is_here=True)
            return Place(number, why=f"this node {shard.word}")
        owners = [
            (state.owns[number], state)
            for state in self._known()
            if number in state.owns and state.node != self.node
        ]
        if owners:
            _, state = max(owners, key=lambda found: found[0])
            return Place(number, peer=Peer(state.node, state.address))
        if not self._hears:
            return Place(number, why="Redis is away, so who has it is not heard of")
        return Place(number, why=_NOBODY)

    def _unacknowledged_s(self) -> float:
        """For how long some node has been behind with a table of this node's."""
        cluster = self._cluster
        now = cluster.now()
        behind = any(
            late(self._alive(), number, wanted)
            for number, shard in cluster.owned.items()
            for wanted in (shard.settled_version() or Version(),)
        )
        if not behind:
            self._late_since = None
            return 0.0
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since
