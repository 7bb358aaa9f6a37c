"""Client keys of one node: a ``KeyShelf`` over a table in the node's own file."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from optimizer.control_database import ControlDatabase
from optimizer.key_shelf import ShelfFault
from optimizer.keys import ClientKey, from_row, to_row

T = TypeVar("T")

_COLUMNS: Final = (
    "id", "name", "digest", "tag", "last4", "created_at", "expires_at", "routes", "models", "pin", "passthrough",
    "quota", "revoked_at",
)  # fmt: skip
_VALUES: Final = f"client_keys ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM client_keys ORDER BY created_at, id"  # noqa: S608


class LocalKeys:
    """See ``KeyShelf``."""

    is_shared = False

    def __init__(self, database: ControlDatabase) -> None:
        self._database = database

    def revision(self) -> int:
        """Always 0: nobody else changes it."""
        return 0

    def load(self) -> list[ClientKey]:
        """See ``KeyShelf``; so it is with those below.

        Raises:
            ValueError: A row makes no sense.
        """
        rows = self._run(lambda connection: connection.execute(_SELECT).fetchall())
        return [_from_columns(row) for row in rows]

    def add(self, key: ClientKey) -> None:
        self._run(lambda connection: connection.execute(f"INSERT INTO {_VALUES}", _to_columns(key)))

    def restore(self, keys: Sequence[ClientKey]) -> None:
        rows = [_to_columns(key) for key in keys]
        self._run(lambda connection: connection.executemany(f"INSERT OR IGNORE INTO {_VALUES}", rows))

    def revoke(self, key_id: str, at: float) -> None:
        statement = "UPDATE client_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
        self._run(lambda connection: connection.execute(statement, (at, key_id)))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._database.transaction() as connection:
                return work(connection)
        except sqlite3.Error as error:
            raise ShelfFault(str(error)) from error


def _to_columns(key: ClientKey) -> tuple[object, ...]:
    row: dict[str, Any] = to_row(key) | {"tag": key.tag}
    for name in ("routes", "models", "quota"):
        row[name] = None if row[name] is None else orjson.dumps(row[name]).decode()
    return tuple(row[name] for name in _COLUMNS)


def _from_columns(columns: tuple[Any, ...]) -> ClientKey:
    row: Mapping[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    decoded = {name: orjson.loads(row[name] or "null") for name in ("routes", "models", "quota")}
    return from_row({**row, **decoded, "pin": bool(row["pin"]), "passthrough": bool(row["passthrough"])})
