"""Owners of shards while PostgreSQL is killed, silent or restarted, and owners that sleep in the middle of a write."""

import asyncio
import os
import signal
import sys
import time

import pytest

from optimizer.cluster.types import Fenced, Snapshot
from optimizer.control_store.errors import StoreError
from optimizer.control_store.shard_book import SqlShardBook
from optimizer.control_store.shard_store import ShardStore

TIMEOUT_S = 1.0
LEFT = Snapshot(offset=12, segment=1, byte=3400, data=b"learned", saved_at=1_795_000_000.0)


async def eventually(call, seconds=15):
    """What ``call()`` gives once the database answers."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except StoreError:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


@pytest.fixture
def url(postgres):
    return postgres.url(postgres.create())


@pytest.fixture
async def open_book(open_store, url):
    """``await open_book()``: a store that has answered, and its book."""

    async def open_():
        store = open_store(url, timeout_s=TIMEOUT_S)
        await eventually(store.open)
        return store, SqlShardBook(store)

    return open_


@pytest.mark.slow
async def test_a_killed_server_keeps_generations_and_snapshots(open_book, postgres, make_record, make_row):
    store, book = await open_book()
    tenure = await book.take(0, "node-a")
    await book.save(tenure, LEFT)
    view = ShardStore(store, tenure, lambda route: True)

    postgres.kill()
    began = time.monotonic()
    for call in (
        book.take(0, "node-b"),
        book.save(tenure, LEFT),
        book.holders(),
        view.write([], [make_row()]),
    ):
        with pytest.raises(StoreError):
            await call
    assert time.monotonic() - began < 4 * (TIMEOUT_S + 1.0)
    assert not view.is_fenced, "nobody can know that"

    postgres.start()
    await eventually(lambda: view.save(make_record(), make_row()))
    after = await eventually(lambda: book.take(0, "node-b"))
    assert after.generation > tenure.generation
    assert after.snapshot == LEFT
    with pytest.raises(Fenced):
        await view.save(make_record(1, 2), make_row(2))


@pytest.mark.slow
async def test_a_silent_server_leaves_no_second_owner(open_book, postgres, make_row):
    """What was asked meanwhile may have happened or not; afterwards there is one owner all the same."""
    store, book = await open_book()
    _, other = await open_book()
    tenure = await book.take(0, "node-a")
    view = ShardStore(store, tenure, lambda route: True)
    postgres.stop_answering()
    try:
        began = time.monotonic()
        results = await asyncio.gather(
            other.take(0, "node-b"), view.write([], [make_row(1)]), other.holders(), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreError] * 3
        assert time.monotonic() - began < TIMEOUT_S + 1.0
    finally:
        postgres.resume()

    new = await eventually(lambda: other.take(0, "node-b"))
    with pytest.raises(Fenced):
        await eventually(lambda: view.write([], [make_row(2)]))
    await other.save(new, LEFT)
    assert "opt_1:2" not in {row.id for row in await store.audit_page()}


@pytest.mark.slow
async def test_a_restart_costs_an_owner_nothing(open_book, postgres):
    _, book = await open_book()
    tenure = await book.take(0, "node-a")
    postgres.kill()
    postgres.start()

    await eventually(lambda: book.save(tenure, LEFT))
    assert (await eventually(book.holders))[0].generation == tenure.generation


_SLEEPER = """
import asyncio, pathlib, signal, sys, threading
from optimizer.cluster.types import Fenced, Snapshot
from optimizer.control_store import database, shard_statements
from optimizer.control_store.errors import StoreError
from optimizer.control_store.shard_book import SqlShardBook
from optimizer.control_store.shard_store import ShardStore
from optimizer.control_store.store import SqlStore
from optimizer.rollouts.audit import AuditRow

def asleep(used, tenure, row):
    "Pass the fence, and be stopped before it is committed."
    from optimizer.control_store import statements
    def write(connection):
        shard_statements.must_hold(connection, tenure)
        print("holds", tenure.generation, flush=True)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        statements.write(connection, [], [row])
    def save(connection):
        shard_statements.save_snapshot(connection, tenure, "", Snapshot(9, 9, 9, b"late", 9.0))
        print("holds", tenure.generation, flush=True)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    used._run(save if sys.argv[2] == "bulk" else write)

async def main():
    store = SqlStore(sys.argv[1], directory=pathlib.Path("."), timeout_s=1.0)
    tenure = await SqlShardBook(store).take(0, "zombie")
    row = AuditRow("late", 1.0, "zombie", "write", "shard", {})
    try:
        await store.ask(lambda used: asleep(used, tenure, row), sys.argv[2])
        print("written", flush=True)
    except StoreError as error:
        print("refused", flush=True)
    view = ShardStore(store, tenure, lambda route: True)
    try:
        await view.write([], [row])
        print("written", flush=True)
    except Fenced:
        print("fenced", flush=True)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["write", "bulk"])
async def test_an_owner_that_sleeps_inside_a_write_wakes_up_to_nothing(open_book, url, lane):
    """It holds the shard's row then; the server ends its transaction, and the shard can be taken."""
    store, book = await open_book()
    sleeper = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", _SLEEPER, url, lane,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    try:
        word, generation = (await asyncio.wait_for(sleeper.stdout.readline(), 20)).split()
        assert word == b"holds"

        began = time.monotonic()
        tenure = await eventually(lambda: book.take(0, "node-b"))
        assert time.monotonic() - began < 15.0
        assert tenure.generation > int(generation)
        assert tenure.snapshot is None
        await book.save(tenure, LEFT)

        sleeper.send_signal(signal.SIGCONT)
        out, err = await asyncio.wait_for(sleeper.communicate(), 20)
    finally:
        if sleeper.returncode is None:
            sleeper.kill()
            await sleeper.wait()

    assert out.split() == [b"refused", b"fenced"], err
    assert await store.audit_page() == []
    held = (await book.holders())[0]
    assert (held.generation, held.offset) == (tenure.generation, LEFT.offset)


@pytest.mark.slow
async def test_a_large_snapshot_makes_no_record_wait(open_book, make_record, make_row):
    """It has a connection of its own, and locks the shard's row only when it is all there."""
    store, book = await open_book()
    tenure = await book.take(0, "node-a")
    view = ShardStore(store, tenure, lambda route: True)
    await book.save(tenure, LEFT)
    large = Snapshot(13, 1, 4000, os.urandom(48 << 20), LEFT.saved_at)
    saving = asyncio.create_task(book.save(tenure, large))
    longest, number = 0.0, 1

    while not saving.done():
        began = time.monotonic()
        await view.save(make_record(1, number), make_row(number))
        longest, number = max(longest, time.monotonic() - began), number + 1
        await asyncio.sleep(0.005)

    await saving
    assert number > 3
    assert longest < TIMEOUT_S
