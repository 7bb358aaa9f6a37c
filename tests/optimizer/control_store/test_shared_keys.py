"""Client keys of several nodes over one database."""

import asyncio
import threading
import time

import psycopg
import pytest

from optimizer.control_store.shared_keys import SharedKeys
from optimizer.key_store import Grant, KeyStore, KeyStoreFault
from optimizer.keys import decode_keys, digest_of
from optimizer.routing import Quota

PEPPER = b"p" * 32
NOW = 1_795_000_000.0
TIMEOUT_S = 2.0
FULL = Grant(
    name="batch \0 漢字",
    expires_at=NOW + 600,
    routes=("batch-*", "chat"),
    models=("gpt-*",),
    pin=True,
    passthrough=True,
    quota=Quota(tokens_per_minute=1000, usd_per_day=2.5),
)


class Node:
    """A node's keys; methods are called in threads, as the admin API does."""

    def __init__(self, store, path):
        path.mkdir(exist_ok=True)
        self.key_file = path / "keys.json"
        self.sql = store
        self.now = NOW
        self.open()

    def open(self):
        self.keys = KeyStore(SharedKeys(self.sql), self.key_file, pepper=PEPPER, now=lambda: self.now)

    def published(self):
        return {row.key.id: row.key for row in decode_keys(self.key_file.read_bytes()).values()}

    async def create(self, grant=FULL):
        return await asyncio.to_thread(self.keys.create, grant)

    async def revoke(self, key_id):
        return await asyncio.to_thread(self.keys.revoke, key_id)

    async def refresh(self):
        return await asyncio.to_thread(self.keys.refresh)


@pytest.fixture
def make_node(open_store, url, tmp_path):
    """``make_node(name)``: a node of a cluster over the database of ``url``."""
    return lambda name: Node(open_store(url, timeout_s=TIMEOUT_S if url else 5.0), tmp_path / name)


@pytest.fixture
async def nodes(make_node):
    """Two nodes that have heard of the database."""
    made = make_node("a"), make_node("b")
    for node in made:
        until = time.monotonic() + 15
        while not await node.refresh():
            assert time.monotonic() < until
    return made


async def test_a_key_made_here_works_everywhere(nodes):
    here, there = nodes
    text, key = await here.create()

    assert here.published() == {key.id: key}
    assert there.published() == {}
    assert await there.refresh()
    assert there.published() == {key.id: key}
    assert there.keys.all() == (key,)
    assert key.digest == digest_of(text, PEPPER)


async def test_a_key_revoked_here_is_refused_everywhere(nodes):
    here, there = nodes
    _, key = await here.create()
    await there.refresh()
    there.now += 7

    revoked = await there.revoke(key.id)

    assert revoked.revoked_at == there.now
    assert there.published()[key.id] == revoked
    assert here.published()[key.id].revoked_at is None
    assert await here.refresh()
    assert here.published()[key.id] == revoked
    here.now += 100
    assert await here.revoke(key.id) == revoked, "the first time counts"


async def test_a_key_can_be_revoked_where_nobody_heard_of_it_yet(nodes):
    here, there = nodes
    _, key = await here.create()

    assert (await there.revoke(key.id)).revoked_at == NOW
    assert await there.revoke("key_unknown") is None


async def test_nothing_is_written_when_nothing_changed(nodes):
    here, there = nodes
    await here.create()
    await there.refresh()
    before = there.key_file.stat().st_mtime_ns, there.key_file.stat().st_ino
    for _ in range(3):
        assert await there.refresh()
    there.now += 61
    assert await there.refresh()
    assert (there.key_file.stat().st_mtime_ns, there.key_file.stat().st_ino) == before


async def test_a_key_file_that_could_not_be_written_is_written_later(nodes):
    here, there = nodes
    _, key = await here.create()
    there.key_file.unlink()
    there.key_file.mkdir()

    assert not await there.refresh()
    there.key_file.rmdir()
    assert await there.refresh()
    assert there.published() == {key.id: key}


async def test_a_database_that_was_emptied_gets_its_keys_back(nodes, make_node):
    """Each node knows what was on it; what one node knew to be revoked stays so."""
    here, there = nodes
    _, kept = await here.create()
    _, gone = await here.create(Grant(name="gone"))
    await there.refresh()
    gone = await there.revoke(gone.id)
    await there.sql.ask(_empty, "write")

    here.now += 61
    there.now += 61
    for node in (here, there, here):
        assert await node.refresh()

    fresh = make_node("c")
    assert await fresh.refresh()
    for node in (here, there, fresh):
        assert {key.id: key.revoked_at for key in node.keys.all()} == {kept.id: None, gone.id: NOW}
        assert node.published() == {kept.id: kept, gone.id: gone}


def _empty(database):
    database._run(lambda connection: connection.exec_driver_sql("DELETE FROM client_keys").close())
    database._run(lambda connection: connection.exec_driver_sql("DELETE FROM counters").close())


async def test_a_row_that_can_not_be_read_hides_no_other(nodes, caplog):
    here, there = nodes
    _, key = await here.create()
    await here.create()

    def spoil(database):
        database._run(
            lambda c: c.exec_driver_sql(
                f"UPDATE client_keys SET record = '{{}}' WHERE id <> '{key.id}'"
            ).close()
        )

    await here.sql.ask(spoil, "write")
    assert await there.refresh()
    assert there.keys.all() == (key,)
    assert "can't be read" in caplog.text


async def test_changes_of_many_nodes_at_once_are_all_heard(nodes):
    here, there = nodes
    made = await asyncio.gather(*(node.create(Grant(name=str(n))) for n in range(8) for node in nodes))
    ids = [key.id for _, key in made]
    await asyncio.gather(*(node.refresh() for node in nodes))
    await asyncio.gather(*(nodes[n % 2].revoke(id_) for n, id_ in enumerate(ids[:10])))
    await asyncio.gather(*(node.refresh() for node in nodes))

    assert here.published() == there.published()
    assert {id_ for id_, key in here.published().items() if key.revoked_at is not None} == set(ids[:10])


# --- the database away: PostgreSQL only ---------------------------------------------------------------


@pytest.fixture
async def pair(open_store, postgres, tmp_path):
    """Two nodes over PostgreSQL, a key that both know, and the key."""
    url = postgres.url(postgres.create())
    made = [Node(open_store(url, timeout_s=TIMEOUT_S), tmp_path / name) for name in "ab"]
    for node in made:
        until = time.monotonic() + 15
        while not await node.refresh():
            assert time.monotonic() < until
    _, key = await made[0].create()
    await made[1].refresh()
    return *made, key


async def test_a_node_starts_without_the_database(pair, postgres, tmp_path, open_store):
    """With the keys of its key file; one that never had one says so."""
    here, _, key = pair
    dead = open_store("postgresql://u@127.0.0.1:1/d", timeout_s=TIMEOUT_S)
    again = Node.__new__(Node)
    again.key_file, again.sql, again.now = here.key_file, dead, NOW
    again.open()
    fresh = Node(dead, tmp_path / "fresh")

    assert again.keys.all() == (key,)
    assert again.keys.is_known
    assert not fresh.keys.is_known
    assert not fresh.key_file.exists()
    assert not await again.refresh()
    assert not await fresh.refresh()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "silent"])
async def test_a_revocation_waits_for_no_database(pair, postgres, how):
    """Here it acts at once; the others hear of it when the database is back, without anybody asking again."""
    here, there, key = pair
    _, other = await here.create(Grant(name="other"))
    (postgres.kill if how == "killed" else postgres.stop_answering)()
    try:
        # A creation that waits for the database must not hold up who takes away.
        creating = asyncio.create_task(here.create())
        await asyncio.sleep(0)
        began = time.monotonic()
        revoking = asyncio.create_task(here.revoke(key.id))
        while here.published()[key.id].revoked_at is None:
            assert time.monotonic() - began < 0.9 * TIMEOUT_S
            await asyncio.sleep(0.005)
        with pytest.raises(KeyStoreFault, match="other nodes still accept it"):
            await revoking
        with pytest.raises(KeyStoreFault, match="none was made"):
            await creating
        assert time.monotonic() - began < 3 * TIMEOUT_S
        assert not await here.refresh()
        assert set(here.published()) == {key.id, other.id}
    finally:
        if how == "killed":
            postgres.start()
        else:
            postgres.resume()

    until = time.monotonic() + 15
    while not await here.refresh():
        assert time.monotonic() < until
    while there.published()[key.id].revoked_at is None:
        await there.refresh()
        assert time.monotonic() < until
    # Of the key that nobody got nothing works anywhere, whether it was stored or not.
    assert {k.id for k in there.keys.all() if k.revoked_at is None} == {other.id}


@pytest.mark.slow
async def test_a_restart_does_not_forget_what_only_this_node_knows(pair, postgres):
    """Revoked without the database, then killed: the key file remembers, and tells it."""
    here, there, key = pair
    postgres.kill()
    with pytest.raises(KeyStoreFault):
        await here.revoke(key.id)
    here.open()
    postgres.start()

    until = time.monotonic() + 15
    while not await here.refresh():
        assert time.monotonic() < until
    await there.refresh()
    assert there.published()[key.id].revoked_at == NOW


async def test_reading_never_waits(pair, postgres):
    """Handlers read on the loop while a thread waits for a lock in the database."""
    here, _, key = pair
    with psycopg.connect(here.sql._url) as holder:
        holder.execute("LOCK TABLE client_keys IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=here.keys.refresh)
        here.now += 61
        thread.start()
        began = time.monotonic()
        assert here.keys.get(key.id) == key
        assert here.keys.all() == (key,)
        assert time.monotonic() - began < 0.5
        await asyncio.to_thread(thread.join)
        holder.rollback()
