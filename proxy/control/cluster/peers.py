"""Which node learns what a node does not learn itself, and how the cluster is.

Shards come and go, so what is answered here holds for a moment only: nobody keeps it across an ``await``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.control.cluster.facts import ClusterFacts


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: its id, and host:port of its public listener."""

    node: int
    address: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard is learned: on this node (``is_here``), by ``peer``, or, with neither, nowhere at present.

    ``why`` says in a few words why nobody learns it, for example "the database does not answer".
    """

    shard: int
    is_here: bool = False
    peer: Peer | None = None
    why: str = ""


class Peers(Protocol):
    """The other nodes of the cluster, as this one knows them; nothing in here waits for an engine but ``rebuild``."""

    @property
    def node(self) -> int:
        """This node's id."""
        ...

    @property
    def token(self) -> bytes:
        """What only nodes of this cluster know, 16 to 64 bytes, derived from ``cluster.secret``."""
        ...

    def others(self) -> Sequence[Peer]:
        """Every other node that was heard of lately."""
        ...

    def places(self) -> Sequence[Place]:
        """Every shard of the cluster, in order; empty while nobody could tell how many there are."""
        ...

    def place_of(self, route: str) -> Place:
        """The shard of a route, also of one that the configuration does not have (any more).

        With an unknown number of shards it is shard -1, learned nowhere, and ``why``.
        """
        ...

    def facts(self) -> ClusterFacts:
        """How the cluster is, as this node knows it."""
        ...

    async def rebuild(self) -> None:
        """Make all owners learn anew from the beginning of the topic (``ShardBook.forget``).

        Raises:
            StoreError: The database is away.
        """
        ...
