"""What operators watch: the metrics of a real product, and what a real worker reports."""

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from optimizer.events import WORKER_STATS
from proxy import worker_stats
from proxy.control.cluster.facts import ClusterFacts
from proxy.control.metrics.cluster import families

CHAT = "/v1/chat/completions"
REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
# Nothing listens on port 9 of this machine.
CONFIG = """
server: {{host: 127.0.0.1, workers: 1}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true}}
  down:
    {{base_url: "http://127.0.0.1:9/v1", api_key: "sk-planted-literal-key-0123456789", allow_private: true,
      breaker: {{consecutive_failures: 2, open_ms: 60000, max_open_ms: 60000}}}}
models:
  good: {{upstream: up, model: good, price: {{input: 1, output: 4}}}}
  bad: {{upstream: down, model: bad-id, price: {{input: 1, output: 4}}}}
routes:
  chat: {{arms: [bad], fallbacks: [good], limits: {{requests_per_minute: 5000, usd_per_day: 20}}}}
metrics:
  custom:
    - {{name: joy, type: gauge, aggregation: mean}}
"""

Series = Mapping[str, list[tuple[Mapping[str, str], float]]]


@asynccontextmanager
async def product(path: Path, url: str) -> AsyncIterator[str]:
    """A running `llm-optimizer serve`; its address."""
    config = path / "config.yaml"
    config.write_text(CONFIG.format(url=url))
    with (path / "stderr.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--state-dir", str(path / "state"),
            "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    match = re.search(r"ready on (http://\S+)", line)
    assert match, line + (path / "stderr.log").read_text()
    try:
        yield match[1]
    finally:
        process.send_signal(signal.SIGTERM)
        ended = await asyncio.wait_for(process.wait(), 40)
    assert ended == 0


async def scrape(http: httpx.AsyncClient, enough: Callable[[Series], bool]) -> tuple[str, Series]:
    """The page and its samples by name, once there is enough to see."""
    deadline = time.monotonic() + 15
    while True:
        text = (await http.get("/metrics")).text
        found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        if enough(found):
            return text, found
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.05)


def value(found: Series, name: str, **labels: str) -> float:
    """The one sample with these labels among others; 0 if there is none."""
    matching = [
        number for given, number in found.get("llm_optimizer_" + name, ()) if labels.items() <= given.items()
    ]
    assert len(matching) <= 1, matching
    return matching[0] if matching else 0.0


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_real_product_shows_its_faults_and_limits_and_nothing_undocumented(
    tmp_path: Path, upstream: Any
) -> None:
    """An upstream that is down is seen as attempts, fallbacks and an open breaker; limits count what was served."""
    async with (
        product(tmp_path, upstream.url) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as http,
    ):
        served, deadline = 0, time.monotonic() + 20
        while served < 8:
            reply = await http.post(CHAT, json=REQUEST)
            # Until the first lease is there, which a busy machine may delay, a budget is closed.
            early = reply.status_code == 503 and "limits_unavailable" in reply.text and not served
            assert reply.status_code == 200 or (early and time.monotonic() < deadline), reply.text
            served += reply.status_code == 200

        def enough(found: Series) -> bool:
            used = value(found, "route_limit_used", route="chat", measure="usd", window="day")
            return (
                value(found, "attempts_total", upstream="up", result="ok") == 8
                and value(found, "breaker_state", upstream="down", model="bad-id") == 2
                and used > 0
            )

        text, found = await scrape(http, enough)
        health = (await http.get("/health/detailed")).json()

    failed = value(found, "attempts_total", upstream="down", result="connect_error")
    assert failed >= 2
    assert value(found, "retries_total", why="fallback") >= 2
    assert value(found, "breaker_opens_total", upstream="down", model="bad-id") == 1
    assert value(found, "breaker_state", upstream="up", model="good") == 0
    assert value(found, "route_limit", route="chat", measure="requests", window="minute") == 5000
    assert value(found, "route_limit", route="chat", measure="usd", window="day") == 20
    cost = 8 * (10 * 1 + 5 * 4) / 1e6
    assert value(found, "route_limit_used", measure="usd", window="day") <= cost * 1.001
    assert health["components"]["breakers"] == "degraded"
    assert {"upstream": "down", "model": "bad-id", "state": "open"} in health["breakers"]

    documented = set(re.findall(r"^\| `(llm_optimizer_\w+)` \|", PAGE.read_text(), re.MULTILINE))
    shown = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    optional = {
        name
        for name in documented
        if "_kafka_" in name or "_traces_" in name or name.endswith("_custom_NAME")
    }
    # Only nodes of a cluster have these.
    for family in families(ClusterFacts(node=1), now=0.0):
        optional.add(f"{family.name}_total" if family.type == "counter" else family.name)
    assert shown - {"llm_optimizer_custom_joy"} == documented - optional
    assert "sk-planted" not in text


async def test_every_field_of_a_workers_report_is_documented(proxy: Any) -> None:
    """`proxy.worker_stats` says what each means, and names none that is not there."""
    await proxy.client.post(CHAT, json=REQUEST)
    deadline = time.monotonic() + 5
    while not (reports := proxy.events(WORKER_STATS)):
        assert time.monotonic() < deadline, "no report"
        await asyncio.sleep(0.02)
    report = reports[0]["data"]
    documented = re.findall(r"^- ``(\w+)``:", worker_stats.__doc__ or "", re.MULTILINE)

    assert sorted(documented) == sorted(report)
    log = re.search(r"^- ``log``: \{(.*?)\}", worker_stats.__doc__ or "", re.MULTILINE | re.DOTALL)
    assert log is not None
    assert set(re.findall(r"``(\w+)``:", log[1])) == set(report["log"])
