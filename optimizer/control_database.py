"""What operators decided, on disk: one SQLite file for everything that no log can teach again.

Every commit is synced (``synchronous=FULL``): what was answered with success outlives power loss. The stores of the
control plane share the file and its one list of migrations; each has its own tables. A file that can't be read is moved
aside, loudly, and the stores restore what the published files still hold. Usable from any thread, one at a time.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from optimizer import sqlite_file
from optimizer.sqlite_file import Migration

_BUSY_S = 1.0


class ControlDatabaseError(Exception):
    """The file can't be used; the message says why and what to do."""


_CLIENT_KEYS = """
CREATE TABLE client_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, tag INTEGER NOT NULL UNIQUE,
    last4 TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, routes TEXT NOT NULL, models TEXT NOT NULL,
    pin INTEGER NOT NULL, passthrough INTEGER NOT NULL, quota TEXT, revoked_at REAL) WITHOUT ROWID
"""


def _create_client_keys(connection: sqlite3.Connection) -> None:
    connection.execute(_CLIENT_KEYS)


# One step per schema version; a file of version v needs _MIGRATIONS[v:].
_MIGRATIONS: Sequence[Migration] = (_create_client_keys,)


class ControlDatabase:
    """The file, open. ``fresh`` is True when it held nothing: a first start, or a damaged or lost file."""

    def __init__(self, path: Path) -> None:
        """Open or create ``path`` (0600); a damaged file is moved aside to ``<name>.corrupt-<n>``.

        Raises:
            ControlDatabaseError: If the file was written by a newer version of the program.
            sqlite3.OperationalError, OSError: If the disk refuses.
        """
        self.path = path
        self.moved_aside: Path | None = None
        self._lock = Lock()
        try:
            self._connection, self.fresh = self._open()
        except sqlite3.DatabaseError as error:
            if sqlite_file.code(error) not in sqlite_file.DAMAGE:
                raise
            self.moved_aside = sqlite_file.move_aside(path, error)
            self._connection, self.fresh = self._open()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is durable at the end, or nothing of it.

        Raises:
            sqlite3.Error: If it could not be written.
        """
        with self._lock, sqlite_file.transaction(self._connection):
            yield self._connection

    def close(self) -> None:
        """Close the file; everything committed stays."""
        with self._lock:
            self._connection.close()

    def _open(self) -> tuple[sqlite3.Connection, bool]:
        connection = sqlite_file.connect(
            self.path, synchronous="FULL", busy_s=_BUSY_S, checkpoints=True, any_thread=True
        )
        try:
            version = self._known_version(connection)
            if version:
                _examine(connection)
            sqlite_file.migrate(connection, _MIGRATIONS, version)
        except BaseException:
            connection.close()
            raise
        return connection, version == 0

    def _known_version(self, connection: sqlite3.Connection) -> int:
        version = sqlite_file.schema_version(connection)
        if version > len(_MIGRATIONS):
            raise ControlDatabaseError(
                f"{self.path} has schema {version}, this program knows {len(_MIGRATIONS)}: use the newer program"
            )
        return version


def _examine(connection: sqlite3.Connection) -> None:
    verdict = sqlite_file.verdict(connection)
    if verdict != "ok":
        damage = sqlite3.DatabaseError(f"quick_check says: {verdict}")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage
