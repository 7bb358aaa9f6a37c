"""What the admin surface says about a cluster."""

from pydantic import Field

from proxy.control.admin.models import Answer, MissingAnswer, Request


class ClusterNode(Answer):
    """A node as this one hears of it, and what it says of itself; null where it does not answer, for that ``reason``.

    ``late`` are shards whose newest table not all of its workers use. ``clock_skew_s`` is how far its clock is ahead.
    """

    node: str
    address: str
    age_s: float
    program: str
    owns: list[int]
    late: list[int]
    answers: bool
    reason: str | None
    config_hash: str | None
    clock_skew_s: float | None
    engines_down: list[str] | None
    is_this: bool


class ClusterShard(Answer):
    """A shard and its owner. Without one (null) ``reason`` says why, and its routes keep their last table.

    ``offset`` is the next record to be learned, ``lag`` how many there are from it on.
    """

    shard: int
    owner: str | None
    reason: str | None
    generation: int | None
    offset: int | None
    lag: int | None
    snapshot_age_s: float | None
    is_guarding: bool | None


class EngineAnswer(Answer):
    """An engine as this node finds it. ``error`` is what it said last, ``since`` when it became as it is (Unix s)."""

    up: bool | None
    error: str
    since: float
    errors: int


class ClusterAnswer(Answer):
    """The cluster. On one node ``enabled`` is false, and there is nothing else.

    ``partitions`` are those of the topic now, null while Kafka does not say; those beyond the shards stay empty.
    """

    enabled: bool
    node: str | None = None
    nodes: list[ClusterNode] | None = None
    partitions: int | None = None
    shards: list[ClusterShard] | None = None
    engines: dict[str, EngineAnswer] | None = None
    feedback: dict[str, int] | None = None
    tables_unacknowledged_s: float | None = None
    incomplete: list[MissingAnswer] | None = None


class RebuildRequest(Request):
    """Nothing is asked for but the rebuilding itself."""


class RebuildAnswer(Answer):
    """The shards that are learned again, from the beginning of the topic."""

    shards: list[int] = Field(description="By number.")
