"""The fault table as test material: all chosen scenarios played once, side by side, and a stage for direct tests."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from loadtests.faults.caller import PATHS, Reply, ask
from loadtests.faults.cases import SCENARIOS
from loadtests.faults.judge import Verdict, judge, taught_by
from loadtests.faults.play import Product, letters_of, play_all, request_of, routing_table, worker_here
from loadtests.faults.scenario import LETTERS, Scenario
from loadtests.faults.upstream import Attempt, FaultUpstream


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> Mapping[str, Verdict]:
    """The verdict on every scenario that this run asks for. A dozen run at a time, so all take a few seconds."""
    names = {
        item.callspec.params["scenario"]
        for item in request.session.items
        if "played" in getattr(item, "fixturenames", ())
    }
    chosen = [scenario for name, scenario in SCENARIOS.items() if name in names]

    async def perform() -> dict[str, Verdict]:
        upstream = FaultUpstream()
        await upstream.start()
        try:
            with tempfile.TemporaryDirectory(prefix="faults-") as directory:
                async with worker_here(Path(directory), routing_table(chosen, upstream)) as product:
                    seen = await play_all(chosen, product, upstream)
                    return {name: judge(one) for name, one in seen.items()}
        finally:
            await upstream.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(perform())


@dataclass
class Stage:
    """A worker in front of the upstream, for tests that ask more than once."""

    product: Product
    upstream: FaultUpstream
    session: aiohttp.ClientSession
    scenarios: Sequence[Scenario]
    _asked: int = 0

    @property
    def scenario(self) -> Scenario:
        return self.scenarios[0]

    async def ask(self, *, model: str = "", tag: str = "", **options: Any) -> Reply:
        """One request to the route, or to an arm's model by its letter."""
        scenario = self.scenario
        self._asked += 1
        name = scenario.model_name(model) if model else scenario.name
        return await ask(
            self.session,
            self.product.url + PATHS[scenario.endpoint],
            request_of(scenario, name, tag or f"direct-{self._asked}"),
            headers={},
            **({"patience_s": 5.0} | options),
        )

    def turn(self, letter: str, fault: str) -> None:
        """From now on this arm behaves otherwise."""
        self.upstream.override[self.scenario.model_id(letter)] = fault

    def seen(self, letter: str) -> list[Attempt]:
        """What reached an arm."""
        return [one for one in self.upstream.attempts if one.model == self.scenario.model_id(letter)]

    def served(self, reply: Reply) -> str:
        """The letter of the arm that answered."""
        return letters_of(self.scenario)[reply.headers["x-llm-optimizer-model"]]

    async def event(self, reply: Reply) -> dict[str, Any]:
        found = await self.product.log.find("", reply.headers["x-llm-optimizer-request-id"], number=1)
        assert found is not None
        return found

    def taught(self, event: Mapping[str, Any]) -> str:
        return taught_by(event, letters_of(self.scenario))

    def arm_id(self, letter: str) -> str:
        assert letter in LETTERS
        return self.scenario.model_name(letter)


async def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    """Wait for something that other tasks bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


Staging = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def staged(tmp_path: Path) -> Staging:
    """``async with staged(scenario) as stage``: what the table describes, up and running."""

    @asynccontextmanager
    async def start(*scenarios: Scenario) -> AsyncIterator[Stage]:
        upstream = FaultUpstream()
        await upstream.start()
        try:
            async with (
                worker_here(tmp_path / "state", routing_table(scenarios, upstream)) as product,
                aiohttp.ClientSession(
                    auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
                ) as session,
            ):
                yield Stage(product, upstream, session, scenarios)
        finally:
            await upstream.stop()

    return start


@pytest.fixture
def settled() -> Callable[..., Any]:
    """``await settled(condition)``."""
    return until
