"""What the parts of a cluster say to each other, and what each engine is asked for.

A **tenure** is one node's time as the owner of one shard. Its ``generation`` comes from the database, grows by one with
every tenure, and goes with everything an owner writes, so that a former owner that wakes up writes nothing any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Fenced(Exception):
    """Somebody else owns the shard by now; whoever is told so stops."""


class Away(Exception):
    """An engine did not answer in time or refused; what was asked of it may have happened."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an owner had learned: ``data`` is its learner's database, compressed.

    ``offset`` is the first record of the partition that is not in it, and (``segment``, ``byte``) where that one stands
    in the owner's copy of the log. ``saved_at`` is Unix seconds.
    """

    offset: int
    segment: int
    byte: int
    data: bytes
    saved_at: float


@dataclass(frozen=True, slots=True)
class Tenure:
    """The right to learn one shard and to drive its routes; ``snapshot`` is what the last owner left, if anything."""

    shard: int
    generation: int
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who owns a shard, as the database has it. Times are Unix seconds; ``offset`` and ``saved_at`` of its snapshot."""

    owner: str
    generation: int
    taken_at: float
    offset: int | None = None
    saved_at: float | None = None


class ShardBook(Protocol):
    """The database's part: who owns what. Every call raises ``StoreError`` when the database is away."""

    async def shards(self, topic: str, partitions: int) -> int:
        """How many shards the cluster has; the first caller's ``partitions`` hold for ever."""
        ...

    async def take(self, shard: int, owner: str) -> Tenure:
        """Begin a tenure, ending the present one."""
        ...

    async def save(self, tenure: Tenure, snapshot: Snapshot) -> None:
        """Keep what was learned; raises ``Fenced`` when the tenure is over."""
        ...

    async def holders(self) -> Mapping[int, Holder]:
        """Who owns what."""
        ...

    async def forget(self) -> None:
        """Throw away every snapshot and end every tenure, so that owners learn anew from the beginning of the topic."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Of a shard's table: ``number`` grows within a tenure, ``generation`` from one to the next."""

    generation: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class SharedTable:
    """The routing table of one shard's routes: ``data`` is a table file as ``optimizer.table_file`` writes it.

    ``blobs`` are the files in the directory of selectors that it names.
    """

    shard: int
    version: Version
    data: bytes
    blobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself once a second.

    Attributes:
        node: Its id, 32 bits.
        address: host:port of its public listener.
        at: Unix seconds, by the node's clock.
        owns: Shard and generation of every tenure it has.
        runs: By shard, the version of its table that all of the node's workers use.
        guards: Shards whose candidates this node guards at present, as their owner.
        program: The program's version.
        tests: Routes of its shards on which prompts are being compared.
    """

    node: int
    address: str
    at: float
    owns: Mapping[int, int] = field(default_factory=dict)
    runs: Mapping[int, Version] = field(default_factory=dict)
    guards: frozenset[int] = frozenset()
    program: str = ""
    tests: frozenset[str] = frozenset()


class Exchange(Protocol):
    """Redis' part: how nodes hear of each other. Calls raise ``Away`` within the time that the settings give."""

    @property
    def up(self) -> bool:
        """Whether the last call was answered."""
        ...

    async def publish(self, table: SharedTable) -> bool:
        """Offer a shard's table to all nodes; False when a later generation is there, so that the caller is fenced.

        Offering the same or an older number of the own generation changes nothing.
        """
        ...

    async def tables(self, known: Mapping[int, Version]) -> Sequence[SharedTable]:
        """The tables that are newer than what is known."""
        ...

    async def put_blob(self, name: str, data: bytes) -> None:
        """Keep a content-named file for as long as somebody names it."""
        ...

    async def get_blob(self, name: str) -> bytes | None:
        """The file, None when it is not there (any more)."""
        ...

    async def beat(self, state: NodeState) -> None:
        """Say how this node is."""
        ...

    async def nodes(self) -> Sequence[NodeState]:
        """Every node that was heard of within the last minute."""
        ...

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when somebody published, or after ``timeout_s``; only a hint, and never an error."""
        ...
