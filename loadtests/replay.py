"""Real input: replays recorded prompts through the running proxy, over HTTP: ``python -m loadtests.replay``.

The upstream answers with each model's recorded cost (as usage times a configured price), the driver posts the
recorded reward as feedback, and the outcome is printed next to every single model and the best fixed mix.

Invariant: the proxy is never told a reward or a cost on another way. One route per objective weighting, all
at once, at a pace that leaves the optimizer time to publish between requests, as real traffic does.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from loadtests.mock_upstream import MockUpstream, Pacer, framed
from loadtests.processes import Failed, Skipped, cores
from loadtests.product import product
from loadtests.recording import Recording, Row, read

USD_PER_TOKEN = 1e-9
WEIGHTS: Sequence[tuple[float, float]] = ((1.0, 0.0), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8))
PASSES = 3
RATE = 130.0
IN_FLIGHT = 16
ARM = "x-llm-optimizer-model"
COST = "x-llm-optimizer-cost-usd"
REQUEST_ID = "x-llm-optimizer-request-id"


@dataclass(slots=True)
class Course:
    """What one route did: (reward, cost, model) per request, in order of sending."""

    quality_weight: float
    cost_weight: float
    outcomes: list[tuple[float, float, str]] = field(default_factory=list)
    worst_cost_error: float = 0.0
    refused_feedback: int = 0

    @property
    def route(self) -> str:
        return f"quality-{self.quality_weight:g}-cost-{self.cost_weight:g}"

    def mean(self, newest: int | None = None) -> tuple[float, float]:
        """Mean reward and cost, of all requests or the newest ones."""
        taken = self.outcomes[-newest:] if newest else self.outcomes
        return sum(reward for reward, _, _ in taken) / len(taken), sum(cost for _, cost, _ in taken) / len(
            taken
        )

    def shares(self, newest: int) -> Mapping[str, float]:
        """Share of each model among the newest requests."""
        taken = [model for _, _, model in self.outcomes[-newest:]]
        return {model: taken.count(model) / len(taken) for model in sorted(set(taken))}


def recorded_models(recording: Recording, port: int) -> dict[str, Any]:
    """One model per recorded model, priced so that a token is ``USD_PER_TOKEN``, at the upstream on ``port``."""
    return {
        "log": {"level": "warning"},
        "upstreams": {
            "recorded": {"provider": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "auth": "none"}
        },
        "models": {
            model: {"upstream": "recorded", "price": {"input": 0.0, "output": USD_PER_TOKEN * 1e6}}
            for model in recording.models
        },
    }


def configuration(recording: Recording, port: int, courses: Sequence[Course]) -> dict[str, Any]:
    """The recorded models, and one route per weighting."""
    return {
        **recorded_models(recording, port),
        "routes": {
            course.route: {
                "baseline": recording.models[-1],
                "arms": list(recording.models),
                "policy": {"type": "thompson", "floor": 0.01, "min_pulls": 20},
                "objectives": [
                    {"name": "quality", "weight": course.quality_weight, "direction": "maximize"},
                    {"name": "cost", "weight": course.cost_weight, "direction": "minimize"},
                ],
            }
            for course in courses
        },
    }


def answers(recording: Recording) -> Callable[[bytes], bytes]:
    """The upstream: a reply whose usage, at the configured price, costs what was recorded."""
    outcomes = {row.prompt: row.outcomes for row in recording.rows}

    def answer(body: bytes) -> bytes:
        asked = orjson.loads(body)
        outcome = outcomes[asked["messages"][-1]["content"]][asked["model"]]
        tokens = round(outcome.cost / USD_PER_TOKEN)
        message = {"role": "assistant", "content": "recorded"}
        return framed(
            orjson.dumps(
                {
                    "id": "chatcmpl-recorded",
                    "object": "chat.completion",
                    "created": 1735689600,
                    "model": asked["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
                }
            )
        )

    return answer


async def replay(
    recording: Recording, directory: Path, *, passes: int, rate: float, show: Callable[[float], None]
) -> list[Course]:
    """Replay ``passes`` seeded shuffles on every route at ``rate`` requests per second and route."""
    courses = [Course(*weights) for weights in WEIGHTS]
    loop = asyncio.get_running_loop()
    answer = answers(recording)
    server = await loop.create_server(
        lambda: MockUpstream(answer, Pacer(chunks=1, rate=1.0)), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    started = asyncio.to_thread(_start, recording, port, courses, directory)
    context, proxy_port = await started
    try:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy_port}", timeout=timeout) as session:
            orders = [_order(recording, passes, seed) for seed in range(len(courses))]
            await asyncio.gather(
                *(
                    _drive(session, course, order, rate, show if number == 0 else lambda _: None)
                    for number, (course, order) in enumerate(zip(courses, orders, strict=True))
                )
            )
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
        server.close()
    return courses


def _start(recording: Recording, port: int, courses: Sequence[Course], directory: Path) -> tuple[Any, int]:
    context = product(cores(), directory / "product", configuration(recording, port, courses))
    return context, context.__enter__().port


def _order(recording: Recording, passes: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    order: list[Row] = []
    for _ in range(passes):
        shuffled = list(recording.rows)
        rng.shuffle(shuffled)
        order += shuffled
    return order


async def _drive(
    session: aiohttp.ClientSession,
    course: Course,
    order: Sequence[Row],
    rate: float,
    show: Callable[[float], None],
) -> None:
    """Send one route's prompts in order, at a constant rate, a bounded number at a time."""
    room = asyncio.Semaphore(IN_FLIGHT)
    begun = time.monotonic()

    async def one(row: Row) -> None:
        try:
            await _ask(session, course, row)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for number, row in enumerate(order):
            await room.acquire()
            wait = begun + number / rate - time.monotonic()
            if wait > 0.001:
                await asyncio.sleep(wait)
            group.create_task(one(row))
            if number % 50 == 0:
                show(number / len(order))
    show(1.0)


async def _ask(session: aiohttp.ClientSession, course: Course, row: Row) -> None:
    body = {"model": course.route, "messages": [{"role": "user", "content": row.prompt}]}
    async with session.post("/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise Failed(f"{reply.status}: {await reply.text()}")
        await reply.read()
        model = reply.headers[ARM]
        outcome = row.outcomes[model]
        said = float(reply.headers[COST])
        request_id = reply.headers[REQUEST_ID]
    course.worst_cost_error = max(course.worst_cost_error, abs(said - outcome.cost) / outcome.cost)
    course.outcomes.append((outcome.reward, said, model))
    rating = {"request_id": request_id, "metric": "quality", "value": outcome.reward, "source": "judge"}
    async with session.post("/v1/feedback", json=rating) as reply:
        await reply.read()
        course.refused_feedback += reply.status >= 300


def describe(recording: Recording, courses: Sequence[Course]) -> list[str]:
    """The comparison, as lines of text."""
    count = len(recording.rows)
    lines = [
        f"{count} prompts, {len(courses[0].outcomes)} requests per route. Reward and USD per request:",
        "",
    ]
    for model in recording.models:
        mean = recording.mean(model)
        lines.append(f"always {model:<40} reward {mean.reward:.4f}  ${mean.cost:.6f}")
    lines.append("")
    for course in courses:
        reward, cost = course.mean()
        late_reward, late_cost = course.mean(count)
        mix, parts = recording.best_mix(late_cost)
        used = ", ".join(
            f"{name.rpartition('/')[2]} {share:.0%}" for name, share in course.shares(count).items()
        )
        mixed = ", ".join(f"{name.rpartition('/')[2]} {share:.0%}" for name, share in parts.items())
        lines += [
            f"quality {course.quality_weight:g} : cost {course.cost_weight:g}",
            f"  whole run, learning included:  reward {reward:.4f}  ${cost:.6f}",
            f"  last pass ({used}):  reward {late_reward:.4f}  ${late_cost:.6f}",
            f"  best fixed mix at that cost ({mixed}):  reward {mix:.4f}",
        ]
    worst = max(course.worst_cost_error for course in courses)
    refused = sum(course.refused_feedback for course in courses)
    lines += ["", f"largest relative error of a reported cost {worst:.1e}; feedback refused {refused}"]
    return lines


def run(
    *, passes: int = PASSES, rate: float = RATE, show: Callable[[float], None]
) -> tuple[Recording, list[Course]]:
    """Read, replay, and return what happened."""
    recording = read()
    with tempfile.TemporaryDirectory(prefix="replay-") as scratch:
        courses = uvloop.run(replay(recording, Path(scratch), passes=passes, rate=rate, show=show))
    return recording, courses


def bar(done: float) -> None:
    """A progress bar on a terminal, a line per tenth elsewhere."""
    if sys.stderr.isatty():
        filled = round(done * 40)
        print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done:4.0%}", end="", file=sys.stderr, flush=True)
    elif round(done * 1000) % 100 < 10:
        print(f"{done:4.0%}", file=sys.stderr, flush=True)


def main() -> int:
    """Replay and print; a missing recording is a skip by name."""
    parser = argparse.ArgumentParser(description="Replay recorded prompts through the proxy.")
    parser.add_argument("--passes", type=int, default=PASSES, help="shuffles of all prompts per route")
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second and route")
    options = parser.parse_args()
    try:
        recording, courses = run(passes=options.passes, rate=options.rate, show=bar)
    except Skipped as skip:
        print(f"skipped: {skip}")
        return 0
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print("\n".join(describe(recording, courses)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
