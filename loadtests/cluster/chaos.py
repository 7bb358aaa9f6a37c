"""Nothing is lost: nodes under steady load while engines fail and our own processes are killed, and then the bill.

``python -m loadtests.cluster chaos``; what it asks is in ``bill``.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from loadtests.cluster.bill import SHARDS, Evidence, Rows, books, callers, held, row, settle
from loadtests.cluster.faults import Director, engine_faults, process_faults
from loadtests.cluster.scene import (
    Engines,
    Node,
    cluster_blocks,
    configuration,
    engines,
    nodes,
    shipping_block,
)
from loadtests.cluster.traffic import Seen, Traffic
from loadtests.cluster.watch import Watch
from loadtests.peers import mock_upstream
from loadtests.processes import cores

RATE: Final = 250.0


@dataclass(frozen=True, slots=True)
class Play:
    """How it is played. ``members`` 1 is a node of its own that ships to Kafka."""

    requests: int
    members: int = 2
    rate: float = RATE
    every_fault: bool = True
    kill: bool = True


def chaos(requests: int) -> Sequence[Mapping[str, Any]]:
    """Rows for the page.

    Raises:
        Failed: If one of the equalities does not hold, or something could not be looked at.
        Skipped: If an engine is not installed.
    """
    return held(perform(Play(requests)))


def perform(play: Play) -> Rows:
    """Play and count."""
    clustered = play.members > 1
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-chaos-") as name:
        directory = Path(name)
        with engines(directory, shards=SHARDS) as servers, mock_upstream(cores(), directory) as upstream:
            blocks = cluster_blocks(servers, shards=SHARDS) if clustered else shipping_block(servers)
            document = configuration(upstream.url, **blocks)
            with nodes(directory, [document] * play.members) as members, Watch(servers) as watch:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    seen, played = runner.run(_run(play, servers, members))
                settled = settle(servers, seen, clustered=clustered)
            return [
                row("requests sent", seen.sent, note=f"{play.rate:g}/s to {play.members} nodes"),
                row("faults played", len(played), note="; ".join(played)),
                *callers(seen, "an engine"),
                *books(Evidence(servers, members, seen, watch, settled, clustered), directory / "union"),
            ]


async def _run(play: Play, servers: Engines, members: Sequence[Node]) -> tuple[Seen, list[str]]:
    """Traffic and faults at the same time; both have ended when this returns."""
    faults = [fault for engine in servers.all() for fault in engine_faults(engine, every=play.every_fault)]
    if play.kill:
        faults += [fault for node in members[-1:] for fault in process_faults(node)]
    director = Director(faults, seconds=play.requests / play.rate)
    traffic = Traffic(members, rate=play.rate)
    traffic.during = lambda: director.now_playing
    directing = asyncio.create_task(director.run())
    try:
        await traffic.run(play.requests, directing.done)
        await directing
    finally:
        directing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await directing
    return traffic.seen, director.played
