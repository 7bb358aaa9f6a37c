"""Raw sockets towards a worker, and waiting for what it does about them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import orjson
import pytest


class Clients:
    """Connections of one test; all are closed at its end."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, proxy, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which ``data`` was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    @staticmethod
    def post(path: str, document: object, *headers: bytes) -> bytes:
        """A request; ``document`` is JSON unless it is bytes."""
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        lines = b"".join(header + b"\r\n" for header in headers)
        return (
            b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (path.encode(), lines, len(body))
            + body
        )

    @staticmethod
    async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            await asyncio.sleep(0.005)

    @staticmethod
    async def reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        """One reply with a content-length."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 5)
        return int(lines[0].split()[1]), headers, body


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    made = Clients()
    yield made
    for writer in made.writers:
        writer.close()


@pytest.fixture
def limited(proxy) -> Callable[..., None]:
    """``limited(header_s=0.3)``: from now on the worker has these limits."""

    def publish(through=None, **limits) -> None:
        chosen = through or proxy
        table = chosen.worker.plane.table.source
        chosen.publish(replace(table, version=table.version + 1, limits=replace(table.limits, **limits)))

    return publish
