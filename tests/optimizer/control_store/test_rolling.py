"""Old and new programs over one database while nodes are upgraded one after the other."""

import asyncio
import os
import shutil
import sys

import pytest
from sqlalchemy import create_engine, inspect, text

from optimizer.control_store.errors import StoreError
from optimizer.control_store.upgrade import SCRIPTS, to_head

MIGRATIONS = sorted(path.name for path in (SCRIPTS / "versions").glob("v*.py"))


@pytest.fixture
def older(tmp_path):
    """``older(count)``: the migrations of a program that knows the first ``count`` only."""

    def make(count):
        made = tmp_path / f"first-{count}"
        shutil.copytree(SCRIPTS, made, ignore=shutil.ignore_patterns("__pycache__"))
        for name in MIGRATIONS[count:]:
            (made / "versions" / name).unlink()
        return made

    return make


@pytest.fixture
def engine(url, tmp_path):
    """Plain SQLAlchemy over the database of ``url``."""
    target = (
        url.replace("postgresql:", "postgresql+psycopg:")
        if url
        else f"sqlite:///{tmp_path}/optimizations.sqlite3"
    )
    made = create_engine(target)
    yield made
    made.dispose()


def version(engine):
    with engine.begin() as connection:
        return connection.scalar(text("SELECT version_num FROM optimizer_schema"))


def columns(engine):
    """Of every table, the names of the columns and whether they may be left out."""
    seen = inspect(engine)
    return {
        table: {
            column["name"]: column["nullable"] or column["default"] is not None
            for column in seen.get_columns(table)
        }
        for table in seen.get_table_names()
    }


@pytest.mark.parametrize("count", range(1, len(MIGRATIONS)))
async def test_an_older_program_works_on(open_store, url, engine, older, count, make_record, make_row):
    """It opens the newer schema as it is, without a step back and without a step forward."""
    newer = open_store(url)
    await newer.save(make_record(), make_row())
    after = columns(engine)

    with engine.begin() as connection:
        to_head(connection, 5.0, scripts=older(count))

    assert columns(engine) == after
    assert version(engine) == f"{len(MIGRATIONS):04}"


@pytest.mark.parametrize("count", range(1, len(MIGRATIONS)))
async def test_steps_only_add(open_store, url, engine, older, count):
    """Whatever an older program writes fits: no table or column goes, and none that is new has to be given."""
    with engine.begin() as connection:
        to_head(connection, 5.0, scripts=older(count))
    before = columns(engine)
    await open_store(url).open()
    after = columns(engine)

    for table, known in before.items():
        assert known.items() <= after[table].items()
        assert all(may_be_left_out for name, may_be_left_out in after[table].items() if name not in known)


async def test_what_an_older_program_kept_is_there(open_store, url, engine, older, make_record, make_row):
    """The step forward with data in the tables, and a store of the older program that stays open beside it."""
    with engine.begin() as connection:
        to_head(connection, 5.0, scripts=older(1))
    old = open_store(url)
    await old.save(make_record(1, 1), make_row(1))
    new = open_store(url)
    await new.open()

    await old.save(make_record(1, 2), make_row(2))
    await new.save(make_record(1, 3), make_row(3))
    assert await old.load() == [make_record(1, 3)]
    assert len(await new.audit_page()) == 3


async def test_another_thousand_is_refused(open_store, url, engine):
    """A schema to which was not only added, or whose number nobody gave."""
    await open_store(url).open()
    for number in ("1000", "9999", "ab12cd34"):
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE optimizer_schema SET version_num = '{number}'"))
        with pytest.raises(StoreError, match="use the newer program"):
            await open_store(url).load()
        assert version(engine) == number


async def test_revisions_are_numbered(engine):
    assert [name[1:5] for name in MIGRATIONS] == [f"{n:04}" for n in range(1, len(MIGRATIONS) + 1)]


_OLD = """
import pathlib, sys
from sqlalchemy import create_engine, text
from optimizer.control_store.upgrade import to_head
engine = create_engine(sys.argv[1].replace("postgresql:", "postgresql+psycopg:"))
sys.stdin.read(1)
with engine.begin() as connection:
    to_head(connection, 20.0, scripts=pathlib.Path(sys.argv[2]))
with engine.begin() as connection:
    connection.execute(text("SELECT count(*) FROM optimizations"))
engine.dispose()
print("works")
"""
_NEW = """
import asyncio, pathlib, sys
from optimizer.control_store.shard_book import SqlShardBook
from optimizer.control_store.store import SqlStore
async def main():
    store = SqlStore(sys.argv[1], directory=pathlib.Path("."), timeout_s=20)
    sys.stdin.read(1)
    await SqlShardBook(store).take(int(sys.argv[2]), "node")
    await store.close()
    print("works")
asyncio.run(main())
"""


@pytest.mark.slow
async def test_old_and_new_programs_that_start_at_once(postgres, older):
    """Four new ones and an old one over the old schema: one migrates, each works."""
    url = postgres.url(postgres.create())
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    scripts = older(1)
    with engine.begin() as connection:
        to_head(connection, 5.0, scripts=scripts)
    commands = [(_NEW, str(number)) for number in range(4)] + [(_OLD, str(scripts))]
    programs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", program, url, argument,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        for program, argument in commands
    ]  # fmt: skip
    ended = await asyncio.gather(*(program.communicate(b"\n") for program in programs))

    assert [(out.strip(), err) for out, err in ended] == [(b"works", b"")] * len(programs)
    assert version(engine) == f"{len(MIGRATIONS):04}"
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM shards")) == 4
    engine.dispose()
