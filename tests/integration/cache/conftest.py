"""A worker whose route keeps answers, in front of an upstream that never says the same thing twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from optimizer.log.node import StateDirectory
from optimizer.routing import CacheStore, Caching
from proxy.config.load import load
from proxy.config.resolver import SecretResolver
from proxy.control.core import Core
from proxy.control.runtime import Runtime
from proxy.logs import Redactor
from proxy.worker import Worker

CHAT = "/v1/chat/completions"
REDIS = "literal:redis"
CONFIG = """
upstreams:
  up: {{base_url: "{url}", api_key: sk-planted-upstream-secret-0123456789, allow_private: true}}
models:
  small: {{upstream: up, model: small, price: {{input: 1, output: 4}}}}
  large: {{upstream: up, model: large, price: {{input: 10, output: 40}}}}
routes:
  chat: {{arms: [small, large], baseline: large, cache: {{ttl_sec: 60}}, limits: {{requests_per_minute: 1000}}}}
  plain: {{arms: [small, large], baseline: large}}
access: {{client_keys: true}}
"""


@dataclass
class Talker:
    """What the upstream does: counts, and says the number. ``shape`` changes an answer before it is sent."""

    completion: Callable[..., dict[str, Any]]
    asked: int = 0
    shape: Callable[[dict[str, Any]], Any] | None = None
    cut: bool = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        body = orjson.loads(await request.read())
        if "input" in body:
            row = {"object": "embedding", "index": 0, "embedding": [float(self.asked)]}
            return web.json_response(
                {"object": "list", "model": "a", "data": [row], "usage": {"prompt_tokens": 2}}
            )
        if body.get("stream"):
            return await self._stream(request)
        answer = self.completion(body["model"], f"Answer {self.asked}")
        answer["id"] = f"chatcmpl-{self.asked}"
        shaped = answer if self.shape is None else self.shape(answer)
        return shaped if isinstance(shaped, web.StreamResponse) else web.json_response(shaped)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        head = {"id": f"chatcmpl-{self.asked}", "object": "chat.completion.chunk", "created": 1, "model": "a"}
        words = ["Answer", " ", str(self.asked), " é\n"]
        for delta in ({"role": "assistant", "content": ""}, *({"content": word} for word in words)):
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await reply.write(b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n")
            await asyncio.sleep(0)
        if self.cut:
            request.transport.abort()
            return reply
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await reply.write(b"data: " + orjson.dumps(head | {"choices": [last]}) + b"\n\n")
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        await reply.write(b"data: " + orjson.dumps(head | {"choices": [], "usage": usage}) + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply


@dataclass
class Kept:
    """The worker with such a route, and how it is asked."""

    proxy: Any
    talker: Talker
    shapes: Any
    url: str

    def route(self, rules: Caching | None = None, **changes: Any) -> None:
        """Publish the route anew."""
        source = self.proxy.worker.plane.table.source
        route = replace(source.routes[0], caching=rules or source.routes[0].caching, **changes)
        self.publish(routes=(route,))

    def publish(self, **changes: Any) -> None:
        """Publish the table with changes."""
        source = self.proxy.worker.plane.table.source
        self.proxy.publish(replace(source, version=source.version + 1, **changes))

    def use_redis(self, url: str, *, patience_s: float = 5.0, **rules: Any) -> None:
        """Keep answers in Redis, too."""
        self.proxy.worker.learn_secrets({REDIS: url})
        self.publish(cache_store=CacheStore(REDIS, "test", 4))
        self.route(Caching(store="redis", **rules))
        if (store := self.proxy.worker.plane.cache._redis) is not None:
            # On a machine that is busy with other tests, 20 ms are nothing.
            store.ask_s = patience_s

    async def ask(
        self, text: str = "Hi", *, path: str = CHAT, key: str = "one", **fields: Any
    ) -> httpx.Response:
        """One request; ``headers`` among the fields go where they belong."""
        headers = {"authorization": f"Bearer {key}", **fields.pop("headers", {})}
        body: dict[str, Any] = {"model": "chat", **fields}
        if "input" not in body:
            body["messages"] = [{"role": "user", "content": text}]
        reply: httpx.Response = await self.proxy.client.post(path, json=body, headers=headers)
        return reply

    async def results(self, *asked: Awaitable[httpx.Response]) -> list[str | None]:
        """What the cache said of requests, one after the other."""
        return [(await each).headers.get("x-llm-optimizer-cache") for each in asked]


@pytest.fixture
def talker(upstream: Any, shapes: Any) -> Talker:
    upstream.handler = Talker(shapes.completion)
    return upstream.handler


@pytest.fixture
async def kept(proxy: Any, talker: Talker, shapes: Any, upstream: Any) -> Kept:
    found = Kept(proxy, talker, shapes, upstream.url)
    found.route(Caching())
    return found


@dataclass
class House:
    """Optimizer and worker in the test's loop, from a configuration file."""

    url: str
    worker: Worker
    core: Core
    http: httpx.AsyncClient
    talker: Talker

    async def key(self, name: str) -> str:
        """A new client key, in force."""
        reply = await self.http.post("/api/v1/keys", json={"name": name})
        assert reply.status_code == 201, reply.text
        made = reply.json()
        digest = self.core.keys.get(made["id"]).digest
        await self.until(lambda: digest in self.worker.keyring._keys)
        return str(made["key"])

    async def until(self, true: Callable[[], Any], seconds: float = 10.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "the condition did not come true"
            await asyncio.sleep(0.01)

    async def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they stand in the text."""
        text = (await self.http.get("/metrics")).text
        rows = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, _, value in rows}


@pytest.fixture
async def house(tmp_path: Path, upstream: Any, talker: Talker) -> AsyncIterator[House]:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(url=upstream.url))
    state = StateDirectory(tmp_path / "state")
    loaded = load(config, {})
    core = Core(
        state, loaded, path=config, environ={}, send=lambda message: None, redactor=Redactor(), now=time.time
    )
    core.start()
    runtime = Runtime(core)
    await runtime.start()
    resolver = SecretResolver({}, dict(loaded.secrets))
    worker = Worker(state, incarnation=state.allocate_incarnation(), resolver=resolver, uniform_seed=7)
    address = f"http://127.0.0.1:{await worker.start('127.0.0.1', 0)}"
    try:
        async with httpx.AsyncClient(base_url=address, timeout=10, trust_env=False) as http:
            yield House(address, worker, core, http, talker)
    finally:
        await worker.stop(0.2)
        await runtime.stop()
