"""The truth about client keys: kept over restarts, damage and refusing disks."""

import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import key_store
from optimizer.control_database import ControlDatabase, ControlDatabaseError
from optimizer.key_store import TOLD_S, Grant, KeyStore, KeyStoreFault, TooManyKeys
from optimizer.keys import decode_keys, digest_of, new_key, well_formed
from optimizer.local_keys import LocalKeys
from optimizer.routing import Quota

PEPPER = b"p" * 32
NOW = 1_795_000_000.0


class Shelf:
    """A store on disk that can be closed and opened again, with a clock of its own."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        self.database_file = path / "control.sqlite3"
        self.key_file = path / "keys.json"
        self.now = NOW
        self.open()

    def open(self):
        self.database = ControlDatabase(self.database_file)
        self.store = KeyStore(LocalKeys(self.database), self.key_file, pepper=PEPPER, now=lambda: self.now)

    def reopen(self):
        self.database.close()
        self.open()

    def published(self):
        return {row.key.id: row.key for row in decode_keys(self.key_file.read_bytes()).values()}


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(tmp_path / "shelf")
    yield made
    made.database.close()


FULL = Grant(
    name="batch",
    expires_at=NOW + 60,
    routes=("batch-*", "chat"),
    models=("gpt-*",),
    pin=True,
    passthrough=True,
    quota=Quota(tokens_per_minute=1000, usd_per_day=2.5),
)


def test_what_is_made_is_found_again(shelf):
    """Every field, in the store, in the key file, and after a restart of both."""
    text, key = shelf.store.create(FULL)
    _, plain = shelf.store.create(Grant(name="ci"))

    assert well_formed(text)
    assert key.digest == digest_of(text, PEPPER)
    assert (key.last4, key.created_at, key.quota) == (text[-4:], NOW, FULL.quota)
    assert (plain.routes, plain.models, plain.pin, plain.passthrough) == (("*",), (), False, False)
    shelf.reopen()
    assert shelf.store.all() == tuple(sorted((key, plain), key=lambda one: one.id))
    assert shelf.published() == {key.id: key, plain.id: plain}


def test_only_digests_are_at_rest(shelf):
    """Neither in the database, nor its WAL, nor the key file."""
    texts = [shelf.store.create(Grant(name=f"n{number}"))[0].encode() for number in range(20)]

    for path in shelf.key_file.parent.iterdir():
        data = path.read_bytes()
        assert not any(text in data or text[5:48] in data for text in texts), path
        assert path.stat().st_mode & 0o077 == 0, path


def test_revoking_is_for_ever_and_may_be_repeated(shelf):
    """The first time counts; the key file tells workers that it has ended."""
    _, key = shelf.store.create(Grant(name="ci"))
    shelf.now += 5

    first = shelf.store.revoke(key.id)
    shelf.now += 5
    again = shelf.store.revoke(key.id)

    assert first == again == replace(key, revoked_at=NOW + 5)
    shelf.reopen()
    assert shelf.store.get(key.id) == first == shelf.published()[key.id]
    assert shelf.store.revoke("key_unknown") is None


def test_holders_of_ended_keys_are_told_for_a_while(shelf):
    """Then workers forget them; the store does not."""
    _, revoked = shelf.store.create(Grant(name="revoked"))
    _, expired = shelf.store.create(Grant(name="expired", expires_at=NOW + 10))
    shelf.store.revoke(revoked.id)
    shelf.now += TOLD_S - 1
    shelf.reopen()
    assert set(shelf.published()) == {revoked.id, expired.id}

    shelf.now += 20
    _, fresh = shelf.store.create(Grant(name="fresh"))

    assert set(shelf.published()) == {fresh.id}
    assert {key.id for key in shelf.store.all()} == {revoked.id, expired.id, fresh.id}


@pytest.mark.parametrize("loss", ["damaged", "truncated", "deleted", "foreign"])
def test_a_lost_database_is_restored_from_the_key_file(shelf, loss):
    """Applications go on working; the damaged file is kept for whoever wants to look."""
    _, key = shelf.store.create(FULL)
    _, revoked = shelf.store.create(Grant(name="gone"))
    revoked = shelf.store.revoke(revoked.id)
    shelf.database.close()
    size = shelf.database_file.stat().st_size
    for suffix in ("-wal", "-shm"):
        shelf.database_file.with_name(f"control.sqlite3{suffix}").unlink(missing_ok=True)
    if loss == "deleted":
        shelf.database_file.unlink()
    elif loss == "truncated":
        os.truncate(shelf.database_file, size // 2)
    else:
        head = b"SQLite format 3\0" if loss == "damaged" else b"no database at all"
        shelf.database_file.write_bytes(head + os.urandom(size))

    shelf.open()

    assert set(shelf.store.all()) == {key, revoked}
    assert (shelf.database.moved_aside is None) == (loss == "deleted")
    shelf.reopen()
    assert set(shelf.store.all()) == {key, revoked}


def test_a_newer_database_is_left_alone(shelf):
    """An older program neither reads nor moves it."""
    shelf.database.close()
    connection = sqlite3.connect(shelf.database_file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(ControlDatabaseError, match="schema 99"):
        ControlDatabase(shelf.database_file)
    assert shelf.database_file.exists()
    assert not list(shelf.database_file.parent.glob("*.corrupt*"))


def test_no_key_is_made_that_can_not_be_published(shelf):
    """The answer is an error, so nobody must hold a key that works later."""
    shelf.key_file.unlink()
    shelf.key_file.mkdir()

    with pytest.raises(KeyStoreFault, match="no key was made"):
        shelf.store.create(Grant(name="ci"))

    shelf.key_file.rmdir()
    shelf.reopen()
    assert [key.revoked_at for key in shelf.store.all()] == [NOW]


def test_no_key_is_made_that_can_not_be_saved(shelf):
    """Somebody else holds the database."""
    with Locked(shelf), pytest.raises(KeyStoreFault, match="could not be saved"):
        shelf.store.create(Grant(name="ci"))

    assert shelf.store.all() == ()
    assert shelf.published() == {}


def test_a_database_that_refuses_can_not_keep_a_key_alive(shelf):
    """Workers refuse the key at once, the operator is told to ask again, and asking again saves it."""
    _, key = shelf.store.create(Grant(name="ci"))

    with Locked(shelf), pytest.raises(KeyStoreFault, match="Revoke it again"):
        shelf.store.revoke(key.id)

    assert shelf.published()[key.id].revoked_at == NOW
    shelf.now += 5
    assert shelf.store.revoke(key.id).revoked_at == NOW
    shelf.reopen()
    assert shelf.store.get(key.id).revoked_at == NOW


def test_a_restart_does_not_revive_what_only_the_key_file_knows_to_be_revoked(shelf):
    """The database refused, nobody asked again, the process ended: the key stays dead, and is saved as such."""
    _, key = shelf.store.create(Grant(name="ci"))
    with Locked(shelf), pytest.raises(KeyStoreFault):
        shelf.store.revoke(key.id)

    shelf.now += 5
    shelf.reopen()

    assert shelf.published()[key.id].revoked_at == NOW
    shelf.key_file.unlink()
    shelf.reopen()
    assert shelf.store.get(key.id).revoked_at == NOW


def test_a_key_file_that_can_not_be_written_is_told_and_tried_again(shelf):
    """A revocation that workers did not hear of is no success."""
    _, key = shelf.store.create(Grant(name="ci"))
    shelf.key_file.unlink()
    shelf.key_file.mkdir()

    with pytest.raises(KeyStoreFault, match="workers still accept the key"):
        shelf.store.revoke(key.id)

    shelf.key_file.rmdir()
    shelf.store.revoke(key.id)
    assert shelf.published()[key.id].revoked_at == NOW


def test_there_is_an_end_to_keys(shelf, monkeypatch):
    """Those that have ended make room."""
    monkeypatch.setattr(key_store, "MAX_KEYS", 2)
    _, first = shelf.store.create(Grant(name="a"))
    shelf.store.create(Grant(name="b", expires_at=NOW + 1))
    with pytest.raises(TooManyKeys):
        shelf.store.create(Grant(name="c"))

    shelf.store.revoke(first.id)
    shelf.store.create(Grant(name="c"))
    shelf.now += 2
    shelf.store.create(Grant(name="d"))


def test_a_crash_after_the_answer_loses_nothing(tmp_path):
    """kill -9 right behind create and revoke; the next start has both, and the key file agrees."""
    program = (
        "import sys, os, signal, time\n"
        "from pathlib import Path\n"
        "from optimizer.control_database import ControlDatabase\n"
        "from optimizer.key_store import Grant, KeyStore\n"
        "from optimizer.local_keys import LocalKeys\n"
        "path = Path(sys.argv[1])\n"
        "database = ControlDatabase(path / 'control.sqlite3')\n"
        "store = KeyStore(LocalKeys(database), path / 'keys.json', pepper=b'p' * 32, now=time.time)\n"
        "keys = [store.create(Grant(name=str(n)))[1].id for n in range(3)]\n"
        "store.revoke(keys[1])\n"
        "print(*keys, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "shelf"
    path.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    first, second, third = done.stdout.split()
    (path / "keys.json").unlink()

    shelf = Shelf(path)

    assert {key.id for key in shelf.store.all()} == {first, second, third}
    assert [key.id for key in shelf.published().values() if key.revoked_at is not None] == [second]
    shelf.database.close()


hostile = st.text(max_size=60) | st.sampled_from(
    ["'; DROP TABLE client_keys; --", '" OR 1=1 --', "\x00", "key_' UNION SELECT digest FROM client_keys --"]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(hostile, max_size=4), hostile)
def test_no_text_is_ever_part_of_a_statement(tmp_path_factory, patterns, text):
    """S3: names and patterns come back as they went in, ids that are none find nothing."""
    shelf = Shelf(tmp_path_factory.mktemp("hostile") / "shelf")
    _, key = shelf.store.create(Grant(name=text.encode("utf-8", "replace").decode(), routes=tuple(patterns)))

    assert shelf.store.get(text) is None
    assert shelf.store.revoke(text) is None
    shelf.reopen()
    assert shelf.store.all() == (key,)
    shelf.database.close()


def test_a_keys_text_never_reaches_the_database(shelf):
    """S3: every statement and every parameter that SQLite gets is free of it."""
    seen = []
    shelf.database._connection.set_trace_callback(seen.append)

    text, key = shelf.store.create(Grant(name="ci"))
    shelf.store.revoke(key.id)
    shelf.store.get(new_key())

    assert any(key.digest in statement for statement in seen)
    assert not any(text in statement or text[5:48] in statement for statement in seen)


class Locked:
    """Another connection that holds the database's write lock."""

    def __init__(self, shelf):
        self._path = shelf.database_file
        shelf.database._connection.execute("PRAGMA busy_timeout = 20")

    def __enter__(self):
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *error):
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_reading_goes_on_while_keys_are_made(shelf):
    """Handlers read on the loop while a thread waits for the disk."""
    maker = threading.Thread(
        target=lambda: [shelf.store.create(Grant(name=str(number))) for number in range(30)]
    )
    maker.start()
    while maker.is_alive():
        assert all(shelf.store.get(key.id) == key for key in shelf.store.all())
    maker.join()

    assert len(shelf.store.all()) == len(shelf.published()) == 30
