"""The ledger of limits on disk: one small SQLite file, one row for each holder of each meter.

A write is one transaction, and it survives the end of the process (``kill -9`` included) once ``write`` returns. It is
not synced: that would make requests wait for the disk. ``checkpoint`` syncs, so power loss can take back what was
granted since the last one, about a second.

A file that can not be read is moved aside, loudly: limits then count from what workers report.

Where limits are shared between nodes it also says who this book is to the others (``identify``), and what they were
last heard to have spent of each budget.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from optimizer import sqlite_file
from optimizer.lease_terms import MEASURES
from optimizer.leases import Holding, Meter
from optimizer.sqlite_file import Migration

_BUSY_S = 0.2
_TABLE = """
CREATE TABLE holdings (subject TEXT, measure TEXT, start INTEGER, worker INTEGER, serial INTEGER,
    limited INTEGER NOT NULL, granted INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (subject, measure, start, worker, serial)) WITHOUT ROWID
"""
_SAVE = "INSERT OR REPLACE INTO holdings VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM holdings WHERE subject = ? AND measure = ? AND start = ? AND worker = ? AND serial = ?"
_OTHERS_TABLE = """
CREATE TABLE others (subject TEXT, measure TEXT, start INTEGER, used INTEGER NOT NULL,
    PRIMARY KEY (subject, measure, start)) WITHOUT ROWID
"""
_SAVE_OTHERS = "INSERT OR REPLACE INTO others VALUES (?, ?, ?, ?)"
_REMOVE_OTHERS = "DELETE FROM others WHERE subject = ? AND measure = ? AND start = ?"
_IDENTITY_TABLE = "CREATE TABLE identity (book TEXT NOT NULL, boots INTEGER NOT NULL)"


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(_TABLE)


def _share(connection: sqlite3.Connection) -> None:
    connection.execute(_OTHERS_TABLE)
    connection.execute(_IDENTITY_TABLE)


# One step per schema version; a file of version v needs _MIGRATIONS[v:].
_MIGRATIONS: Sequence[Migration] = (_create, _share)


class Identity(NamedTuple):
    """Who a book is: ``book`` is as old as its file, ``boot`` counts the processes that have opened it."""

    book: str
    boot: int


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
            # Rows that make no sense are damage as well, though not of a kind that SQLite has a code for.
            if (sqlite_file.code(error) or sqlite3.SQLITE_CORRUPT) not in sqlite_file.DAMAGE:
                raise
            sqlite_file.move_aside(path, error, "what was spent of the limits is known from workers only")
            self._connection, self.rows = self._open()

    def write(self, saved: Sequence[Holding], removed: Sequence[Holding] = ()) -> None:
        """Store and remove in one transaction; see ``optimizer.leases.Ledger``.

        Raises:
            OSError: It could not be done; nothing was.
        """
        connection = self._connection
        try:
            with sqlite_file.transaction(connection):
                connection.executemany(_REMOVE, [row[:5] for row in removed])
                connection.executemany(_SAVE, saved)
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        self._unsynced = True

    def identify(self) -> Identity:
        """Begin another boot of this book; synced, because no two may have the same number.

        Raises:
            OSError: The disk refuses.
        """
        connection = self._connection
        try:
            with sqlite_file.transaction(connection):
                row = connection.execute("SELECT book, boots FROM identity").fetchone()
                identity = (
                    Identity(token_hex(6), 1) if row is None else Identity(str(row[0]), int(row[1]) + 1)
                )
                connection.execute("DELETE FROM identity")
                connection.execute("INSERT INTO identity VALUES (?, ?)", identity)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        return identity

    def others(self) -> dict[Meter, int]:
        """What other nodes were last heard to have spent."""
        found = self._connection.execute("SELECT subject, measure, start, used FROM others")
        return {(row[0], row[1], row[2]): row[3] for row in found}

    def write_others(self, saved: Mapping[Meter, int], removed: Iterable[Meter] = ()) -> None:
        """Store and remove what was heard.

        Raises:
            OSError: It could not be done; nothing was.
        """
        connection = self._connection
        try:
            with sqlite_file.transaction(connection):
                connection.executemany(_REMOVE_OTHERS, list(removed))
                connection.executemany(_SAVE_OTHERS, [(*meter, used) for meter, used in saved.items()])
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
        # Checkpoints sync; they run in a thread, not while a worker waits for its answer.
        connection = sqlite_file.connect(self.path, synchronous="NORMAL", busy_s=_BUSY_S, checkpoints=False)
        try:
            sqlite_file.migrate(connection, _MIGRATIONS, sqlite_file.schema_version(connection))
            rows = [_checked(Holding(*row)) for row in connection.execute("SELECT * FROM holdings")]
        except BaseException:
            connection.close()
            raise
        return connection, rows


def _checked(row: Holding) -> Holding:
    if row.measure not in MEASURES or not all(type(number) is int and number >= 0 for number in row[2:]):
        raise ValueError(f"a stored row makes no sense: {row!r}")
    return row
