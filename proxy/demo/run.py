"""Runs the demo from the first process to the last line.

Invariant: Ctrl-C and SIGTERM at any moment end the children and remove the directory before the demo exits.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import httpx
from rich.console import Console

from proxy.demo.stage import ROUTE, Stage, stage
from proxy.demo.tally import Tally
from proxy.demo.tasks import questions
from proxy.demo.traffic import Application, connect
from proxy.demo.view import Frame, open_view, summary, what_next
from proxy.simulator.profiles import ModelProfile, builtin_profiles

FRAME_S = 0.25
ANSWER_S = 20.0


class DemoFailed(Exception):
    """The demo ran but has nothing to show; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the demo is run. ``speed`` divides the simulated delays, ``keep`` leaves the proxy running.

    ``program`` is how the command can be called from here.
    """

    seconds: float = 60.0
    concurrency: int = 12
    seed: int = 7
    speed: float = 1.5
    keep: bool = False
    program: str = "llm-optimizer"


async def show(plan: Plan, console: Console, keyboard: TextIO | None) -> None:
    """Run the demo; returns when it is over or was interrupted.

    Raises:
        StageFailed: If a process did not come up.
        DemoFailed: If no request succeeded, or a process ended on the way.
    """
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    acting = asyncio.create_task(_act(plan, console, keyboard), name="demo")
    waiting = asyncio.create_task(interrupted.wait(), name="interrupt")
    await asyncio.wait((acting, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not acting.done():
        console.print("\nstopping")
        acting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await acting
        return
    acting.result()


async def _act(plan: Plan, console: Console, keyboard: TextIO | None) -> None:
    profiles = builtin_profiles()
    console.print("starting three simulated models and the proxy ...")
    async with stage(profiles, seed=plan.seed, speed=plan.speed) as built:
        console.print(
            f"proxy at {built.base_url}/v1, route {ROUTE!r}: {len(profiles)} models x 2 prompts; "
            f"sending traffic for {plan.seconds:g} s with the openai SDK",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"watch it at {built.base_url}/ui in a browser", highlight=False, soft_wrap=True)
        frame = await _play(plan, console, profiles, built)
        summary(console, frame)
        if plan.keep or await _wants_more(console, keyboard):
            what_next(console, built.base_url, program=plan.program, is_running=True)
            console.print("\nCtrl-C ends it.")
            await asyncio.Event().wait()
        what_next(console, built.base_url, program=plan.program, is_running=False)


async def _play(plan: Plan, console: Console, profiles: Sequence[ModelProfile], built: Stage) -> Frame:
    tally = Tally()
    started = time.monotonic()
    view = open_view(console)
    async with connect(built.base_url) as client, httpx.AsyncClient(trust_env=False) as admin:
        application = Application(client, profiles, questions(plan.seed), tally)
        sending = asyncio.create_task(
            application.run(concurrency=plan.concurrency, seconds=plan.seconds), name="traffic"
        )
        frame = Frame(0.0, plan.seconds, tally, ())
        try:
            while not sending.done():
                chances = await _probabilities(admin, built.base_url)
                frame = Frame(
                    time.monotonic() - started,
                    plan.seconds,
                    tally,
                    list(chances) or list(tally.arms),
                    chances,
                )
                view.show(frame)
                _check_players(built)
                await asyncio.wait((sending,), timeout=FRAME_S)
            sending.result()
        finally:
            sending.cancel()
            view.close()
    if not tally.total.count:
        raise DemoFailed(f"no request succeeded: {json.dumps(tally.errors)}\n{built.processes[-1].tail()}")
    return frame


def _check_players(built: Stage) -> None:
    for player in built.processes:
        ended = player.ended()
        if ended is not None:
            raise DemoFailed(ended)


async def _probabilities(admin: httpx.AsyncClient, base_url: str) -> Mapping[str, float]:
    """The published probabilities by arm, in the route's order; empty when the admin API can't be asked."""
    try:
        reply = await admin.get(f"{base_url}/api/v1/arms", params={"route": ROUTE}, timeout=1.0)
        arms = reply.json()["arms"] if reply.status_code == 200 else []
        return {arm["arm"]: float(arm["probability"]) for arm in arms if arm["route"] == ROUTE}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return {}


async def _wants_more(console: Console, keyboard: TextIO | None) -> bool:
    """Ask whether to leave the proxy running; no answer within ``ANSWER_S``, or no terminal, means no."""
    if keyboard is None or not keyboard.isatty() or not console.is_terminal:
        return False
    console.print(f"\nLeave the proxy running for curl? y + Enter within {ANSWER_S:g} s: ", end="")
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not typed.done():
            typed.set_result(keyboard.readline())

    loop.add_reader(keyboard, read)
    try:
        answer = await asyncio.wait_for(typed, ANSWER_S)
    except TimeoutError:
        answer = ""
        console.print()
    finally:
        loop.remove_reader(keyboard)
    return answer.strip().casefold() in ("y", "yes")
