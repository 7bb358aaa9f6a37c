"""`llm-optimizer serve` as processes, an upstream whose models can be told to fail, and a crowd that keeps asking."""

import asyncio
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

# pytest finds fixtures by the names of this module.
from tests.integration.restarts.conftest import Product, _end, completion
from tests.optimizer.control_store.conftest import cluster, postgres  # noqa: F401

CONFIG = """
server: {{host: 127.0.0.1, workers: 2}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true, breaker: false}}
models:
  old: {{upstream: up, model: old, price: {{input: 1, output: 4}}}}
  new: {{upstream: up, model: new, price: {{input: 0.5, output: 2}}}}
routes:
  chat: {{arms: [old, new], baseline: old, policy: fixed}}
{more}
"""
MANUAL = {
    "name": "to the new one",
    "strategy": "manual",
    "route": "chat",
    "parameters": {"arms": ["new"], "baseline": "new", "policy": {"type": "fixed"}},
}


@dataclass
class FaultyUpstream:
    """Answers chat requests at once; ``fail`` says which share of a model's requests gets a 500, seeded."""

    url: str = ""
    fail: dict[str, float] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        model = orjson.loads(await request.read())["model"]
        self.asked[model] += 1
        if self.rng.random() < self.fail.get(model, 0.0):
            return web.json_response({"error": {"message": "planted", "type": "server_error"}}, status=500)
        return web.json_response(completion(model))


@dataclass(frozen=True)
class Answer:
    """One reply: when it was asked for and came (monotonic), its status, which side and arm served it."""

    begun: float
    at: float
    status: int
    side: str
    arm: str
    id: str


class Crowd:
    """Keeps asking ``model: chat`` until it is told to stop; ``answers`` are in order."""

    def __init__(self, url: str, *, people: int = 8, pause_s: float = 0.02) -> None:
        self.answers: list[Answer] = []
        self.failed: list[str] = []
        self._url = url
        self._pause_s = pause_s
        self._people = people
        self._stop = asyncio.Event()

    async def _ask(self, client: httpx.AsyncClient) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                reply = await client.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
                await asyncio.sleep(0.05)
                continue
            heads = reply.headers
            self.answers.append(
                Answer(
                    begun,
                    time.monotonic(),
                    reply.status_code,
                    heads.get("x-llm-optimizer-side", ""),
                    heads.get("x-llm-optimizer-arm", ""),
                    heads.get("x-llm-optimizer-request-id", ""),
                )
            )
            await asyncio.sleep(self._pause_s)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator["Crowd"]:
        async with httpx.AsyncClient(base_url=self._url, timeout=20.0) as client:
            tasks = [asyncio.create_task(self._ask(client)) for _ in range(self._people)]
            try:
                yield self
            finally:
                self._stop.set()
                await asyncio.gather(*tasks)

    def sides(self, since: float = 0.0) -> Counter[str]:
        return Counter(answer.side for answer in self.answers if answer.begun >= since)


class Admin:
    """The REST API of a product, as curl on the same machine sees it."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=20.0)

    async def post(self, path: str, body: dict[str, Any] | None = None, *, ok: bool = True) -> dict[str, Any]:
        reply = await self.http.post(path, json=body or {})
        assert not ok or reply.status_code < 300, reply.text
        return dict(reply.json())

    async def get(self, path: str) -> dict[str, Any]:
        reply = await self.http.get(path)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def until(self, id_: str, *statuses: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for one of ``statuses``."""
        end = time.monotonic() + seconds
        while True:
            record = await self.get(f"/api/v1/optimize/{id_}")
            if record["status"] in statuses:
                return record
            assert time.monotonic() < end, record
            await asyncio.sleep(0.05)

    async def create(self, stages: list[dict[str, Any]] | None, **checks: Any) -> str:
        """A manual optimization to the arm ``new``, deployed with ``stages``; its id."""
        made = await self.post("/api/v1/optimize", MANUAL)
        await self.until(made["id"], "proposed")
        canary: dict[str, Any] = {"enabled": stages is not None, "stages": stages or []}
        if checks:
            canary["health_check"] = checks
        await self.post(f"/api/v1/optimize/{made['id']}/deploy", {"canary": canary})
        return str(made["id"])


class ServedProduct(Product):
    """A running product with its admin API."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.admin = Admin(self.url)


async def until_asked(crowd: Crowd, side: str, count: int, seconds: float = 20.0) -> None:
    """Wait until the crowd has had so many answers of a side."""
    end = time.monotonic() + seconds
    while crowd.sides()[side] < count:
        assert time.monotonic() < end, crowd.sides()
        await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[ServedProduct]]


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyUpstream]:
    scripted = FaultyUpstream()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", scripted.serve)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield scripted
    await runner.cleanup()


Serve = Callable[..., Awaitable[ServedProduct]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve(config, environ={})`` runs the product until it is ready; again, it runs on the same state."""
    async with AsyncExitStack() as undo:

        async def run(text: str, *, environ: dict[str, str] | None = None) -> ServedProduct:
            config, state = tmp_path / "config.yaml", tmp_path / "state"
            config.write_text(text)
            log = undo.enter_context((tmp_path / "stderr.log").open("ab"))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.cli", "serve", "--config", str(config),
                "--state-dir", str(state), "--port", "0", "--log-level", "debug",
                stdout=asyncio.subprocess.PIPE, stderr=log, env={**os.environ, **(environ or {})},
            )  # fmt: skip
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
            match = re.search(r"ready on (http://\S+)", line)
            assert match, line + (tmp_path / "stderr.log").read_text()
            product = ServedProduct(process, match[1], state, tmp_path / "stderr.log")
            undo.push_async_callback(_end, product)
            undo.push_async_callback(product.admin.http.aclose)
            return product

        yield run


@pytest.fixture
def start(serve: Serve, faulty: FaultyUpstream) -> Start:
    """``await start(more="", environ={})``: ``serve`` with a route between an old and a new model."""

    async def run(*, more: str = "", environ: dict[str, str] | None = None) -> ServedProduct:
        return await serve(CONFIG.format(url=faulty.url, more=more), environ=environ)

    return run
