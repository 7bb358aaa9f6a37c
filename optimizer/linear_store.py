"""Linear sums on disk: whole keys, the rows that came since they were written, and the newest vectors.

Everything is written within a step's transaction, so what is read back is what memory held at the step's cursor:
the sums of a key as last written, plus its rows in the order they came. Numbers are little-endian; of a gram matrix,
which is symmetric, the upper triangle is kept.
"""

import sqlite3
import sys
from array import array
from collections import deque

import numpy as np

from optimizer.linear_statistics import (
    RECENT,
    LinearCell,
    LinearChanges,
    LinearKey,
    LinearStatistics,
    Recent,
    Rows,
)

_TABLES = (
    """CREATE TABLE linear_cells (number INTEGER PRIMARY KEY, route TEXT NOT NULL, model_key TEXT NOT NULL,
    variant_key TEXT NOT NULL, version TEXT NOT NULL, kind TEXT NOT NULL, signals TEXT NOT NULL,
    generation INTEGER NOT NULL, epoch INTEGER NOT NULL, n INTEGER NOT NULL, size INTEGER NOT NULL,
    sums BLOB NOT NULL)""",
    "CREATE TABLE linear_rows (sequence INTEGER PRIMARY KEY, number INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE INDEX linear_rows_number ON linear_rows (number)",
    """CREATE TABLE linear_recent (route TEXT, version TEXT, latest REAL NOT NULL, size INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (route, version)) WITHOUT ROWID""",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables."""
    for statement in _TABLES:
        connection.execute(statement)


def write(connection: sqlite3.Connection, changes: LinearChanges) -> None:
    """Write changes, within the caller's transaction."""
    gone = [*((number,) for number in changes.dropped), *((cell.number,) for cell in changes.cells)]
    if gone:
        connection.executemany("DELETE FROM linear_rows WHERE number = ?", gone)
    if changes.dropped:
        connection.executemany("DELETE FROM linear_cells WHERE number = ?", [(n,) for n in changes.dropped])
    if changes.cells:
        connection.executemany(
            "INSERT OR REPLACE INTO linear_cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_cell_row(cell) for cell in changes.cells],
        )
    if changes.rows:
        connection.executemany(
            "INSERT INTO linear_rows (number, data) VALUES (?, ?)",
            [(number, _pack(rows)) for number, rows in changes.rows],
        )
    for route, version, recent in changes.recent:
        if recent is None:
            connection.execute("DELETE FROM linear_recent WHERE route = ? AND version = ?", (route, version))
        elif recent.x:
            row = (route, version, recent.latest, len(recent.x[0]), b"".join(recent.x))
            connection.execute("INSERT OR REPLACE INTO linear_recent VALUES (?, ?, ?, ?, ?)", row)


def read(connection: sqlite3.Connection, statistics: LinearStatistics) -> None:
    """Restore everything that is stored.

    Raises:
        ValueError, TypeError: If something stored makes no sense.
    """
    cells: dict[int, LinearCell] = {}
    for row in connection.execute("SELECT * FROM linear_cells"):
        cell = _cell_of(row)
        cells[cell.number] = cell
        statistics.restore_cell(cell)
    for number, data in connection.execute("SELECT number, data FROM linear_rows ORDER BY sequence"):
        if number not in cells:
            raise ValueError(f"stored rows belong to no sums: {number}")
        statistics.restore_rows(cells[number], _unpack(data, cells[number]))
    for route, version, latest, size, data in connection.execute("SELECT * FROM linear_recent"):
        if size <= 0 or len(data) % size:
            raise ValueError(f"stored vectors of {route} {version} are damaged")
        x = deque((data[at : at + size] for at in range(0, len(data), size)), maxlen=RECENT)
        statistics.restore_recent(route, version, Recent(x, latest))


def _cell_row(cell: LinearCell) -> tuple[object, ...]:
    key = cell.key
    sums = np.concatenate((cell.gram[np.triu_indices(cell.size)], cell.moments.ravel(), cell.squares))
    return (
        cell.number,
        *key[:5],
        "\n".join(key.signals),
        key.generation,
        key.epoch,
        cell.n,
        cell.size,
        sums.astype("<f8").tobytes(),
    )


def _cell_of(row: tuple[int, str, str, str, str, str, str, int, int, int, int, bytes]) -> LinearCell:
    number, route, model_key, variant_key, version, kind, signals, generation, epoch, n, size, data = row
    key = LinearKey(
        route, model_key, variant_key, version, kind, tuple(signals.split("\n")), generation, epoch
    )
    cell = LinearCell.empty(key, number, size)
    upper = np.triu_indices(size)
    m, triangle = len(key.signals), len(upper[0])
    sums = np.frombuffer(data, "<f8")
    if len(sums) != triangle + m * size + m or not np.isfinite(sums).all():
        raise ValueError(f"stored sums of {key} are damaged")
    cell.gram[upper] = sums[:triangle]
    cell.gram.T[upper] = sums[:triangle]
    cell.moments[:] = sums[triangle : triangle + m * size].reshape(m, size)
    cell.squares[:] = sums[triangle + m * size :]
    cell.n = n
    return cell


def _pack(rows: Rows) -> bytes:
    return b"".join((*rows.x, _bytes(rows.weights), _bytes(rows.values)))


def _bytes(numbers: list[float]) -> bytes:
    # An array's way to bytes is several times shorter than numpy's for the few rows of one commit.
    flat = array("d", numbers)
    if sys.byteorder == "big":
        flat.byteswap()
    return flat.tobytes()


def _unpack(data: bytes, cell: LinearCell) -> Rows:
    m = len(cell.key.signals)
    n, rest = divmod(len(data), 4 * cell.size + 8 + 8 * m)
    numbers = np.frombuffer(data, "<f8", n * (1 + m), 4 * n * cell.size)
    if rest or not np.isfinite(numbers).all():
        raise ValueError(f"stored rows of {cell.key} are damaged")
    return Rows([data[: 4 * n * cell.size]], numbers[:n].tolist(), numbers[n:].tolist())
