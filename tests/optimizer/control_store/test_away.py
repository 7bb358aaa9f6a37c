"""PostgreSQL killed, silent, restarted, misconfigured: no call waits, none is lost without a word, all of it heals."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from optimizer.control_store.errors import StoreError

TIMEOUT_S = 1.0
SLACK_S = 1.0


async def refused(call, within=TIMEOUT_S + SLACK_S):
    """The error of a call that must fail, in time, without holding up the loop."""
    worst, running = 0.0, True

    async def watch():
        nonlocal worst
        while running:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - before)

    watcher = asyncio.create_task(watch())
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await call
    took = time.monotonic() - began
    running = False
    await watcher
    assert took < within, caught.value
    assert worst < 0.8 * TIMEOUT_S, "the loop was held up"
    return str(caught.value)


async def eventually(call, seconds=15):
    """What ``call()`` gives once the database is back; every attempt keeps to its time."""
    until = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        try:
            return await call()
        except StoreError:
            assert time.monotonic() - began < TIMEOUT_S + SLACK_S
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


@pytest.fixture
async def store(open_store, postgres, make_record, make_row):
    """A store over PostgreSQL that has answered and holds one record."""
    store = open_store(postgres.url(postgres.create()), timeout_s=TIMEOUT_S)
    await eventually(store.open)
    await store.save(make_record(1, 1), make_row(1))
    return store


@pytest.mark.slow
async def test_a_killed_server(store, postgres, make_record, make_row):
    postgres.kill()

    assert "hunter2" not in await refused(store.save(make_record(1, 2), make_row(2)))
    await refused(store.load())
    await refused(store.audit_page())
    assert not store.healthy
    assert store.last_error

    postgres.start()
    assert [record.revision for record in await eventually(store.load)] == [1]
    await store.save(make_record(1, 2), make_row(2))
    assert store.healthy


async def test_a_restart_between_two_calls_costs_none(store, postgres, make_record, make_row):
    postgres.kill()
    postgres.start()

    await store.save(make_record(1, 2), make_row(2))
    assert [record.revision for record in await store.load()] == [2]


@pytest.mark.slow
async def test_a_server_that_is_stopped_in_the_middle(store, postgres, make_record, make_row):
    """Its kernel still acknowledges every byte, so TCP sees nothing wrong."""
    await store.load()
    postgres.stop_answering()
    try:
        assert "no answer within 0.95 s" in await refused(store.save(make_record(1, 2), make_row(2)))
        await refused(store.load())
        # All at once: each has its own time, none waits for those before it.
        began = time.monotonic()
        results = await asyncio.gather(
            *(store.save(make_record(n, 2), make_row(n)) for n in range(2, 12)), return_exceptions=True
        )
        assert all(isinstance(result, StoreError) for result in results)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    finally:
        postgres.resume()

    # What timed out may have been carried out or not; written again it is there once, with its row.
    await eventually(lambda: store.write([make_record(1, 3)], [make_row(2), make_row(3)]))
    assert {r.id: r.revision for r in await eventually(store.load)}["opt_1"] == 3
    assert {row.id for row in await store.audit_page()} >= {"opt_1:1", "opt_1:2", "opt_1:3"}


@pytest.mark.slow
async def test_closing_never_hangs(store, postgres, make_record, make_row):
    postgres.stop_answering()
    try:
        pending = [asyncio.create_task(store.save(make_record(1, 2), make_row(2))) for _ in range(3)]
        await asyncio.sleep(0)
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 2 * (TIMEOUT_S + SLACK_S)
        await asyncio.wait(pending, timeout=TIMEOUT_S)
        assert all(isinstance(task.exception(), StoreError) for task in pending)
        await store.close()
    finally:
        postgres.resume()


async def test_the_threads_of_a_closed_store_end(store):
    await store.load()
    named = [thread for thread in threading.enumerate() if thread.name.startswith("optimizations-")]
    assert len(named) >= 2
    await store.close()
    for thread in named:
        thread.join(1.0)
    assert not any(thread.is_alive() for thread in named)


@pytest.fixture
def black_hole():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
async def test_a_socket_that_never_answers(open_store, black_hole, make_record, make_row):
    store = open_store(f"postgresql://u:hunter2@127.0.0.1:{black_hole}/d", timeout_s=TIMEOUT_S)

    assert "hunter2" not in await refused(store.open())
    await refused(store.load())
    await refused(store.save(make_record(), make_row()))
    assert not store.healthy
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < 2 * (TIMEOUT_S + SLACK_S)


@pytest.mark.slow
def test_a_silent_server_does_not_keep_the_process(black_hole, tmp_path):
    """Not even when it ends without closing the store."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from optimizer.control_store.store import SqlStore\n"
        "async def main():\n"
        f"    store = SqlStore('postgresql://u@127.0.0.1:{black_hole}/d', directory=pathlib.Path('.'), timeout_s=0.5)\n"
        "    try:\n"
        "        await store.open()\n"
        "    except Exception as error:\n"
        "        print(error)\n"
        "asyncio.run(main())\n"
    )
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, check=True, timeout=20, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert time.monotonic() - began < 5
    assert ended.stdout.strip() == "no answer within 0.475 s"
    assert ended.stderr.strip() == "the database of optimizations is away: no answer within 0.475 s"


@pytest.mark.slow
async def test_a_lock_that_somebody_holds(open_store, postgres, make_record, make_row):
    """The server gives up by itself."""
    url = postgres.url(postgres.create())
    store = open_store(url, timeout_s=TIMEOUT_S)
    await eventually(store.open)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE optimizations IN ACCESS EXCLUSIVE MODE")
        await refused(store.save(make_record(1, 2), make_row(2)))
        await refused(store.load())
    await eventually(lambda: store.write([make_record(1, 2)], [make_row(2)]))
    assert [record.revision for record in await store.load()] == [2]


async def test_a_database_that_was_lost_is_made_anew(open_store, postgres, make_record, make_row):
    name = postgres.create()
    store = open_store(postgres.url(name))
    await store.save(make_record(1, 4), make_row(1))
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    await refused(store.save(make_record(1, 5), make_row(2)), within=5)
    postgres.execute(f"CREATE DATABASE {name}")
    await eventually(lambda: store.write([make_record(1, 5)], [make_row(1), make_row(2)]))
    assert [record.revision for record in await store.load()] == [5]


async def test_dropped_tables_come_back(open_store, postgres, make_record, make_row):
    name = postgres.create()
    store = open_store(postgres.url(name))
    await store.save(make_record(1, 4), make_row(1))
    postgres.execute("DROP SCHEMA public CASCADE", name)
    postgres.execute("CREATE SCHEMA public", name)

    assert "does not exist" in await refused(store.save(make_record(1, 5), make_row(2)), within=5)
    await store.save(make_record(1, 5), make_row(2))
    assert [record.revision for record in await store.load()] == [5]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@127.0.0.1:1/d",
        "postgresql://u:hunter2@nowhere.invalid/d",
        "postgresql://u:hunter2@/d?host=/nowhere",
        "postgresql://u:hunter2@127.0.0.1:99999/d",
        "postgresql://u:hunter2@127.0.0.1:hunter2/d",
        "postgresql://u:hunter2@127.0.0.1:1/d?sslmode=hunter2",
        "postgresql://u:hunter2@127.0.0.1:1/d?no_such_option=hunter",
        "mysql://u:hunter2@h/d",
        "sqlite://",
        "sqlite:///:memory:",
        "hunter2",
        "",
        "://hunter2",
    ],
)
async def test_a_url_that_leads_nowhere(open_store, url, make_record, make_row):
    store = open_store(url, timeout_s=5)

    message = await refused(store.open(), within=5.5)
    await refused(store.save(make_record(), make_row()), within=5.5)
    assert message
    if "sslmode" not in url:
        assert "hunter2" not in message


async def test_other_spellings_of_postgresql(open_store, postgres, make_record, make_row):
    url = postgres.url(postgres.create())
    for scheme in ("postgres", "postgresql+psycopg2", "postgresql+asyncpg"):
        store = open_store(url.replace("postgresql", scheme, 1) + "?application_name=mine")
        await store.write([make_record()], [make_row()])
        assert len(await store.load()) == 1
    by_socket = (
        f"postgresql://postgres@/{url.rpartition('/')[2]}?host={postgres.directory}&port={postgres.port}"
    )
    assert len(await open_store(by_socket).load()) == 1
    assert len(await open_store(url.replace("127.0.0.1", "localhost")).load()) == 1


async def test_a_wrong_database_or_user_is_named(open_store, postgres):
    message = await refused(open_store(postgres.url("nowhere")).open(), within=5)
    assert 'database "nowhere" does not exist' in message


async def test_an_encoding_that_can_not_hold_every_text_is_refused(open_store, postgres, make_record):
    latin = postgres.create("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    message = await refused(open_store(postgres.url(latin)).open(), within=5)
    assert "LATIN1" in message
    anything = open_store(postgres.url(postgres.create("ENCODING 'SQL_ASCII' TEMPLATE template0")))
    await anything.write([make_record()], [])
    assert await anything.load() == [make_record()]


async def test_a_server_that_only_reads_until_another_takes_over(open_store, postgres, make_record, make_row):
    name = postgres.create()
    store = open_store(postgres.url(name))
    await store.save(make_record(1, 1), make_row(1))
    await store.close()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = open_store(postgres.url(name))

    assert "read-only" in await refused(store.save(make_record(1, 2), make_row(2)), within=5)
    assert len(await store.load()) == 1
    # Only new sessions see that: a connection that was kept would go on refusing.
    postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await store.save(make_record(1, 2), make_row(2))


async def test_one_connection_is_enough(open_store, postgres, make_record, make_row):
    name = postgres.create()
    store = open_store(postgres.url(name), max_connections=1)
    await store.save(make_record(1, 1), make_row(1))
    assert len(await store.load()) == 1
    counted = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    assert postgres.execute(counted) == [(1,)]
    wide = open_store(postgres.url(name), max_connections=20)
    await wide.save(make_record(1, 2), make_row(2))
    assert len(await wide.load()) == 1
    assert postgres.execute(counted) == [(3,)]


_STARTER = """
import asyncio, pathlib, sys
from optimizer.control_store.store import SqlStore
async def main():
    store = SqlStore(sys.argv[1] or None, directory=pathlib.Path(sys.argv[2]), timeout_s=20)
    sys.stdin.read(1)
    await store.open()
    print(len(await store.load()))
    await store.close()
asyncio.run(main())
"""


@pytest.mark.slow
async def test_programs_that_start_at_once_migrate_once(url, tmp_path):
    starters = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", _STARTER, url or "", str(tmp_path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        for _ in range(4)
    ]  # fmt: skip
    ended = await asyncio.gather(*(starter.communicate(b"\n") for starter in starters))

    assert [(out.strip(), err) for out, err in ended] == [(b"0", b"")] * 4


async def test_stores_of_one_process_may_start_at_once(open_store, url):
    stores = [open_store(url, timeout_s=20) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert all(store.healthy for store in stores)


@pytest.fixture
def pooler(postgres):
    """The port of a pgbouncer that gives every transaction whichever connection is free."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = postgres.directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        "unix_socket_dir =\n"
    )
    settings.chmod(0o644)
    child = subprocess.Popen(
        [*postgres.unprivileged, binary, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield port
    child.terminate()
    child.wait()


async def test_behind_a_pooler(open_store, postgres, pooler, make_record, make_row):
    """Nothing is set that the next transaction's connection would not have."""
    name = postgres.create()
    postgres.execute(f"ALTER DATABASE {name} SET statement_timeout = '12345ms'")
    url = postgres.url(name).replace(str(postgres.port), str(pooler))
    stores = [open_store(url, timeout_s=5) for _ in range(4)]
    await eventually(stores[0].open, 10)
    for step in range(1, 6):
        await asyncio.gather(*(store.write([make_record(1, step)], [make_row(step)]) for store in stores))
        assert [[r.revision for r in await store.load()] for store in stores] == [[step]] * 4
    with psycopg.connect(url) as other:
        assert other.execute("SHOW statement_timeout").fetchone() == ("12345ms",)
