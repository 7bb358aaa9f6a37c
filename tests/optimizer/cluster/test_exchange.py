"""The exchange over a real Redis: versions decide, whoever asks late or twice, and whatever Redis has lost."""

import asyncio
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.cluster.exchange import BLOB_S, RedisExchange
from optimizer.cluster.types import Away, Exchange, NodeState, SharedTable, Version
from optimizer.cluster.wire import BLOB_BYTES, TABLE_BYTES

LIMIT = 0.5
SLACK = 0.2


def table(shard: int, generation: int, number: int, data: bytes | None = None, *blobs: str) -> SharedTable:
    return SharedTable(
        shard, Version(generation, number), f"{generation}.{number}".encode() if data is None else data, blobs
    )


@pytest.fixture
def make_exchange(redis_server, make_link):
    """``make_exchange(address)``: one node's."""

    def make(address: str | None = None, **options) -> RedisExchange:
        url = redis_server.url_by(address) if address else redis_server.url
        link = make_link(url, **{"timeout_s": 5.0, **options})
        return RedisExchange(link)

    return make


def known(tables) -> dict[int, Version]:
    return {each.shard: each.version for each in tables}


async def test_it_is_an_exchange(make_exchange):
    exchange: Exchange = make_exchange()
    assert not exchange.up
    assert list(await exchange.tables({})) == []
    assert list(await exchange.nodes()) == []
    assert exchange.up


async def test_newer_tables_reach_the_other_nodes(make_exchange):
    one, two, three = make_exchange(), make_exchange(), make_exchange()
    assert await one.publish(table(1, 1, 1, b"\x00\r\n\xff"))
    assert await two.publish(table(7, 3, 5, b"", "sel-1", "prj-2"))
    seen = await three.tables({})
    assert seen == [table(1, 1, 1, b"\x00\r\n\xff"), table(7, 3, 5, b"", "sel-1", "prj-2")]
    assert await three.tables(known(seen)) == []
    assert await one.publish(table(1, 1, 2))
    assert await three.tables(known(seen)) == [table(1, 1, 2)]
    assert await three.tables({1: Version(2, 0), 7: Version(3, 4)}) == [seen[1]]


async def test_versions_decide(make_exchange):
    owner, zombie = make_exchange(), make_exchange()
    assert await zombie.publish(table(1, 4, 100))
    assert await owner.publish(table(1, 5, 1))
    assert not await zombie.publish(table(1, 4, 101))
    assert not await zombie.publish(table(1, 4, 100))
    assert await zombie.publish(table(2, 4, 101))  # Another shard is another matter.
    assert await owner.publish(table(1, 5, 3))
    assert await owner.publish(table(1, 5, 2, b"older"))
    assert await owner.publish(table(1, 5, 3, b"the same"))
    assert await zombie.tables({2: Version(4, 101)}) == [table(1, 5, 3)]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    offers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    seed=st.integers(),
)
async def test_racing_publishers_end_with_the_latest(make_exchange, redis_server, offers, seed):
    redis_server.flush()
    exchanges = [make_exchange() for _ in range(3)]
    rng = random.Random(seed)
    answers = await asyncio.gather(*(rng.choice(exchanges).publish(table(1, *offer)) for offer in offers))
    latest = max(offers)
    assert list(await exchanges[0].tables({})) == [table(1, *latest)]
    assert all(answer for answer, offer in zip(answers, offers, strict=True) if offer[0] == latest[0])
    again = [await exchanges[1].publish(table(1, *offer)) for offer in offers]
    assert again == [offer[0] == latest[0] for offer in offers]
    for exchange in exchanges:
        await exchange._link.close()


async def test_offering_again_costs_no_body_and_heals(make_exchange, redis_server):
    owner, other = make_exchange(), make_exchange()
    big = table(1, 2, 3, bytes(1_000_000), "sel-1")
    await owner.put_blob("sel-1", b"blob")
    assert await owner.publish(big)
    sent = owner.counts["tables"]
    for _ in range(3):
        await owner.put_blob("sel-1", b"blob")
        assert await owner.publish(big)
    assert owner.counts["tables"] == sent == 1
    assert owner.counts["blobs"] == 1
    redis_server.flush()
    assert await other.tables({}) == []
    await owner.put_blob("sel-1", b"blob")
    assert await owner.publish(big)
    assert await other.tables({}) == [big]
    assert await other.get_blob("sel-1") == b"blob"
    assert owner.counts["blobs"] == 2
    # Only the table is lost, as when memory is short.
    await other._link.command("DEL", other._link.key("table", 1))
    assert await other.tables({}) == []
    assert await owner.publish(big)
    assert await other.tables({}) == [big]


async def test_a_zombie_after_a_wipe_does_not_take_known_tables_back(make_exchange, redis_server):
    owner, zombie, node = make_exchange(), make_exchange(), make_exchange()
    await zombie.publish(table(1, 1, 9))
    await owner.publish(table(1, 2, 1))
    seen = known(await node.tables({}))
    redis_server.flush()
    assert await zombie.publish(table(1, 1, 10))  # Nobody there to say that it is over ...
    assert await node.tables(seen) == []  # ... but nobody listens, ...
    assert await owner.publish(table(1, 2, 1))  # ... and the owner offers again.
    assert not await zombie.publish(table(1, 1, 11))
    assert await node.tables({}) == [table(1, 2, 1)]


async def test_what_others_wrote_there_is_left_out(make_exchange):
    exchange = make_exchange()
    key = exchange._link.key
    await exchange.publish(table(1, 1, 1))
    for shard, version in (("2", "?"), ("x", "1:1:1"), ("3", "1:1:5"), ("4", "1:1:5"), ("5", "1:1")):
        await exchange._link.command("HSET", key("versions"), shard, version)
    await exchange._link.command("SET", key("table", 3), b"hello")
    await exchange._link.command(
        "SET", key("table", 5), b'{"shard": 6, "generation": 1, "number": 1, "size": 0}\n'
    )
    await exchange._link.command("HSET", key("nodes"), "00000001", "9")
    await exchange._link.command("HSET", key("nodes"), "00000002", "?:{}")
    assert await exchange.tables({}) == [table(1, 1, 1)]
    assert exchange.counts["unreadable"] == 4
    assert await exchange.nodes() == []
    assert await exchange.publish(table(2, 1, 1))
    assert known(await exchange.tables({})) == {1: Version(1, 1), 2: Version(1, 1)}


async def test_sizes(make_exchange):
    exchange = make_exchange()
    with pytest.raises(ValueError, match="limit"):
        await exchange.publish(table(1, 1, 1, bytes(TABLE_BYTES + 1)))
    with pytest.raises(ValueError, match="allowed"):
        await exchange.put_blob("sel-1", bytes(BLOB_BYTES + 1))
    with pytest.raises(ValueError, match="allowed"):
        await exchange.put_blob("sel-1", b"")
    for name in ("../x", ""):
        with pytest.raises(ValueError, match="name"):
            await exchange.put_blob(name, b"x")
        with pytest.raises(ValueError, match="name"):
            await exchange.get_blob(name)


@pytest.mark.slow
async def test_the_largest(make_exchange, within):
    exchange = make_exchange(timeout_s=20.0)
    blob = random.Random(1).randbytes(BLOB_BYTES)
    await again_and_again(lambda: within(20.2, exchange.put_blob("sel-1", blob)))
    assert await again_and_again(lambda: within(20.2, exchange.get_blob("sel-1"))) == blob
    largest = [table(shard, 1, 1, bytes(TABLE_BYTES)) for shard in range(2)]
    for each in largest:
        assert await within(20.2, exchange.publish(each))
    seen: list[SharedTable] = []
    while len(seen) < 2:
        more = await within(20.2, exchange.tables(known(seen)))
        assert more
        seen += more
    assert seen == largest


async def again_and_again(call, times: int = 40):
    """What ``call()`` returns once it is through."""
    for _ in range(times):
        try:
            return await call()
        except Away:
            await asyncio.sleep(0.05)
    raise AssertionError("never through")


async def test_large_blobs_go_in_pieces(make_exchange, make_relay, redis_server, within):
    relay = make_relay(redis_server.address)
    exchange, other = make_exchange(relay.address, timeout_s=LIMIT), make_exchange()
    blob = random.Random(1).randbytes(9_000_001)
    relay.delay_s = 0.02  # per chunk of 256 KiB: longer than one call may take
    await again_and_again(lambda: within(LIMIT + SLACK, exchange.put_blob("sel-1", blob)))
    assert exchange.counts["blobs"] == 1
    failures = exchange._link.counts.failures
    with pytest.raises(Away, match="call again"):
        await within(LIMIT + SLACK, exchange.get_blob("sel-1"))
    assert exchange.up
    assert await exchange.get_blob("sel-2") is None
    assert await again_and_again(lambda: within(LIMIT + SLACK, exchange.get_blob("sel-1"))) == blob
    assert exchange._link.counts.failures == failures
    assert await other.get_blob("sel-1") == blob
    assert await other._link.command("KEYS", "*part*") == []


@pytest.mark.parametrize("fault", ["flush", "cut", "two at once", "foreign part", "foreign blob"])
async def test_a_blob_is_whole_whatever_happens_meanwhile(fault, make_exchange, make_relay, redis_server):
    relay = make_relay(redis_server.address)
    one, two = make_exchange(relay.address), make_exchange()
    blob = random.Random(1).randbytes(9_000_001)
    key = two._link.key
    if fault.startswith("foreign"):
        await two._link.command("SET", key(fault.split()[1][:4], "sel-1"), bytes(10_000_000))
    putting = [asyncio.create_task(again_and_again(lambda: one.put_blob("sel-1", blob)))]
    if fault == "two at once":
        putting.append(asyncio.create_task(again_and_again(lambda: two.put_blob("sel-1", blob))))
    while not await two._link.command("EXISTS", key("part", "sel-1"), key("blob", "sel-1")):
        await asyncio.sleep(0.001)
    if fault == "flush":
        redis_server.flush()
    if fault == "cut":
        relay.mode = "cut"
        relay.mode = "pass"
    await asyncio.gather(*putting)
    assert await again_and_again(lambda: two.get_blob("sel-1")) == blob
    assert await two._link.command("EXISTS", key("part", "sel-1")) == 0
    assert await two._link.command("TTL", key("blob", "sel-1")) > BLOB_S - 100


async def test_many_tables_come_in_portions(make_exchange):
    exchange = make_exchange()
    tables = [table(shard, 1, 1, bytes(3_000_000)) for shard in range(6)]
    for each in tables:
        await exchange.publish(each)
    assert await exchange.tables({}) == tables


async def test_a_slow_network_gives_what_fits_into_the_time(make_exchange, make_relay, redis_server, within):
    relay = make_relay(redis_server.address)
    writer, reader = make_exchange(timeout_s=5.0), make_exchange(relay.address, timeout_s=1.0)
    for shard in range(4):
        await writer.publish(table(shard, 1, 1, bytes(8_000_000)))
    relay.delay_s = 0.01  # per chunk of 256 KiB: a third of a second for one table.
    seen: list[SharedTable] = []
    calls = 0
    while len(seen) < 4:
        try:
            seen += await within(1.2, reader.tables(known(seen)))
        except Away:
            await asyncio.sleep(0.1)
        calls += 1
        assert calls < 12
    assert calls > 1


async def test_nodes_come_and_go_by_redis_own_clock(make_exchange):
    one, two, three = make_exchange(), make_exchange(), make_exchange()
    state = NodeState(2**32 - 1, "a:1", 1.5, {1: 2}, {3: Version(4, 5)}, frozenset((6,)), "0.1")
    await one.beat(state)
    await two.beat(NodeState(7, "b:1", 9e9))
    assert await three.nodes() == [NodeState(7, "b:1", 9e9), state]
    key = three._link.key("nodes")
    for node, shift in (("00000007", -61_000), ("ffffffff", 3_600_000)):
        text = await three._link.command("HGET", key, node)
        at, _, rest = text.partition(b":")
        await three._link.command("HSET", key, node, b"%d:%b" % (int(at) + shift, rest))
    assert await three.nodes() == []
    assert await three._link.command("EXISTS", key) == 0
    await one.beat(state)
    assert await three.nodes() == [state]


async def test_blobs_live_as_long_as_a_table_names_them(make_exchange, redis_server, make_link):
    now = [0.0]
    owner, node = make_exchange(), RedisExchange(make_link(redis_server.url), clock=lambda: now[0])
    for name in ("sel-1", "sel-2"):
        await owner.put_blob(name, b"x")
    await owner.publish(table(1, 1, 1, None, "sel-1", "sel-2"))
    seen = known(await node.tables({}))
    await owner.publish(table(1, 1, 2, None, "sel-2"))
    await node.tables(seen)
    for name in ("sel-1", "sel-2"):
        await node._link.command("EXPIRE", node._link.key("blob", name), 100)
    await node.beat(NodeState(1, "a:1", 0.0))
    assert await node._link.command("TTL", node._link.key("blob", "sel-2")) <= 100
    now[0] += 3601
    await node.beat(NodeState(1, "a:1", 0.0))
    assert await node._link.command("TTL", node._link.key("blob", "sel-1")) <= 100
    assert await node._link.command("TTL", node._link.key("blob", "sel-2")) > BLOB_S - 10
    assert await node.get_blob("sel-3") is None


async def test_waiting_for_a_change(make_exchange, within):
    one, two = make_exchange(), make_exchange()
    await within(2.0, one.wait_for_change(2.0))
    began = time.monotonic()
    await within(0.3, one.wait_for_change(0.1))
    assert time.monotonic() - began >= 0.09
    waiting = asyncio.create_task(one.wait_for_change(5.0))
    await asyncio.sleep(0.02)
    await two.publish(table(1, 1, 1))
    await within(0.2, waiting)
    await two.publish(table(1, 1, 1))  # Nothing new, nothing said.
    await within(0.3, one.wait_for_change(0.1))


@pytest.mark.parametrize("fault", ["refuse", "stall", "cut", "frozen", "wiped"])
async def test_three_nodes_through_a_fault(fault, make_exchange, make_relay, redis_server, within):
    """The owner goes on, the others keep what they have, all have the latest after it; no call takes too long."""
    relay = make_relay(redis_server.address)
    exchanges = [make_exchange(relay.address, timeout_s=LIMIT) for _ in range(3)]
    have: list[dict[int, Version]] = [{}, {}, {}]
    number = [0]
    stop = asyncio.Event()

    async def node(index: int) -> None:
        exchange = exchanges[index]
        while not stop.is_set():
            try:
                if index == 0:
                    number[0] += 1
                    assert await within(LIMIT + SLACK, exchange.publish(table(1, 2, number[0])))
                await within(LIMIT + SLACK, exchange.beat(NodeState(index, "a:1", 0.0, runs=have[index])))
                seen = await within(LIMIT + SLACK, exchange.tables(have[index]))
                for each in seen:
                    assert each.version > have[index].get(each.shard, Version())
                    have[index][each.shard] = each.version
            except Away:
                pass
            await within(0.1 + SLACK, exchange.wait_for_change(0.1))

    nodes = [asyncio.create_task(node(index)) for index in range(3)]
    await until(lambda: all(each.get(1, Version()).number > 3 for each in have))
    if fault == "frozen":
        redis_server.pause()
    elif fault == "wiped":
        redis_server.wipe()
    else:
        relay.mode = fault
    await asyncio.sleep(1.0)
    assert not any(exchange.up for exchange in exchanges)
    before = number[0]
    if fault == "frozen":
        redis_server.resume()
    elif fault == "wiped":
        await asyncio.to_thread(redis_server.start)
    relay.mode = "pass"
    await until(lambda: all(each[1].number > before for each in have))
    stop.set()
    await asyncio.gather(*nodes)
    final = max(each[1] for each in have)
    assert not await exchanges[2].publish(table(1, 1, 999))
    assert max(known(await exchanges[1].tables({})).values()) >= final


async def until(condition, seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)
