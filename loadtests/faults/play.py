"""Plays scenarios: one routing table for all of them, a worker in front of the upstream, and a plain pass-through.

Scenarios run side by side. They can't disturb each other: every arm has an upstream entry, a model and so a breaker,
a retry budget and a connection pool of its own.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from loadtests.baseline import PassThrough
from loadtests.faults.caller import PATHS, Reply, ask
from loadtests.faults.judge import GRACE_S, Seen
from loadtests.faults.scenario import DEADLINES, LETTERS, TIGHT, Scenario
from loadtests.faults.upstream import FaultUpstream
from loadtests.processes import Child, Failed, python_module
from optimizer.log.node import StateDirectory
from optimizer.routing import (
    Arm,
    Limits,
    Model,
    Price,
    Route,
    RoutingTable,
    Selector,
    Side,
    Upstream,
    Variant,
)
from optimizer.table_file import write_table
from proxy.config.resolver import SecretResolver
from proxy.worker import Worker

SECRET = "sk-planted-fault-secret-8c1f"
SECRET_NAME = "FAULTS_UPSTREAM_KEY"
REQUEST = "llm_optimizer.request.v1"
SIDE_BY_SIDE = 12
_CAN = frozenset(("tools", "json_object", "json_schema", "stream_usage"))
_ENDPOINTS = frozenset(("chat", "completions", "embeddings", "responses"))


# The routing table.


def routing_table(scenarios: Iterable[Scenario], upstream: FaultUpstream) -> RoutingTable:
    """One route per scenario, named like it; arms, models and upstreams are named ``<scenario>.<letter>``."""
    upstreams: list[Upstream] = []
    models: list[Model] = []
    routes: list[Route] = []
    for scenario in scenarios:
        for letter, arm in zip(LETTERS, scenario.arms, strict=False):
            upstreams.append(
                Upstream(
                    name=scenario.model_name(letter),
                    provider=arm.provider,
                    base_url=upstream.url(arm.base) + "/v1",
                    secret=f"env:{SECRET_NAME}",
                    **{**DEADLINES, **scenario.upstream, **arm.upstream},
                )
            )
            models.append(_model(scenario, letter))
        routes.append(_route(scenario))
    return RoutingTable(
        version=1,
        published_at=time.time(),
        config_hash="faults",
        upstreams=tuple(upstreams),
        models=tuple(models),
        variants=(Variant(name="default", key=""),),
        routes=tuple(routes),
        limits=Limits(drain_s=0.2),
    )


def _model(scenario: Scenario, letter: str) -> Model:
    arm = scenario.arms[LETTERS.index(letter)]
    name = scenario.model_name(letter)
    return Model(
        name=name,
        upstream=name,
        model_id=scenario.model_id(letter),
        key=f"key-{name}",
        price=Price(input=1.0, output=2.0, version="v1"),
        context_tokens=arm.context,
        capabilities=_CAN | set(arm.can),
        endpoints=_ENDPOINTS if arm.provider == "openai" else frozenset(("chat",)),
    )


def _arm(scenario: Scenario, letter: str) -> Arm:
    name = scenario.model_name(letter)
    return Arm(id=name, model=name, variant="default", model_key=f"key-{name}", variant_key="")


def _route(scenario: Scenario) -> Route:
    decided = scenario.decided
    # As good as certain, and still in order: nothing in a scenario is left to chance.
    small = [10.0 ** -(6 + index) for index in range(1, len(decided))]
    chances = (1.0 - sum(small), *small)
    return Route(
        name=scenario.name,
        control=Side(
            arms=tuple(_arm(scenario, letter) for letter in decided),
            selector=Selector(id=f"sel-{scenario.name}", policy="fixed", probabilities=chances),
            baseline=scenario.model_name("a"),
        ),
        fallbacks=tuple(_arm(scenario, letter) for letter in scenario.fallbacks),
        resilience=replace(TIGHT, **scenario.resilience),
        salt="salt",
    )


def letters_of(scenario: Scenario) -> dict[str, str]:
    """Model ids, configuration names and arm ids of a scenario -> letters."""
    found = {}
    for letter in LETTERS[: len(scenario.arms)]:
        found[scenario.model_id(letter)] = found[scenario.model_name(letter)] = letter
    return found


# The worker.


@dataclass(slots=True)
class EventLog:
    """Reads request events as they are appended to a state directory's log."""

    directory: Path
    _offsets: dict[Path, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def poll(self) -> None:
        """Take in whole lines that are new."""
        for path in sorted(self.directory.rglob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            end = data.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + end
            for line in data[:end].splitlines():
                event = orjson.loads(line)
                if event["type"] == REQUEST:
                    self.events.append(event["data"] | {"id": event["id"]})

    async def find(self, name: str, request_id: str | None, *, number: int) -> dict[str, Any] | None:
        """The event of a request by its id, else the ``number``-th of a route or model; waits for a moment."""
        deadline = time.monotonic() + 2.0
        while True:
            self.poll()
            if request_id is not None:
                found = [event for event in self.events if event["id"] == request_id]
            else:
                mine = [event for event in self.events if event.get("requested_model") == name]
                found = mine[number - 1 :]
            if found or time.monotonic() > deadline:
                return found[0] if found else None
            await asyncio.sleep(0.02)


@dataclass(slots=True)
class Product:
    """A running worker: where it is, its log, and itself when it runs in this process."""

    url: str
    log: EventLog
    state: StateDirectory
    worker: Worker | None = None

    def publish(self, table: RoutingTable) -> None:
        """Swap the table of a worker in this process."""
        write_table(self.state.table_file, table)
        assert self.worker is not None
        assert self.worker.refresh()


@asynccontextmanager
async def worker_here(directory: Path, table: RoutingTable) -> AsyncIterator[Product]:
    """A worker in this process."""
    state = StateDirectory(directory)
    write_table(state.table_file, table)
    worker = Worker(
        state,
        incarnation=state.allocate_incarnation(),
        resolver=SecretResolver({SECRET_NAME: SECRET}),
        uniform_seed=7,
    )
    port = await worker.start("127.0.0.1", 0)
    try:
        yield Product(f"http://127.0.0.1:{port}", EventLog(state.log_directory), state, worker)
    finally:
        await worker.stop(0.1)


@asynccontextmanager
async def worker_process(directory: Path, table: RoutingTable) -> AsyncIterator[Product]:
    """A worker as it runs in production, in a process of its own."""
    state = StateDirectory(directory)
    write_table(state.table_file, table)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    command = python_module(
        "proxy.worker",
        *("--state-dir", str(directory), "--listen-fd", str(listening.fileno())),
        *("--incarnation", str(state.allocate_incarnation()), "--log-level", "error"),
    )
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    child = Child(
        command,
        core=cores,
        log=directory / "worker.out",
        name="worker",
        environ={SECRET_NAME: SECRET},
        pass_fds=(listening.fileno(),),
    )
    with child, listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        product = Product(url, EventLog(state.log_directory), state)
        await _until_ready(product.url, child)
        yield product


async def _until_ready(url: str, child: Child) -> None:
    """Wait for readiness.

    Raises:
        Failed: If the process ends or is not ready in time; with the end of what it said.
    """
    deadline = time.monotonic() + 15.0
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            if child.process.poll() is not None or time.monotonic() > deadline:
                said = child.log_path.read_text(errors="replace")[-2000:]
                raise Failed(f"the worker did not get ready:\n{said}")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def pass_through(upstream: FaultUpstream) -> AsyncIterator[Mapping[str, str]]:
    """Plain pass-throughs, one in front of each listener of the upstream: its name -> address."""
    runners, found = [], {}
    # What it can't do is on the card; its tracebacks need not be.
    silent = logging.getLogger("loadtests.faults.pass_through")
    silent.setLevel(logging.CRITICAL + 1)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        for name in ("main", "refused", "silent"):
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_post("/v1/{rest:.*}", PassThrough(session, upstream.url(name)).handle)
            runner = web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            found[name] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield found
        finally:
            for runner in runners:
                await runner.cleanup()


# Playing.


def request_of(scenario: Scenario, model: str, tag: str) -> dict[str, Any]:
    """The body of the scenario's request."""
    said = f"Count, please. tag={tag} "
    body: dict[str, Any] = {"model": model}
    if scenario.endpoint == "chat":
        body["messages"] = [{"role": "user", "content": said}]
    elif scenario.endpoint == "completions":
        body["prompt"] = said
    elif scenario.endpoint == "embeddings":
        body["input"] = said
    else:
        body |= {"input": said, "store": False}
    if scenario.stream:
        body["stream"] = True
    return body | dict(scenario.body)


async def play(scenario: Scenario, product: Product, upstream: FaultUpstream) -> Seen:
    """Play a scenario against the product."""
    name = scenario.model_name(scenario.model) if scenario.model else scenario.name
    headers = {"x-llm-optimizer-pin": scenario.model_name(scenario.pinned)} if scenario.pinned else {}
    tag = f"{scenario.name}.p"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = product.url + PATHS[scenario.endpoint]
        for number in range(scenario.warm):
            await ask(
                session, url, request_of(scenario, name, f"warm-{tag}-{number}"), headers={}, patience_s=5
            )
        reply = await _ask(session, url, request_of(scenario, name, tag), headers, scenario)
    event = await product.log.find(
        name, reply.headers.get("x-llm-optimizer-request-id"), number=scenario.warm + 1
    )
    await _settle(upstream, tag, scenario)
    return Seen(
        scenario, reply, upstream.of(tag), event, letters_of(scenario), tag in upstream.strays, SECRET
    )


async def play_plain(scenario: Scenario, bases: Mapping[str, str], upstream: FaultUpstream) -> Seen:
    """Play a scenario against a plain pass-through to its first arm."""
    tag = f"{scenario.name}.t"
    model = scenario.model_id("a")
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = bases[scenario.arms[0].base] + PATHS[scenario.endpoint]
        for number in range(scenario.warm):
            await ask(
                session, url, request_of(scenario, model, f"warm-{tag}-{number}"), headers={}, patience_s=5
            )
        reply = await _ask(session, url, request_of(scenario, model, tag), {}, scenario)
    await _settle(upstream, tag, scenario)
    return Seen(scenario, reply, upstream.of(tag), None, letters_of(scenario), tag in upstream.strays, SECRET)


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    document: Mapping[str, Any],
    headers: Mapping[str, str],
    scenario: Scenario,
) -> Reply:
    return await ask(
        session,
        url,
        document,
        headers=headers,
        patience_s=scenario.expected.within_s + 2 * GRACE_S,
        leaves_s=scenario.leaves_s,
        leaves_after=scenario.leaves_after,
    )


async def _settle(upstream: FaultUpstream, tag: str, scenario: Scenario) -> None:
    """Give hang-ups the time to arrive."""
    if scenario.settle_s:
        await asyncio.sleep(scenario.settle_s)
    deadline = time.monotonic() + GRACE_S
    while any(attempt.open for attempt in upstream.of(tag)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def play_all(
    scenarios: Sequence[Scenario], product: Product, upstream: FaultUpstream, *, at_once: int = SIDE_BY_SIDE
) -> dict[str, Seen]:
    """Play scenarios side by side."""
    room = asyncio.Semaphore(at_once)

    async def one(scenario: Scenario) -> Seen:
        async with room:
            return await play(scenario, product, upstream)

    found = await asyncio.gather(*(one(scenario) for scenario in scenarios))
    return {scenario.name: seen for scenario, seen in zip(scenarios, found, strict=True)}
