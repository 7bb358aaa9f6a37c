"""What is asked of the database, each within the caller's transaction; the same on SQLite and PostgreSQL.

Every write may be repeated: the highest revision of a record wins, and a row that is there stays as it is.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from optimizer.control_store.answers import KEEP_ANSWERS_S, Answer
from optimizer.control_store.errors import StaleRevision, UnknownRow
from optimizer.control_store.plain import encode, text, word
from optimizer.control_store.tables import AUDIT, IDEMPOTENCY, OPTIMIZATIONS
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.records import Optimization

_log = logging.getLogger(__name__)


def save(connection: Connection, record: Optimization, audit: AuditRow) -> None:
    """Store a new revision and why.

    Raises:
        StaleRevision: The stored one is not older, and is not ``record`` itself.
    """
    changed = connection.execute(
        _upsert_record(connection).execution_options(preserve_rowcount=True), _record_row(record)
    ).rowcount
    if not changed:
        _must_be_stored(connection, record)
    connection.execute(insert_once(connection, AUDIT), _audit_row(audit))


def write(connection: Connection, records: Sequence[Optimization], rows: Sequence[AuditRow]) -> None:
    """Store what is missing; of records whatever is newer than what is stored."""
    if records:
        connection.execute(_upsert_record(connection), [_record_row(record) for record in records])
    if rows:
        connection.execute(insert_once(connection, AUDIT), [_audit_row(row) for row in rows])


def load(connection: Connection) -> list[Optimization]:
    """Every record, by id; one that this program can't read is left out, loudly, and stays stored."""
    found = []
    columns = (OPTIMIZATIONS.c.id, OPTIMIZATIONS.c.revision, OPTIMIZATIONS.c.record)
    for row in connection.execute(select(*columns).order_by(OPTIMIZATIONS.c.id)):
        try:
            found.append(record_of(row.record))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            _log.error("optimization %s, revision %d, can't be read: %r", row.id, row.revision, error)
    return found


def audit_page(connection: Connection, wanted: AuditFilter, limit: int, before: str | None) -> list[AuditRow]:
    """The newest rows first; those older than row ``before``.

    Raises:
        UnknownRow: There is no row ``before``.
    """
    query = select(AUDIT).order_by(AUDIT.c.at.desc(), AUDIT.c.id.desc()).limit(limit)
    for name in ("actor", "action", "target"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(AUDIT.c[name] == word(value))
    if before is not None:
        at = connection.scalar(select(AUDIT.c.at).where(AUDIT.c.id == text(before)))
        if at is None:
            raise UnknownRow(before)
        query = query.where(tuple_(AUDIT.c.at, AUDIT.c.id) < (at, text(before)))
    return [
        AuditRow(row.id, row.at, row.actor, row.action, row.target, row.detail)
        for row in connection.execute(query)
    ]


def remember(connection: Connection, key: str, answer: Answer) -> None:
    """Keep an answer for ``KEEP_ANSWERS_S``; the first one to a key stays."""
    connection.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.at <= answer.at - KEEP_ANSWERS_S))
    row = {
        "key_hash": _digest(key),
        "at": answer.at,
        "request_hash": text(answer.request_hash),
        "status": answer.status,
        "body": answer.body,
    }
    connection.execute(insert_once(connection, IDEMPOTENCY), row)


def recall(connection: Connection, key: str, now: float) -> Answer | None:
    """The answer to this key that is still kept at ``now``."""
    query = select(IDEMPOTENCY).where(
        IDEMPOTENCY.c.key_hash == _digest(key), IDEMPOTENCY.c.at > now - KEEP_ANSWERS_S
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Answer(row.at, row.request_hash, row.status, bytes(row.body))


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The insertion that knows ``ON CONFLICT``, which both databases spell alike."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_once(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """What is there already stays as it is."""
    return insert(connection, table).on_conflict_do_nothing()


def _upsert_record(connection: Connection) -> postgresql.Insert | sqlite.Insert:
    statement = insert(connection, OPTIMIZATIONS)
    new = {column.name: statement.excluded[column.name] for column in OPTIMIZATIONS.c if column.name != "id"}
    return statement.on_conflict_do_update(
        index_elements=["id"], set_=new, where=OPTIMIZATIONS.c.revision < statement.excluded.revision
    )


def _must_be_stored(connection: Connection, record: Optimization) -> None:
    """A commit whose outcome was unknown may be tried again; anything else is an older state."""
    row = connection.execute(
        select(OPTIMIZATIONS.c.revision, OPTIMIZATIONS.c.record).where(OPTIMIZATIONS.c.id == text(record.id))
    ).one()
    if row.revision != record.revision or row.record != json.loads(encode(to_plain(record))):
        raise StaleRevision(record.id, record.revision, row.revision)


def _record_row(record: Optimization) -> dict[str, Any]:
    return {
        "id": text(record.id),
        "revision": record.revision,
        "status": str(record.status),
        "route": text(record.route),
        "strategy": text(record.strategy),
        "name": text(record.name),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "record": to_plain(record),
    }


def _audit_row(row: AuditRow) -> dict[str, Any]:
    return {
        "id": text(row.id),
        "at": row.at,
        "actor": word(row.actor),
        "action": word(row.action),
        "target": word(row.target),
        "detail": to_plain(row.detail),
    }


def _digest(key: str) -> str:
    """Keys are the callers' and may say something about them; only their hash is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
