"""The ledger of limits on disk: one small SQLite file, one row for each holder of each meter.

A write is one transaction, and it survives the end of the process (``kill -9`` included) once ``write`` returns. It is
not synced: that would make requests wait for the disk. ``checkpoint`` syncs, so power loss can take back what was
granted since the last one, about a second.

A file that can not be read is moved aside, loudly: limits then count from what workers report.
"""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from optimizer.lease_terms import MEASURES
from optimizer.leases import Holding

_BUSY_S = 0.2
_SCHEMA = 1
_TABLE = """
CREATE TABLE holdings (subject TEXT, measure TEXT, start INTEGER, worker INTEGER, serial INTEGER,
    limited INTEGER NOT NULL, granted INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (subject, measure, start, worker, serial)) WITHOUT ROWID
"""
_SAVE = "INSERT OR REPLACE INTO holdings VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM holdings WHERE subject = ? AND measure = ? AND start = ? AND worker = ? AND serial = ?"
_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))

_log = logging.getLogger(__name__)


class LeaseStore:
    """The only writer of the file. Not thread-safe, except ``checkpoint``."""

    def __init__(self, path: Path) -> None:
        """Open or create ``path``; a damaged file is moved aside to ``<name>.corrupt-<n>``.

        Raises:
            sqlite3.OperationalError, OSError: If the disk refuses.
        """
        self.path = path
        self._unsynced = False
        try:
            self._connection, self.rows = self._open()
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            code = int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF
            if code not in _DAMAGE:
                raise
            self._move_aside(error)
            self._connection, self.rows = self._open()

    def write(self, saved: Sequence[Holding], removed: Sequence[Holding] = ()) -> None:
        """Store and remove in one transaction; see ``optimizer.leases.Ledger``.

        Raises:
            OSError: It could not be done; nothing was.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_REMOVE, [row[:5] for row in removed])
                connection.executemany(_SAVE, saved)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        self._unsynced = True

    def checkpoint(self) -> None:
        """Make durable against power loss what was written since the last time. For a thread: it waits for the disk.

        Raises:
            sqlite3.Error: If it could not be done now.
        """
        if not self._unsynced:
            return
        self._unsynced = False
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except BaseException:
            self._unsynced = True
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Close the file; everything written stays."""
        self._connection.close()

    def _open(self) -> tuple[sqlite3.Connection, list[Holding]]:
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            # Checkpoints sync; they run in a thread, not while a worker waits for its answer.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {_SCHEMA}")
            rows = [_checked(Holding(*row)) for row in connection.execute("SELECT * FROM holdings")]
        except BaseException:
            connection.close()
            raise
        return connection, rows

    def _move_aside(self, error: Exception) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        _log.error(
            "%s is damaged (%s): moved to %s; what was spent of the limits is known from workers only",
            self.path,
            error,
            aside.name,
        )
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _checked(row: Holding) -> Holding:
    if row.measure not in MEASURES or not all(type(number) is int and number >= 0 for number in row[2:]):
        raise ValueError(f"a stored row makes no sense: {row!r}")
    return row
