"""What every SQLite file of ours has in common: how it is opened, changed in one piece, brought to a new schema, and
put out of the way when it is damaged.

Invariant: a file is moved aside, never deleted and never overwritten, and the log says so.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

Migration: TypeAlias = Callable[[sqlite3.Connection], None]

DAMAGE: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
_RETRY_S: Final = 0.005

_log = logging.getLogger(__name__)


def connect(
    path: Path,
    *,
    synchronous: Literal["NORMAL", "FULL"],
    busy_s: float,
    checkpoints: bool,
    any_thread: bool = False,
) -> sqlite3.Connection:
    """Open or create ``path`` (0600) in WAL mode.

    Args:
        path: The file.
        synchronous: Whether every commit is synced (``FULL``) or only checkpoints are.
        busy_s: How long to wait for another connection's lock.
        checkpoints: Whether commits checkpoint by themselves now and then; that syncs, where a commit must not wait.
        any_thread: Whether other threads may use it, one at a time.

    Raises:
        sqlite3.Error, OSError: If it can't be opened.
    """
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=not any_thread)
    try:
        _write_ahead(connection, busy_s)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if not checkpoints:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection, busy_s: float) -> None:
    """Switch to WAL mode, waiting for others who are at it.

    SQLite refuses this one statement at once instead of waiting: two that hold the shared lock and want the exclusive
    one would wait for each other.
    """
    until = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_RETRY_S)
        else:
            return


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it is committed at the end, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def schema_version(connection: sqlite3.Connection) -> int:
    """How many migrations the file has seen; 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration], version: int) -> None:
    """Apply what a file of ``version`` lacks, each step in a transaction of its own."""
    for number, step in enumerate(migrations[version:], version + 1):
        with transaction(connection):
            step(connection)
            connection.execute(f"PRAGMA user_version = {number}")


def verdict(connection: sqlite3.Connection) -> str:
    """What SQLite's quick check says: ``ok``, or what is wrong."""
    return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])


def damage_of(path: Path, *, busy_s: float = 2.0) -> str:
    """What is wrong with a file that nobody serves from, read only; empty when it is whole.

    Raises:
        OSError: There is no such file.
    """
    path.stat()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy_s)
    except sqlite3.Error as error:
        return str(error)
    try:
        found = verdict(connection)
    except sqlite3.Error as error:
        return str(error)
    finally:
        connection.close()
    return "" if found == "ok" else found


def code(error: Exception) -> int:
    """SQLite's primary result code; 0, which is no error's, when SQLite itself did not raise it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def move_aside(path: Path, error: Exception, consequence: str = "") -> Path:
    """Rename a damaged file to ``<name>.corrupt-<n>`` and say what follows; returns where it is now.

    Raises:
        OSError: If it can't be renamed.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    _log.error(
        "%s is damaged (%s): moved to %s%s", path, error, aside.name, consequence and f"; {consequence}"
    )
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
