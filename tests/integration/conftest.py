"""A real worker in front of a scripted upstream, both on real sockets, and a reader of what was logged."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
import uvloop
from aiohttp import web

from loadtests.event_schemas import event_schemas
from optimizer.log.node import StateDirectory
from optimizer.routing import (
    Arm,
    Limits,
    Model,
    Price,
    Resilience,
    Route,
    RoutingTable,
    Selector,
    Side,
    Sticky,
    Upstream,
    Variant,
)
from optimizer.table_file import write_table
from proxy.config.resolver import SecretResolver
from proxy.worker import Worker

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Workers run on uvloop in production, so their tests do too."""
    return {"uvloop": uvloop.new_event_loop}


SECRET = "sk-planted-upstream-secret-0123456789"


@dataclass
class ScriptedUpstream:
    """An OpenAI-shaped server whose behaviour a test sets; keeps what it was sent."""

    url: str = ""
    handler: Handler | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.raw.append(raw)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path_qs)
        if request.content_type == "application/json" and raw:
            self.bodies.append(orjson.loads(raw))
        if self.handler is not None:
            try:
                return await self.handler(request)
            except (asyncio.CancelledError, ConnectionError):
                self.gone.set()
                raise
        return web.json_response(completion(self.bodies[-1].get("model", "?") if self.bodies else "?"))


def completion(model: str, text: str = "Hello", **usage: Any) -> dict[str, Any]:
    """A chat completion as OpenAI sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **usage},
    }


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    scripted = ScriptedUpstream()
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{tail:.*}", scripted.serve)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    scripted.url = f"http://127.0.0.1:{port}/v1"
    yield scripted
    await runner.cleanup()


def model(name: str, **changes: Any) -> Model:
    """A model of the upstream ``up`` that can do everything."""
    base = Model(
        name=name,
        upstream="up",
        model_id=f"{name}-id",
        key=f"key-{name}",
        price=Price(input=1.0, output=2.0, cached_input=0.5, version="v1"),
        context_tokens=100_000,
        capabilities=frozenset(("tools", "vision", "json_object", "json_schema", "stream_usage")),
        endpoints=frozenset(("chat", "completions", "embeddings", "responses")),
    )
    return replace(base, **changes)


def arm(model_name: str, variant: str = "default", **changes: Any) -> Arm:
    base = Arm(
        id=model_name if variant == "default" else f"{model_name}+{variant}",
        model=model_name,
        variant=variant,
        model_key=f"key-{model_name}",
        variant_key="" if variant == "default" else f"key-{variant}",
    )
    return replace(base, **changes)


def side(*arms: Arm, probabilities: tuple[float, ...] | None = None) -> Side:
    share = probabilities or tuple(1 / len(arms) for _ in arms)
    selector = Selector(id=f"sel-{share}", policy="thompson", probabilities=share)
    return Side(arms=arms, selector=selector, baseline=arms[0].id)


@dataclass(frozen=True)
class TableShapes:
    """Builders that tests use; a fixture hands them out, because test folders are no packages."""

    model: Callable[..., Model]
    arm: Callable[..., Arm]
    side: Callable[..., Side]
    completion: Callable[..., dict[str, Any]]
    secret: str = SECRET

    def table(self, url: str, **changes: Any) -> RoutingTable:
        base = RoutingTable(
            version=1,
            published_at=time.time(),
            config_hash="test",
            upstreams=(
                Upstream(
                    name="up",
                    provider="openai",
                    base_url=url,
                    secret="literal:key",
                    connect_s=2.0,
                    first_byte_s=5.0,
                    idle_s=5.0,
                ),
            ),
            models=(model("a"), model("b")),
            variants=(
                Variant(name="default", key=""),
                Variant(name="terse", key="key-terse", system="Be terse."),
            ),
            routes=(
                Route(
                    name="chat",
                    match=("gpt-*",),
                    control=side(arm("a"), arm("b")),
                    salt="salt",
                    # What one attempt does is tested here; what follows a failed one in tests/integration/faults.
                    resilience=Resilience(attempts=1),
                ),
            ),
            passthrough=(("/v1/", "up"),),
            limits=Limits(drain_s=0.2),
        )
        return replace(base, **changes)


@pytest.fixture
def shapes() -> TableShapes:
    return TableShapes(model=model, arm=arm, side=side, completion=completion)


@dataclass
class Proxy:
    """A running worker: its address, its plane, and its log."""

    url: str
    worker: Worker
    state: StateDirectory
    client: httpx.AsyncClient

    def publish(self, table: RoutingTable) -> None:
        write_table(self.state.table_file, table)
        assert self.worker.refresh()

    def events(self, kind: str = "llm_optimizer.request.v1") -> list[dict[str, Any]]:
        return [event for event in self.lines() if event["type"] == kind]

    def lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.state.log_directory.rglob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                yield orjson.loads(line)

    async def event(self, number: int = 1, *, seconds: float = 3.0) -> dict[str, Any]:
        """The ``number``-th request event, waiting for it."""
        deadline = time.monotonic() + seconds
        while len(found := self.events()) < number:
            assert time.monotonic() < deadline, f"only {len(found)} request events were logged"
            await asyncio.sleep(0.01)
        return found[number - 1]["data"] | {"id": found[number - 1]["id"]}


@asynccontextmanager
async def running(path: Path, table: RoutingTable) -> AsyncIterator[Proxy]:
    state = StateDirectory(path / "state")
    write_table(state.table_file, table)
    worker = Worker(
        state,
        incarnation=state.allocate_incarnation(),
        resolver=SecretResolver({}, {"literal:key": SECRET}),
        uniform_seed=7,
    )
    port = await worker.start("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
        yield Proxy(url, worker, state, client)
    await worker.stop(0.2)


@pytest.fixture
async def proxy(tmp_path: Path, upstream: ScriptedUpstream, shapes: TableShapes) -> AsyncIterator[Proxy]:
    async with running(tmp_path, shapes.table(upstream.url)) as found:
        yield found


@pytest.fixture
def sticky() -> type[Sticky]:
    return Sticky


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawUpstream:
    """An upstream that is nothing but a socket: a test writes its replies byte by byte."""

    url: str = ""
    script: Script | None = None
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lost: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads requests with a content-length and lets the script answer each."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                self.heads.append(head)
                self.bodies.append(body)
                assert self.script is not None
                await self.script(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost += 1
        finally:
            writer.close()


@pytest.fixture
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    raw = RawUpstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(raw.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield raw
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def raw_proxy(tmp_path: Path, raw_upstream: RawUpstream, shapes: TableShapes) -> AsyncIterator[Proxy]:
    """A proxy with at most two connections to the raw upstream, so that a leaked one is noticed."""
    table = shapes.table(raw_upstream.url)
    table = replace(table, upstreams=(replace(table.upstreams[0], max_connections=2, first_byte_s=3.0),))
    async with running(tmp_path, table) as found:
        yield found


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Starts further scripted servers: ``await serve(handler)`` gives the address, without a path."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler, *, tls: ssl.SSLContext | None = None, unix: Path | None = None) -> str:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        if unix is not None:
            await web.UnixSite(runner, str(unix)).start()
            return "http://localhost"
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def sdk(proxy: Proxy) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, pointed at the proxy and otherwise as it comes; failures are not retried."""
    async with openai.AsyncOpenAI(base_url=proxy.url + "/v1", api_key="caller-key", max_retries=0) as client:
        yield client


@pytest.fixture
def reach(proxy: Proxy, shapes: TableShapes) -> Callable[..., None]:
    """``reach(base_url, **settings)``: the only arm is now ``a``, at an upstream with these settings."""
    version = 1

    def point(url: str, **changes: Any) -> None:
        nonlocal version
        version += 1
        table = shapes.table(url, version=version)
        route = replace(table.routes[0], control=shapes.side(shapes.arm("a")))
        proxy.publish(replace(table, routes=(route,), upstreams=(replace(table.upstreams[0], **changes),)))

    return point


@pytest.fixture
def failure(request: pytest.FixtureRequest) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    """Sends a chat request that fails; gives status, code and message as told, once the event agrees."""

    async def provoke(through: Proxy | None = None, **fields: Any) -> tuple[int, str, str]:
        proxy: Proxy = through or request.getfixturevalue("proxy")
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **fields}
        reply = await proxy.client.post("/v1/chat/completions", json=body)
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        logged = await proxy.event()
        assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", error["code"])
        assert logged["status"] == reply.status_code
        return reply.status_code, error["code"], error["message"]

    return provoke


@pytest.fixture(autouse=True)
def _promised_events(tmp_path: Path) -> Iterator[None]:
    """Whatever a test makes the product log is what docs/schemas promise, and nothing that they do not describe."""
    yield
    schemas, seen, found = event_schemas(), set(), []
    for path in tmp_path.glob("**/log/*/*.jsonl"):
        for line in path.read_bytes().splitlines():
            try:
                event = orjson.loads(line)
                shape = (event["type"], event["data"].get("outcome"), *sorted(event["data"]))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # Torn, or planted by the test.
            if shape not in seen:
                seen.add(shape)
                found += schemas.problems(event)
    assert not found, found
