"""SQLite: one file (0600), every commit synced. A damaged file is moved aside, loudly, and a new one begun."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from optimizer import sqlite_file
from optimizer.control_store.plain import encode

FILE_NAME = "optimizations.sqlite3"

_STEPS_BETWEEN_LOOKS = 10_000


def engine(path: Path, *, timeout_s: float, deadline: Callable[[], float]) -> Engine:
    """An engine of one connection for one thread; ``deadline()`` is when its present call has to be over."""

    def connect() -> sqlite3.Connection:
        connection = sqlite_file.connect(
            path, synchronous="FULL", busy_s=timeout_s * 0.8, checkpoints=True, any_thread=True
        )
        connection.set_progress_handler(lambda: time.monotonic() > deadline(), _STEPS_BETWEEN_LOOKS)
        return connection

    made = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        json_serializer=encode,
    )
    event.listen(made, "begin", _begin)
    return made


def examine(connection: Connection) -> None:
    """Read the file through.

    Raises:
        sqlite3.DatabaseError: With the code of a damaged file, if it is one.
    """
    verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if verdict != "ok":
        damage = sqlite3.DatabaseError(f"quick_check says: {verdict}")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def is_damage(error: Exception) -> bool:
    """Whether ``error`` says that the file itself is broken."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, sqlite3.DatabaseError) and sqlite_file.code(cause) in sqlite_file.DAMAGE


def _begin(connection: Connection) -> None:
    # The write lock at once: a transaction that reads first and then writes could fail where waiting would do.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
