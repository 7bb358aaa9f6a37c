"""How a cluster is, as one node knows it: for the admin surface, the health page and the metrics.

Plain data without any library, because it is there before those who show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizer.cluster.types import NodeState, Version

ENGINES: Final = ("kafka", "redis", "postgresql")
FEEDBACK: Final = ("forwarded", "received", "undeliverable", "dead_lettered")
"""What became of feedback about requests of other nodes."""
INTAKE: Final = ("accepted", "ignored", "dead_lettered")
"""What became of records on the feedback topic; ``ignored`` ones are events of ours."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine. ``up`` None: not asked yet; ``error`` is what the last failure said, kept while it is up again.

    ``since`` (Unix seconds) is since when it is as it is, ``errors`` counts calls that failed.
    """

    up: bool | None = None
    error: str = ""
    since: float = 0.0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """A shard that this node owns.

    Attributes:
        shard: Which one.
        generation: Of the tenure.
        taken_at: When it began, Unix seconds.
        offset: The next record of the partition that is to be learned.
        lag: Records behind the end of the partition; None while the broker does not say.
        saved_at: When a snapshot was saved last, Unix seconds; None before the first.
        is_guarding: Whether its candidates may have traffic.
    """

    shard: int
    generation: int
    taken_at: float
    offset: int
    lag: int | None = None
    saved_at: float | None = None
    is_guarding: bool = False


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """How the cluster is, as one node knows it.

    Attributes:
        node: This node's id.
        shards: How many the cluster has; 0 while nobody could tell.
        partitions: How many the topic has; None while the broker does not say.
        nodes: What was heard of every node lately, this one too.
        engines: By name (``ENGINES``).
        owned: The shards of this node.
        waiting: Shards that the group gave to this node and that it can't begin with, and why, in a few words.
        tables: By shard, the newest table that was heard of.
        fenced: Tenures that ended because somebody else had taken the shard.
        publications: Tables that this node has offered to others.
        unacknowledged_s: For how long the oldest table of an own shard is not used by all workers of all nodes.
        feedback: What became of feedback about requests of other nodes, by ``FEEDBACK``.
    """

    node: int
    shards: int = 0
    partitions: int | None = None
    nodes: Sequence[NodeState] = ()
    engines: Mapping[str, EngineFacts] = field(default_factory=dict)
    owned: Sequence[ShardFacts] = ()
    waiting: Mapping[int, str] = field(default_factory=dict)
    tables: Mapping[int, Version] = field(default_factory=dict)
    fenced: int = 0
    publications: int = 0
    unacknowledged_s: float = 0.0
    feedback: Mapping[str, int] = field(default_factory=dict)
