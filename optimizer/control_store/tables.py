"""The tables as statements see them; ``migrations`` makes them, and a test holds that both agree.

Times are Unix seconds. The audit is the history of every optimization as well: a transition's row has the
optimization as its target. Texts that an index covers are cut to ``MAX_WORD``, which every database can index.

``shards`` holds who may write for which shard, and nothing that is large: every write of an owner locks its row for a
moment. What the owner learned is beside it in ``shard_snapshots``.
"""

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

MAX_WORD: Final = 500

METADATA: Final = MetaData()

OPTIMIZATIONS: Final = Table(
    "optimizations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("record", JSON, nullable=False),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Index("audit_by_time", "at", "id"),
    Index("audit_by_actor", "actor", "at", "id"),
    Index("audit_by_action", "action", "at", "id"),
    Index("audit_by_target", "target", "at", "id"),
)

IDEMPOTENCY: Final = Table(
    "idempotency",
    METADATA,
    Column("key_hash", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("request_hash", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("idempotency_by_time", "at"),
)

TOPICS: Final = Table(
    "topics",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("shards", Integer, nullable=False),
)

SHARDS: Final = Table(
    "shards",
    METADATA,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    Column("owner", Text),
    Column("taken_at", Double, nullable=False),
)

SNAPSHOTS: Final = Table(
    "shard_snapshots",
    METADATA,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("topic", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("segment", BigInteger, nullable=False),
    Column("byte", BigInteger, nullable=False),
    Column("saved_at", Double, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

CLIENT_KEYS: Final = Table(
    "client_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("tag", BigInteger, nullable=False, unique=True),
    Column("revoked_at", Double),
    Column("record", JSON, nullable=False),
)

COUNTERS: Final = Table(
    "counters",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
