"""Two nodes of a cluster in the test's own loop: admin applications on real sockets, routes split between them.

What tells them of each other is written here, as ``Peers``; everything else is the product's own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from optimizer.cluster.types import NodeState, Version
from optimizer.control_store.errors import StoreError
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.segment import EventReader
from proxy.config.load import load
from proxy.control.admin.app import build_app
from proxy.control.admin.registry import ENDPOINTS
from proxy.control.cluster.facts import ClusterFacts, EngineFacts, ShardFacts
from proxy.control.cluster.peers import Peer, Place
from proxy.control.core import Core
from proxy.control.journal import Journal
from proxy.control.learners import Alone
from proxy.control.learning import Learning
from proxy.control.learning_tasks import LearningTasks
from proxy.control.page.serving import Page
from proxy.control.runtime import Runtime
from proxy.control.services import Services
from proxy.control.tasks import Tasks
from proxy.logs import Redactor

CONFIG = """
upstreams:
  sim: {base_url: "http://127.0.0.1:9/v1"}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
  large: {upstream: sim, model: large, price: {input: 10, output: 40}}
routes:
  chat: {arms: [small, large], baseline: large, policy: {min_pulls: 2}}
  code: {arms: [small, large], baseline: large, policy: {min_pulls: 2}}
  idle: {arms: [small, large], baseline: large, policy: {min_pulls: 2}}
"""
SHARDS = {"chat": 0, "code": 1, "idle": 2}
ID_KEY = b"the key of all request ids, 32 b"
TOKEN = b"what only this cluster knows, 32"


@dataclass
class Neighbours:
    """What one node knows of the others. ``at`` says where each shard is: this node, a peer, or why nowhere."""

    node: int
    own: tuple[int, ...]
    at: dict[int, Peer | str] = field(default_factory=dict)
    live: list[Peer] = field(default_factory=list)
    token: bytes = TOKEN
    states: list[NodeState] = field(default_factory=list)
    rebuilt: int = 0
    database_away: bool = False
    waiting: dict[int, str] = field(default_factory=dict)
    engines: dict[str, EngineFacts] = field(default_factory=dict)

    def others(self) -> Sequence[Peer]:
        return self.live

    def places(self) -> Sequence[Place]:
        return [self._place(shard) for shard in sorted(SHARDS.values())]

    def place_of(self, route: str) -> Place:
        return self._place(SHARDS.get(route, 0))

    def facts(self) -> ClusterFacts:
        owned = [ShardFacts(shard, 7, 1.0, 40, lag=2, saved_at=time.time() - 5.0) for shard in self.own]
        return ClusterFacts(
            node=self.node,
            shards=len(SHARDS),
            partitions=len(SHARDS),
            nodes=self.states,
            owned=owned,
            engines=self.engines,
            waiting=self.waiting,
            tables={shard: Version(7, 3) for shard in self.own},
            feedback={"forwarded": 2, "received": 1},
        )

    async def rebuild(self) -> None:
        if self.database_away:
            raise StoreError("it does not answer")
        self.rebuilt += 1

    def _place(self, shard: int) -> Place:
        where = self.at.get(shard)
        if shard in self.own:
            return Place(shard, is_here=True)
        return Place(shard, peer=where) if isinstance(where, Peer) else Place(shard, why=where or "")


class Owned(Alone):
    """The learners of a node that owns some routes, and whose workers' table has all of them."""

    def __init__(self, whole: Learning, own: Sequence[Learning]) -> None:
        super().__init__(whole)
        self._own = own

    def all(self) -> Sequence[Learning]:
        return self._own

    def of(self, route: str) -> Learning | None:
        return next((one for one in self._own if one.settings.route(route) is not None), None)


@dataclass
class Member:
    """One node, with a client on its address."""

    core: Core
    services: Services
    peers: Neighbours
    address: str
    session: aiohttp.ClientSession

    @property
    def peer(self) -> Peer:
        return Peer(self.peers.node, self.address)

    async def ask(
        self, method: str, path: str, document: Any = None, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, document and headers of the answer to a local operator."""
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        data = orjson.dumps(document) if document is not None else None
        url = f"http://{self.address}{path}"
        async with self.session.request(method, url, data=data, headers=sent) as response:
            body = await response.read()
            is_json = response.content_type == "application/json" and body
            return response.status, orjson.loads(body) if is_json else body, response.headers

    async def get(self, path: str) -> Any:
        """The document of a GET that succeeds."""
        status, document, _ = await self.ask("GET", path)
        assert status == 200, document
        return document


@dataclass
class Pair:
    """The two nodes: ``left`` owns chat, ``right`` owns code, nobody owns idle."""

    left: Member
    right: Member


async def _member(stack: AsyncExitStack, path: Path, config: Path, own: Sequence[str], store: Any) -> Member:
    state = StateDirectory(path)
    # Ids of all nodes are of one key.
    state.id_key_file.write_bytes(ID_KEY)
    core = Core(
        state,
        load(config, {}),
        path=config,
        environ={},
        send=lambda _: None,
        redactor=Redactor(),
        now=time.time,
    )
    core.start()
    stack.callback(core.close)
    runtime = Runtime(core)
    stack.callback(runtime.judge_calls.close)
    if store is not None:
        await core.store.close()
        core.store = store
    stack.push_async_callback(core.store.close)
    learnings = []
    for route in own:
        home = StateDirectory(path / "s" / str(SHARDS[route]))
        journal, ingest = Journal(home, segment_bytes=1 << 20, now=time.time), Ingest(home, clock=time.time)
        stack.callback(journal.close)
        stack.callback(ingest.close)
        found = core.settings.route(route)
        assert found is not None
        settings = replace(core.settings, routes=(found,))
        learning = Learning(home, settings, ingest=ingest, journal=journal, store=core.store, now=time.time)
        learning.start()
        tasks = Tasks()
        LearningTasks(learning, tasks).start()
        stack.push_async_callback(learning.optimizing.close)
        stack.push_async_callback(tasks.close)
        learnings.append(learning)
    core.learners = Owned(core.learning, learnings)
    peers = Neighbours(state.node, tuple(SHARDS[route] for route in own))
    services = Services(
        core=core,
        reload=runtime.reload,
        responses=core.ingest.responses,
        positions=core.ingest.positions,
        events=EventReader(state.log_directory),
        facts=runtime.facts,
        started=time.time(),
        version="1.2.3",
        worker_token=state.worker_token,
        peers=peers,
    )
    runtime.services = services
    runner = web.AppRunner(build_app(services, ENDPOINTS, Page()), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    session = await stack.enter_async_context(aiohttp.ClientSession())
    return Member(core, services, peers, f"{host}:{port}", session)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both nodes, introduced to each other, with one database."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    async with AsyncExitStack() as stack:
        left = await _member(stack, tmp_path / "l", config, ["chat"], None)
        right = await _member(stack, tmp_path / "r", config, ["code"], left.core.store)
        now = time.time()
        for member in (left, right):
            other = right if member is left else left
            member.peers.at = {other.peers.own[0]: other.peer, SHARDS["idle"]: "the database does not answer"}
            member.peers.live = [other.peer]
            member.peers.states = [
                NodeState(one.peers.node, one.address, now, owns={one.peers.own[0]: 7}, program="1.2.3")
                for one in (left, right)
            ]
        yield Pair(left, right)


@pytest.fixture
async def stalled() -> AsyncIterator[str]:
    """The address of something that takes connections and never answers."""
    held = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    yield f"{host}:{port}"
    server.close()
    for writer in held:
        writer.close()
    await server.wait_closed()
