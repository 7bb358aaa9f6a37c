"""A worker and an optimizer in the test's own loop, with client keys on: keys are made as an operator makes them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from optimizer.log.node import StateDirectory
from proxy.config.load import load
from proxy.config.resolver import SecretResolver
from proxy.control.core import Core
from proxy.control.runtime import Runtime
from proxy.logs import Redactor
from proxy.worker import Worker

CONFIG = """
upstreams:
  up: {{base_url: "{url}", api_key: sk-planted-upstream-secret-0123456789, allow_private: true}}
  own: {{base_url: "{url}", auth: passthrough, allow_private: true}}
models:
  small: {{upstream: up, model: small, price: {{input: 1, output: 4}}}}
  large: {{upstream: up, model: large, price: {{input: 10, output: 40}}}}
  theirs: {{upstream: own, model: theirs, price: {{input: 1, output: 1}}}}
routes:
  chat: {{arms: [small, large], baseline: large}}
  other: {{arms: [small], baseline: small}}
  byok: {{arms: [theirs], baseline: theirs}}
passthrough: {{/v1/: up, /v1/own: own}}
metrics:
  custom: [{{name: orders, type: counter, aggregation: sum}}]
access: {{client_keys: {keys}}}
"""
MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass
class Keyed:
    """Both processes' insides, and clients in front of them."""

    url: str
    worker: Worker
    core: Core
    runtime: Runtime
    state: StateDirectory
    config: Path
    http: httpx.AsyncClient

    async def make(self, name: str = "ci", **fields: Any) -> dict[str, Any]:
        """A new key, in force: what the API answered."""
        reply = await self.http.post("/api/v1/keys", json={"name": name, **fields})
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        digest = self.core.keys.get(made["id"]).digest
        await self.until(lambda: digest in self.worker.keyring._keys)
        return made

    async def chat(self, key: str | None, model: str = "chat", **headers: str) -> httpx.Response:
        """A chat request with a key where SDKs put it."""
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        body = {"model": model, "messages": MESSAGES}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    def sdk(self, key: str) -> openai.AsyncOpenAI:
        """The official client."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    async def until(self, true: Callable[[], Any], seconds: float = 5.0) -> float:
        """Wait for a condition; the seconds it took."""
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < seconds, "the condition did not come true"
            await asyncio.sleep(0.005)
        return time.monotonic() - began


@asynccontextmanager
async def _running(path: Path, url: str, *, keys: bool) -> AsyncIterator[Keyed]:
    config = path / "config.yaml"
    config.write_text(CONFIG.format(url=url, keys=str(keys).lower()))
    state = StateDirectory(path / "state")
    loaded = load(config, {})
    core = Core(
        state,
        loaded,
        path=config,
        environ={},
        send=lambda message: None,
        redactor=Redactor(),
        now=time.time,
    )
    core.start()
    runtime = Runtime(core)
    await runtime.start()
    worker = Worker(
        state,
        incarnation=state.allocate_incarnation(),
        resolver=SecretResolver({}, dict(loaded.secrets)),
        uniform_seed=7,
    )
    port = await worker.start("127.0.0.1", 0)
    address = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=address, timeout=10, trust_env=False) as http:
            yield Keyed(address, worker, core, runtime, state, config, http)
    finally:
        await worker.stop(0.2)
        await runtime.stop()


@pytest.fixture
async def keyed(tmp_path: Path, upstream: Any) -> AsyncIterator[Keyed]:
    """Client keys are asked for."""
    async with _running(tmp_path, upstream.url, keys=True) as found:
        yield found


@pytest.fixture
async def open_house(tmp_path: Path, upstream: Any) -> AsyncIterator[Keyed]:
    """Client keys are not asked for."""
    async with _running(tmp_path, upstream.url, keys=False) as found:
        yield found


@pytest.fixture
def raw() -> Callable[..., Awaitable[bytes]]:
    """``await raw(url, bytes)`` sends bytes on a socket of their own and reads until the peer closes, or a moment."""

    async def send(url: str, data: bytes, *, seconds: float = 2.0) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        try:
            async with asyncio.timeout(seconds):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                return head + await reader.readexactly(length)
        finally:
            writer.close()

    return send
