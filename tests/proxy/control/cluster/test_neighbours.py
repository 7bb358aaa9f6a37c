"""What nodes say to each other over a real Redis: nothing waits for something else, and nothing is lost for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from optimizer.cluster.exchange import RedisExchange
from optimizer.cluster.redis_link import RedisLink
from optimizer.cluster.types import Away, NodeState, SharedTable, Version
from optimizer.evidence import NoEvidence
from optimizer.log.node import StateDirectory
from optimizer.publisher import Publisher
from optimizer.table_file import checksum, encode
from proxy.config.load import load_text
from proxy.control.cluster.assembly import Assembly
from proxy.control.cluster.neighbours import Neighbours, late
from proxy.control.journal import Journal

CONFIG = """
upstreams:
  sim: {base_url: "http://127.0.0.1:9/v1"}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
routes:
  ask: {arms: [small], baseline: small}
  chat: {arms: [small], baseline: small}
"""
ROUTES = {0: "ask", 1: "chat"}
SETTINGS = load_text(CONFIG, {}).settings


def shared(shard: int, number: int, *blobs: str, generation: int = 1) -> SharedTable:
    built = Publisher(seed=1).build(SETTINGS, NoEvidence(), version=number, now=float(number))
    routes = tuple(route for route in built.routes if route.name == ROUTES[shard])
    return SharedTable(shard, Version(generation, number), encode(replace(built, routes=routes)), blobs)


@dataclass
class Node:
    """One node's side of Redis; it offers what stands in ``tables``."""

    number: int
    assembly: Assembly
    exchange: RedisExchange
    tables: dict[int, SharedTable] = field(default_factory=dict)
    received: int = 0
    silent: bool = False
    ahead: float = 0.0

    def __post_init__(self) -> None:
        self.fenced: list[int] = []
        self.neighbours = Neighbours(
            self.exchange,
            self.assembly,
            myself=lambda: NodeState(self.number, "here", time.time() * (not self.silent)),
            offers=lambda: list(self.tables.values()),
            fenced=self.fenced.append,
            received=self._receive,
            clock=lambda: time.monotonic() + self.ahead,
        )

    def _receive(self) -> None:
        self.received += 1

    def publish(self, *tables: SharedTable) -> None:
        self.tables.update({table.shard: table for table in tables})
        self.neighbours.changed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        work = (self.neighbours.beat, self.neighbours.send, self.neighbours.receive)
        tasks = [asyncio.create_task(each()) for each in work]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


@pytest.fixture
async def make_node(tmp_path: Path, redis_server: Any) -> AsyncIterator[Callable[..., Node]]:
    """``make_node(address)``: a node that is not running yet."""
    async with AsyncExitStack() as stack:
        made: list[Node] = []

        def make(address: str | None = None) -> Node:
            number = len(made) + 1
            state = StateDirectory(tmp_path / f"node{number}")
            journal = Journal(state, segment_bytes=1 << 20, now=time.time)
            stack.callback(journal.close)
            assembly = Assembly(state, shard_of={"ask": 0, "chat": 1}.get, journal=journal, now=time.time)
            url = redis_server.url_by(address) if address else redis_server.url
            link = RedisLink(url, name="test", timeout_s=1.0)
            stack.push_async_callback(link.close)
            made.append(Node(number, assembly, RedisExchange(link)))
            return made[-1]

        yield make


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    async def wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


def version(node: Node, shard: int) -> Version | None:
    return node.assembly.known.get(shard)


@pytest.mark.slow
async def test_a_wiped_redis_gets_everything_again_though_something_else_changes_all_the_time(
    make_node, redis_server, until
):
    """A route that learns publishes every second, and must not keep the others from being offered again."""
    owner, other = make_node(), make_node()
    async with owner.running():
        owner.publish(shared(0, 1), shared(1, 1))
        await until(lambda: owner.neighbours.publications == 2)
        redis_server.flush()
        async with other.running():
            number, began = 1, time.monotonic()
            while version(other, 1) is None:
                number += 1
                owner.publish(shared(0, number))
                await asyncio.sleep(0.1)
                assert time.monotonic() - began < 8.0
            await until(lambda: version(other, 0) == Version(1, number))


async def test_a_table_that_can_not_be_read_is_said_once_and_harms_no_other(make_node, until, caplog):
    """It is of a newer program, say; the table after it may be of ours again."""
    owner, other = make_node(), make_node()
    strange = replace(shared(1, 5), data=b'{"format":99}\n[]\n{}\n')
    async with owner.running(), other.running():
        owner.publish(shared(0, 1), strange)
        await until(lambda: version(other, 0) == Version(1, 1))
        for number in range(2, 6):
            owner.publish(shared(0, number))
            await until(lambda number=number: version(other, 0) == Version(1, number))
        assert version(other, 1) is None
        said = [record for record in caplog.records if "shard 1 can't be used" in record.message]
        # Both look at what Redis has, the owner too.
        assert len(said) == 2
        owner.publish(shared(1, 6))
        await until(lambda: version(other, 1) == Version(1, 6))


async def test_what_another_program_adds_is_read(make_node, until):
    """Fields of a newer program in a table; an older node takes what it knows."""
    owner, other = make_node(), make_node()
    header, arms, body = shared(0, 3).data.split(b"\n")[:3]
    document = orjson.loads(body) | {"brand_new": {"a": 1}}
    document["routes"][0] |= {"novel": [1, 2]}
    text = orjson.dumps(document)
    head = orjson.dumps(orjson.loads(header) | {"checksum": checksum(text), "signed": "by x"})
    newer = replace(shared(0, 3), data=b"\n".join((head, arms, text, b"")))
    async with owner.running(), other.running():
        owner.publish(newer)
        await until(lambda: version(other, 0) == Version(1, 3))
        other.assembly.write(SETTINGS)
        assert [route.name for route in other.assembly.routes()] == ["ask", "chat"]


class Slow:
    """An exchange whose files come and go a portion per call, as large ones do; only one of them at a time."""

    def __init__(self, exchange: RedisExchange, portions: int) -> None:
        self._exchange = exchange
        self._portions = portions
        self._at: tuple[str, int] = ("", 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    async def get_blob(self, name: str) -> bytes | None:
        known, done = self._at
        done = done + 1 if known == name else 1
        self._at = (name, done)
        if done < self._portions:
            raise Away("call again")
        return await self._exchange.get_blob(name)

    put_blob_calls = 0

    async def put_blob(self, name: str, data: bytes) -> None:
        self.put_blob_calls += 1
        if self.put_blob_calls < self._portions:
            raise Away("call again")
        await self._exchange.put_blob(name, data)


def slowed(node: Node, portions: int) -> None:
    node.exchange = Slow(node.exchange, portions)  # type: ignore[assignment]
    node.__post_init__()


async def test_two_large_files_come_one_after_the_other(make_node, until):
    owner, other = make_node(), make_node()
    slowed(other, 3)
    for name in ("ix-0", "ix-1"):
        owner.assembly.keep(name, name.encode())
    async with owner.running():
        owner.publish(shared(0, 1, "ix-0"), shared(1, 1, "ix-1"))
        await until(lambda: owner.neighbours.publications == 2)
        async with other.running():
            await until(lambda: version(other, 0) is not None and version(other, 1) is not None)
    assert other.assembly.read("ix-1") == b"ix-1"


async def test_a_table_does_not_wait_for_the_files_of_another(make_node, until):
    """Neither where it is offered nor where it is taken: it may take traffic away."""
    owner, other = make_node(), make_node()
    slowed(owner, 10**9)
    owner.assembly.keep("ix-0", b"large")
    async with owner.running(), other.running():
        owner.publish(shared(0, 1, "ix-0"), shared(1, 1))
        await until(lambda: version(other, 1) == Version(1, 1), 2.0)
        assert version(other, 0) is None
        # It is somewhere, but its file is not.
        await owner.exchange.publish(shared(0, 2, "ix-0"))
        owner.publish(shared(1, 2))
        await until(lambda: version(other, 1) == Version(1, 2), 2.0)
        assert version(other, 0) is None
    assert other.received == 2


async def test_a_missing_file_is_said_once_and_taken_when_it_comes(make_node, until, caplog):
    owner, other = make_node(), make_node()
    await owner.exchange.publish(shared(0, 2, "ix-0"))
    async with other.running():
        await until(lambda: any("can't be used yet" in record.message for record in caplog.records))
        for number in range(1, 5):
            await owner.exchange.publish(shared(1, number))
            await until(lambda number=number: version(other, 1) == Version(1, number))
        assert len([record for record in caplog.records if "can't be used yet" in record.message]) == 1
        await owner.exchange.put_blob("ix-0", b"index")
        await until(lambda: version(other, 0) == Version(1, 2))
    assert other.assembly.read("ix-0") == b"index"


async def test_a_node_is_not_forgotten_because_redis_was_wiped(make_node, redis_server, until):
    """Nobody may advance a stage meanwhile as if that node had gone."""
    one, two = make_node(), make_node()
    async with one.running():
        async with two.running():
            await until(lambda: len(one.neighbours.alive()) == 2)
        redis_server.flush()
        before = one.neighbours.nodes()[0].at
        await until(lambda: one.neighbours.nodes()[0].at > before)
        assert [state.node for state in one.neighbours.alive()] == [1, 2]
        assert late(one.neighbours.alive(), 0, Version(1, 1)) == {1: Version(), 2: Version()}
        one.ahead = 6.0
        await until(lambda: [state.node for state in one.neighbours.nodes()] == [1])


async def test_nobody_knows_who_is_alive_the_moment_that_redis_is_back(
    make_node, make_relay, redis_server, until
):
    relay = make_relay(redis_server.address)
    node = make_node(relay.address)
    assert not node.neighbours.is_settled
    async with node.running():
        await until(lambda: len(node.neighbours.alive()) == 1)
        assert not node.neighbours.is_settled
        node.ahead = 3.5
        assert node.neighbours.is_settled
        relay.mode = "refuse"
        await until(lambda: not node.neighbours.is_settled)
        relay.mode = "pass"
        await until(lambda: node.neighbours.up)
        assert not node.neighbours.is_settled
        node.ahead += 3.5
        await until(lambda: node.neighbours.is_settled)


async def test_a_dead_node_with_what_it_said_last_is_not_alive(make_node, until):
    """Redis remembers it for a minute; only beats that change count, whatever the clocks of the nodes say."""
    one, two = make_node(), make_node()
    two.silent = True
    async with one.running(), two.running():
        await until(lambda: len(one.neighbours.nodes()) == 2)
        one.ahead = 6.0
        await until(lambda: [state.node for state in one.neighbours.alive()] == [1])
        assert len(one.neighbours.nodes()) == 2


def names(states: Sequence[NodeState]) -> list[int]:
    return [state.node for state in states]


async def test_nothing_is_waited_for_while_redis_swallows_everything(
    make_node, make_relay, redis_server, until
):
    relay = make_relay(redis_server.address)
    owner, other = make_node(relay.address), make_node()
    async with owner.running(), other.running():
        owner.publish(shared(0, 1))
        await until(lambda: version(other, 0) == Version(1, 1))
        relay.mode = "stall"
        await until(lambda: not owner.neighbours.up)
        for number in range(2, 20):
            owner.publish(shared(0, number))
        relay.mode = "pass"
        await until(lambda: version(other, 0) == Version(1, 19), 5.0)
        await until(lambda: names(other.neighbours.alive()) == [1, 2])
    with suppress(Away):
        await owner.exchange.nodes()
