"""A running product with real traffic, for whoever looks at its page: tests, pictures, figures.

The models and the callers live in a thread of their own, so that a browser may be driven from the caller's.
Everything that was started has ended when ``world`` is left.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtests.page.upstream import CAREFUL, MODELS, Upstream
from loadtests.peers import free_port
from loadtests.processes import Child, command_line, descendants, python_module
from loadtests.product import wait_ready

ADMIN_KEY = "key-of-the-page-for-tests-0123456789"
ROUTES = ("assistant", "support", "extraction")
WAIT_S = 30.0


def configuration(upstream: str, *, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Three routes: one that learns among six arms, one with a baseline to be replaced, one small."""
    document: dict[str, Any] = {
        "log": {"level": "warning"},
        "admin": {"key": ADMIN_KEY},
        "upstreams": {
            "simulated": {
                "base_url": upstream,
                "api_key": "literal-upstream-key",
                "allow_private": True,
                "breaker": False,
            }
        },
        "models": {
            name: {
                "upstream": "simulated",
                "model": name,
                "price": {"input": sort.input_price, "output": sort.output_price},
            }
            for name, sort in MODELS.items()
        },
        "prompts": {"careful": {"system": f"Think {CAREFUL}.", "mode": "prepend"}},
        "routes": {
            "assistant": {
                "baseline": "large",
                "arms": [
                    {"model": name} | ({"prompt": prompt} if prompt else {})
                    for name in ("large", "medium", "small")
                    for prompt in (None, "careful")
                ],
                "policy": {"type": "thompson", "floor": 0.02, "min_pulls": 15},
                "objectives": [
                    {"name": "quality", "weight": 0.7, "direction": "maximize"},
                    {"name": "cost", "weight": 0.3, "direction": "minimize"},
                ],
            },
            "support": {"arms": ["medium", "small", "medium-next"], "baseline": "medium", "policy": "fixed"},
            "extraction": {
                "arms": ["large", "small"],
                "baseline": "large",
                "policy": {"type": "thompson", "floor": 0.05},
            },
        },
    }
    return document | dict(more or {})


class World:
    """The product at ``url`` and its traffic. ``upstream.failing`` may be changed at any time."""

    def __init__(
        self, upstream: Upstream, port: int, state: Path, child: Child, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{port}"
        self.state = state
        self.statuses: Counter[int] = Counter()
        self.child = child
        self._loop = loop
        self._stop: asyncio.Event | None = None
        self._callers: list[Any] = []
        self._http = httpx.Client(base_url=self.url, timeout=10.0, trust_env=False)

    @property
    def page(self) -> str:
        """The address of the page."""
        return f"{self.url}/ui"

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """One admin request, asked again while the product is still starting."""
        deadline = time.monotonic() + WAIT_S
        while True:
            reply = self._http.request(method, path, json=body if body is not None or method == "GET" else {})
            if reply.status_code != 503 or time.monotonic() > deadline:
                return reply.raise_for_status().json()
            time.sleep(0.05)

    def until(self, told: Callable[[], Any], *, seconds: float = WAIT_S) -> Any:
        """The first true thing that ``told`` says.

        Raises:
            TimeoutError: It says none in time.
        """
        deadline = time.monotonic() + seconds
        while not (found := told()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s")
            time.sleep(0.02)
        return found

    def rollout(
        self, *, stages: list[dict[str, Any]], route: str = "support", to: str = "small", name: str = ""
    ) -> str:
        """Deploy a change of ``route`` to one arm in stages; the id of the optimization."""
        change = {"arms": [to], "baseline": to, "policy": {"type": "fixed"}}
        body = {
            "name": name or f"{route} to {to}",
            "strategy": "manual",
            "route": route,
            "parameters": change,
        }
        made = self.api("POST", "/api/v1/optimize", body)
        self.api("POST", f"/api/v1/optimize/{made['id']}/deploy", {"canary": {"stages": stages}})
        return str(made["id"])

    def kill_optimizer(self) -> int:
        """SIGKILL to the optimizer process; its pid. The supervisor starts another."""
        for pid in descendants(self.child.pid):
            if "proxy.control" in command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return pid
        return 0

    def begin(self, *, callers: int = 4, pause_s: float = 0.05) -> None:
        """Send traffic with ratings on every route until ``end``."""
        self._stop = asyncio.Event()
        for number in range(callers):
            coroutine = self._call(self._stop, random.Random(number), pause_s)
            self._callers.append(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def end(self) -> None:
        """Stop the traffic."""
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            for caller in self._callers:
                caller.result(WAIT_S)
            self._callers.clear()
        self._stop = None

    def close(self) -> None:
        """End the traffic and the connections."""
        self.end()
        self._http.close()

    async def _call(self, stop: asyncio.Event, dice: random.Random, pause_s: float) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=20.0, trust_env=False) as http:
            for number in itertools.count():
                if stop.is_set():
                    return
                route = dice.choices(ROUTES, (5, 3, 2))[0]
                body = {
                    "model": route,
                    "messages": [{"role": "user", "content": "What is it?"}],
                    "stream": number % 3 == 0,
                }
                with contextlib.suppress(httpx.HTTPError):
                    reply = await http.post("/v1/chat/completions", json=body)
                    self.statuses[reply.status_code] += 1
                    if reply.status_code == 200 and dice.random() < 0.6:
                        await self._rate(http, reply)
                await asyncio.sleep(pause_s * dice.uniform(0.5, 1.5))

    async def _rate(self, http: httpx.AsyncClient, reply: httpx.Response) -> None:
        arm = reply.headers["x-llm-optimizer-arm"]
        score = self.upstream.rating(reply.headers["x-llm-optimizer-model"], careful="careful" in arm)
        rating = {"request_id": reply.headers["x-llm-optimizer-request-id"], "value": round(score, 3)}
        await http.post("/v1/feedback", json=rating)


@contextmanager
def world(
    directory: Path,
    *,
    seed: int = 7,
    speed: float = 1.0,
    more: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> Iterator[World]:
    """Start the models and the product in ``directory`` and wait until it is ready; no traffic yet."""
    upstream = Upstream(seed=seed, speed=speed)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = upstream.listening()
    try:
        address = asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(WAIT_S)
        config, state, port = directory / "config.yaml", directory / "state", free_port()
        config.write_text(yaml.safe_dump(configuration(address, more=more), sort_keys=False))
        command = python_module(
            "proxy.cli", "serve", "--config", str(config), "--state-dir", str(state), "--port", str(port),
            "--host", "127.0.0.1", "--workers", str(workers),
        )  # fmt: skip
        cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        with Child(command, core=cores, log=directory / "serve.log", name="product") as child:
            wait_ready(child, port)
            made = World(upstream, port, state, child, loop)
            try:
                yield made
            finally:
                made.close()
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()
