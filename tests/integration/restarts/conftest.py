"""`llm-optimizer serve` as processes in front of a scripted upstream, and a reader of everything it logged."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from optimizer.log.reader import LogReader

CONFIG = """
server: {{host: 127.0.0.1, workers: {workers}, drain_timeout_ms: {drain_ms}{server}}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true}}
models:
  good: {{upstream: up, model: good, price: {{input: 1, output: 4}}}}
  bad: {{upstream: up, model: bad, price: {{input: 1, output: 4}}}}
routes:
  chat: {{arms: [good, bad], baseline: bad}}
"""
_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
DELTA = _CHUNK + b'"delta":{"content":"%d "},"finish_reason":null}]}\n\n'
LAST = _CHUNK + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@dataclass
class Upstream:
    """Answers chat requests: at once, after ``pause_s``, or as a stream of ``chunks`` chunks ``pause_s`` apart.

    A request may override both with the members ``pause_s`` and ``chunks`` of its ``metadata``.
    """

    url: str = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        wishes = body.get("metadata") or {}
        pause_s = float(wishes.get("pause_s", 0.0))
        if not body.get("stream"):
            await asyncio.sleep(pause_s)
            return web.json_response(completion(body["model"]))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(int(wishes.get("chunks", "3"))):
            await response.write(DELTA % number)
            await asyncio.sleep(pause_s)
        await response.write(LAST)
        return response


def completion(model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


class Product:
    """A running `llm-optimizer serve`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, state: Path, log: Path) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.state = state
        self.log = log

    def pids(self) -> dict[str, Any]:
        return dict(orjson.loads((self.state / "run" / "pids").read_bytes()))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = 30.0) -> int:
        return await asyncio.wait_for(self.process.wait(), seconds)

    def events(self, kind: str = "llm_optimizer.request.v1") -> list[dict[str, Any]]:
        """Everything logged of one kind, in the order of the log."""
        reader = LogReader(self.state / "log")
        cursor: dict[str, tuple[int, int]] = {}
        found: list[dict[str, Any]] = []
        while True:
            batch = reader.poll(cursor)
            found += [event for _, event in batch.events() if event["type"] == kind]
            if not batch.more and batch.cursor == cursor:
                return found
            cursor = batch.cursor

    def logged(self) -> Counter[str]:
        """How often each request id is in the log."""
        return Counter(event["id"] for event in self.events())

    async def logs(self, words: str, *, seconds: float = 30.0) -> None:
        """Wait until a line with ``words`` was logged."""
        end = time.monotonic() + seconds
        while words not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            await asyncio.sleep(0.02)

    async def new_workers(self, before: list[int], *, seconds: float = 20.0) -> list[int]:
        """Wait until none of ``before`` is a worker any more and no successor is on its way."""
        end = time.monotonic() + seconds
        while True:
            pids = self.pids()
            now = pids["workers"]
            if None not in now and not set(now) & set(before) and not pids["moving"]:
                return list(now)
            assert time.monotonic() < end, f"workers {before} became {pids}: {self.log.read_text()}"
            await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Product]]


@asynccontextmanager
async def _serving(upstream: Upstream) -> AsyncIterator[None]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", upstream.serve)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield
    await runner.cleanup()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    scripted = Upstream()
    async with _serving(scripted):
        yield scripted


@pytest.fixture
async def start(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Start]:
    """``await start(workers=2, drain_ms=5000, server="", state=None)`` runs the product until it is ready."""
    async with AsyncExitStack() as undo:

        async def run(
            *, workers: int = 2, drain_ms: int = 5000, server: str = "", state: Path | None = None
        ) -> Product:
            state = state or tmp_path / "state"
            config = tmp_path / "config.yaml"
            config.write_text(
                CONFIG.format(url=upstream.url, workers=workers, drain_ms=drain_ms, server=server)
            )
            log = undo.enter_context((tmp_path / "stderr.log").open("wb"))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.cli", "serve", "--config", str(config),
                "--state-dir", str(state), "--port", "0",
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
            match = re.search(r"ready on (http://\S+)", line)
            assert match, line + (tmp_path / "stderr.log").read_text()
            product = Product(process, match[1], state, tmp_path / "stderr.log")
            undo.push_async_callback(_end, product)
            return product

        yield run


async def _end(product: Product) -> None:
    """Whatever a test left running ends, the children of a killed supervisor too."""
    if product.process.returncode is None:
        product.signal(signal.SIGTERM)
        try:
            await product.ended(20)
        except TimeoutError:
            product.process.kill()
    with suppress(OSError):
        pids = product.pids()
        for pid in [pids["optimizer"], *pids["workers"], *pids["moving"]]:
            with suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGKILL)
