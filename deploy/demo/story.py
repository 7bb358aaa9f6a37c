"""The acts: healthy, canary, injected errors, rolled back, Kafka killed, Kafka back, nothing lost.

Invariant: what is printed as having happened was seen from outside, over REST, in replies or in the topic.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from confluent_kafka import KafkaException
from rich.console import Console

from deploy.demo.load import ROUTE, Load
from deploy.demo.stage import ADMIN_KEY, Stage
from deploy.demo.topic import REQUEST, Topic

HEALTHY_S = 6.0
AWAY_S = 12.0
PATIENCE_S = 90.0
ROLLBACK_S = 60.0
RECOVERY_S = 180.0
_PATH = "/api/v1/optimize"
_STAGES = [
    {"percentage": 20, "duration_sec": 3, "min_samples": 20},
    {"percentage": 50, "duration_sec": 600, "min_samples": 20},
    {"percentage": 100},
]


class DidNotHold(Exception):
    """The product did not do what it promises; the message says what."""


class Story:
    """Plays all acts on a stage that runs."""

    def __init__(self, stage: Stage, console: Console, *, per_second: float) -> None:
        self._stage = stage
        self._console = console
        self._load = Load(stage.nodes, per_second=per_second)
        self._per_second = per_second
        self._began = time.monotonic()

    async def play(self) -> None:
        """All acts.

        Raises:
            DidNotHold: At the first thing that is not as it should be.
        """
        stop = asyncio.Event()
        asking = asyncio.create_task(self._load.run(stop), name="load")
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as http:
                await self._healthy()
                id_ = await self._canary(http)
                await self._errors(http, id_)
            await self._without_kafka()
        finally:
            stop.set()
            await asking
        await self._compare()

    async def _healthy(self) -> None:
        self._say(
            "healthy", f"{len(self._stage.nodes)} nodes, {self._per_second:g} requests/s over all of them"
        )
        await asyncio.sleep(HEALTHY_S)
        self._must_be_served("healthy")

    async def _canary(self, http: aiohttp.ClientSession) -> str:
        body = {
            "name": "cheaper model", "strategy": "manual", "route": ROUTE,
            "parameters": {"arms": ["sim-candidate"], "baseline": "sim-candidate", "policy": {"type": "fixed"}},
        }  # fmt: skip
        # The owner of the route may still be reading; whoever is asked says so with 503.
        made = await self._until(lambda: self._order(http, -1, _PATH, body), PATIENCE_S, "an optimization")
        id_ = str(made["id"])
        await self._until(lambda: self._has(http, id_, "proposed"), PATIENCE_S, "its proposal")
        deploy = {"canary": {"enabled": True, "stages": _STAGES}}
        await self._until(
            lambda: self._order(http, -1, f"{_PATH}/{id_}/deploy", deploy), PATIENCE_S, "its deployment"
        )
        self._say("canary", f"optimization {id_} was ordered from the last node, 20 % of traffic")

        async def at_half() -> dict[str, Any] | None:
            record = await self._record(http, 0, id_)
            if record is not None and record["status"] not in ("running", "proposed"):
                raise DidNotHold(f"the healthy candidate is {record['status']}: {record.get('reason')}")
            return record if record and record["metrics"]["deployment_percentage"] >= 50 else None

        await self._until(at_half, PATIENCE_S, "the second stage")
        self._say("canary", "its first stage passed, 50 % of traffic (seen from the first node)")
        self._must_be_served("canary")
        return id_

    async def _errors(self, http: aiohttp.ClientSession, id_: str) -> None:
        self._say(
            "errors", "the candidate's model is taken away, and comes back failing nine of ten requests"
        )
        began = time.monotonic()
        breaking = asyncio.create_task(asyncio.to_thread(self._stage.break_candidate))
        record = await self._until(lambda: self._has(http, id_, "rolled_back"), ROLLBACK_S, "the rollback")
        self._say(
            "rolled back",
            f"after {time.monotonic() - began:.1f} s, because of {record.get('reason')}; callers saw nothing: "
            "their answers came from the fallback",
        )
        await breaking
        await asyncio.sleep(1.0)  # Within it every worker of every node has to know.
        before = self._load.seen.sides["candidate"]
        await asyncio.sleep(3.0)
        late = self._load.seen.sides["candidate"] - before
        if late:
            raise DidNotHold(f"{late} requests went to the candidate a second after its rollback and later")
        self._must_be_served("rollback")

    async def _without_kafka(self) -> None:
        before = len(self._load.seen.answered)
        await asyncio.to_thread(self._stage.kill_kafka)
        self._say("Kafka killed", f"with SIGKILL; callers go on for {AWAY_S:g} s")
        await asyncio.sleep(AWAY_S)
        during = len(self._load.seen.answered) - before
        if during < 0.5 * AWAY_S * self._per_second:
            raise DidNotHold(f"only {during} requests were answered while Kafka was away")
        self._must_be_served("no Kafka")
        self._say("Kafka killed", f"{during} requests were answered meanwhile, none failed")
        await asyncio.to_thread(self._stage.start_kafka)
        self._say("Kafka back", "on what it had on its disk")
        await asyncio.sleep(3.0)

    async def _compare(self) -> None:
        seen, topic = self._load.seen, Topic(self._stage.kafka)
        self._must_be_served("end")

        async def complete() -> bool | None:
            try:
                await asyncio.to_thread(topic.read)
            except KafkaException:
                return None
            is_all = seen.answered <= topic.ids[REQUEST] and topic.ratings() >= len(seen.rated)
            return True if is_all else None

        try:
            await self._until(complete, RECOVERY_S, "all events in the topic")
        except DidNotHold:
            missing = len(seen.answered - topic.ids[REQUEST])
            raise DidNotHold(
                f"{missing} of {len(seen.answered)} answered requests are not in Kafka, and {topic.ratings()} of "
                f"{len(seen.rated)} ratings are"
            ) from None
        foreign = len(topic.ids[REQUEST] - seen.answered)
        if foreign or topic.ratings() != len(seen.rated):
            raise DidNotHold(
                f"Kafka has {foreign} requests that nobody was answered, and {topic.ratings()} ratings instead of "
                f"{len(seen.rated)}"
            )
        repeated = topic.records[REQUEST] - len(topic.ids[REQUEST])
        self._say(
            "nothing lost",
            f"{len(seen.answered)} requests answered = {len(topic.ids[REQUEST])} in Kafka; {len(seen.rated)} ratings "
            f"accepted = {topic.ratings()} in Kafka ({repeated} records came twice, with the same id)",
        )

    def _must_be_served(self, act: str) -> None:
        seen = self._load.seen
        if seen.failed:
            raise DidNotHold(f"{act}: callers saw failures: {dict(seen.failed)}")
        if not seen.answered:
            raise DidNotHold(f"{act}: nobody was answered")

    async def _order(
        self, http: aiohttp.ClientSession, node: int, path: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        async with http.post(f"{self._stage.nodes[node]}{path}", json=body) as reply:
            if reply.status == 503:
                return None
            document = await reply.json()
            if reply.status >= 300:
                raise DidNotHold(f"POST {path}: {reply.status} {document}")
            return dict(document)

    async def _record(self, http: aiohttp.ClientSession, node: int, id_: str) -> dict[str, Any] | None:
        async with http.get(f"{self._stage.nodes[node]}{_PATH}/{id_}") as reply:
            return dict(await reply.json()) if reply.status == 200 else None

    async def _has(self, http: aiohttp.ClientSession, id_: str, status: str) -> dict[str, Any] | None:
        record = await self._record(http, 0, id_)
        return record if record is not None and record["status"] == status else None

    async def _until(self, ask: Callable[[], Awaitable[Any]], seconds: float, what: str) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                found = await ask()
            except (aiohttp.ClientError, TimeoutError):
                found = None
            if found is not None:
                return found
            if time.monotonic() > end:
                raise DidNotHold(f"waited {seconds:g} s in vain for {what}")
            await asyncio.sleep(0.1)

    def _say(self, act: str, text: str) -> None:
        at = time.monotonic() - self._began
        seen = self._load.seen
        self._console.print(
            f"[dim]{at:6.1f} s[/dim]  [bold]{act:<13}[/bold] {text}  "
            f"[dim]({len(seen.answered)} answered, {sum(seen.failed.values())} failed)[/dim]",
            highlight=False,
            soft_wrap=True,
        )
