"""The optimizer's truth about client keys: a shelf of digests, and the key file rewritten after every change.

Giving access is durable before anybody can use it: shelf, then file. Taking it away never waits for a shelf: the file
says so first, and when the shelf refuses the caller is told to ask again. What ``refresh`` can, it saves by itself.

The file is also what is left when the shelf lost its keys: whatever is in it was on the shelf once, and is put back.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

from optimizer.durable import Order, replace_file
from optimizer.key_shelf import KeyShelf, ShelfFault
from optimizer.keys import (
    ClientKey,
    KeyFileRefused,
    decode_keys,
    digest_of,
    encode_keys,
    new_id,
    new_key,
    tag_of,
)
from optimizer.routing import Quota

MAX_KEYS: Final = 5_000
"""Keys that work at one time. Every worker reads the file anew after a change; this many take it 15 ms."""
TOLD_S: Final = 30 * 86400.0
"""How long the holder of a revoked or expired key is told which; after that the key is unknown to workers."""

_READ_ALL_S: Final = 60.0
"""How long the shelf's revision is believed; a database that was put back may have the same one again."""

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
    """Creates, lists and revokes keys. Usable from any thread; reads come from memory.

    A shelf that is shared is not waited for at the start: until ``refresh`` has read it, the keys of the key file work.

    Attributes:
        is_known: There is a key file that somebody wrote who knew the keys; until then workers refuse every key.
    """

    def __init__(self, shelf: KeyShelf, key_file: Path, *, pepper: bytes, now: Callable[[], float]) -> None:
        """Load the keys and write the key file.

        Raises:
            ShelfFault, ValueError: If the shelf is this node's own and can't be read.
            OSError: If the key file can't be read or written.
        """
        self._shelf = shelf
        self._key_file = key_file
        self._pepper = pepper
        self._now = now
        # Held for memory and file only: a revocation must not wait for anybody's database.
        self._lock = Lock()
        self._making = Lock()
        self._refreshing = Lock()
        self._keys: dict[str, ClientKey] = {}
        self._owed: dict[str, float] = {}
        self._file_is_old = True
        self._known: int | None = None
        self._read_at = 0.0
        self._away = False
        published = self._published()
        self._keys = published or {}
        if not shelf.is_shared:
            self._join()
            self._settle()
        self.is_known = published is not None or not shelf.is_shared
        if self.is_known:
            self._write_file()

    def create(self, grant: Grant) -> tuple[str, ClientKey]:
        """Make a key. Returns its text, which nobody can get a second time, and what is kept.

        Raises:
            TooManyKeys: When there is no room.
            KeyStoreFault: When it could not be saved or published; the key does not work then.
        """
        with self._making:
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
                self._shelf.add(key)
            except ShelfFault as error:
                # It may be there all the same, where nobody must find a key that nobody has.
                self._owed[key.id] = now
                raise KeyStoreFault(f"The key could not be saved ({error}); none was made.") from error
            try:
                with self._lock:
                    self._put([key])
                    self._write_file()
            except OSError as error:
                with self._lock:
                    self._end(key, now)
                self._settle()
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
        if key_id not in self._keys and self._shelf.is_shared:
            self.refresh()  # Another node may have made it just now.
        key = self._keys.get(key_id)
        if key is None:
            return None
        was_revoked = key.revoked_at is not None
        unwritten: OSError | None = None
        with self._lock:
            key = self._end(key, self._now())
            try:
                self._write_file("rename_first")
            except OSError as error:
                unwritten = error
        unsaved = self._settle()
        if unwritten is not None:
            raise KeyStoreFault(
                f"The key file could not be written ({unwritten.strerror}): workers still accept the key. "
                "Make room on the disk and revoke it again."
            ) from unwritten
        if unsaved is not None and self._shelf.is_shared:
            raise KeyStoreFault(
                f"The key is refused by this node from now on, other nodes still accept it: the database does not "
                f"answer ({unsaved}). They are told as soon as it does, or when you revoke it again."
            ) from unsaved
        if unsaved is not None:
            raise KeyStoreFault(
                f"The key is refused from now on, but only the key file says so: it could not be saved "
                f"({unsaved}). Revoke it again."
            ) from unsaved
        if not was_revoked:
            _log.info("client key %s was revoked", key.id)
        return key

    def refresh(self) -> bool:
        """Follow a shared shelf, and save there what it missed; for a thread, about once a second.

        Returns whether the shelf answered and the key file says what it says. Costs one small query when nothing has
        changed; never raises.
        """
        with self._refreshing:
            try:
                self._follow()
            except (ShelfFault, OSError, ValueError) as error:
                if not self._away:
                    self._away = True
                    _log.warning("client keys stay as this node knows them: %s", error)
                return False
            if self._away:
                self._away = False
                _log.info("client keys are followed again")
            return True

    # --- inside -------------------------------------------------------------------------------------

    def _follow(self) -> None:
        unsaved = self._settle()
        if unsaved is not None:
            raise unsaved
        revision = self._shelf.revision()
        now = self._now()
        if revision != self._known or abs(now - self._read_at) >= _READ_ALL_S:
            self._join()
            self._known, self._read_at, self.is_known = revision, now, True
            unsaved = self._settle()
            if unsaved is not None:
                raise unsaved
        if self._file_is_old:
            with self._lock:
                self._write_file("rename_first")

    def _join(self) -> None:
        """Bring memory and shelf together: no key is lost, and none that ended anywhere works.

        Raises:
            ShelfFault: It can't be read, or what it lacks could not be put back.
        """
        # Before it is read: what is made meanwhile is no key that it has lost.
        before = self._keys
        found = {key.id: key for key in self._shelf.load()}
        with self._lock:
            changed = []
            for key in found.values():
                mine = self._keys.get(key.id)
                if mine is not None and mine.revoked_at is not None and key.revoked_at is None:
                    self._owed[key.id] = mine.revoked_at
                elif mine != key:
                    changed.append(key)
            missing = [self._keys[key_id] for key_id in before if key_id not in found]
            if changed:
                self._put(changed)
                self._file_is_old = True
        if missing:
            self._shelf.restore(missing)
            _log.warning("%d client keys were put back from the key file", len(missing))

    def _settle(self) -> ShelfFault | None:
        """Save revocations that are not saved; why one could not be."""
        for key_id, at in tuple(self._owed.items()):
            try:
                self._shelf.revoke(key_id, at)
            except ShelfFault as error:
                return error
            self._owed.pop(key_id, None)
        return None

    def _put(self, keys: Iterable[ClientKey]) -> None:
        # A new dictionary each time: others read without the lock, and must not wait for a disk.
        self._keys = {**self._keys, **{key.id: key for key in keys}}

    def _end(self, key: ClientKey, now: float) -> ClientKey:
        """Revoke in memory, and owe it to the shelf; the key as it is then."""
        key = self._keys.get(key.id, key)
        if key.revoked_at is None:
            key = replace(key, revoked_at=now)
            self._put([key])
            self._owed[key.id] = now
        return key

    def _published(self) -> dict[str, ClientKey] | None:
        """The keys of the key file; None when there is none that can be read."""
        try:
            return {row.key.id: row.key for row in decode_keys(self._key_file.read_bytes()).values()}
        except FileNotFoundError:
            return None
        except KeyFileRefused as error:
            _log.error("the key file can't be read (%s): keys that only it knew are lost", error)
            return None

    def _write_file(self, order: Order = "fsync_first") -> None:
        """Publish what is known; the lock is held, or nobody else is there yet."""
        self._file_is_old = True
        told_from = self._now() - TOLD_S
        told = [key for key in self._keys.values() if _ended(key) >= told_from]
        replace_file(self._key_file, encode_keys(told), order=order)
        self._file_is_old = False

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
