"""Every strategy of the user guide, left to itself: from the file to deployed, over real sockets."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.integration.restarts.conftest import completion
from tests.integration.rollouts.conftest import Serve, ServedProduct

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PREFIX = """
server: {{host: 127.0.0.1, workers: 1, drain_timeout_ms: 300}}
upstreams:
  up: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789", allow_private: true, breaker: false}}
models:
  big: {{upstream: up, model: big, price: {{input: 10, output: 40}}}}
  small: {{upstream: up, model: small, price: {{input: 1, output: 4}}}}
"""
QUICK = """
deployment:
  canary:
    stages:
      - {percentage: 50, duration_sec: 1, min_samples: 50}
      - {percentage: 100}
    health_check: {interval_sec: 0.5}
"""


@dataclass
class Models:
    """An upstream whose models take their own time; ``quality`` is what the crowd thinks of an arm."""

    url: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(11))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        model = orjson.loads(await request.read())["model"]
        pause = self.seconds.get(model, 0.0)
        if pause:
            await asyncio.sleep(pause * self.rng.lognormvariate(0.0, 0.1))
        return web.json_response(completion(model))


class Raters:
    """People who ask ``auto`` and rate what they get, until they are told to stop."""

    def __init__(self, url: str, models: Models, *, people: int, metrics: Mapping[str, float]) -> None:
        self.url = url
        self.models = models
        self.people = people
        self.metrics = metrics
        self.arms: Counter[str] = Counter()
        self.failed: list[str] = []
        self.stop = asyncio.Event()

    async def _ask(self, client: aiohttp.ClientSession) -> None:
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
        rng = self.models.rng
        ratings: list[dict[str, Any]] = []
        while not self.stop.is_set():
            async with client.post(f"{self.url}/v1/chat/completions", json=body) as reply:
                if reply.status != 200:
                    self.failed.append(await reply.text())
                    continue
                await reply.read()
                arm, id_ = reply.headers["x-llm-optimizer-arm"], reply.headers["x-llm-optimizer-request-id"]
            self.arms[arm] += 1
            mean = self.models.quality.get(arm)
            if mean is not None:
                for metric, top in self.metrics.items():
                    value = min(1.0, max(0.0, rng.gauss(mean, 0.05))) * top
                    ratings.append({"request_id": id_, "metric": metric, "value": value})
            if len(ratings) >= 4:
                async with client.post(f"{self.url}/v1/feedback", json={"feedback": ratings}) as answer:
                    assert answer.status == 200, await answer.text()
                ratings.clear()
            await asyncio.sleep(0.001)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator["Raters"]:
        async with aiohttp.ClientSession() as client:
            tasks = [asyncio.create_task(self._ask(client)) for _ in range(self.people)]
            try:
                yield self
            finally:
                self.stop.set()
                await asyncio.gather(*tasks)


Begin = Callable[..., Awaitable[ServedProduct]]


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    scripted = Models()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", scripted.serve)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield scripted
    await runner.cleanup()


@pytest.fixture
def begin(serve: Serve, models: Models) -> Begin:
    """``await begin(text)``: ``serve`` with these strategies."""

    async def run(text: str, *, deployment: str = QUICK) -> ServedProduct:
        return await serve(PREFIX.format(url=models.url) + text + deployment)

    return run


def crowd(
    product: ServedProduct, models: Models, *, people: int = 16, metrics: Mapping[str, float] | None = None
) -> Any:
    return Raters(product.url, models, people=people, metrics=metrics or {"quality": 1.0}).asking()


async def listed(product: ServedProduct, strategy: str) -> list[dict[str, Any]]:
    """Optimizations of a strategy, the oldest first."""
    found = (await product.admin.get("/api/v1/optimize?limit=100"))["optimizations"]
    return sorted((row for row in found if row["strategy"] == strategy), key=lambda row: row["created_at"])


async def until(product: ServedProduct, strategy: str, *wanted: str, seconds: float = 90.0) -> dict[str, Any]:
    """Wait until an optimization of the strategy has one of these statuses or reasons; the whole record."""
    end = time.monotonic() + seconds
    while True:
        rows = await listed(product, strategy)
        for row in rows:
            if row["status"] in wanted or row.get("reason") in wanted:
                return await product.admin.get(f"/api/v1/optimize/{row['id']}")
        assert time.monotonic() < end, (rows, product.log.read_text()[-2000:])
        await asyncio.sleep(0.1)


def verbs(product: ServedProduct, verb: str) -> int:
    events = product.events("llm_optimizer.optimization.transition.v1")
    return sum(1 for event in events if event["data"]["verb"] == verb)


def approved_by_hand(line: str) -> str:
    """``QUICK``, where a person has the last word."""
    return QUICK.replace("deployment:\n", f"deployment:\n  {line}\n")


async def at_rest(product: ServedProduct, strategy: str, people: Raters, *, requests: int = 400) -> None:
    """Nothing is proposed any more while so many requests and at least two rounds of the loop go by."""
    await until(product, strategy, "no_improvement", "not_applicable", "tried_before")
    deployed, asked = verbs(product, "deploy"), people.arms.total()
    end = time.monotonic() + 2.5
    while time.monotonic() < end or people.arms.total() < asked + requests:
        assert time.monotonic() < end + 30.0
        await asyncio.sleep(0.1)
    assert verbs(product, "deploy") == deployed == 1
    assert people.failed == []


REDUCE_COSTS = """
optimization:
  interval_sec: 1
  strategies:
    - cost_reduction
  cost_reduction:
    target: 0.40
    quality_threshold: 0.95
  model_selection: {models: [big, small]}
"""
IMPROVE_LATENCY = """
optimization:
  interval_sec: 1
  strategies:
    - latency_optimization
  latency_optimization:
    target_p95_ms: 200
    quality_threshold: 0.90
  model_selection: {models: [big, small]}
routes:
  auto: {policy: {type: fixed, probabilities: {big: 0.75, small: 0.25}}}
"""
TEST_PROMPTS = """
optimization:
  interval_sec: 1
  strategies: [model_selection, prompt_optimization]
  prompt_optimization:
    variants:
      - "You are a helpful assistant. {question}"
      - "Help me with: {question}"
    test_duration_sec: 3600
    metrics: [user_satisfaction]
  model_selection: {models: [big]}
metrics:
  custom:
    - {name: user_satisfaction, type: gauge, aggregation: mean, min: 0, max: 5}
"""
MULTI_OBJECTIVE = """
optimization:
  interval_sec: 1
  strategies: [multi_objective]
  multi_objective:
    enabled: true
    objectives:
      - {name: cost, weight: 0.4, direction: minimize}
      - {name: latency, weight: 0.3, direction: minimize}
      - {name: quality, weight: 0.3, direction: maximize}
  model_selection: {models: [big, small]}
"""


REDUCE_COSTS_OF_A_STEERED_ROUTE = """
optimization:
  interval_sec: 1
  strategies: [cost_reduction]
  cost_reduction: {target: 0.40, quality_threshold: 0.90}
routes:
  auto: {arms: [big, small], baseline: big, context: {}, objectives: [quality]}
"""


@pytest.mark.long
async def test_a_steered_route_is_proposed_constraints_keeps_them_and_rests(begin, models):
    """It decides request by request before, during and after; what is deployed is the bound, not shares."""
    models.quality = {"big": 0.9, "small": 0.86}
    product = await begin(REDUCE_COSTS_OF_A_STEERED_ROUTE)
    async with crowd(product, models) as people:
        record = await until(product, "cost_reduction", "deployed", "rolled_back")
        assert record["status"] == "deployed", record["explanation"]
        assert record["proposal"]["candidate"]["constraints"]["cost_ratio"] == 0.6
        assert record["proposal"]["candidate"]["policy"] is None
        await at_rest(product, "cost_reduction", people)
        before = people.arms.copy()
        while people.arms.total() < before.total() + 400:
            await asyncio.sleep(0.1)
        since = people.arms - before
        assert since["small"] / since.total() > 0.35
    sides = Counter()
    for event in product.events("llm_optimizer.request.v1"):
        sides[event["data"]["side"], "context" in event["data"]] += 1
    assert min(sides["control", True], sides["candidate", True]) > 50
    assert sides["control", False] == sides["candidate", False] == 0


@pytest.mark.long
async def test_a_steered_candidate_that_is_worse_is_rolled_back(begin, models):
    models.quality = {"big": 0.9, "small": 0.86}
    product = await begin(
        REDUCE_COSTS_OF_A_STEERED_ROUTE, deployment=QUICK.replace("duration_sec: 1", "duration_sec: 30")
    )
    async with crowd(product, models) as people:
        await until(product, "cost_reduction", "running")
        models.quality["small"] = 0.1
        record = await until(product, "cost_reduction", "rolled_back", "deployed")
        assert record["status"] == "rolled_back", record["explanation"]
        before = people.arms.copy()
        while people.arms.total() < before.total() + 400:
            await asyncio.sleep(0.1)
        since = people.arms - before
        assert since["small"] / since.total() < 0.2
    assert people.failed == []


async def test_cost_reduction_leads_to_the_cheap_model_and_to_rest(begin, models):
    """The cheap model keeps 97 % of the quality, as was asked: the quality guard lets that pass, too."""
    models.quality = {"big": 0.8, "small": 0.776}
    product = await begin(REDUCE_COSTS)
    missing = await until(product, "cost_reduction", "not_enough_data")
    assert "of 0 requests; 30 are needed" in missing["explanation"]
    assert "Still needed: 30 priced requests of big." in missing["explanation"]
    async with crowd(product, models) as people:
        record = await until(product, "cost_reduction", "deployed", "rolled_back")
        assert record["status"] == "deployed", record["explanation"]
        assert record["proposal"]["candidate"]["policy"]["fixed"]["small"] > 0.4
        assert record["rollout"]["plan"]["checks"]["quality_ratio"] == 0.95
        cost = next(effect for effect in record["proposal"]["effects"] if effect["metric"] == "cost")
        assert cost["high"] < -0.4 * cost["baseline"]
        await at_rest(product, "cost_reduction", people)
        # What can not be done is said with what can.
        asked = {"name": "too much", "strategy": "cost_reduction", "route": "auto",
                 "parameters": {"target_reduction": "95%", "quality_threshold": 0.95}}  # fmt: skip
        made = await product.admin.post("/api/v1/optimize", asked)
        end = time.monotonic() + 40.0
        while (await product.admin.get(f"/api/v1/optimize/{made['id']}"))["reason"] != "infeasible":
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        record = await product.admin.get(f"/api/v1/optimize/{made['id']}")
        assert "The nearest that can be promised is " in record["explanation"]


async def test_a_drop_of_quality_is_rolled_back_and_the_change_not_tried_again(begin, models):
    models.quality = {"big": 0.8, "small": 0.8}
    product = await begin(REDUCE_COSTS, deployment=QUICK.replace("duration_sec: 1", "duration_sec: 30"))
    async with crowd(product, models) as people:
        await until(product, "cost_reduction", "running")
        models.quality["small"] = 0.3
        record = await until(product, "cost_reduction", "rolled_back")
        assert record["reason"] == "guard:quality"
        models.quality["small"] = 0.8
        again = await until(product, "cost_reduction", "tried_before", "infeasible", "not_enough_data")
        assert again["id"] != record["id"]
        before = people.arms.total()
        while people.arms.total() < before + 1000:
            await asyncio.sleep(0.1)
        assert verbs(product, "deploy") == 1


async def test_latency_optimization_waits_for_approval_and_goes_on(begin, models):
    models.seconds = {"big": 0.3, "small": 0.02}
    models.quality = {"big": 0.8, "small": 0.8}
    product = await begin(IMPROVE_LATENCY, deployment=approved_by_hand("auto_promote: false"))
    async with crowd(product, models, people=40) as people:
        record = await until(product, "latency_optimization", "approval")
        assert record["status"] == "paused"
        assert record["proposal"]["candidate"]["policy"]["fixed"]["small"] > 0.9
        assert (await product.admin.post(f"/api/v1/optimize/{record['id']}/promote"))["status"] == "deployed"
        await at_rest(product, "latency_optimization", people)
        asked = {"name": "too fast", "strategy": "latency_optimization", "route": "auto",
                 "parameters": {"target_p95_ms": 5}}  # fmt: skip
        made = await product.admin.post("/api/v1/optimize", asked)
        end = time.monotonic() + 40.0
        while (await product.admin.get(f"/api/v1/optimize/{made['id']}"))["reason"] != "infeasible":
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        record = await product.admin.get(f"/api/v1/optimize/{made['id']}")
        nearest = re.search(r"nearest that can be promised is (\d+) ms", record["explanation"])
        assert nearest is not None
        assert 20 <= int(nearest[1]) <= 200


async def test_a_prompt_test_is_decided_by_a_metric_of_ones_own(begin, models):
    models.quality = {"big": 0.6, "big+variant-1": 0.6, "big+variant-2": 0.9}
    product = await begin(TEST_PROMPTS)
    async with crowd(product, models, metrics={"user_satisfaction": 5.0}) as people:
        record = await until(product, "prompt_optimization", "deployed", "rolled_back")
        assert record["status"] == "deployed"
        assert record["proposal"]["candidate"]["baseline"] == "big+variant-2"
        (effect,) = record["proposal"]["effects"]
        assert effect["metric"] == "user_satisfaction"
        assert effect["low"] > 0.0
        await at_rest(product, "prompt_optimization", people)


@pytest.mark.long
async def test_multi_objective_in_staging_stops_before_promotion(begin, models):
    """Its route has fixed shares, of which the loop keeps some for what it compares."""
    models.quality = {"big": 0.8, "small": 0.8}
    product = await begin(MULTI_OBJECTIVE, deployment=approved_by_hand("environment: staging"))
    async with crowd(product, models) as people:
        record = await until(product, "multi_objective", "approval")
        assert record["proposal"]["candidate"]["policy"]["fixed"]["small"] > 0.9
        assert (await product.admin.post(f"/api/v1/optimize/{record['id']}/promote"))["status"] == "deployed"
        await at_rest(product, "multi_objective", people)
        # A person lets the route learn instead.
        asked = {"name": "learn", "strategy": "model_selection", "route": "auto",
                 "parameters": {"criteria": ["cost", "quality"]}}  # fmt: skip
        made = await product.admin.post("/api/v1/optimize", asked)
        await product.admin.until(made["id"], "proposed")
        await product.admin.post(f"/api/v1/optimize/{made['id']}/deploy", {"canary": {"enabled": False}})
        await product.admin.until(made["id"], "deployed")
        route = (await product.admin.get("/api/v1/routes"))["routes"][0]
        assert route["control"]["policy"] == "thompson"
