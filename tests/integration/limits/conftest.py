"""Two real workers and a real optimizer process on one state directory, in front of a scripted upstream."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import yaml

from optimizer.lease_store import LeaseStore
from optimizer.log.node import StateDirectory
from proxy.config.resolver import SecretResolver
from proxy.config.secrets import literal_reference
from proxy.worker import Worker

READY_S = 20.0
# aiohttp itself would wait for five minutes.
_PATIENCE = aiohttp.ClientTimeout(total=10)
KEY = "sk-of-the-upstream"


class Optimizer:
    """The optimizer process, as the supervisor would start it."""

    def __init__(self, state: StateDirectory, config: Path) -> None:
        self.state = state
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers and has published a table."""
        self.process = self._spawn()
        deadline = time.monotonic() + READY_S
        while not (self.state.table_file.exists() and _accepts(self.state.optimizer_socket)):
            assert self.process.poll() is None, self.config.with_name("optimizer.out").read_text()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.config.with_name("optimizer.out").open("ab") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "proxy.control"),
                    *("--state-dir", str(self.state.path), "--config", str(self.config)),
                ],
                stdout=output,
                stderr=output,
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self.process is not None:
            os.kill(self.process.pid, number)
            self.process.wait(10)
            self.process = None

    async def limits(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """What ``GET /api/v1/limits`` says, by subject, measure and window."""
        headers = {
            "x-llm-optimizer-peer": "127.0.0.1",
            "x-llm-optimizer-worker": self.state.worker_token,
            "Host": "localhost",
        }
        connector = aiohttp.UnixConnector(str(self.state.optimizer_socket))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=_PATIENCE) as session,
            session.get("http://optimizer/api/v1/limits", headers=headers) as response,
        ):
            assert response.status == 200, await response.text()
            rows = (await response.json())["limits"]
        return {(row["subject"], row["measure"], row["window"]): row for row in rows}


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(1)
        try:
            trial.connect(str(path))
        except OSError:
            return False
        return True


class LimitedNode:
    """What a test works with. ``clients[i]`` talks to ``workers[i]``."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.workers: list[Worker] = []
        self.clients: list[httpx.AsyncClient] = []
        self.urls: list[str] = []

    async def chat(self, worker: int = 0, **changes: Any) -> httpx.Response:
        """One chat completion through a worker."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **changes}
        return await self.clients[worker].post("/v1/chat/completions", json=body)

    async def warm(self) -> None:
        """Wait until every worker holds its first lease."""
        deadline = time.monotonic() + 5
        while True:
            store = LeaseStore(self.optimizer.state.limits_file)
            store.close()
            holders = [row for row in store.rows if row.granted]
            if len({row.worker for row in holders}) == len(self.workers):
                return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def storm(self, count: int, *, width: int = 32, **changes: Any) -> list[httpx.Response]:
        """``count`` completions, ``width`` at a time, dealt to all workers in turn."""
        left = iter(range(count))
        replies: list[httpx.Response] = []

        async def caller() -> None:
            for number in left:
                reply = await self.chat(number % len(self.workers), **changes)
                replies.append(reply)

        await asyncio.gather(*(caller() for _ in range(width)))
        return replies


Begin = Callable[..., Any]


@pytest.fixture
def config(upstream: Any) -> Callable[..., str]:
    """YAML of one route with limits; prices are one dollar per thousand tokens, so that figures are round."""

    def build(limits: dict[str, Any], access: dict[str, Any] | None = None) -> str:
        return yaml.safe_dump(
            {
                "upstreams": {"up": {"base_url": upstream.url, "api_key": KEY}},
                "models": {"m": {"upstream": "up", "model": "m", "price": {"input": 1000, "output": 1000}}},
                "routes": {"chat": {"arms": ["m"], "baseline": "m", "limits": limits}},
                **({"access": {"when_optimizer_away": access}} if access else {}),
            }
        )

    return build


@pytest.fixture
def begin(tmp_path: Path, config: Callable[..., str]) -> Begin:
    """``async with begin(limits, access) as node``."""

    @asynccontextmanager
    async def start(
        limits: dict[str, Any], access: dict[str, Any] | None = None, *, workers: int = 2
    ) -> AsyncIterator[LimitedNode]:
        file = tmp_path / "config.yaml"
        file.write_text(config(limits, access))
        state = StateDirectory(tmp_path / "state")
        node = LimitedNode(Optimizer(state, file))
        async with AsyncExitStack() as stack:
            stack.callback(node.optimizer.end, signal.SIGKILL)
            await node.optimizer.start()
            for _ in range(workers):
                worker = Worker(
                    state,
                    incarnation=state.allocate_incarnation(),
                    resolver=SecretResolver({}, {literal_reference(KEY): KEY}),
                    uniform_seed=7,
                )
                port = await worker.start("127.0.0.1", 0)
                stack.push_async_callback(worker.stop, 0.2)
                url = f"http://127.0.0.1:{port}"
                client = httpx.AsyncClient(base_url=url, timeout=20, trust_env=False)
                await stack.enter_async_context(client)
                node.workers.append(worker)
                node.clients.append(client)
                node.urls.append(url)
            # What is slow about a process that has just begun is not what is tested here.
            await node.optimizer.limits()
            if any(name.startswith("usd") for name in limits):
                await node.warm()
            yield node

    return start


@pytest.fixture
def early_in_the_minute() -> Callable[[], Awaitable[None]]:
    """Waits for a new UTC minute if the present one is nearly over, since a limit begins anew with it."""

    async def wait(need_s: float = 8.0) -> None:
        left = 60 - time.time() % 60
        if left < need_s:
            await asyncio.sleep(left + 0.05)

    return wait
