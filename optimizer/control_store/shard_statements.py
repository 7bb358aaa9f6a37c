"""What is asked about shards, each within the caller's transaction; the same on SQLite and PostgreSQL.

The row of a shard is the fence. Whoever writes for a shard locks it in the transaction that writes, so that a tenure
either ends before the write, which is refused then, or after it.
"""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Case, Connection, case, delete, func, select, update

from optimizer.cluster.types import Fenced, Holder, Snapshot, Tenure
from optimizer.control_store.plain import text
from optimizer.control_store.statements import insert, insert_once
from optimizer.control_store.tables import SHARDS, SNAPSHOTS, TOPICS

_ASLEEP_MS: Final = "2000"


def shards(connection: Connection, topic: str, partitions: int) -> int:
    """The number of shards that the first caller gave this topic."""
    connection.execute(insert_once(connection, TOPICS), {"name": text(topic), "shards": partitions})
    return int(connection.execute(select(TOPICS.c.shards).where(TOPICS.c.name == text(topic))).scalar_one())


def take(connection: Connection, shard: int, owner: str, now: float) -> int:
    """Begin a tenure; its generation.

    It is never less than the Unix seconds, so that numbers still grow when the database was lost or put back.
    """
    statement = insert(connection, SHARDS).values(
        shard=shard, generation=int(now), owner=text(owner), taken_at=now
    )
    statement = statement.on_conflict_do_update(
        index_elements=["shard"],
        set_={"generation": _next(now), "owner": text(owner), "taken_at": now},
    )
    return int(connection.execute(statement.returning(SHARDS.c.generation)).scalar_one())


def must_hold(connection: Connection, tenure: Tenure) -> None:
    """Keep the tenure from ending before this transaction does.

    Raises:
        Fenced: It is over.
    """
    query = select(SHARDS.c.generation).where(SHARDS.c.shard == tenure.shard).with_for_update(read=True)
    if (present := connection.scalar(query)) != tenure.generation:
        raise Fenced(f"shard {tenure.shard}: generation {tenure.generation} is over, {present} is present")


def snapshot(connection: Connection, tenure: Tenure, topic: str) -> Snapshot | None:
    """What owners of the tenure's shard learned last from ``topic``.

    Raises:
        Fenced: The tenure is over, so that somebody may have saved since.
    """
    query = select(SNAPSHOTS).where(SNAPSHOTS.c.shard == tenure.shard, SNAPSHOTS.c.topic == text(topic))
    row = connection.execute(query).one_or_none()
    must_hold(connection, tenure)
    if row is None:
        return None
    return Snapshot(row.offset, row.segment, row.byte, bytes(row.data), row.saved_at)


def save_snapshot(connection: Connection, tenure: Tenure, topic: str, kept: Snapshot) -> None:
    """Replace a shard's snapshot.

    Raises:
        Fenced: The tenure is over.
    """
    new = {
        "topic": text(topic),
        "offset": kept.offset,
        "segment": kept.segment,
        "byte": kept.byte,
        "saved_at": kept.saved_at,
        "data": kept.data,
    }
    statement = insert(connection, SNAPSHOTS).values(shard=tenure.shard, **new)
    values = {name: statement.excluded[name] for name in new}
    connection.execute(statement.on_conflict_do_update(index_elements=["shard"], set_=values))
    # After the data, which may take long: nobody can take the shard while its row is locked. An owner that falls asleep
    # right here loses the lock soon, though its transaction might have had long for the data.
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.set_config("idle_in_transaction_session_timeout", _ASLEEP_MS, True)))
    must_hold(connection, tenure)


def holders(connection: Connection) -> Mapping[int, Holder]:
    """Who owns what."""
    query = select(SHARDS, SNAPSHOTS.c.offset, SNAPSHOTS.c.saved_at).outerjoin(
        SNAPSHOTS, SNAPSHOTS.c.shard == SHARDS.c.shard
    )
    return {
        row.shard: Holder(row.owner, row.generation, row.taken_at, row.offset, row.saved_at)
        for row in connection.execute(query.where(SHARDS.c.owner.is_not(None)).order_by(SHARDS.c.shard))
    }


def forget(connection: Connection, now: float) -> None:
    """End every tenure and throw every snapshot away."""
    # Owners lock their snapshot before the row of their shard. Whoever is about to save is waited for here, and whoever
    # begins to later finds its tenure over; row by row, one could save again between the two and wait for us for ever.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {SNAPSHOTS.name} IN EXCLUSIVE MODE")
    connection.execute(update(SHARDS).values(generation=_next(now), owner=None))
    connection.execute(delete(SNAPSHOTS))


def _next(now: float) -> Case[int]:
    following = SHARDS.c.generation + 1
    return case((following > int(now), following), else_=int(now))
