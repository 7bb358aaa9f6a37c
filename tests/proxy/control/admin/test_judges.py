"""Judges as the admin surface, the metrics and the command line show them, on a running node with a real judge."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from optimizer.judging.sample import Sample, encode
from proxy.config.resolver import SecretResolver
from proxy.worker import Worker

CONFIG = """
upstreams:
  sim: {{base_url: "{url}/v1"}}
models:
  small: {{upstream: sim, model: small, price: {{input: 1, output: 4}}}}
  large: {{upstream: sim, model: large, price: {{input: 10, output: 40}}}}
routes:
  chat:
    arms: [small, large]
    baseline: large
    judge: {{model: large, name: grader, rate: 0.5, usd_per_day: 5}}
"""


@pytest.fixture
async def judging_url() -> AsyncIterator[str]:
    """A model that gives every answer an 8."""

    async def serve(request: web.Request) -> web.Response:
        await request.read()
        message = {"role": "assistant", "content": '{"score": 8}'}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return web.json_response(
            {
                "id": "c",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    app = web.Application()
    app.router.add_post("/v1/chat/completions", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def judged_config(config_path: Path, judging_url: str) -> None:
    """A route whose answers that model rates."""
    config_path.write_text(CONFIG.format(url=judging_url))


@pytest.mark.usefixtures("judged_config")
async def test_what_a_judge_did_is_shown(run_node: Any, until: Any) -> None:
    """State, cost and means by REST; counters and gauges in the metrics; a rating is learned as quality."""
    async with run_node() as node:
        worker, state = node.worker, node.core.state

        lines = []
        for _ in range(10):
            request_id = worker.request(
                "small", sampling_rate=0.5, sampled=True, signals={"empty": 0, "refusal": 0}
            )
            keys = worker.keys["small"]
            body = {"messages": [{"role": "user", "content": "Q"}]}
            sample = Sample(
                request_id, "chat", "small", *keys, int(node.core.now() * 1000), 0.5, "chat", body, "A", 1.0
            )
            lines.append(encode(sample))
        worker.append(
            "stats-1", "llm_optimizer.worker.stats.v1", {"worker": 1, "content": {"kept": 10, "too_large": 2}}
        )
        path = state.content_directory / "w-1.jsonl"
        path.write_bytes(b"".join(lines))
        os.chmod(path, 0o600)

        async def rated() -> bool:
            _, found = await node.get("/api/v1/judges")
            return bool(found["judges"][0]["judgements"].get("score.scored") == 10 and found["samples"])

        await until(rated)
        status, found = await node.get("/api/v1/judges")
        _, metrics = await node.get("/metrics")

    assert status == 200
    (judge,) = found["judges"]
    assert (judge["route"], judge["name"], judge["model"], judge["answers"]) == (
        "chat",
        "grader",
        "large",
        True,
    )
    assert judge["cost_usd"] == pytest.approx(10 * 1.4e-3)
    assert judge["spent_today_usd"] == pytest.approx(10 * 1.4e-3)
    (arm,) = judge["arms"]
    assert (arm["arm"], arm["ratings"], arm["mean"]) == ("small", 10, pytest.approx(0.8))
    assert found["samples"] == {"kept": 10, "too_large": 2}
    assert not path.exists()
    for line in (
        'llm_optimizer_judge_judgements_total{kind="score",result="scored",route="chat"} 10.0',
        'llm_optimizer_judge_samples_total{result="too_large"} 2.0',
        'llm_optimizer_judge_up{route="chat"} 1.0',
        'llm_optimizer_judge_limit_usd{route="chat"} 5.0',
        "llm_optimizer_judge_waiting 0.0",
        'llm_optimizer_feedback_total{result="learned"} 10.0',
    ):
        assert line in metrics, line


@pytest.mark.usefixtures("judged_config")
async def test_from_a_request_to_what_is_believed_of_its_arm(run_node: Any, until: Any) -> None:
    """Configuration, table, worker, content, judge, log, learner: with nothing in between but the product."""
    async with run_node() as node:
        state = node.core.state
        worker = Worker(
            state, incarnation=state.allocate_incarnation(), resolver=SecretResolver({}, {}), uniform_seed=1
        )
        try:
            port = await worker.start("127.0.0.1", 0)
            body = {"model": "chat", "messages": [{"role": "user", "content": "planted-question"}]}
            for _ in range(12):
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with aiohttp.ClientSession() as session, session.post(url, json=body) as reply:
                    assert reply.status == 200, await reply.text()

            async def learned() -> bool:
                return bool(node.core.ingest.learner.counts["feedback_learned"] >= 1)

            await until(learned)
            _, arms = await node.get("/api/v1/arms")
            rated = [row["quality"]["mean"] for row in arms["arms"] if (row["quality"] or {}).get("weight")]
        finally:
            await worker.stop(0.1)

    assert rated
    assert all(0.4 < mean <= 1.0 for mean in rated)
    for path in state.log_directory.rglob("*.jsonl"):
        assert b"planted-question" not in path.read_bytes()


async def test_without_judges_there_is_nothing_to_show(node: Any) -> None:
    """An empty list, no series by route, no file."""
    status, found = await node.get("/api/v1/judges")

    assert (status, found["judges"], found["waiting"]) == (200, [], 0)
    _, metrics = await node.get("/metrics")
    assert "llm_optimizer_judge_up{" not in metrics
    assert list(node.core.state.content_directory.iterdir()) == []
