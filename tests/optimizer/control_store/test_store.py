"""What a store promises, held by SQLite and by a real PostgreSQL alike."""

import asyncio
import random
import sys
from dataclasses import replace

import pytest

from optimizer.control_store.answers import KEEP_ANSWERS_S
from optimizer.control_store.errors import StaleRevision, StoreError, UnknownRow
from optimizer.rollouts.audit import AuditFilter
from optimizer.rollouts.records import Candidate, Effect, Proposal, Rollout, Status
from optimizer.settings import HealthChecks, Objective, PolicySettings, RolloutPlan, Stage


@pytest.fixture
def full_record(make_record):
    """A record with everything in it."""
    candidate = Candidate(
        ("small/default", "large/default"),
        "small/default",
        PolicySettings(name="fixed", fixed={"small/default": 0.9}),
        (Objective("cost", 0.7, False, 0.01),),
    )
    effect = Effect("cost", "usd", 0.01, 0.007, -0.003, -0.004, -0.002)
    return make_record(
        7,
        12,
        status=Status.RUNNING,
        auto_deploy=True,
        proposal=Proposal(candidate, "30 % cheaper", (effect,), {"small/default": 812.0}, 0.95, 1.5, 12.25),
        rollout=Rollout(
            "rol_1",
            2,
            RolloutPlan((Stage(0.5, 60.0, 50, 600.0), Stage(100.0)), HealthChecks(error_rate=0.02), True),
            {"arms": "ab12"},
            1.25,
            1,
            2.5,
            2.5,
            812.5,
            None,
        ),
        measured={"error": {"verdict": "pass", "e_value": 0.25}},
        attempts=2,
    )


async def test_a_record_comes_back_as_it_was(store, full_record, make_record, make_row):
    plain = make_record(1)
    await store.save(full_record, make_row(1))
    await store.save(plain, make_row(2))

    assert await store.load() == [plain, full_record]
    assert store.healthy


async def test_the_highest_revision_wins_whatever_comes_when(store, make_record, make_row):
    await store.save(make_record(1, 5), make_row(5))

    with pytest.raises(StaleRevision) as caught:
        await store.save(make_record(1, 4), make_row(4))
    await store.write([make_record(1, 3), make_record(2, 2)], [make_row(3)])

    assert (caught.value.stored, caught.value.revision) == (5, 4)
    assert [(record.id, record.revision) for record in await store.load()] == [("opt_1", 5), ("opt_2", 2)]
    # What could not be saved left no row either.
    assert [row.id for row in await store.audit_page()] == ["opt_1:5", "opt_1:3"]
    assert store.healthy, "a refusal is an answer"


async def test_every_write_may_be_repeated(store, make_record, make_row):
    record, row = make_record(1, 2, parameters={"a": float("inf"), "b": [1, 2]}), make_row(1)
    for _ in range(2):
        await store.save(record, row)
        await store.write([record], [row])

    with pytest.raises(StaleRevision):
        await store.save(replace(record, reason="another"), row)
    assert len(await store.load()) == 1
    assert await store.audit_page() == [row]


async def test_writes_in_one_batch_may_name_a_record_twice(store, make_record, make_row):
    await store.write([make_record(1, 2), make_record(1, 3), make_record(1, 1)], [make_row(1), make_row(1)])

    assert [record.revision for record in await store.load()] == [3]


async def test_a_large_backlog_is_written_in_pieces(store, make_record, make_row):
    await store.write([make_record(n) for n in range(1200)], [make_row(n) for n in range(2300)])

    assert len(await store.load()) == 1200
    assert len(await store.audit_page(limit=5000)) == 2300


async def test_nothing_to_write_is_no_call(store):
    await store.write([], [])
    assert not store.healthy


async def test_pages_of_the_audit_fit_together(store, make_row):
    # Rows of one moment are told apart by their id.
    rows = [make_row(n, at=float(n // 3), id=f"e{n:03}") for n in range(20)]
    await store.write([], rows)

    seen, before = [], None
    while page := await store.audit_page(limit=7, before=before):
        seen += page
        before = page[-1].id

    assert seen == rows[::-1]
    with pytest.raises(UnknownRow):
        await store.audit_page(before="nobody")
    assert store.healthy


async def test_the_audit_can_be_filtered(store, make_row):
    rows = [
        make_row(1),
        make_row(2, actor="admin key 12ab34cd"),
        make_row(3, action="keys.create", target="k" * 10_000),
        make_row(4, actor="admin key 12ab34cd", action="keys.create"),
    ]
    await store.write([], rows)

    async def ids(**words):
        return [row.id[-1] for row in await store.audit_page(AuditFilter(**words))]

    assert await ids(actor="admin key 12ab34cd") == ["4", "2"]
    assert await ids(action="keys.create") == ["4", "3"]
    assert await ids(actor="admin key 12ab34cd", action="keys.create") == ["4"]
    assert await ids(target="opt_1") == ["4", "2", "1"]
    assert await ids(target="k" * 10_000) == ["3"]
    assert await ids(target="' OR 1=1 --") == []
    assert [row.id[-1] for row in rows if AuditFilter(actor="local").matches(row)] == ["1", "3"]


async def test_no_value_blocks_what_comes_behind_it(store, make_record, make_row):
    """A row that the database refused would be tried for ever, and everything after it."""
    odd = "nul \0, lone \ud800, long " + "x" * 20_000
    record = make_record(1, name=odd, parameters={"deep": [float("nan"), odd, 2**80, {1: "one"}]})
    await store.save(record, make_row(1, actor=odd, target=odd, detail={odd: odd, "n": float("-inf")}))
    await store.save(record, make_row(1))
    await store.write([record, make_record(2)], [make_row(2, action=odd), make_row(3)])

    first, second = await store.load()
    assert first.parameters["deep"][0] is None
    assert first.parameters["deep"][2:] == [2**80, {"1": "one"}]
    assert first.name == odd
    assert second.id == "opt_2"
    assert len(await store.audit_page()) == 3


async def test_answers_are_remembered_for_a_day(open_store, url):
    now = [1_795_000_000.0]
    store = open_store(url, now=lambda: now[0])
    await store.remember("key", "hash", 201, b'{"id":"opt_1"}\xff\0')
    await store.remember("key", "other", 409, b"second")

    found = await store.recall("key")
    assert (found.request_hash, found.status, found.body) == ("hash", 201, b'{"id":"opt_1"}\xff\0')
    assert await store.recall("another") is None

    now[0] += KEEP_ANSWERS_S
    assert await store.recall("key") is None
    await store.remember("key", "third", 200, b"")
    assert (await store.recall("key")).request_hash == "third"


async def test_a_record_that_can_not_be_read_hides_no_other(store, make_record, make_row, caplog):
    await store.write([make_record(1), make_record(2, status="from the future"), make_record(3)], [])

    assert [record.id for record in await store.load()] == ["opt_1", "opt_3"]
    assert "opt_2" in caplog.text
    # It is not lost either: an older state does not overwrite it.
    with pytest.raises(StaleRevision):
        await store.save(make_record(2), make_row(1))


async def test_it_is_all_there_after_a_restart(open_store, url, make_record, make_row):
    first = open_store(url)
    await first.save(make_record(1, 3), make_row(1))
    await first.remember("key", "hash", 200, b"{}")
    await first.close()
    second = open_store(url)

    assert await second.load() == [make_record(1, 3)]
    assert await second.audit_page() == [make_row(1)]
    assert (await second.recall("key")).status == 200
    with pytest.raises(StoreError, match="closed"):
        await first.load()


async def test_many_callers_at_once(store, make_record, make_row):
    await asyncio.gather(
        *(store.save(make_record(n % 5, n), make_row(n)) for n in range(1, 60)),
        *(store.audit_page(limit=5) for _ in range(20)),
        return_exceptions=True,
    )

    assert {record.revision for record in await store.load()} == {55, 56, 57, 58, 59}


async def test_any_order_of_writes_ends_in_the_highest_revisions(store, make_record, make_row):
    """Against a model of a few lines."""
    rng = random.Random(20_261_122)
    highest, rows = {}, set()
    for step in range(150):
        batch = [(rng.randrange(6), rng.randrange(1, 40)) for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.5:
            number, revision = batch[0]
            if revision < highest.get(number, 0):
                with pytest.raises(StaleRevision):
                    await store.save(make_record(number, revision), make_row(step))
                continue
            await store.save(make_record(number, revision), make_row(step))
            highest[number] = revision
            rows.add(step)
        else:
            await store.write([make_record(*pair) for pair in batch], [make_row(step)])
            rows.add(step)
            for number, revision in batch:
                highest[number] = max(revision, highest.get(number, 0))

    assert await store.load() == [make_record(*pair) for pair in sorted(highest.items())]
    assert await store.audit_page(limit=1000) == [make_row(step) for step in sorted(rows, reverse=True)]


async def test_the_schema_is_what_the_statements_think(open_store, url, tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from optimizer.control_store.tables import METADATA
    from optimizer.control_store.upgrade import VERSION_TABLE

    await open_store(url).open()
    target = (
        url.replace("postgresql:", "postgresql+psycopg:")
        if url
        else f"sqlite:///{tmp_path}/optimizations.sqlite3"
    )
    engine = create_engine(target)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        differences = compare_metadata(context, METADATA)
    engine.dispose()

    assert differences == []


async def test_a_newer_schema_is_left_alone(open_store, url, make_record, make_row, tmp_path):
    from sqlalchemy import create_engine, text

    first = open_store(url)
    await first.save(make_record(), make_row())
    await first.close()
    target = (
        url.replace("postgresql:", "postgresql+psycopg:")
        if url
        else f"sqlite:///{tmp_path}/optimizations.sqlite3"
    )
    engine = create_engine(target)
    with engine.begin() as connection:
        connection.execute(text("UPDATE optimizer_schema SET version_num = '9999'"))
    engine.dispose()
    second = open_store(url)

    with pytest.raises(StoreError, match="use the newer program"):
        await second.load()
    with pytest.raises(StoreError, match="use the newer program"):
        await second.save(make_record(1, 2), make_row(2))
    assert not second.healthy
    assert "newer program" in second.last_error


def test_importing_the_store_imports_no_database():
    import subprocess

    program = (
        "import sys, optimizer.control_store.store\n"
        "print(*sorted({'sqlalchemy', 'alembic', 'psycopg', 'sqlite3'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
