"""The whole product as processes: `llm-optimizer serve` in front of simulated models, with real clients and kill -9."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web

from proxy.simulator.profiles import ModelProfile
from proxy.simulator.server import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 37 * 12 + 5?"}]
CONFIG = """
server: {{host: 127.0.0.1, workers: {workers}}}
upstreams:
  sim: {{base_url: "{url}", api_key: "sk-planted-literal-key-0123456789"}}
models:
  good: {{upstream: sim, model: good, price: {{input: 1, output: 4}}, endpoints: [chat, completions, responses]}}
  bad: {{upstream: sim, model: bad, price: {{input: 1, output: 4}}, endpoints: [chat, completions, responses]}}
  vectors: {{upstream: sim, model: good, price: {{input: 0.1, output: 0}}, endpoints: [embeddings]}}
routes:
  chat:
    match: ["gpt-*"]
    arms: [good, bad]
    baseline: bad
    policy: {{floor: 0.05, min_pulls: 10}}
    objectives: [{{name: quality, weight: 1.0}}]
"""


class Product:
    """A running `llm-optimizer serve`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, state: Path, config: Path) -> None:
        self.process = process
        self.url = url
        self.state = state
        self.config = config

    def pids(self) -> dict[str, Any]:
        return orjson.loads((self.state / "run" / "pids").read_bytes())

    def events(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted((self.state / "log").rglob("*.jsonl")):
            # A torn tail is what kill -9 may leave; the reader skips it, and so does this.
            for line in path.read_bytes().splitlines():
                try:
                    found.append(orjson.loads(line))
                except orjson.JSONDecodeError:
                    continue
        return found


@asynccontextmanager
async def _simulator() -> AsyncIterator[str]:
    profiles = [ModelProfile(id="good", skill=1.0, words=4), ModelProfile(id="bad", skill=0.0, words=4)]
    runner = web.AppRunner(
        Simulator(profiles, seed=0, speed=0.0).application(), access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _product(path: Path, *, workers: int = 1) -> AsyncIterator[Product]:
    async with _simulator() as url:
        config = path / "etc" / "config.yaml"
        config.parent.mkdir()
        config.write_text(CONFIG.format(url=url, workers=workers))
        state = path / "state"
        with (path / "stderr.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--state-dir", str(state),
                "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        match = re.search(r"ready on (http://\S+)", line)
        assert match, line + (path / "stderr.log").read_text()
        try:
            yield Product(process, match[1], state, config)
        finally:
            process.send_signal(signal.SIGTERM)
            ended = await asyncio.wait_for(process.wait(), 40)
        assert ended == 0


async def _until(condition: Any, seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.05)


async def test_an_application_that_changed_its_base_url_is_optimized(tmp_path):
    """SDK traffic with feedback moves the share to the better arm, and everything an operator looks at agrees."""
    async with _product(tmp_path) as product, httpx.AsyncClient(base_url=product.url) as http:
        client = openai.AsyncOpenAI(base_url=product.url + "/v1", api_key="whatever", max_retries=0)

        async def once(stream: bool) -> str:
            call = client.chat.completions.with_raw_response
            raw = await call.create(model="gpt-4", messages=QUESTION, stream=stream)
            if stream:
                text = "".join(
                    [part.choices[0].delta.content or "" async for part in raw.parse() if part.choices]
                )
            else:
                text = raw.parse().choices[0].message.content
            reply = await http.post(
                "/v1/feedback",
                json={"request_id": raw.headers["x-request-id"], "score": float("449" in text)},
            )
            assert reply.status_code == 200
            return raw.headers["x-llm-optimizer-arm"]

        for _ in range(30):
            await asyncio.gather(*(once(number % 2 == 0) for number in range(4)))

        async def converged() -> bool:
            arms = (await http.get("/api/v1/arms")).json()["arms"]
            health = (await http.get("/health/detailed")).json()
            used = [worker["table_version"] for worker in health["workers"].values()]
            in_use = used == [health["table"]["version"]]  # the worker has acknowledged it
            return in_use and {arm["arm"]: arm["probability"] for arm in arms}["good"] > 0.9

        await _until(converged)
        shares = Counter([await once(False) for _ in range(60)])
        metrics = (await http.get("/metrics")).text
        routes = (await http.get("/api/v1/routes")).json()["routes"]
        await client.close()

        # 0.95 expected; below 45 of 60 has a probability under 1e-7.
        assert shares["good"] >= 45
        for name in (
            "cost_total",
            "cost_savings",
            "latency_seconds",
            "requests_total",
            "quality_score",
            "error_rate",
        ):
            assert re.search(rf"^llm_optimizer_{name}", metrics, re.MULTILINE), name
        assert routes[0]["control"]["arms"][0]["percentage"] > 90
        assert "sk-planted" not in metrics


async def test_every_endpoint_answers_the_official_sdk(tmp_path):
    """Completions, embeddings, responses, models: unchanged SDK calls."""
    async with _product(tmp_path) as product:
        client = openai.AsyncOpenAI(base_url=product.url + "/v1", api_key="x", max_retries=0)
        completion = await client.completions.create(model="chat", prompt="What is 2 + 2?")
        vectors = await client.embeddings.create(model="vectors", input=["a", "b"])
        response = await client.responses.create(model="chat", input="What is 2 + 2?", store=False)
        streamed = [
            event.type async for event in await client.responses.create(model="chat", input="hi", stream=True)
        ]
        models = [model.id async for model in client.models.list()]
        await client.close()

    assert completion.choices[0].text
    assert len(vectors.data) == 2
    assert response.output_text
    assert streamed[-1] == "response.completed"
    assert models == ["chat", "good", "bad", "vectors"]


async def test_an_edit_of_the_file_applies_and_a_bad_one_changes_nothing(tmp_path):
    """A new route works within a second of the edit; a broken file leaves the old configuration serving."""
    async with _product(tmp_path) as product, httpx.AsyncClient(base_url=product.url) as http:
        text = product.config.read_text()
        product.config.write_text(text + "  second: {arms: [good]}\n")

        async def served() -> bool:
            reply = await http.post(CHAT, json={"model": "second", "messages": QUESTION})
            return reply.status_code == 200

        began = time.monotonic()
        await _until(served)
        took = time.monotonic() - began
        product.config.write_text(text.replace("baseline: bad", "baseline: nobody"))

        async def noticed() -> bool:
            return 'reloads_total{result="failure"} 1' in (await http.get("/metrics")).text

        await _until(noticed)
        assert await served()
        assert took < 5


@pytest.mark.parametrize("victim", ["optimizer", "worker"])
async def test_kill_9_loses_and_double_counts_nothing(tmp_path, victim):
    """Processes are killed at random moments under load; then every complete answer is in the log once,
    and the learner counted each event and each feedback exactly once."""
    async with _product(tmp_path, workers=2) as product:
        answered: set[str] = set()
        rated: set[str] = set()
        stop = asyncio.Event()

        async def caller(number: int) -> None:
            async with httpx.AsyncClient(base_url=product.url, timeout=20) as http:
                while not stop.is_set():
                    try:
                        reply = await http.post(CHAT, json={"model": "chat", "messages": QUESTION})
                        assert reply.status_code == 200, reply.text
                        request_id = reply.headers["x-request-id"]
                        answered.add(request_id)
                        if len(answered) % 3 == number % 3:
                            sent = await http.post(
                                "/v1/feedback", json={"request_id": request_id, "score": 1}
                            )
                            if sent.status_code == 200:
                                rated.add(request_id)
                    except httpx.TransportError:
                        # Only a killed worker's own in-flight requests may fail.
                        assert victim == "worker"

        callers = [asyncio.create_task(caller(number)) for number in range(4)]
        killed = 0
        for _ in range(6):
            await asyncio.sleep(0.9)
            pids = product.pids()
            target = pids["optimizer"] if victim == "optimizer" else pids["workers"][0]
            if target is not None:  # None while it is being restarted
                os.kill(target, signal.SIGKILL)
                killed += 1
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*callers)
        assert len(answered) > 50
        assert killed >= 2

        events = product.events()
        logged = Counter(event["id"] for event in events if event["type"].endswith("request.v1"))
        optimized = sum(
            1 for event in events if event["type"].endswith("request.v1") and event["data"]["route"]
        )
        fed_back = {event["data"]["request_id"] for event in events if event["type"].endswith("feedback.v1")}
        assert max(logged.values()) == 1
        assert answered <= set(logged)
        assert rated <= fed_back

        async with httpx.AsyncClient(base_url=product.url) as http:

            async def learned() -> bool:
                reply = await http.get("/api/v1/arms")
                if reply.status_code != 200:
                    return False
                pulls = sum(arm["pulls"] for arm in reply.json()["arms"])
                assert pulls <= optimized
                return pulls == optimized

            await _until(learned)

            async def joined() -> bool:
                text = (await http.get("/metrics")).text
                found = re.search(r'feedback_total\{result="learned"\} ([0-9.]+)', text)
                return found is not None and float(found[1]) == len(fed_back)

            await _until(joined)
