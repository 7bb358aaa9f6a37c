"""A running optimizer process in the test's own loop, on a state directory of its own."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from optimizer.ids import RequestIds
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode, event_source
from proxy.config.load import load
from proxy.control.core import Core
from proxy.control.runtime import Runtime
from proxy.logs import Redactor

CONFIG = """
upstreams:
  sim: {base_url: "http://127.0.0.1:9/v1"}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
  large: {upstream: sim, model: large, price: {input: 10, output: 40}}
routes:
  chat: {arms: [small, large], baseline: large, policy: {min_pulls: 2}}
metrics:
  custom:
    - {name: user_satisfaction, type: gauge, aggregation: mean}
    - {name: business_value, type: counter, aggregation: sum}
"""


class FakeWorker:
    """Writes events as a worker would, with ids of its own."""

    def __init__(self, state: StateDirectory, clock: Callable[[], float]) -> None:
        incarnation = state.allocate_incarnation()
        self.incarnation = incarnation
        self.ids = RequestIds(node=state.node, incarnation=incarnation, key=state.id_key)
        self.writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
        self._source = event_source(state.node, "worker", incarnation)
        self._clock = clock

    def request(self, arm: str = "small", **fields: Any) -> str:
        """Append a completed request on ``arm`` and return its id."""
        now_ms = int(self._clock() * 1000)
        request_id = self.ids.mint(now_ms)
        keys = self.keys[arm]
        data: dict[str, Any] = {
            "route": "chat",
            "table_version": 1,
            "endpoint": "chat",
            "stream": False,
            "arm": arm,
            "baseline_arm": "large",
            "model": arm,
            "model_key": keys[0],
            "variant_key": keys[1],
            "reason": "bandit",
            "randomised": True,
            "outcome": "completed",
            "status": 200,
            "attempts": [{"arm": arm, "upstream": "sim", "status": 200, "randomised": True}],
            "started_ms": now_ms,
            "duration_ms": 400.0,
            "overhead_ms": 0.3,
            "cost_usd": 0.002,
            "usage_source": "reported",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 50,
        }
        self.append(request_id, "llm_optimizer.request.v1", data | fields)
        return request_id

    def append(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        """Append any event."""
        self.writer.append(encode(event_id, kind, self._source, int(self._clock() * 1000), data))

    keys: dict[str, tuple[str, str]]


class Node:
    """A core and its runtime, with a client on the admin socket."""

    def __init__(self, core: Core, runtime: Runtime, session: aiohttp.ClientSession, path: Path) -> None:
        self.core = core
        self.runtime = runtime
        self.session = session
        self.path = path
        self.sent: list[dict[str, Any]] = []
        self.worker = FakeWorker(core.state, core.now)
        self.worker.keys = {
            arm.id: (arm.model_key, arm.variant_key)
            for route in core.configuration.settings.routes
            for arm in route.arms
        }

    def local(self, **headers: str) -> dict[str, str]:
        """Headers that a worker adds to a request from this machine."""
        return {
            "x-llm-optimizer-peer": "127.0.0.1",
            "x-llm-optimizer-worker": self.core.state.worker_token,
            "Host": "localhost:8080",
            **headers,
        }

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a local GET."""
        async with self.session.get(f"http://optimizer{path}", headers=self.local(**headers)) as response:
            return response.status, await _content(response)

    async def post(self, path: str, document: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a local POST."""
        wanted = self.local(**{"Content-Type": "application/json", **headers})
        body = json.dumps({} if document is None else document)
        async with self.session.post(f"http://optimizer{path}", headers=wanted, data=body) as response:
            return response.status, await _content(response)


async def _content(response: aiohttp.ClientResponse) -> Any:
    if response.content_type == "application/json":
        return await response.json()
    return await response.text()


@pytest.fixture
def config_path(tmp_path: Path) -> Iterator[Path]:
    """A valid configuration file in a directory of its own."""
    directory = tmp_path / "config"
    directory.mkdir()
    path = directory / "config.yaml"
    path.write_text(CONFIG)
    return path


RunNode = Callable[..., Any]


@pytest.fixture
def run_node(tmp_path: Path, config_path: Path) -> RunNode:
    """``async with run_node() as node``: a running node on the test's state directory."""

    @asynccontextmanager
    async def run(environ: dict[str, str] | None = None) -> AsyncIterator[Node]:
        import time

        sent: list[dict[str, Any]] = []
        state = StateDirectory(tmp_path / "state")
        core = Core(
            state,
            load(config_path, environ or {}),
            path=config_path,
            environ=environ or {},
            send=lambda message: sent.append(dict(message)),
            redactor=Redactor(),
            now=time.time,
        )
        core.start()
        runtime = Runtime(core)
        await runtime.start()
        connector = aiohttp.UnixConnector(str(state.optimizer_socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            node = Node(core, runtime, session, config_path)
            node.sent = sent
            try:
                yield node
            finally:
                node.worker.writer.close()
                await runtime.stop()

    return run


@pytest.fixture
async def node(run_node: RunNode) -> AsyncIterator[Node]:
    """One running node."""
    async with run_node() as running:
        yield running


Until = Callable[[Callable[[], Any]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait until a condition (or a coroutine function's result) is true, for at most ten seconds."""
    import asyncio
    import inspect

    async def wait(true: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while True:
                found = true()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def node_worker(config_path: Path) -> Callable[[Path], FakeWorker]:
    """A worker that writes to the state directory of a process that runs elsewhere."""
    import time

    def make(state_dir: Path) -> FakeWorker:
        worker = FakeWorker(StateDirectory(state_dir), time.time)
        worker.keys = {
            arm.id: (arm.model_key, arm.variant_key)
            for route in load(config_path, {}).settings.routes
            for arm in route.arms
        }
        return worker

    return make
