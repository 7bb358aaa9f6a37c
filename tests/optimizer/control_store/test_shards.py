"""Who may write for a shard, held by SQLite and by a real PostgreSQL alike."""

import asyncio
import os
import random
from dataclasses import replace

import pytest

from optimizer.cluster.types import Fenced, Snapshot
from optimizer.control_store.errors import SnapshotTooLarge
from optimizer.control_store.shard_book import MAX_SNAPSHOT_BYTES, SqlShardBook
from optimizer.control_store.shard_store import ShardStore
from optimizer.rollouts.audit import AuditFilter

NOW = 1_795_000_000.0
LEFT = Snapshot(offset=12, segment=1, byte=3400, data=b"\0\xfflearned", saved_at=NOW + 5.5)


class Clock:
    """Unix seconds that stand still."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_book(open_store, clock):
    """``open_book(url)``: a store and its book."""

    def open_(url):
        store = open_store(url, timeout_s=10.0)
        return store, SqlShardBook(store, now=clock)

    return open_


@pytest.fixture
def book(open_book, url):
    return open_book(url)[1]


async def test_the_first_number_of_shards_holds(open_book, url):
    _, book = open_book(url)
    _, other = open_book(url)

    counted = await asyncio.gather(book.shards("llm-feedback", 12), other.shards("llm-feedback", 24))

    assert counted in ([12, 12], [24, 24])
    assert await book.shards("llm-feedback", 48) == counted[0]
    assert await book.shards("another", 3) == 3


async def test_each_tenure_has_a_higher_number(book, clock):
    first = await book.take(3, "node-a")
    second = await book.take(3, "node-a")
    clock.now -= 1000
    third = await book.take(3, "node-b")
    clock.now += 5000
    fourth = await book.take(3, "node-b")
    elsewhere = await book.take(4, "node-c")

    assert first.generation == int(NOW)
    assert first.generation < second.generation < third.generation < fourth.generation
    # A database that was lost would begin there, and whoever heard of the numbers before goes on believing the highest.
    assert fourth.generation >= int(clock.now)
    assert {shard: (held.owner, held.generation) for shard, held in (await book.holders()).items()} == {
        3: ("node-b", fourth.generation),
        4: ("node-c", elsewhere.generation),
    }


async def test_what_an_owner_left_is_the_next_ones(open_book, url):
    _, book = open_book(url)
    await book.shards("llm-feedback", 4)
    tenure = await book.take(0, "node-a")
    assert tenure.snapshot is None

    await book.save(tenure, replace(LEFT, offset=1, data=b"older"))
    await book.save(tenure, LEFT)

    _, other = open_book(url)
    await other.shards("llm-feedback", 4)
    assert (await other.take(0, "node-b")).snapshot == LEFT
    assert (await other.take(1, "node-b")).snapshot is None
    held = (await other.holders())[0]
    assert (held.offset, held.saved_at, held.taken_at) == (12, LEFT.saved_at, NOW)


async def test_offsets_into_another_topic_mean_nothing(open_book, url):
    """The fence is the shard's whatever the topic is called; what was learned is not."""
    _, book = open_book(url)
    await book.shards("one", 4)
    tenure = await book.take(0, "node-a")
    await book.save(tenure, LEFT)

    _, other = open_book(url)
    await other.shards("two", 4)
    assert (await other.take(0, "node-b")).snapshot is None
    with pytest.raises(Fenced):
        await book.save(tenure, LEFT)


async def test_a_tenure_that_is_over_writes_nothing(open_book, url, make_record, make_row):
    store, book = open_book(url)
    old = await book.take(0, "node-a")
    said = []
    zombie = ShardStore(store, old, lambda route: True, fenced=lambda: said.append("fenced"))
    await zombie.save(make_record(1, 1), make_row(1))
    await book.save(old, LEFT)
    assert not zombie.is_fenced

    new = await book.take(0, "node-b")
    for write in (
        lambda: zombie.save(make_record(1, 2), make_row(2)),
        lambda: zombie.write([make_record(1, 3), make_record(2, 1)], [make_row(3)]),
        lambda: zombie.write([], [make_row(4)]),
        lambda: book.save(old, replace(LEFT, data=b"late")),
    ):
        with pytest.raises(Fenced):
            await write()

    assert zombie.is_fenced
    assert said == ["fenced"]
    assert store.healthy, "a refusal is an answer"
    assert await store.load() == [make_record(1, 1)]
    assert [row.id for row in await store.audit_page()] == ["opt_1:1"]
    assert (await book.take(0, "node-c")).snapshot == LEFT
    with pytest.raises(Fenced):
        await book.save(new, LEFT)


async def test_a_shard_that_the_database_does_not_know_is_fenced(open_book, url, make_record, make_row):
    """It was put back from an old copy, or emptied: nobody owns anything any more."""
    from optimizer.cluster.types import Tenure

    store, book = open_book(url)
    with pytest.raises(Fenced):
        await book.save(Tenure(7, 12), LEFT)
    with pytest.raises(Fenced):
        await ShardStore(store, Tenure(7, 12), lambda route: True).save(make_record(), make_row())
    assert await store.load() == []


async def test_forgetting_ends_every_tenure(book):
    first, second = await book.take(0, "node-a"), await book.take(1, "node-b")
    await book.save(first, LEFT)

    await book.forget()

    assert await book.holders() == {}
    for tenure in (first, second):
        with pytest.raises(Fenced):
            await book.save(tenure, LEFT)
    again = await book.take(0, "node-a")
    assert again.snapshot is None
    assert again.generation > first.generation


async def test_forgetting_while_owners_save(open_book, url):
    """No save is left over, and neither waits for the other for ever."""
    stores = [open_book(url) for _ in range(3)]
    tenures = [await book.take(number, "node") for number, (_, book) in enumerate(stores)]

    async def save(book, tenure):
        for _ in range(200):
            try:
                await book.save(tenure, LEFT)
            except Fenced:
                return

    saving = [asyncio.create_task(save(book, t)) for (_, book), t in zip(stores, tenures, strict=True)]
    for book in (stores[0][1], stores[1][1], stores[2][1]):
        await asyncio.sleep(0.02)
        await book.forget()
    await asyncio.gather(*saving)

    for number, (_, book) in enumerate(stores):
        assert (await book.take(number, "node")).snapshot is None


async def test_a_shard_sees_its_routes_and_everybodys_audit(open_book, url, make_record, make_row):
    store, book = open_book(url)
    mine = ShardStore(store, await book.take(0, "node-a"), lambda route: route.startswith("a"))
    await store.write([make_record(2, route="billing")], [make_row(2, actor="else")])
    await mine.save(make_record(1, route="auto"), make_row(1))
    await mine.remember("key", "hash", 201, b"{}")

    assert await mine.load() == [make_record(1, route="auto")]
    assert len(await store.load()) == 2
    assert [row.id for row in await mine.audit_page(AuditFilter(actor="else"))] == ["opt_1:2"]
    assert (await store.recall("key")).status == (await mine.recall("key")).status == 201
    await mine.close()
    assert await mine.load(), "the store is the node's"
    assert mine.healthy


async def test_a_snapshot_has_a_bound(book):
    tenure = await book.take(0, "node-a")
    await book.save(tenure, LEFT)

    with pytest.raises(SnapshotTooLarge, match="67108865"):
        await book.save(tenure, replace(LEFT, data=bytes(MAX_SNAPSHOT_BYTES + 1)))
    assert (await book.take(0, "node-a")).snapshot == LEFT


@pytest.mark.slow
async def test_the_largest_snapshot_comes_back(book):
    tenure = await book.take(0, "node-a")
    large = replace(LEFT, data=os.urandom(MAX_SNAPSHOT_BYTES))

    await book.save(tenure, large)
    await book.save(tenure, large)

    assert (await book.take(0, "node-a")).snapshot == large


@pytest.mark.slow
async def test_two_that_race_are_never_both_owners(open_book, url, make_record, make_row):
    """Whatever is interleaved: what is stored was written by tenures in their order, each before the next began."""
    rng = random.Random(20_261_123)
    stores = [open_book(url) for _ in range(2)]
    writes = []

    async def owner(number):
        store, book = stores[number]
        for _ in range(12):
            try:
                tenure = await book.take(0, f"node-{number}")
            except Fenced:
                continue
            view = ShardStore(store, tenure, lambda route: True)
            for _ in range(rng.randrange(8)):
                mark = len(writes)
                row = make_row(mark, id=f"{tenure.generation}-{mark}", actor=f"node-{number}")
                snapshot = replace(LEFT, offset=mark, data=str(tenure.generation).encode())
                writes.append(row.id)
                try:
                    if rng.random() < 0.5:
                        await view.write([], [row])
                    else:
                        await book.save(tenure, snapshot)
                except Fenced:
                    with pytest.raises(Fenced):
                        await view.save(make_record(mark), row)
                    break

    await asyncio.gather(owner(0), owner(1))

    store, book = stores[0]
    stored = await store.audit_page(limit=1000)
    by_order = [int(row.id.partition("-")[0]) for row in stored]
    assert stored
    # One generation's rows were asked for before the next one's, so a late one would be out of order.
    assert by_order == sorted(by_order, reverse=True)
    last = await book.take(0, "judge")
    assert last.generation > max(by_order)


async def test_a_race_has_one_winner(open_book, url):
    """Many at once for the same shard: at most the last may save."""
    stores = [open_book(url) for _ in range(4)]

    taken = await asyncio.gather(
        *(book.take(0, f"node-{number}") for number, (_, book) in enumerate(stores) for _ in range(3)),
        return_exceptions=True,
    )
    tenures = [tenure for tenure in taken if not isinstance(tenure, Fenced)]
    saved = await asyncio.gather(
        *(stores[0][1].save(tenure, LEFT) for tenure in tenures), return_exceptions=True
    )

    assert len({tenure.generation for tenure in tenures}) == len(tenures)
    assert sum(outcome is None for outcome in saved) == 1
    winner = tenures[saved.index(None)]
    assert winner.generation == max(tenure.generation for tenure in tenures)
    assert (await stores[0][1].holders())[0].generation == winner.generation
