"""What the page draws, of a real product with real traffic: counted exactly, though the optimizer process is killed."""

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

CHAT = "/v1/chat/completions"
REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
CONFIG = """
server: {{host: 127.0.0.1, workers: 2}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true}}
models:
  small: {{upstream: up, model: small, price: {{input: 1, output: 4}}}}
  large: {{upstream: up, model: large, price: {{input: 10, output: 40}}}}
routes:
  chat: {{arms: [small, large], baseline: large, policy: {{type: fixed, probabilities: {{small: 0.5, large: 0.5}}}}}}
"""


@asynccontextmanager
async def product(path: Path, url: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A running `llm-optimizer serve`: its address and its process."""
    config = path / "config.yaml"
    config.write_text(CONFIG.format(url=url))
    with (path / "stderr.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--state-dir", str(path / "state"),
            "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        match = re.search(r"ready on (http://\S+)", line)
        assert match, line + (path / "stderr.log").read_text()
        yield match[1], psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 40)


def optimizer_of(product: psutil.Process) -> psutil.Process:
    """The process that learns and counts."""
    [found] = [
        child for child in product.children(recursive=True) if "proxy.control" in " ".join(child.cmdline())
    ]
    return found


async def counted(http: httpx.AsyncClient, wanted: int) -> dict[str, Any]:
    """The history of the route once it has so many requests."""
    deadline = time.monotonic() + 30
    while True:
        try:
            reply = await http.get("/api/v1/history", params={"minutes": 60, "points": 360, "route": "chat"})
        except httpx.TransportError:
            reply = None
        if reply is not None and reply.status_code == 200:
            document: dict[str, Any] = reply.json()
            if sum(document["routes"][0]["requests"]) >= wanted:
                return document
        assert time.monotonic() < deadline, reply and reply.text
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_page_s_figures_are_exact_though_the_optimizer_dies(tmp_path: Path, upstream: Any) -> None:
    """Requests, cost, savings, ratings and the list of requests; each counted once."""
    async with (
        product(tmp_path, upstream.url) as (address, process),
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=20) as http,
    ):
        ids, arms = [], []
        for number in range(40):
            reply = await http.post(CHAT, json=REQUEST)
            assert reply.status_code == 200, reply.text
            ids.append(reply.headers["x-request-id"])
            arms.append(reply.json()["model"])
            if number == 20:
                await http.post("/v1/feedback", json={"request_id": ids[0], "score": 0.5})
                await counted(http, 15)
                optimizer_of(process).kill()
        document = await counted(http, 40)
        savings = (await http.get("/api/v1/savings")).json()["routes"]["chat"]
        listed = (await http.get("/api/v1/requests", params={"limit": 100})).json()
        curves = (await http.get("/api/v1/arms/densities", params={"route": "chat"})).json()

    [route] = document["routes"]
    # The upstream says 10 tokens in and 5 out, and names the model that was asked for.
    usd = {"small": (10 * 1 + 5 * 4) / 1e6, "large": (10 * 10 + 5 * 40) / 1e6}
    assert sum(route["requests"]) == 40
    assert sum(route["cost_usd"]) == pytest.approx(sum(usd[arm] for arm in arms))
    by_arm = {arm["arm"]: arm for arm in document["arms"]}
    for name, arm in by_arm.items():
        assert sum(arm["requests"]) == arms.count(name)
        assert all(0.0 < value < 5.0 for value in arm["latency_p95_s"] if value is not None)
    assert [value for value in by_arm[arms[0]]["quality"] if value is not None] == [0.5]
    assert savings["requests"] + savings["unknown"] == 40
    assert savings["saved_usd"] == pytest.approx(sum(route["saved_usd"]))
    assert savings["low_usd"] <= savings["saved_usd"] <= savings["high_usd"]
    assert sorted(row["id"] for row in listed["requests"]) == sorted(ids)
    assert listed["next"] is None
    assert {row["outcome"] for row in listed["requests"]} == {"completed"}
    assert "success" in [signals["signal"] for signals in curves["signals"]]
