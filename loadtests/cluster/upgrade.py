"""A rolling upgrade and the way back, an older program beside a newer one: ``python -m loadtests.cluster upgrade``.

Two nodes with the older program under steady load, a canary on one route; then one node after the other goes on with
the newer program on the same state, and then back. Invariant: callers are sent where a load balancer would send them,
which looks at nothing but readiness; what failed is counted whatever its cause.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop

from loadtests.cluster import bill
from loadtests.cluster.bill import SHARDS, Evidence, Rows, must, row
from loadtests.cluster.programs import Program, newer, older
from loadtests.cluster.scene import Engines, Node, cluster_blocks, configuration, engines
from loadtests.cluster.traffic import Traffic
from loadtests.cluster.watch import Watch
from loadtests.peers import mock_upstream
from loadtests.processes import Failed, cores

RATE: Final = 100.0
STREAMED: Final = 0.03
DWELL_S: Final = 10.0
KEY: Final = "the-admin-key-of-the-upgrade"
ROUTE: Final = "chat"
CANDIDATE: Final = {"arms": ["gamma"], "baseline": "gamma", "policy": {"type": "fixed"}}
STAGES: Final = [{"percentage": 30, "duration_sec": 900}, {"percentage": 100}]
_LOOK_S: Final = 0.1
_PATIENCE_S: Final = 60.0
_BALANCER_S: Final = 1000
"""How long a node that goes says so before it goes, ms: ten looks of the balancer."""
_GONE_S: Final = 1.0


def upgrade(commit: str, *, dwell_s: float = DWELL_S) -> Sequence[Mapping[str, Any]]:
    """Rows for the page.

    Raises:
        Failed: If something failed because of it, or one of the equalities does not hold.
        Skipped: If an engine is not installed, or the commit is not here.
    """
    return bill.held(perform(commit, dwell_s=dwell_s))


def perform(commit: str, *, dwell_s: float = DWELL_S) -> Rows:
    """Play and count."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-upgrade-") as name:
        directory = Path(name)
        programs = older(commit, directory / "older"), newer(directory / "newer")
        streams = ("--chunks", "100", "--rate", "25")
        with (
            engines(directory, shards=SHARDS) as servers,
            mock_upstream(cores(), directory, *streams) as upstream,
        ):
            document = configuration(
                upstream.url,
                admin={"key": KEY},
                server={"drain_delay_ms": _BALANCER_S},
                **cluster_blocks(servers, shards=SHARDS),
            )
            with _nodes(directory, document, programs[0]) as members, Watch(servers) as watch:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    story = runner.run(_played(members, programs, dwell_s))
                settled = bill.settle(servers, story.traffic.seen)
            return [
                *_told(story),
                *bill.callers(story.traffic.seen, "it"),
                *bill.books(_evidence(servers, members, story, watch, settled), directory / "union"),
            ]


def _evidence(
    servers: Engines, members: Sequence[Node], story: "Story", watch: Watch, settled: bool
) -> Evidence:
    return Evidence(servers, members, story.traffic.seen, watch, settled)


@contextmanager
def _nodes(directory: Path, document: Mapping[str, Any], program: Program) -> Iterator[list[Node]]:
    made = [Node(f"node {number}", directory / f"node{number}", document) for number in (1, 2)]
    try:
        for node in made:
            node.tree = program.tree
            node.start()
        yield made
    finally:
        for node in made:
            node.stop()


async def _played(members: Sequence[Node], programs: tuple[Program, Program], dwell_s: float) -> "Story":
    timeout = aiohttp.ClientTimeout(total=10.0)
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as http:
        story = Story(members, http, dwell_s)
        work = [asyncio.create_task(story.balance()), asyncio.create_task(story.play(*programs))]
        try:
            await story.traffic.run(0, work[1].done)
            await work[1]
        finally:
            for task in work:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        return story


@dataclass(frozen=True, slots=True)
class Step:
    """One node that went on with another program. ``away_s`` is from SIGTERM until it was ready again, ``shared_s``
    until both nodes owned shards, ``given_s`` until both sent the candidate traffic.
    """

    name: str
    away_s: float
    shared_s: float
    given_s: float


@dataclass
class Story:
    """What is done, and what was seen of it."""

    members: Sequence[Node]
    http: aiohttp.ClientSession
    dwell_s: float
    steps: list[Step] = field(default_factory=list)
    status: str = ""
    attempt: int = 0
    pause_s: float = 0.0
    after_s: float = 0.0

    def __post_init__(self) -> None:
        self.traffic = Traffic(self.members, rate=RATE, streamed=STREAMED)
        self.traffic.among = lambda: self._ready
        self.traffic.during = lambda: self._now
        self._ready = list(self.members)
        self._now = "both nodes run the older program"

    async def balance(self) -> None:
        """Send nobody to a node that does not say that it is ready."""
        while True:
            said = await asyncio.gather(*(self._is_ready(node) for node in self.members))
            self._ready = [node for node, ready in zip(self.members, said, strict=True) if ready]
            await asyncio.sleep(_LOOK_S)

    async def play(self, old: Program, new: Program) -> None:
        """The upgrade, and back.

        Raises:
            Failed: Something did not come in time.
        """
        await self._until("both nodes own shards", self._is_shared_out)
        id_ = await self._canary()
        began = time.monotonic()
        await asyncio.sleep(self.dwell_s)
        for program in (new, old):
            for node in self.members:
                await self._replace(node, program)
        record = await self._asked(self.members[0], "GET", f"/api/v1/optimize/{id_}")
        self.status = str(record.get("status"))
        self.attempt = int((record.get("rollout") or {}).get("attempt", 0))
        self.pause_s = _longest([at for at, _ in self.traffic.seen.candidates if at >= began])
        self._now = "the candidate is taken away"
        asked = time.monotonic()
        await self._asked(self.members[1], "POST", f"/api/v1/optimize/{id_}/rollback")
        await asyncio.sleep(2 * _GONE_S)
        self.after_s = max(at for at, _ in self.traffic.seen.candidates) - asked

    async def _replace(self, node: Node, program: Program) -> None:
        self._now = f"{node.name} goes on with {program.name}"
        began = time.monotonic()
        await asyncio.to_thread(node.stop)
        node.tree = program.tree
        await asyncio.to_thread(node.start)
        ready = time.monotonic()
        await self._until("both nodes own shards again", self._is_shared_out)
        shared = time.monotonic()
        await self._until("both nodes send the candidate traffic again", lambda: self._both(shared))
        given = time.monotonic()
        await asyncio.sleep(self.dwell_s)
        self.steps.append(Step(self._now, ready - began, shared - began, given - began))

    async def _canary(self) -> str:
        body = {"name": "across it", "strategy": "manual", "route": ROUTE, "parameters": CANDIDATE}
        id_ = str((await self._made("/api/v1/optimize", body))["id"])
        path = f"/api/v1/optimize/{id_}"

        async def proposed() -> bool:
            return (await self._asked(self.members[0], "GET", path)).get("status") == "proposed"

        await self._until("it is proposed", proposed)
        await self._made(f"{path}/deploy", {"canary": {"stages": STAGES}})
        since = time.monotonic()
        await self._until("both nodes send it traffic", lambda: self._both(since))
        return id_

    async def _made(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What a node answers that did it; while the cluster is still beginning nobody may."""
        said: list[dict[str, Any]] = []

        async def did() -> bool:
            said.append(await self._asked(self.members[0], "POST", path, body))
            return "error" not in said[-1]

        await self._until(path, did)
        return said[-1]

    async def _both(self, since: float) -> bool:
        return {node for at, node in self.traffic.seen.candidates if at >= since} == {
            node.name for node in self.members
        }

    async def _is_shared_out(self) -> bool:
        views = [await self._asked(node, "GET", "/api/v1/cluster") for node in self.members]
        owners = [{shard["owner"] for shard in view.get("shards") or ()} for view in views]
        return all(each == {view.get("node") for view in views} for each in owners)

    async def _is_ready(self, node: Node) -> bool:
        try:
            async with self.http.get(f"{node.url}/health/ready") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _asked(
        self, node: Node, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            async with self.http.request(method, node.url + path, json=body) as reply:
                return dict(await reply.json())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return {"error": repr(error)}

    async def _until(self, what: str, condition: Any) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not await condition():
            if time.monotonic() > until:
                raise Failed(f"{what}: not within {_PATIENCE_S:g} s, while {self._now}")
            await asyncio.sleep(_LOOK_S)


def _told(story: Story) -> Rows:
    seen = story.traffic.seen
    return [
        row("requests sent", seen.sent, note=f"{RATE:g}/s to those of 2 nodes that are ready"),
        row("streams among them that came to their end", seen.streams, note="4 s each"),
        *(
            row(
                step.name,
                round(step.away_s, 1),
                unit="s",
                note=f"until it was ready again; {step.shared_s:.1f} s until both owned shards, {step.given_s:.1f} s "
                "until both sent the candidate traffic",
            )
            for step in story.steps
        ),
        row("answers of the candidate", len(seen.candidates)),
        must("canaries that went on all the while", int(story.status == "running" and story.attempt <= 1), 1,
             f"{story.status}, attempt {story.attempt}"),
        row("longest time without an answer of the candidate", round(story.pause_s, 1), unit="s"),
        bill.at_most("last answer of the candidate after it was taken away", round(story.after_s, 2), _GONE_S,
                     "asked on one node, seen on both, s"),
    ]  # fmt: skip


def _longest(moments: Sequence[float]) -> float:
    """The longest pause between two."""
    ordered = sorted(moments)
    return max((later - earlier for earlier, later in pairwise(ordered)), default=0.0)
