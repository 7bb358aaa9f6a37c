"""An upstream that fails as it is told, byte by byte, on plain sockets.

What it does with a request is named by the request's ``model``: ``fault``, ``fault:argument``, ``fault*2`` (only the
first two attempts of one caller's request; then it answers). ``@anything`` behind it only makes the name unique. The
faults are in ``behaviours``. Whoever asked is told apart by ``tag=...`` in the prompt, and every attempt is kept with
its time, so that gaps, repetitions and hung-up callers can be looked at.
"""

import asyncio
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadtests.faults.behaviours import BEHAVIOURS
from loadtests.faults.saying import ANSWER, Cut, Quarrel
from loadtests.faults.wire import Dialect, dialect_of

_TAG = re.compile(rb"tag=([\w.-]+)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LINGER_NOT = struct.pack("ii", 1, 0)
_HEAD_BYTES = 256 * 1024


@dataclass(slots=True)
class Attempt:
    """One request as it arrived. Times are ``time.monotonic`` seconds; ``gone_at`` is when the caller hung up.

    ``defect`` says that the behaviour itself is broken, which would otherwise pass for a reset.
    """

    tag: str
    model: str
    number: int
    at: float
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    gone_at: float | None = None
    done_at: float | None = None
    sent: int = 0
    defect: str = ""

    @property
    def open(self) -> bool:
        """Whether it is still being answered."""
        return self.gone_at is None and self.done_at is None


@dataclass(slots=True)
class Visit:
    """What a behaviour works with: one attempt, its dialect, and the socket."""

    attempt: Attempt
    dialect: Dialect
    argument: str
    other_origin: str
    served: int
    _writer: asyncio.StreamWriter
    keep: bool = True

    @property
    def streamed(self) -> bool:
        return self.attempt.body.get("stream") is True

    @property
    def options(self) -> list[str]:
        """The argument, split at commas."""
        return self.argument.split(",") if self.argument else []

    async def write(self, data: bytes) -> None:
        """Send; raises when the caller is gone."""
        self.attempt.sent += len(data)
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """End with a reset. What was written before may be lost, as with real resets."""
        opened = self._writer.get_extra_info("socket")
        if opened is not None:
            with suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._writer.transport.abort()
        raise Cut

    def close(self) -> None:
        """End the connection in the regular way, in the middle of whatever was said."""
        self._writer.close()
        raise Cut

    async def silence(self) -> None:
        """Say nothing until the caller hangs up."""
        await asyncio.Event().wait()


@dataclass(slots=True)
class FaultUpstream:
    """The server. ``override`` replaces the behaviour of model names while a test runs.

    ``strays`` are the tags of requests that came to the other origin.
    """

    attempts: list[Attempt] = field(default_factory=list)
    override: dict[str, str] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    _ports: dict[str, int] = field(default_factory=dict)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _connections: int = 0

    async def start(self) -> None:
        """Listen: ``main``, ``refused`` (nobody there), ``silent`` (no connection ever completes), ``other``."""
        for name, serve in (("main", self._accept), ("other", self._accept_stray)):
            server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_HEAD_BYTES, backlog=1024)
            self._servers.append(server)
            self._ports[name] = server.sockets[0].getsockname()[1]
        # Bound and not listening: the port stays ours and refuses.
        refusing = socket.socket()
        refusing.bind(("127.0.0.1", 0))
        self._sockets.append(refusing)
        self._ports["refused"] = refusing.getsockname()[1]
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._sockets.append(full)
        self._ports["silent"] = full.getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            self._sockets.append(filler)

    async def stop(self) -> None:
        """Close everything."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for opened in self._sockets:
            opened.close()

    def url(self, name: str = "main") -> str:
        """Address of a listener, without a path."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def of(self, tag: str) -> list[Attempt]:
        """The attempts of one caller's request, in order."""
        return [attempt for attempt in self.attempts if attempt.tag == tag]

    @property
    def busy(self) -> int:
        """Requests under way."""
        return sum(attempt.open for attempt in self.attempts)

    async def _accept_stray(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whoever comes here followed a redirect and has brought its key along."""
        with suppress(OSError):
            found = _TAG.search(await reader.read(65536))
            self.strays.append(found.group(1).decode() if found else "")
            writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        task = asyncio.ensure_future(self._serve(self._connections, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        served = 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                visit = self._arrived(connection, served, head, body, writer)
                served += 1
                await self._answer(visit, reader)
                if not visit.keep:
                    break
        except (asyncio.IncompleteReadError, OSError, Cut):
            pass
        finally:
            writer.close()

    def _arrived(
        self, connection: int, served: int, head: bytes, body: bytes, writer: asyncio.StreamWriter
    ) -> Visit:
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        path = line.split(" ")[1]
        document = orjson.loads(body) if body else {}
        found = _TAG.search(body)
        tag = found.group(1).decode() if found else ""
        model = str(document.get("model", ""))
        self._counts[tag, model] += 1
        number = self._counts[tag, model]
        attempt = Attempt(
            tag=tag,
            model=model,
            number=number,
            at=time.monotonic(),
            path=path,
            headers={
                name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)
            },
            body=document,
            connection=connection,
        )
        self.attempts.append(attempt)
        spec = self.override.get(model, model).partition("@")[0]
        spec, _, times = spec.partition("*")
        if times and number > int(times):
            spec = ANSWER
        return Visit(attempt, dialect_of(path, model), spec, self.url("other"), served, writer)

    async def _answer(self, visit: Visit, reader: asyncio.StreamReader) -> None:
        """Run the behaviour until it ends or the caller hangs up."""
        name, _, visit.argument = visit.argument.partition(":")
        attempt = visit.attempt
        doing = asyncio.ensure_future(_perform(visit, name))
        watching = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                attempt.done_at = time.monotonic()
                doing.result()
            else:
                attempt.gone_at = time.monotonic()
                raise Cut
        except OSError:
            attempt.done_at, attempt.gone_at = None, time.monotonic()
            raise
        finally:
            for task in (doing, watching):
                task.cancel()
            await asyncio.gather(doing, watching, return_exceptions=True)


async def _perform(visit: Visit, name: str) -> None:
    """What a behaviour objects to is said as the provider would say it."""
    try:
        await BEHAVIOURS[name](visit)
    except Quarrel as quarrel:
        await visit.write(quarrel.reply(visit.dialect))
    except (Cut, OSError):
        raise
    except Exception as error:
        if "the handler is closed" in str(error):
            # uvloop's word for a caller that hung up between two writes.
            raise ConnectionResetError from error
        visit.attempt.defect = repr(error)
        raise Cut from error


async def _gone(reader: asyncio.StreamReader) -> None:
    """Returns when the caller closes its side. What it sends meanwhile stays in the buffer, up to a point."""
    # Polling keeps the bytes of a next request where they are.
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


@contextmanager
def overridden(upstream: FaultUpstream, changes: dict[str, str]) -> Iterator[None]:
    """Some models behave otherwise for a while."""
    upstream.override |= changes
    try:
        yield
    finally:
        for name in changes:
            upstream.override.pop(name, None)
