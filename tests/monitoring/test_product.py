"""A real product with something of everything, and a real Prometheus that scrapes it: what is asked for is there."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy.control.metrics.reference import example, name_of

# pytest finds fixtures by the names of this module.
from tests.integration.restarts.conftest import Upstream, upstream  # noqa: F401
from tests.integration.rollouts.conftest import Serve, ServedProduct, serve  # noqa: F401
from tests.monitoring.conftest import (
    MONITORING,
    board_expressions,
    installed,
    metrics_in,
    rules,
    used_metrics,
)

DOCUMENTED = set(
    re.findall(
        r"^\| `(llm_optimizer_\w+)` \|", (MONITORING.parent / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
)
# Nothing listens on port 9 of this machine: an upstream, a broker and a collector that are down.
CONFIG = """
server: {{host: 127.0.0.1, workers: 1}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true}}
  down:
    {{base_url: "http://127.0.0.1:9/v1", api_key: "sk-planted-literal-key-0123456789", allow_private: true,
      breaker: {{consecutive_failures: 2, open_ms: 60000, max_open_ms: 60000}}}}
models:
  old: {{upstream: up, model: old, price: {{input: 1, output: 4}}}}
  new: {{upstream: up, model: new, price: {{input: 0.5, output: 2}}}}
  bad: {{upstream: down, model: bad-id, price: {{input: 1, output: 4}}}}
routes:
  chat: {{arms: [bad], fallbacks: [old], limits: {{requests_per_minute: 5000, usd_per_day: 20}}}}
  auto:
    arms: [old, new]
    baseline: old
    context: true
    constraints: {{target_reduction: 0.1}}
    judge: {{model: old, rate: 1.0, usd_per_day: 5}}
  roll: {{arms: [old, new], baseline: old, policy: fixed, cache: true}}
metrics: {{custom: [{{name: joy, type: gauge, aggregation: mean}}]}}
kafka: {{brokers: ["127.0.0.1:9"]}}
tracing: {{otlp_endpoint: "http://127.0.0.1:9", sample_rate: 1.0}}
"""
MANUAL = {
    "name": "to the new one",
    "strategy": "manual",
    "route": "roll",
    "parameters": {"arms": ["new"], "baseline": "new", "policy": {"type": "fixed"}},
}
# Exported by nodes of a cluster only, which need Kafka, Redis and PostgreSQL; `make test-nodes` runs those. That their
# names are right is held against what such a node would say.
CLUSTER_ONLY = {
    name_of(family)
    for family in example()
    if re.match(
        r"llm_optimizer_(engine_|shard|cluster_|table_(un|publications)|tenures_|feedback_forw)", family.name
    )
}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=10.0, trust_env=False)

    async def ask(self, path: str, **about: str) -> Any:
        reply = (await self.http.get(f"/api/v1/{path}", params=about)).json()
        assert reply["status"] == "success", (about, reply)
        assert not reply.get("warnings"), reply
        return reply["data"]

    async def has(self, expression: str, *, seconds: float = 20.0) -> None:
        """Wait until an expression has a value."""
        end = time.monotonic() + seconds
        while True:
            try:
                if (await self.ask("query", query=expression))["result"]:
                    return
            except httpx.TransportError:
                pass  # It is not listening yet.
            assert time.monotonic() < end, expression
            await asyncio.sleep(0.05)

    async def evaluated(self, *, seconds: float = 20.0) -> list[dict[str, Any]]:
        """All rules, once each has been looked at."""
        end = time.monotonic() + seconds
        while True:
            groups = (await self.ask("rules"))["groups"]
            told = [rule for group in groups for rule in group["rules"]]
            if all(rule["health"] != "unknown" for rule in told):
                return told
            assert time.monotonic() < end, told
            await asyncio.sleep(0.05)


@asynccontextmanager
async def prometheus(path: Path, target: str) -> AsyncIterator[Prometheus]:
    """A Prometheus with our configuration, but for its targets and paces."""
    program = installed("prometheus")
    config = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(MONITORING / "prometheus" / "rules" / "*.yml")]
    config["scrape_configs"] = [config["scrape_configs"][0]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target.removeprefix("http://")]}]
    file = path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
    with (path / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *[program, f"--config.file={file}", f"--storage.tsdb.path={path / 'tsdb'}", "--log.level=warn",
             f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        running = Prometheus(f"http://{address}")
        try:
            yield running
        finally:
            await running.http.aclose()
            process.kill()
            await process.wait()


async def use(product: ServedProduct) -> None:
    """Something of everything: requests to each route, streams, ratings, a rollout, something that fails."""
    http, admin = product.admin.http, product.admin

    async def ask(route: str, **more: Any) -> httpx.Response:
        body = {"model": route, "messages": [{"role": "user", "content": "hi"}], **more}
        return await http.post("/v1/chat/completions", json=body)

    made = await admin.post("/api/v1/optimize", MANUAL)
    await admin.until(made["id"], "proposed")
    stages = [{"percentage": 50, "duration_sec": 3600}, {"percentage": 100}]
    await admin.post(f"/api/v1/optimize/{made['id']}/deploy", {"canary": {"enabled": True, "stages": stages}})
    deadline = time.monotonic() + 20
    while (await ask("chat")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    for _ in range(12):
        for route in ("chat", "auto", "roll"):
            reply = await ask(route)
            assert reply.status_code == 200, reply.text
            rated = {
                "request_id": reply.headers["x-llm-optimizer-request-id"],
                "metric": "quality",
                "value": 0.8,
            }
            await http.post("/v1/feedback", json=rated)
        await ask("auto", stream=True)
    await http.post("/v1/feedback", json=rated | {"metric": "joy", "value": 1.0})
    assert (await ask("nothing-of-this-name")).status_code >= 400


async def exported(product: ServedProduct, enough: Callable[[set[str]], bool]) -> set[str]:
    """The metrics of which the page has a sample, by their names in docs/metrics.md, once there is enough to see."""
    deadline = time.monotonic() + 20
    while True:
        text = (await product.admin.http.get("/metrics")).text
        found = {
            family.name + ("_total" if family.type == "counter" else "")
            for family in text_string_to_metric_families(text)
            if family.samples
        }
        if enough(found) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.05)


def documented(name: str) -> str:
    """Custom metrics are documented as one."""
    return "llm_optimizer_custom_NAME" if name.startswith("llm_optimizer_custom_") else name


def test_boards_and_rules_name_documented_metrics_only() -> None:
    assert used_metrics() <= DOCUMENTED
    assert CLUSTER_ONLY <= DOCUMENTED


def test_every_metric_is_on_a_board() -> None:
    """Whatever is exported can be seen; what custom metrics are called is up to others."""
    shown = set().union(*(metrics_in(expression) for _, expression in board_expressions()))
    assert {name for name in DOCUMENTED - shown if not name.endswith("_NAME")} == set()


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_everything_that_is_asked_for_is_exported_and_everything_exported_is_documented(
    tmp_path: Path,
    upstream: Upstream,  # noqa: F811
    serve: Serve,  # noqa: F811
) -> None:
    """With limits, a contextual route with a constraint and a judge, a rollout, and destinations that are down."""
    product = await serve(CONFIG.format(url=upstream.url))
    async with prometheus(tmp_path, product.url) as watcher:
        await use(product)
        wanted = used_metrics() - CLUSTER_ONLY
        found = await exported(product, wanted.__le__)
        assert wanted <= found, wanted - found
        assert {documented(name) for name in found} <= DOCUMENTED

        await watcher.has("llm_optimizer_breaker_state == 2")
        await watcher.has('llm_optimizer_candidate_fraction{route="roll"} == 0.5')
        for expression in {expression for _, expression in board_expressions()}:
            if metrics_in(expression) & CLUSTER_ONLY or re.search(r"> 0(\.5)?$", expression):
                # Nothing of it here; or it shows events, of which there may be none.
                await watcher.ask("query", query=expression)
            else:
                await watcher.has(expression)
        await watcher.has("ALERTS")
        told = await watcher.evaluated()
        assert len(told) == len(rules())
        assert {rule["health"] for rule in told} == {"ok"}
