"""The SQLite file when the disk, another program or an operator does something to it."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from optimizer.control_store.errors import StoreError

NAME = "optimizations.sqlite3"


async def refused(call, within=2.0):
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await call
    assert time.monotonic() - began < within
    return str(caught.value)


async def test_the_file_is_private_and_every_commit_is_synced(open_store, tmp_path, make_record, make_row):
    store = open_store()
    await store.save(make_record(), make_row())

    for path in tmp_path.glob(NAME + "*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # The pragma is a connection's own: only this one can tell.
    level = await store.ask(
        lambda used: used._run(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar()), "write"
    )
    assert level == 2
    with sqlite3.connect(tmp_path / NAME) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


async def test_a_url_may_name_the_file(open_store, tmp_path, make_record, make_row):
    path = tmp_path / "my file.db"
    for url in (f"sqlite:///{path}", f"sqlite+pysqlite:///{path}"):
        store = open_store(url)
        await store.write([make_record()], [make_row()])
        await store.close()

    assert path.exists()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("content", [b"no database at all " * 500, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_file_that_is_no_database_is_moved_aside(
    open_store, tmp_path, content, caplog, make_record, make_row
):
    (tmp_path / NAME).write_bytes(content)
    store = open_store()

    assert await store.load() == []
    await store.save(make_record(), make_row())
    assert (tmp_path / f"{NAME}.corrupt-1").read_bytes() == content
    assert "damaged" in caplog.text


async def filled(open_store, make_record, make_row):
    """More than SQLite's cache of pages holds."""
    store = open_store()
    await store.write(
        [make_record(n, name="n" * 10_000) for n in range(300)], [make_row(n) for n in range(300)]
    )
    await store.close()


def damage(path):
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data) - 4096, 4096):
        data[page : page + 64] = b"\xa5" * 64
    path.write_bytes(data)


async def test_damage_inside_is_found_at_the_start(open_store, tmp_path, make_record, make_row):
    await filled(open_store, make_record, make_row)
    damage(tmp_path / NAME)
    store = open_store()

    assert await store.load() == []
    await store.write([make_record(n, 2) for n in range(3)], [])
    assert len(await store.load()) == 3
    assert (tmp_path / f"{NAME}.corrupt-1").exists()


async def test_damage_while_it_runs_is_one_error(open_store, tmp_path, make_record, make_row):
    await filled(open_store, make_record, make_row)
    store = open_store()
    await store.open()
    damage(tmp_path / NAME)

    await refused(store.load())
    await store.save(make_record(1, 2), make_row(2))
    assert [record.revision for record in await store.load()] == [2]
    assert (tmp_path / f"{NAME}.corrupt-1").exists()


async def test_another_program_that_holds_the_lock(open_store, tmp_path, make_record, make_row):
    store = open_store(timeout_s=0.5)
    await store.save(make_record(), make_row())
    other = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    assert "locked" in await refused(store.save(make_record(1, 2), make_row(2)), within=2.0)
    other.execute("ROLLBACK")
    other.close()
    await store.save(make_record(1, 2), make_row(2))
    assert store.healthy


async def test_a_directory_in_its_place(open_store, tmp_path, make_record, make_row):
    (tmp_path / NAME).mkdir()
    store = open_store()

    assert "unable to open" in await refused(store.save(make_record(), make_row()))
    (tmp_path / NAME).rmdir()
    await store.save(make_record(), make_row())


async def test_a_directory_that_is_not_there(open_store, tmp_path, make_record, make_row):
    store = open_store(f"sqlite:///{tmp_path}/nowhere/file.db")
    assert "nowhere" in await refused(store.open())
    (tmp_path / "nowhere").mkdir()
    await store.open()


_SAVER = """
import asyncio, os, pathlib, resource, signal, sys
from optimizer.control_store.store import SqlStore
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.records import Optimization, Status

def record(revision, size=10):
    return Optimization("opt_1", "n" * size, "s", "r", {}, Status.COLLECTING, revision, "api", 1.0, 2.0)

def row(revision):
    return AuditRow(f"opt_1:{revision}", 1.0, "local", "a", "opt_1")

async def main():
    store = SqlStore(None, directory=pathlib.Path(sys.argv[1]))
    BODY
asyncio.run(main())
"""


def program(tmp_path, body):
    text = _SAVER.replace("BODY", body.strip().replace("\n", "\n    "))
    return [sys.executable, "-c", text, str(tmp_path)], {**os.environ, "PYTHONPATH": os.getcwd()}


async def test_what_was_answered_survives_kill(open_store, tmp_path):
    command, environment = program(
        tmp_path,
        "for revision in range(1, 10_000):\n    await store.save(record(revision), row(revision))\n"
        "    print(revision, flush=True)",
    )
    child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    for _ in range(20):
        answered = int(await child.stdout.readline())
    child.kill()
    rest = (await child.stdout.read()).split()
    await child.wait()
    answered = int(rest[-1]) if rest else answered
    store = open_store()

    (record,) = await store.load()
    assert record.revision in (answered, answered + 1)
    # Record and row are one transaction.
    assert len(await store.audit_page(limit=100_000)) == record.revision


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_heals(tmp_path):
    """A limit on the size of files stands in for the disk's."""
    command, environment = program(
        tmp_path,
        """
await store.save(record(1), row(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
failed = 0
for revision in range(2, 6):
    try:
        await store.save(record(revision, 300_000), row(revision))
    except Exception as error:
        failed += 1
        print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print([found.revision for found in await store.load()], [found.id for found in await store.audit_page()])
await store.save(record(9, 300_000), row(9))
print([found.revision for found in await store.load()])
await store.close()
""",
    )
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert ended.stdout.split("\n")[:6] == [*["StoreError"] * 4, "[1] ['opt_1:1']", "[9]"]


@pytest.fixture
def unprivileged():
    """``(a command's start that gives up root, whom no mode stops, a directory for it)``."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-") as directory:
        prefix = []
        if os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
            prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        yield prefix, Path(directory)
        Path(directory).chmod(0o700)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="setpriv is not installed (apt-get install util-linux)"
)
def test_a_file_that_may_only_be_read(unprivileged):
    prefix, directory = unprivileged
    command, environment = program(
        directory,
        """
await store.save(record(1), row(1))
await store.close()
files = list(pathlib.Path(sys.argv[1]).glob("optimizations*"))
for path in files:
    path.chmod(0o400)
os.chmod(sys.argv[1], 0o500)
store = SqlStore(None, directory=pathlib.Path(sys.argv[1]))
try:
    await store.save(record(2), row(2))
except Exception as error:
    print(type(error).__name__, store.healthy)
await store.close()
""",
    )
    ended = subprocess.run([*prefix, *command], env=environment, capture_output=True, text=True, check=False)

    assert ended.stdout.strip() == "StoreError False", ended.stderr
