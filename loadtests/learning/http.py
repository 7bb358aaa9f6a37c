"""The same policy through the running proxy, over HTTP: does the product do what the simulator says it does?

The upstream answers with each model's recorded cost (as usage times a configured price), the driver posts the recorded
reward as feedback on ``/v1/feedback``. Every budget is a route, twice, with an order of its own; the simulator plays
the same queries with the same settings, seed by seed. Words stay out on both sides: the running product fits its
projection in the middle of the burn-in, the simulator before it.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import numpy as np
import uvloop

from loadtests.learning.pareto import PASSES, budgeted, one, spread
from loadtests.learning.team import Team
from loadtests.learning.worlds import PARETOBANDIT, halves, paretobandit
from loadtests.mock_upstream import MockUpstream, Pacer
from loadtests.processes import Failed, cores
from loadtests.product import product
from loadtests.recording import Recording
from loadtests.recording import Row as Prompt
from loadtests.recording import read as read_recording
from loadtests.replay import ARM, COST, IN_FLIGHT, REQUEST_ID, answers, recorded_models
from optimizer.settings import ContextSettings

Row: TypeAlias = dict[str, Any]

BUDGETS = (8.3e-5, 2.3e-4, 6.6e-4)
COPIES = 2
RATE = 20.0
"""Requests a second and route: the optimizer publishes about every 20 of them, as the simulator does every 25."""


@dataclass(slots=True)
class Course:
    """One route over HTTP; (reward, cost) per request of the reported half."""

    budget: float
    copy: int
    outcomes: list[tuple[float, float]] = field(default_factory=list)
    refused_feedback: int = 0

    @property
    def route(self) -> str:
        return f"budget-{self.budget:g}-{self.copy}"


def http(team: Team) -> list[Row]:
    """Reward and spend of every budget, simulated and over HTTP.

    Raises:
        Skipped: If the data set is not on this machine.
    """
    recorded = paretobandit()
    # The product keeps one account from its start on, so the simulator does here, too.
    plan = [
        (budget, replace(budgeted(recorded, budget, ContextSettings()), afresh=False)) for budget in BUDGETS
    ]
    found = team.run("simulated", one, [(played, seed) for _, played in plan for seed in range(team.seeds)])
    shown = team.progress.add_task("over HTTP", total=1.0)
    with tempfile.TemporaryDirectory(prefix="learning-http-") as scratch:
        courses = uvloop.run(_replay(Path(scratch), lambda done: team.progress.update(shown, completed=done)))
    rows: list[Row] = []
    for number, budget in enumerate(BUDGETS):
        trials = found[number * team.seeds : (number + 1) * team.seeds]
        simulated = spread([(trial.quality, trial.cost) for trial in trials], budget)
        ran = [course for course in courses if course.budget == budget]
        means = [tuple(np.mean(course.outcomes, axis=0).tolist()) for course in ran]
        real = spread([(quality, cost) for quality, cost in means], budget)
        refused = sum(course.refused_feedback for course in ran)
        rows.append({"budget": budget, "way": "simulated", **simulated})
        rows.append({"budget": budget, "way": "over HTTP", "refused_feedback": refused, **real})
    return rows


def configuration(recording: Recording, port: int, courses: Sequence[Course]) -> dict[str, Any]:
    """The recorded models, and a route per budget and copy."""
    return {
        **recorded_models(recording, port),
        "routes": {
            course.route: {
                "baseline": recording.models[-1],
                "arms": list(recording.models),
                "policy": "thompson",
                "objectives": [{"name": "quality"}],
                "constraints": {"cost_per_request_usd": course.budget},
                "context": True,
            }
            for course in courses
        },
    }


async def _replay(directory: Path, show: Callable[[float], None]) -> list[Course]:
    recording = read_recording(PARETOBANDIT)
    burn_in, report = halves(paretobandit())
    courses = [Course(budget, copy) for budget in BUDGETS for copy in range(COPIES)]
    loop = asyncio.get_running_loop()
    answer = answers(recording)
    server = await loop.create_server(
        lambda: MockUpstream(answer, Pacer(chunks=1, rate=1.0)), "127.0.0.1", 0, backlog=1024
    )
    document = configuration(recording, server.sockets[0].getsockname()[1], courses)
    context = product(cores(), directory / "product", document)
    proxy = await asyncio.to_thread(context.__enter__)
    try:
        timeout = aiohttp.ClientTimeout(total=20)
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}", timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for number, course in enumerate(courses):
                rng = np.random.default_rng([course.copy, 0x51])
                before = [recording.rows[row] for _ in range(PASSES) for row in rng.permutation(burn_in)]
                after = [recording.rows[row] for row in rng.permutation(report)]
                told = show if number == 0 else lambda _: None
                group.create_task(_drive(session, course, before, after, told))
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
        server.close()
    return courses


async def _drive(
    session: aiohttp.ClientSession,
    course: Course,
    before: Sequence[Prompt],
    after: Sequence[Prompt],
    show: Callable[[float], None],
) -> None:
    """Send one route's prompts in order, at a constant rate, a bounded number at a time."""
    room = asyncio.Semaphore(IN_FLIGHT)
    begun = time.monotonic()
    total = len(before) + len(after)

    async def ask(prompt: Prompt, counts: bool) -> None:
        try:
            found = await _ask(session, course, prompt)
            if counts:
                course.outcomes.append(found)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for number, prompt in enumerate((*before, *after)):
            await room.acquire()
            wait = begun + number / RATE - time.monotonic()
            if wait > 0.001:
                await asyncio.sleep(wait)
            group.create_task(ask(prompt, number >= len(before)))
            if number % 50 == 0:
                show(number / total)
    show(1.0)


async def _ask(session: aiohttp.ClientSession, course: Course, prompt: Prompt) -> tuple[float, float]:
    body = {"model": course.route, "messages": [{"role": "user", "content": prompt.prompt}]}
    async with session.post("/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise Failed(f"{reply.status}: {await reply.text()}")
        await reply.read()
        outcome = prompt.outcomes[reply.headers[ARM]]
        cost, request_id = float(reply.headers[COST]), reply.headers[REQUEST_ID]
    rating = {"request_id": request_id, "metric": "quality", "value": outcome.reward, "source": "recorded"}
    async with session.post("/v1/feedback", json=rating) as reply:
        await reply.read()
        course.refused_feedback += reply.status >= 300
    return outcome.reward, cost
