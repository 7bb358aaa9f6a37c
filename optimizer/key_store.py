"""The optimizer's truth about client keys: a table of digests, and the key file rewritten after every change.

Giving access is durable before anybody can use it: database commit, then file. Taking it away never waits for a store:
when the database refuses, the key is gone from the file all the same, and the caller is told to ask again.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Final

import orjson

from optimizer.control_database import ControlDatabase
from optimizer.durable import Order, replace_file
from optimizer.keys import (
    ClientKey,
    KeyFileRefused,
    decode_keys,
    digest_of,
    encode_keys,
    from_row,
    new_id,
    new_key,
    tag_of,
    to_row,
)
from optimizer.routing import Quota

MAX_KEYS: Final = 5_000
"""Keys that work at one time. Every worker reads the file anew after a change; this many take it 15 ms."""
TOLD_S: Final = 30 * 86400.0
"""How long the holder of a revoked or expired key is told which; after that the key is unknown to workers."""

_COLUMNS: Final = (
    "id", "name", "digest", "tag", "last4", "created_at", "expires_at", "routes", "models", "pin", "passthrough",
    "quota", "revoked_at",
)  # fmt: skip
_INSERT: Final = f"INSERT INTO client_keys ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM client_keys ORDER BY created_at, id"  # noqa: S608

_log = logging.getLogger(__name__)


class KeyStoreFault(Exception):
    """A change did not become durable or effective; the message says how things stand and what to do."""


class TooManyKeys(Exception):
    """``MAX_KEYS`` are alive."""

    def __init__(self) -> None:
        super().__init__(f"There are {MAX_KEYS} keys that work; revoke some first.")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key may do; the fields are those of ``ClientKey``."""

    name: str
    expires_at: float | None = None
    routes: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ()
    pin: bool = False
    passthrough: bool = False
    quota: Quota | None = None


class KeyStore:
    """Creates, lists and revokes keys. Usable from any thread; reads come from memory."""

    def __init__(
        self, database: ControlDatabase, key_file: Path, *, pepper: bytes, now: Callable[[], float]
    ) -> None:
        """Load the keys and write the key file.

        Raises:
            sqlite3.Error, ValueError: If the table can't be read.
            OSError: If the key file can't be written.
        """
        self._database = database
        self._key_file = key_file
        self._pepper = pepper
        self._now = now
        self._lock = Lock()
        self._unsaved: set[str] = set()
        with database.transaction() as connection:
            rows = connection.execute(_SELECT).fetchall()
        self._keys = {key.id: key for key in map(_from_columns, rows)}
        if database.fresh:
            self._restore()
        else:
            self._recall()
        self._write_file()

    def create(self, grant: Grant) -> tuple[str, ClientKey]:
        """Make a key. Returns its text, which nobody can get a second time, and what is kept.

        Raises:
            TooManyKeys: When there is no room.
            KeyStoreFault: When it could not be saved or published; the key does not work then.
        """
        with self._lock:
            now = self._now()
            if sum(_works(key, now) for key in self._keys.values()) >= MAX_KEYS:
                raise TooManyKeys
            text = new_key()
            key = ClientKey(
                id=self._free_id(),
                name=grant.name,
                digest=digest_of(text, self._pepper),
                last4=text[-4:],
                created_at=now,
                expires_at=grant.expires_at,
                routes=grant.routes,
                models=grant.models,
                pin=grant.pin,
                passthrough=grant.passthrough,
                quota=grant.quota,
            )
            try:
                self._insert([key])
            except sqlite3.Error as error:
                raise KeyStoreFault(f"The key could not be saved ({error}); none was made.") from error
            self._put(key)
            try:
                self._write_file()
            except OSError as error:
                self._revoke(key, now)
                raise KeyStoreFault(
                    f"The key file could not be written ({error.strerror}); no key was made."
                ) from error
        _log.info("client key %s was made", key.id)
        return text, key

    def get(self, key_id: str) -> ClientKey | None:
        """The key with this id, revoked or not."""
        return self._keys.get(key_id)

    def all(self) -> tuple[ClientKey, ...]:
        """Every key, the oldest first."""
        return tuple(sorted(self._keys.values(), key=lambda key: (key.created_at, key.id)))

    def revoke(self, key_id: str) -> ClientKey | None:
        """End a key; doing it again changes nothing. None when there is no such key.

        Raises:
            KeyStoreFault: When it was not saved, or workers could not be told; asking again tries both again.
        """
        with self._lock:
            key = self._keys.get(key_id)
            if key is None:
                return None
            was_revoked = key.revoked_at is not None
            key, unsaved = self._revoke(key, self._now())
            try:
                self._write_file("rename_first")
            except OSError as error:
                raise KeyStoreFault(
                    f"The key file could not be written ({error.strerror}): workers still accept the key. "
                    "Make room on the disk and revoke it again."
                ) from error
            if unsaved is not None:
                raise KeyStoreFault(
                    f"The key is refused from now on, but only the key file says so: it could not be saved "
                    f"({unsaved}). Revoke it again."
                ) from unsaved
        if not was_revoked:
            _log.info("client key %s was revoked", key.id)
        return key

    def _put(self, key: ClientKey) -> None:
        # A new dictionary each time: others read without the lock, and must not wait for a disk.
        self._keys = {**self._keys, key.id: key}

    def _revoke(self, key: ClientKey, now: float) -> tuple[ClientKey, sqlite3.Error | None]:
        """Revoke in memory and, if the database lets us, there; the lock is held."""
        if key.revoked_at is None:
            key = replace(key, revoked_at=now)
            self._put(key)
            self._unsaved.add(key.id)
        if key.id in self._unsaved:
            try:
                with self._database.transaction() as connection:
                    connection.execute(
                        "UPDATE client_keys SET revoked_at = ? WHERE id = ?", (key.revoked_at, key.id)
                    )
            except sqlite3.Error as error:
                return key, error
            self._unsaved.discard(key.id)
        return key, None

    def _restore(self) -> None:
        """Take the keys over from the key file, when the database that knew them is gone."""
        try:
            kept = [row.key for row in decode_keys(self._key_file.read_bytes()).values()]
        except FileNotFoundError:
            return
        except KeyFileRefused as error:
            _log.error("the key file can't be read (%s): every client key is lost, make new ones", error)
            return
        self._insert(kept)
        self._keys = {key.id: key for key in kept}
        if kept:
            _log.warning("%d client keys were restored from the key file", len(kept))

    def _recall(self) -> None:
        """Revoke what the key file says is revoked, in case the database refused to hear of it."""
        try:
            published = [row.key for row in decode_keys(self._key_file.read_bytes()).values()]
        except (FileNotFoundError, KeyFileRefused):
            return  # It is written anew from what the database knows.
        for told in published:
            key = self._keys.get(told.id)
            if key is not None and key.revoked_at is None and told.revoked_at is not None:
                self._revoke(key, told.revoked_at)

    def _insert(self, keys: Sequence[ClientKey]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(_INSERT, [_to_columns(key) for key in keys])

    def _write_file(self, order: Order = "fsync_first") -> None:
        told_from = self._now() - TOLD_S
        told = [key for key in self._keys.values() if _ended(key) >= told_from]
        replace_file(self._key_file, encode_keys(told), order=order)

    def _free_id(self) -> str:
        """An id whose tag no other key has: feedback is bound by the tag."""
        tags = {key.tag for key in self._keys.values()}
        while tag_of(key_id := new_id()) in tags:
            pass
        return key_id


def _works(key: ClientKey, now: float) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _ended(key: ClientKey) -> float:
    """When the key ends or ended; infinity for never."""
    ends = [at for at in (key.revoked_at, key.expires_at) if at is not None]
    return min(ends) if ends else float("inf")


def _to_columns(key: ClientKey) -> tuple[object, ...]:
    row: dict[str, Any] = to_row(key) | {"tag": key.tag}
    for name in ("routes", "models", "quota"):
        row[name] = None if row[name] is None else orjson.dumps(row[name]).decode()
    return tuple(row[name] for name in _COLUMNS)


def _from_columns(columns: tuple[Any, ...]) -> ClientKey:
    row: Mapping[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    decoded = {name: orjson.loads(row[name] or "null") for name in ("routes", "models", "quota")}
    return from_row({**row, **decoded, "pin": bool(row["pin"]), "passthrough": bool(row["passthrough"])})
