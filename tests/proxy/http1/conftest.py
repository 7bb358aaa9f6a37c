"""Peers for the HTTP/1.1 engine: an application with one path per behaviour, raw sockets, scripted upstreams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest
import uvloop

from optimizer.routing import Limits, Upstream
from proxy.errors import ClientFault
from proxy.http1.client import Origin, Pool
from proxy.http1.framing import encode_headers
from proxy.http1.messages import BodyMode, Request, Responder
from proxy.http1.server import Server

PATIENCE_S = 10.0


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The engine runs on uvloop in production, so its tests do too."""
    return {"uvloop": uvloop.new_event_loop}


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Wait for something that another task or process brings about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture(autouse=True)
async def _settled() -> AsyncIterator[None]:
    """Closing a uvloop while sockets are still closing fails: let them finish first."""
    yield
    for _ in range(5):
        await asyncio.sleep(0.002)


class Heard:
    """A listener that remembers, and echoes a streamed body at its end."""

    def __init__(self, responder: Responder) -> None:
        self.responder = responder
        self.events: list[str] = []
        self.body = b""
        self.left = 0

    def client_body(self, data: bytes) -> None:
        assert "gone" not in self.events
        self.body += data
        self.events.append("body")

    def client_end(self) -> None:
        self.events.append("end")
        self.responder.reply(200, b"x-streamed: yes\r\n", self.body)

    def client_gone(self) -> None:
        self.events.append("gone")

    def server_stopping(self) -> None:
        self.events.append("stopping")
        if self.responder.started:
            self.responder.finish(b"stopping")

    def client_paused(self) -> None:
        self.events.append("paused")

    def client_resumed(self) -> None:
        self.events.append("resumed")
        self.pump()

    def pump(self) -> None:
        block = b"x" * 16384
        while self.left and self.events[-1:] != ["paused"]:
            self.left -= len(block)
            self.responder.write(block)
            if self.left == 0:
                self.responder.finish()


class PathApp:
    """Behaves as the path says; keeps every request and listener."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.heard: list[Heard] = []
        self.pending: list[Responder] = []

    def body_mode(self, request: Request) -> BodyMode:
        if request.path == "/deny":
            raise ClientFault("denied", status=403, code="denied")
        if request.path == "/boom-mode":
            raise RuntimeError("boom")
        if request.path == "/decline":
            return BodyMode.DECLINE
        return BodyMode.STREAM if request.path.startswith("/stream") else BodyMode.BUFFER

    def essential(self, request: Request) -> bool:
        return request.path == "/essential"

    def refusal_headers(self) -> bytes:
        return b"x-refusal: yes\r\n"

    def handle(self, request: Request, responder: Responder) -> None:
        self.requests.append(request)
        heard = Heard(responder)
        responder.listener = heard
        self.heard.append(heard)
        name, _, argument = request.path.strip("/").partition("/")
        answer = getattr(self, "on_" + name.replace("-", "_"), None)
        if answer is None:
            responder.reply(404, b"", b"no such path")
        else:
            answer(request, responder, argument)

    def on_echo(self, request: Request, responder: Responder, _: str) -> None:
        facts = {
            "method": request.method,
            "query": request.query,
            "headers": {k.decode("latin-1"): v.decode("latin-1") for k, v in request.headers.items()},
            "body": request.body.decode("latin-1"),
            "peer": request.peer,
        }
        responder.reply(200, b"content-type: application/json\r\n", json.dumps(facts).encode())

    def on_size(self, request: Request, responder: Responder, _: str) -> None:
        responder.reply(200, b"", str(len(request.body)).encode())

    def on_essential(self, request: Request, responder: Responder, _: str) -> None:
        responder.reply(200, b"", b"served")

    def on_later(self, request: Request, responder: Responder, argument: str) -> None:
        asyncio.get_running_loop().call_soon(responder.reply, 200, b"", b"later " + argument.encode())

    def on_hang(self, request: Request, responder: Responder, _: str) -> None:
        self.pending.append(responder)

    def on_chunks(self, request: Request, responder: Responder, argument: str) -> None:
        responder.start(200, b"content-type: text/plain\r\n", None)
        for index in range(int(argument)):
            responder.write(b"chunk %d\n" % index)
        responder.finish(b"last\n")

    def on_sized(self, request: Request, responder: Responder, argument: str) -> None:
        responder.start(200, b"", int(argument))
        responder.write(b"a" * (int(argument) - 1))
        responder.finish(b"b")

    def on_begin(self, request: Request, responder: Responder, _: str) -> None:
        responder.start(200, b"", None)
        responder.write(b"begun")
        self.pending.append(responder)

    def on_cut(self, request: Request, responder: Responder, argument: str) -> None:
        responder.start(200, b"", int(argument) if argument else None)
        responder.write(b"begun")
        responder.abort()

    def on_short(self, request: Request, responder: Responder, _: str) -> None:
        responder.start(200, b"", 100)
        responder.finish(b"short")

    def on_flood(self, request: Request, responder: Responder, argument: str) -> None:
        responder.start(200, b"", None)
        self.heard[-1].left = int(argument) * 16384
        self.heard[-1].pump()

    def on_empty(self, request: Request, responder: Responder, _: str) -> None:
        responder.reply(204, b"", b"")

    def on_boom(self, request: Request, responder: Responder, _: str) -> None:
        raise RuntimeError("boom")

    def on_fault(self, request: Request, responder: Responder, _: str) -> None:
        raise ClientFault("faulty", status=422, code="faulty")

    def on_stream(self, request: Request, responder: Responder, argument: str) -> None:
        if argument == "early":
            responder.reply(413, b"", b"enough")


@dataclass
class Raw:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    buffer: bytes = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Read one reply as h11 sees it."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        connection.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await self._some())
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    assert head is not None
                    self.buffer = connection.trailing_data[0]
                    return head.status_code, {k.decode(): v.decode() for k, v in head.headers}, bytes(body)

    async def _some(self) -> bytes:
        """What was left over from the reply before, or what comes."""
        data, self.buffer = self.buffer, b""
        return data or await self.reader.read(65536)

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.buffer) < size:
                self.buffer += await self.reader.read(65536)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            return self.buffer + await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass
class Served:
    """A running server with its application; ``limits`` may be replaced while it runs."""

    app: Any
    limits: Limits
    server: Server = field(init=False)
    port: int = 0
    raws: list[Raw] = field(default_factory=list)

    async def raw(self) -> Raw:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", self.port))
        self.raws.append(raw)
        return raw

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Factory of servers: ``await serve(app=None, **limits)``."""
    running: list[Served] = []

    async def start(app: Any = None, **limits: Any) -> Served:
        served = Served(app or PathApp(), Limits(**limits))
        served.server = Server(served.app, lambda: served.limits)
        served.port = await served.server.listen("127.0.0.1", 0)
        running.append(served)
        return served

    yield start
    for served in running:
        await served.server.drain(0)
        for raw in served.raws:
            raw.close()


@dataclass
class Sink:
    """Remembers a reply; ``done`` is set at its end."""

    heads: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    pieces: bytearray = field(default_factory=bytearray)
    flushes: int = 0
    ended: int = 0
    faults: list[Exception] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    on_head: Callable[[], None] | None = None
    on_body: Callable[[], None] | None = None

    @property
    def status(self) -> int:
        assert len(self.heads) == 1
        return self.heads[0][0]

    @property
    def body(self) -> bytes:
        return bytes(self.pieces)

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.heads.append((status, headers))
        if self.on_head is not None:
            self.on_head()

    def reply_body(self, data: bytes) -> None:
        self.pieces += data
        if self.on_body is not None:
            self.on_body()

    def reply_flush(self) -> None:
        self.flushes += 1

    def reply_end(self) -> None:
        self.ended += 1
        self.done.set()

    def reply_failed(self, fault: Exception) -> None:
        self.faults.append(fault)
        self.done.set()

    async def wait(self) -> "Sink":
        async with asyncio.timeout(PATIENCE_S):
            await self.done.wait()
        assert self.ended + len(self.faults) == 1
        return self


@pytest.fixture
def make_sink() -> type[Sink]:
    return Sink


@pytest.fixture
async def pool_for() -> AsyncIterator[Callable[..., Pool]]:
    """Factory of pools: ``pool_for(url, **upstream fields)``."""
    pools: list[Pool] = []

    def make(url: str, **fields: Any) -> Pool:
        pool = Pool(Origin.from_upstream(Upstream(name="u", provider="openai", base_url=url, **fields)))
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.abort()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[Script], Awaitable[str]]]:
    """Factory of upstreams that run a coroutine per connection; returns the base URL."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def start(script: Script) -> str:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await script(reader, writer)
                writer.close()
            except asyncio.CancelledError:
                writer.transport.abort()
            tasks.discard(task)

        server = await asyncio.start_server(run, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for task in list(tasks):
        task.cancel()
        await asyncio.wait([task])


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and content-length body of one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


@pytest.fixture(name="read_request")
def read_request_fixture() -> Callable[..., Awaitable[tuple[bytes, bytes]]]:
    return read_request


@pytest.fixture
def request_bytes() -> Callable[..., tuple[bytes, bytes]]:
    """``(head, body)`` of a request with a content-length."""

    def build(path: str = "/", body: bytes = b"", method: str = "POST") -> tuple[bytes, bytes]:
        block = encode_headers([("host", "u"), ("content-length", str(len(body)))])
        return f"{method} {path} HTTP/1.1\r\n".encode() + block + b"\r\n", body

    return build
