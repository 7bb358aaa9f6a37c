"""The database as one thread uses it: opened and migrated at the first call, and again after every failure.

It never stays broken: whatever a call ran into, the next one begins with a look at the connection and the schema.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from optimizer import sqlite_file
from optimizer.cluster.types import Holder, Snapshot, Tenure
from optimizer.control_store import key_statements, local_file, postgres, shard_statements, statements
from optimizer.control_store.answers import Answer
from optimizer.control_store.errors import StoreError
from optimizer.control_store.upgrade import to_head
from optimizer.keys import ClientKey
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.records import Optimization

T = TypeVar("T")

_POSTGRES: Final = ("postgresql", "postgres")
_LOST: Final = "optimizations are known from the event log and the routing table only, the audit from the log"


class Database:
    """One connection. Made, used and closed in one thread.

    ``deadline``, on the monotonic clock, is when the present call has to be over.
    """

    def __init__(self, url: str | None, *, directory: Path, timeout_s: float) -> None:
        self.deadline = math.inf
        self._url = url
        self._file = directory / local_file.FILE_NAME if url is None else None
        self._timeout_s = timeout_s
        self._engine: Engine | None = None
        self._ready = False

    def open(self) -> None:
        """Connect, and bring the schema up to date."""
        self._run(lambda connection: connection.execute(select(1)).close())

    def save(self, record: Optimization, audit: AuditRow, tenure: Tenure | None) -> None:
        """See ``statements.save``; so it is with those below. With a ``tenure`` only while it lasts."""

        def work(connection: Connection) -> None:
            _must_hold(connection, tenure)
            statements.save(connection, record, audit)

        self._run(work)

    def write(self, records: Sequence[Optimization], rows: Sequence[AuditRow], tenure: Tenure | None) -> None:
        def work(connection: Connection) -> None:
            _must_hold(connection, tenure)
            statements.write(connection, records, rows)

        self._run(work)

    def load(self) -> list[Optimization]:
        return self._run(statements.load)

    def audit_page(self, wanted: AuditFilter, limit: int, before: str | None) -> list[AuditRow]:
        return self._run(lambda connection: statements.audit_page(connection, wanted, limit, before))

    def remember(self, key: str, answer: Answer) -> None:
        self._run(lambda connection: statements.remember(connection, key, answer))

    def recall(self, key: str, now: float) -> Answer | None:
        return self._run(lambda connection: statements.recall(connection, key, now))

    def shards(self, topic: str, partitions: int) -> int:
        return self._run(lambda connection: shard_statements.shards(connection, topic, partitions))

    def take(self, shard: int, owner: str, now: float) -> int:
        return self._run(lambda connection: shard_statements.take(connection, shard, owner, now))

    def snapshot(self, tenure: Tenure, topic: str) -> Snapshot | None:
        return self._run(lambda connection: shard_statements.snapshot(connection, tenure, topic))

    def save_snapshot(self, tenure: Tenure, topic: str, kept: Snapshot) -> None:
        self._run(lambda connection: shard_statements.save_snapshot(connection, tenure, topic, kept))

    def holders(self) -> Mapping[int, Holder]:
        return self._run(shard_statements.holders)

    def forget(self, now: float) -> None:
        self._run(lambda connection: shard_statements.forget(connection, now))

    def key_revision(self) -> int:
        return self._run(key_statements.revision)

    def load_keys(self) -> list[ClientKey]:
        return self._run(key_statements.load)

    def add_key(self, key: ClientKey) -> None:
        self._run(lambda connection: key_statements.add(connection, key))

    def restore_keys(self, keys: Sequence[ClientKey]) -> None:
        self._run(lambda connection: key_statements.restore(connection, keys))

    def revoke_key(self, key_id: str, at: float) -> None:
        self._run(lambda connection: key_statements.revoke(connection, key_id, at))

    def close(self) -> None:
        """Close the connection; everything committed stays."""
        self._ready = False
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _run(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, in a transaction that is committed then.

        Raises:
            StoreError: The database is away or refuses, or what ``work`` raises of it.
        """
        try:
            engine = self._opened()
            with engine.begin() as connection:
                return work(connection)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._ready = False
            if self._engine is not None:
                # The next connection may lead to a server that took over, or to a file that was put back.
                self._engine.dispose()
            raise StoreError(_words(error)) from error

    def _opened(self) -> Engine:
        if self._engine is None:
            self._engine = self._make()
        if not self._ready:
            try:
                self._prepare(self._engine)
            except (DBAPIError, sqlite3.DatabaseError) as error:
                if self._file is None or not local_file.is_damage(error):
                    raise
                self.close()
                sqlite_file.move_aside(self._file, error, _LOST)
                self._engine = self._make()
                self._prepare(self._engine)
            self._ready = True
        return self._engine

    def _prepare(self, engine: Engine) -> None:
        with engine.begin() as connection:
            if self._file is not None:
                local_file.examine(connection)
            else:
                postgres.examine(connection)
            to_head(connection, self.deadline - time.monotonic())

    def _make(self) -> Engine:
        if self._url is not None:
            url = _understood(self._url)
            if url.drivername != "sqlite":
                return postgres.engine(url, timeout_s=self._timeout_s, deadline=lambda: self.deadline)
            self._file = Path(url.database or "")
        assert self._file is not None
        return local_file.engine(self._file, timeout_s=self._timeout_s, deadline=lambda: self.deadline)


def _must_hold(connection: Connection, tenure: Tenure | None) -> None:
    if tenure is not None:
        shard_statements.must_hold(connection, tenure)


def _understood(text: str) -> URL:
    """The URL with our driver.

    Raises:
        StoreError: It is no URL of a database that we know.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not even a part of it is shown: it may hold a password.
        raise StoreError("database.url is no URL, like postgresql://user:password@host:5432/name") from None
    backend = url.drivername.partition("+")[0]
    if backend in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        return url.set(drivername="sqlite")
    raise StoreError(f"database.url: {backend}:// is neither postgresql:// nor sqlite:///<file>")


def _words(error: Exception) -> str:
    """The database's own words on one line, without the statement and what was to be stored."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return "; ".join(lines) or type(cause).__name__
