"""How fast a failing candidate is back at zero, end to end: ``python -m loadtests.rollback --runs 10``.

The whole product with two workers, a mock upstream, a crowd of callers and ``llm-optimizer optimize status --watch``.
At a random moment of the first stage every request of the candidate begins to fail. The deciding request is the last
one that a worker counted before it stopped the candidate, or the optimizer rolled back, by the times in the event log.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import orjson
import yaml
from aiohttp import web
from rich.console import Console
from rich.progress import track

from loadtests.figures import Figure, Result, fingerprint, save
from loadtests.machine import machine
from loadtests.peers import free_port
from loadtests.processes import Child, python_module
from loadtests.product import wait_ready
from optimizer import events
from optimizer.log.reader import LogReader

CALLERS = 16
BOUND_S = 2.0
_CHANGE = {"arms": ["new"], "baseline": "new", "policy": {"type": "fixed"}}
_STAGES = [{"percentage": 10, "duration_sec": 600}, {"percentage": 100}]


class Upstream:
    """Answers chat at once; what is named in ``failing`` gets a 500."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.asked: Counter[str] = Counter()

    async def serve(self, request: web.Request) -> web.Response:
        model = orjson.loads(await request.read())["model"]
        self.asked[model] += 1
        if model in self.failing:
            return web.json_response({"error": {"message": "planted"}}, status=500)
        message = {"role": "assistant", "content": "hello"}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": model,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self.serve)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        await runner.cleanup()


def configuration(upstream: str) -> dict[str, Any]:
    """One route, the model ``old`` for everybody; no breaker, so that the guards are what is measured."""
    return {
        "log": {"level": "warning"},
        "upstreams": {
            "mock": {
                "base_url": upstream,
                "api_key": "literal-upstream-key",
                "allow_private": True,
                "breaker": False,
            }
        },
        "models": {
            name: {"upstream": "mock", "model": name, "price": {"input": 1, "output": 4}}
            for name in ("old", "new")
        },
        "routes": {"chat": {"arms": ["old", "new"], "baseline": "old", "policy": "fixed"}},
    }


async def one(directory: Path, seed: int) -> Mapping[str, float]:
    """One rollout that fails; its figures by name."""
    upstream = Upstream()
    async with upstream.listening() as address:
        (directory / "config.yaml").write_text(yaml.safe_dump(configuration(address)))
        port, state = free_port(), directory / "state"
        options = ["--config", str(directory / "config.yaml"), "--state-dir", str(state), "--port", str(port)]
        command = python_module("proxy.cli", "serve", *options, "--host", "127.0.0.1", "--workers", "2")
        cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        with Child(command, core=cores, log=directory / "serve.log", name="product") as child:
            await asyncio.to_thread(wait_ready, child, port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as http:
                found = await _fail(http, upstream, state, seed)
            child.process.terminate()
            await asyncio.to_thread(child.process.wait, 60)
    return found | _from_log(state, found["injected_at"])


async def _fail(http: httpx.AsyncClient, upstream: Upstream, state: Path, seed: int) -> dict[str, float]:
    stop = asyncio.Event()
    statuses: Counter[int] = Counter()
    callers = [asyncio.create_task(_call(http, stop, statuses)) for _ in range(CALLERS)]
    body = {"name": "to new", "strategy": "manual", "route": "chat", "parameters": _CHANGE}
    made = await _order(http, "/api/v1/optimize", body)
    path = f"/api/v1/optimize/{made['id']}"
    await _order(http, f"{path}/deploy", {"canary": {"stages": _STAGES}})
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli", "optimize", "status", made["id"], "--watch", "--state-dir", str(state),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    while upstream.asked["new"] < 50:  # noqa: ASYNC110 - callers come as they come
        await asyncio.sleep(0.02)
    await asyncio.sleep(random.Random(seed).random())
    injected_at = time.time()
    upstream.failing.add("new")
    while (await http.get(path)).json()["status"] != "rolled_back":  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)
    seen_at = time.time()
    status = await watching.wait()
    watched_at = time.time()
    await asyncio.sleep(1.0)
    stop.set()
    await asyncio.gather(*callers)
    return {
        "injected_at": injected_at,
        "REST says rolled_back after": seen_at - injected_at,
        "CLI ended after": watched_at - injected_at,
        "CLI exit status": float(status),
        "requests": float(statuses.total()),
        "callers that saw an error": float(statuses.total() - statuses[200]),
    }


async def _order(http: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A command, asked again while the product is still starting: workers serve before the admin surface does."""
    for _ in range(100):
        reply = await http.post(path, json=body)
        if reply.status_code != 503:
            break
        await asyncio.sleep(0.1)
    return dict(reply.raise_for_status().json())


async def _call(http: httpx.AsyncClient, stop: asyncio.Event, statuses: Counter[int]) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    while not stop.is_set():
        reply = await http.post("/v1/chat/completions", json=body)
        statuses[reply.status_code] += 1
        await asyncio.sleep(0.01)


def _from_log(state: Path, injected_at: float) -> dict[str, float]:
    """What the event log says: when it was decided, and when the last request was given to the candidate."""
    reader, cursor = LogReader(state / "log"), {}
    failed: list[float] = []
    begun: list[float] = []
    rolled_back = 0.0
    stopped = float("inf")
    while True:
        batch = reader.poll(cursor)
        for _, event in batch.events():
            data = event["data"]
            at = datetime.fromisoformat(event["time"]).timestamp()
            if event["type"] == events.TRANSITION and data["to"] == "rolled_back":
                rolled_back = at
            elif event["type"] == events.WORKER_STATS and data.get("stops"):
                stopped = min(stopped, at)
            elif event["type"] == events.REQUEST and data.get("side") == "candidate":
                begun.append(data["started_ms"] / 1000.0)
                if at >= injected_at:
                    failed.append(at)
        if not batch.more and batch.cursor == cursor:
            break
        cursor = batch.cursor
    decided = max((at for at in failed if at <= min(rolled_back, stopped) + 0.001), default=injected_at)
    return {
        "candidate requests that failed before": float(sum(at <= decided for at in failed)),
        "rolled back after": rolled_back - decided,
        "last request given to the candidate after": max(begun) - decided,
    }


def figures(runs: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Medians and the worst of all runs."""
    found = []
    for name, unit, limit in (
        ("rolled back after", "s", BOUND_S),
        ("last request given to the candidate after", "s", BOUND_S),
        ("REST says rolled_back after", "s", None),
        ("CLI ended after", "s", None),
        ("candidate requests that failed before", "", None),
        ("callers that saw an error", "", None),
    ):
        values = [run[name] for run in runs]
        worst = max(values)
        void = f"must be at most {limit:g}" if limit is not None and worst > limit else ""
        found += [
            Figure(f"{name}, median", round(median(values), 3), unit),
            Figure(f"{name}, worst", round(worst, 3), unit, void=void),
        ]
    wrong = sum(run["CLI exit status"] != 3.0 for run in runs)
    return [
        *found,
        Figure("watches that ended with another status than 3", wrong, void="must be 0" if wrong else ""),
    ]


def main() -> int:
    """0 if every run kept the bound."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.rollback", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    sources, began, console = fingerprint(), time.monotonic(), Console(stderr=True)
    runs = []
    for seed in track(range(options.runs), "rollouts that fail", console=console):
        with tempfile.TemporaryDirectory(prefix="rollback-") as name:
            runs.append(asyncio.run(one(Path(name), seed)))
    found = figures(runs)
    for figure in found:
        sys.stdout.write(f"{figure.name:<60} {figure.value:>10g} {figure.unit} {figure.void}\n")
    failed = any(figure.void for figure in found)
    save(
        Result(
            scenario="rollback",
            status="failed" if failed else "done",
            fingerprint=sources,
            machine=machine(),
            figures=tuple(found),
            seconds=round(time.monotonic() - began, 1),
            extra={"runs": [dict(run) for run in runs]},
        )
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
