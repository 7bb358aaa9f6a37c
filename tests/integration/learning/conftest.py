"""A product whose route looks at requests, and an upstream whose small model is not up to hard ones."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

# pytest finds fixtures by the names of this module.
from tests.integration.restarts.conftest import completion
from tests.integration.rollouts.conftest import serve  # noqa: F401

CONFIG = """
server: {{host: 127.0.0.1, workers: 1}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true}}
models:
  small: {{upstream: up, model: small, price: {{input: 0.1, output: 0.4}}}}
  large: {{upstream: up, model: large, price: {{input: 2.5, output: 10}}}}
routes:
  auto:
    arms: [small, large]
    baseline: large
    context: {{lexical: true}}
    constraints: {{target_reduction: {reduction}}}
    objectives: [quality]
"""
HARD = "Prove that the sum of the first %d odd numbers is a square. Think step by step and explain."
EASY = "Say hello to user %d"


@dataclass
class People:
    """Ask hard and easy things, and rate the answers as far as ``rated`` goes; seeded."""

    url: str
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    asked: int = 0

    async def ask(self, count: int, *, rated: bool = True) -> Counter[str]:
        """``count`` requests, eight at a time: who answered what, such as ``hard-large``."""
        answered: Counter[str] = Counter()
        at_once = asyncio.Semaphore(8)
        async with httpx.AsyncClient(base_url=self.url, timeout=20.0) as client:

            async def one() -> None:
                async with at_once:
                    answered[await self._one(client, rated=rated)] += 1

            await asyncio.gather(*(one() for _ in range(count)))
        return answered

    async def _one(self, client: httpx.AsyncClient, *, rated: bool) -> str:
        self.asked += 1
        hard = self.rng.random() < 0.5
        text = (HARD if hard else EASY) % self.asked
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        model = reply.headers["x-llm-optimizer-model"]
        if rated:
            value = 0.9 if model == "large" or not hard else 0.3
            value = min(max(value + self.rng.gauss(0.0, 0.1), 0.0), 1.0)
            id_ = reply.headers["x-llm-optimizer-request-id"]
            told = {"request_id": id_, "metric": "quality", "value": value}
            taken = await client.post("/v1/feedback", json=told)
            assert taken.status_code in (200, 202), taken.text
        return f"{'hard' if hard else 'easy'}-{model}"


def share(answered: Counter[str], kind: str, model: str) -> float:
    """Which part of the requests of a kind a model had."""
    return answered[f"{kind}-{model}"] / max(answered[f"{kind}-small"] + answered[f"{kind}-large"], 1)


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = orjson.loads(await request.read())
        return web.json_response(completion(body["model"]))

    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()
