"""Learned state on disk: one SQLite file, and one transaction for everything that must agree.

Statistics, log cursor, waiting feedback, what was already counted and the consumers' snapshots are written
together or not at all, which is what makes learning exactly once: after a crash the log is read again from
the cursor that belongs to the statistics.

Commits are not synced one by one (WAL, ``synchronous=NORMAL``). Power loss may take the newest ones back, as
a whole, and their events are read again; syncing each would buy nothing else. It may also take the log's own
unsynced tail, so that the cursor points beyond it: nobody ever appends to such a segment, since every
process writes its own.

A file that can not be read is moved aside, loudly, and learned again from the log.

A copy of the file (``dump``) is a SQLite database, compressed with gzip; ``restore`` makes it a file again, here or on
another machine.
"""

import gzip
import sqlite3
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from optimizer import linear_store, sqlite_file
from optimizer.decay import Bend
from optimizer.durable import replace_file, sync_directory
from optimizer.linear_statistics import LinearChanges, LinearStatistics
from optimizer.sqlite_file import Migration
from optimizer.statistics import CellRow, Statistics, StatisticsChanges
from optimizer.timeline import Reset

Cursor: TypeAlias = Mapping[str, tuple[int, int]]  # source -> (segment, offset)
Identity: TypeAlias = tuple[int, int]  # day of the decision, 64-bit signed hash

MOST_RESTORED_BYTES: Final = 1 << 30

_MAGIC = b"SQLite format 3\0"
_BUSY_S = 0.2
_LONGEST_WAL_PAGES = 16_384
# Opening failed for a reason that may pass; moving the file aside would throw good state away.
_NO_DAMAGE = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    )
)


class StoreError(Exception):
    """The store can not be used; the message says why and what to do."""


class StoreCorrupt(StoreError):
    """The file is damaged. Opening it again moves it aside."""


class Waiting(NamedTuple):
    """Feedback that was read before its decision. ``decided_at`` is Unix seconds, from the request id."""

    event_id: str
    request_id: str
    metric: str
    value: float
    decided_at: float


class Participant(Protocol):
    """Something else that writes in the same transaction."""

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what changed; it may be rolled back and asked for again."""
        ...

    def written(self) -> None:
        """The transaction was committed."""
        ...


@dataclass(slots=True)
class Loaded:
    """What was stored. ``fresh`` is True if there was nothing, so the log has to be read from its start."""

    statistics: Statistics
    linear: LinearStatistics
    cursor: dict[str, tuple[int, int]] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    snapshots: dict[str, bytes] = field(default_factory=dict)
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Commit:
    """One step forward. ``cursor`` is complete; ``seen_before`` is the first day still to be remembered."""

    statistics: StatisticsChanges
    latest: float
    cursor: Cursor
    waiting_added: Sequence[Waiting] = ()
    waiting_removed: Sequence[str] = ()
    seen: Collection[Identity] = ()
    seen_before: int | None = None
    snapshots: Mapping[str, bytes] = field(default_factory=dict)
    linear: LinearChanges = field(default_factory=LinearChanges)


_TABLES = """
CREATE TABLE cells (route TEXT, model_key TEXT, variant_key TEXT, signal TEXT, generation INTEGER, epoch
INTEGER,
    w REAL NOT NULL, wx REAL NOT NULL, wxx REAL NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (route, model_key, variant_key, signal, generation, epoch)) WITHOUT ROWID;
CREATE TABLE clocks (route TEXT, at REAL, age REAL, half_life_s REAL);
CREATE TABLE resets (route TEXT, model_key TEXT, variant_key TEXT, at REAL);
CREATE TABLE cursors (source TEXT PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL) WITHOUT
ROWID; CREATE TABLE waiting (event_id TEXT PRIMARY KEY, request_id TEXT, metric TEXT, value REAL, decided_at
REAL); CREATE TABLE seen (day INTEGER, identity INTEGER, PRIMARY KEY (day, identity)) WITHOUT ROWID;
CREATE TABLE snapshots (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE responses_recent (sequence INTEGER PRIMARY KEY, hash INTEGER NOT NULL, request BLOB NOT NULL);
CREATE TABLE responses_run (run INTEGER PRIMARY KEY, hashes BLOB NOT NULL, requests BLOB NOT NULL)
"""


def _create(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        connection.execute(statement)


def _add_context(connection: sqlite3.Connection) -> None:
    """Resets that keep a part, and linear sums. All resets until now kept nothing."""
    connection.execute("ALTER TABLE resets ADD COLUMN keep REAL NOT NULL DEFAULT 0.0")
    connection.execute("ALTER TABLE resets ADD COLUMN signals TEXT NOT NULL DEFAULT ''")
    linear_store.create(connection)


# One step per schema version; a file of version v needs _MIGRATIONS[v:].
_MIGRATIONS: Sequence[Migration] = (_create, _add_context)


class Dump(NamedTuple):
    """A copy of everything that was committed at one moment. ``cursor`` is the one in it."""

    data: bytes
    cursor: Mapping[str, tuple[int, int]]


class LearnerStore:
    """The only writer of the file. Not thread-safe, except ``checkpoint`` and ``dump``."""

    def __init__(self, path: Path) -> None:
        """Open or create ``path``; a damaged file is moved aside to ``<name>.corrupt-<n>``.

        Raises:
            StoreError: If the file was written by a newer version of the program.
            sqlite3.OperationalError, OSError: If the disk refuses.
        """
        self.path = path
        self._snapshots: dict[str, bytes] = {}
        self._cursor: dict[str, tuple[int, int]] = {}
        self.moved_aside: Path | None = None
        try:
            self.connection, self._loaded = self._open()
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            if sqlite_file.code(error) in _NO_DAMAGE:
                raise
            self.moved_aside = sqlite_file.move_aside(
                path, error, "everything is learned again from the event log"
            )
            self.connection, self._loaded = self._open()
        self._snapshots = dict(self._loaded.snapshots)
        self._cursor = dict(self._loaded.cursor)

    def load(self) -> Loaded:
        """What was stored when the file was opened."""
        return self._loaded

    def commit(self, step: Commit, participants: Sequence[Participant] = ()) -> None:
        """Write a step and the participants' rows in one transaction, or nothing.

        Raises:
            StoreCorrupt: If the file turned out to be damaged.
            sqlite3.Error: If it could not be written; the same step may be tried again.
        """
        connection = self.connection
        try:
            with sqlite_file.transaction(connection):
                self._write(step)
                for participant in participants:
                    participant.write(connection)
        except sqlite3.DatabaseError as error:
            if sqlite_file.code(error) in sqlite_file.DAMAGE:
                raise StoreCorrupt(f"{self.path} is damaged: {error}") from error
            raise
        self._cursor = dict(step.cursor)
        self._snapshots.update(step.snapshots)
        for participant in participants:
            participant.written()

    def has_seen(self, identity: Identity) -> bool:
        """Whether feedback with this identity was committed before."""
        found = self.connection.execute("SELECT 1 FROM seen WHERE day = ? AND identity = ?", identity)
        return found.fetchone() is not None

    def checkpoint(self) -> None:
        """Move committed pages into the main file and sync it. For a thread: it may wait for the disk.

        Raises:
            sqlite3.Error: If it could not be done now.
        """
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > _LONGEST_WAL_PAGES:
                # Commits came in between every time; make the next one wait so that the WAL starts over.
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            connection.close()

    def dump(self) -> Dump:
        """A copy of what is committed. For a thread: 20 MB take 0.8 s, beside which commits go on.

        Raises:
            StoreCorrupt: The file is damaged; a good copy must not be replaced by one of it.
            sqlite3.Error: It could not be read now.
        """
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            # What is read from here on is of one moment, whatever is committed meanwhile.
            connection.execute("BEGIN")
            cursor = _read_cursor(connection)
            verdict = sqlite_file.verdict(connection)
            if verdict != "ok":
                raise StoreCorrupt(f"{self.path} is damaged: quick_check says: {verdict}")
            image = connection.serialize()
        except sqlite3.DatabaseError as error:
            if sqlite_file.code(error) in sqlite_file.DAMAGE:
                raise StoreCorrupt(f"{self.path} is damaged: {error}") from error
            raise
        finally:
            connection.close()
        return Dump(gzip.compress(image, 1, mtime=0), cursor)

    def close(self) -> None:
        """Close the file; everything committed stays."""
        self.connection.close()

    # --- inside -------------------------------------------------------------------------------------

    def _open(self) -> tuple[sqlite3.Connection, Loaded]:
        # Checkpoints sync; they run in a thread, not inside a commit on the event loop.
        connection = sqlite_file.connect(self.path, synchronous="NORMAL", busy_s=_BUSY_S, checkpoints=False)
        try:
            version = self._known_version(connection)
            if version:
                _examine(connection)
            sqlite_file.migrate(connection, _MIGRATIONS, version)
            return connection, _read_all(connection)
        except BaseException:
            connection.close()
            raise

    def _known_version(self, connection: sqlite3.Connection) -> int:
        version = sqlite_file.schema_version(connection)
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"{self.path} has schema {version}, this program knows {len(_MIGRATIONS)}: use the newer "
                "program, or move the file away to learn again from the log"
            )
        return version

    def _write(self, step: Commit) -> None:
        execute, many = self.connection.execute, self._many
        changes = step.statistics
        many(
            "DELETE FROM cells WHERE route = ? AND model_key = ? AND variant_key = ? AND signal = ?"
            " AND generation = ? AND epoch = ?",
            changes.dropped,
        )
        many("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", changes.cells)
        if changes.clocks is not None:
            execute("DELETE FROM clocks")
            many(
                "INSERT INTO clocks VALUES (?, ?, ?, ?)",
                [
                    (route, b.at, b.age, b.half_life_s)
                    for route, bends in changes.clocks.items()
                    for b in bends
                ],
            )
        many(
            "INSERT INTO resets VALUES (?, ?, ?, ?, ?, ?)",
            [
                (r.route, r.model_key, r.variant_key, r.at, r.keep, ",".join(r.signals))
                for r in changes.resets
            ],
        )
        linear_store.write(self.connection, step.linear)
        moved = [(source, *at) for source, at in step.cursor.items() if self._cursor.get(source) != at]
        many("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", moved)
        many("DELETE FROM cursors WHERE source = ?", [(s,) for s in self._cursor if s not in step.cursor])
        many("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?)", step.waiting_added)
        many("DELETE FROM waiting WHERE event_id = ?", [(event_id,) for event_id in step.waiting_removed])
        many("INSERT OR IGNORE INTO seen VALUES (?, ?)", step.seen)
        if step.seen_before is not None:
            execute("DELETE FROM seen WHERE day < ?", (step.seen_before,))
        many(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?)",
            [item for item in step.snapshots.items() if self._snapshots.get(item[0]) != item[1]],
        )
        execute("INSERT OR REPLACE INTO facts VALUES ('latest', ?)", (step.latest,))

    def _many(self, statement: str, rows: Collection[Sequence[object]]) -> None:
        if rows:
            self.connection.executemany(statement, rows)


def _examine(connection: sqlite3.Connection) -> None:
    verdict = sqlite_file.verdict(connection)
    if verdict != "ok":
        raise ValueError(f"quick_check says: {verdict}")


def _read_all(connection: sqlite3.Connection) -> Loaded:
    """Everything that lives in memory.

    Raises:
        ValueError: If a value makes no sense.
    """
    query = connection.execute
    clocks: dict[str, list[Bend]] = {}
    for route, at, age, half_life_s in query("SELECT * FROM clocks ORDER BY route, at, age"):
        clocks.setdefault(route, []).append(Bend(at, age, half_life_s))
    resets = [
        Reset(route, model_key, variant_key, at, keep, tuple(filter(None, signals.split(","))))
        for route, model_key, variant_key, at, keep, signals in query(
            "SELECT * FROM resets ORDER BY at, rowid"
        )
    ]
    statistics = Statistics(clocks=clocks, resets=resets)
    for row in query("SELECT * FROM cells"):
        statistics.add_row(_checked(row), dirty=False)
    facts = dict(query("SELECT name, value FROM facts").fetchall())
    statistics.timeline.saw(facts.get("latest", 0.0))
    linear = LinearStatistics(statistics)
    linear_store.read(connection, linear)
    return Loaded(
        statistics=statistics,
        linear=linear,
        cursor=_read_cursor(connection),
        waiting=[Waiting(*row) for row in query("SELECT * FROM waiting ORDER BY rowid")],
        snapshots={name: bytes(data) for name, data in query("SELECT * FROM snapshots")},
        fresh=not facts,
    )


def _read_cursor(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    return {source: (segment, at) for source, segment, at in connection.execute("SELECT * FROM cursors")}


def restore(path: Path, data: bytes) -> None:
    """Make ``path`` the database that ``data`` is a copy of, durably, instead of what is there; nobody has it open.

    For a thread: it syncs.

    Raises:
        StoreCorrupt: The copy is damaged; nothing was touched.
        StoreError: A newer version of the program made it; nothing was touched.
        OSError: The disk refuses.
    """
    image = _decompressed(data)
    # The copy says that a WAL belongs to it. None does, and in memory there can be none.
    image[18:20] = b"\1\1"
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.deserialize(bytes(image))
        version = sqlite_file.schema_version(connection)
        verdict = sqlite_file.verdict(connection)
        if version <= len(_MIGRATIONS):
            _read_cursor(connection)
    except sqlite3.Error as error:
        raise StoreCorrupt(f"a copy of learned state is damaged: {error}") from error
    finally:
        connection.close()
    if verdict != "ok":
        raise StoreCorrupt(f"a copy of learned state is damaged: quick_check says: {verdict}")
    if version > len(_MIGRATIONS):
        raise StoreError(
            f"a copy of learned state has schema {version}, this program knows {len(_MIGRATIONS)}: "
            "use the newer program"
        )
    # SQLite would apply the WAL of the old file to the new one.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_directory(path.parent)
    replace_file(path, bytes(image))


def _decompressed(data: bytes) -> bytearray:
    """The bytes that were compressed.

    Raises:
        StoreCorrupt: ``data`` is damaged, cut off, or no copy of a database at all.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        image = unpacker.decompress(data, MOST_RESTORED_BYTES)
    except zlib.error as error:
        raise StoreCorrupt(f"a copy of learned state is damaged: {error}") from error
    if not unpacker.eof or unpacker.unused_data or not image.startswith(_MAGIC):
        raise StoreCorrupt("a copy of learned state is cut off, too large, or none")
    return bytearray(image)


def _checked(row: CellRow) -> CellRow:
    values: tuple[object, ...] = row
    if not all(isinstance(text, str) for text in values[:4]):
        raise ValueError(f"a stored key is no text: {row!r}")
    if not all(isinstance(number, int | float) and isfinite(number) for number in values[4:]):
        raise ValueError(f"a stored sum is no finite number: {row!r}")
    return row
