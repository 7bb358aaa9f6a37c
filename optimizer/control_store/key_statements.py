"""What is asked about client keys, each within the caller's transaction; the same on SQLite and PostgreSQL.

Every change moves a counter in its own transaction, so that whoever reads the counter first and the keys then never
believes that it knows what it does not.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from optimizer.control_store.plain import text
from optimizer.control_store.statements import insert, insert_once
from optimizer.control_store.tables import CLIENT_KEYS, COUNTERS
from optimizer.keys import ClientKey, from_row, to_row

_COUNTER: Final = "client_keys"

_log = logging.getLogger(__name__)


def revision(connection: Connection) -> int:
    """A number that every change moves."""
    return int(connection.scalar(select(COUNTERS.c.value).where(COUNTERS.c.name == _COUNTER)) or 0)


def load(connection: Connection) -> list[ClientKey]:
    """Every key; one that this program can't read is left out, loudly, and stays stored."""
    found = []
    for row in connection.execute(select(CLIENT_KEYS).order_by(CLIENT_KEYS.c.id)):
        try:
            found.append(from_row({**row.record, "revoked_at": row.revoked_at}))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            # The reason would quote the digest.
            _log.error("client key %s can't be read: %s", row.id, type(error).__name__)
    return found


def add(connection: Connection, key: ClientKey) -> None:
    """Keep a new key."""
    connection.execute(insert(connection, CLIENT_KEYS), _row(key))
    _count(connection)


def restore(connection: Connection, keys: Sequence[ClientKey]) -> None:
    """Keep those of the keys that are missing."""
    connection.execute(insert_once(connection, CLIENT_KEYS), [_row(key) for key in keys])
    _count(connection)


def revoke(connection: Connection, key_id: str, at: float) -> None:
    """End a key; the first end counts."""
    ended = func.coalesce(CLIENT_KEYS.c.revoked_at, at)
    connection.execute(update(CLIENT_KEYS).where(CLIENT_KEYS.c.id == text(key_id)).values(revoked_at=ended))
    _count(connection)


def _count(connection: Connection) -> None:
    statement = insert(connection, COUNTERS).values(name=_COUNTER, value=1)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"value": COUNTERS.c.value + 1})
    )


def _row(key: ClientKey) -> dict[str, Any]:
    return {
        "id": text(key.id),
        "digest": key.digest,
        "tag": key.tag,
        "revoked_at": key.revoked_at,
        "record": to_row(key),
    }
