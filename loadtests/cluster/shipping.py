"""What shipping costs: events a second from the log into a real broker, and the worker's CPU with Kafka and Redis on.

Invariant: on and off run at the same time on the same machine and take turns under load: a slow minute hits both.
"""

import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadtests.cluster.scene import (
    TOPIC,
    Engines,
    Node,
    cluster_blocks,
    configuration,
    engines,
    shipping_block,
)
from loadtests.cluster.watch import records
from loadtests.load import Throughput, chat_body, run_wrk, spread
from loadtests.peers import Proxy, nginx_upstream
from loadtests.processes import Cores, Failed, cores, cpu_seconds, descendants, pin
from loadtests.soak.verdict import learned
from optimizer.log.node import StateDirectory

EVENTS: Final = 200_000
PROMPT: Final = 2048
SECONDS: Final = 4
ASKED_RATE: Final = 20_000
ASKED_RATIO: Final = 1.03
_GOLDEN: Final = Path(__file__).parents[2] / "tests" / "golden" / "events" / "request.v1.jsonl"
_SHIP_S: Final = 300.0
_SEGMENT_BYTES: Final = 64 * 1024 * 1024
SHARDS: Final = 4


def shipping(rounds: int) -> Sequence[Mapping[str, Any]]:
    """Rows for the page.

    Raises:
        Failed: If something does not get through in time.
        Skipped: If an engine, wrk or nginx is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-shipping-") as name:
        directory = Path(name)
        with engines(directory, shards=SHARDS) as servers:
            rows = _rate(servers, directory)
            return rows + _overhead(servers, directory, rounds)


def _rate(servers: Engines, directory: Path) -> list[dict[str, Any]]:
    """A log that is there already, shipped by a node that does nothing else: first learned, then not yet learned."""
    found: list[dict[str, Any]] = []
    for what in ("the log is learned already", "the learner catches up as well"):
        node = Node(f"shipper {len(found)}", directory / f"shipper{len(found)}", {})
        size = fill(node.state, EVENTS)
        if not found:
            learned(node.state)
        before = records(servers.kafka.bootstrap, TOPIC)
        node.document = configuration("http://127.0.0.1:9", **shipping_block(servers))
        node.start()
        try:
            rate, cpu_us = _watch_rate(servers, node, before)
        finally:
            node.stop()
        found.append(
            {
                "name": f"events shipped a second, {what}",
                "value": round(rate),
                "unit": "1/s",
                "asked": f">= {ASKED_RATE:,}",
                "note": f"{EVENTS:,} events of {size} bytes; the broker is on the same two cores; the optimizer "
                f"process takes {cpu_us:.0f} us of CPU an event, so {1e6 / cpu_us:,.0f}/s is what its core can do",
            }
        )
    return found


def fill(path: Path, count: int) -> int:
    """Make a state directory with ``count`` requests in its log, as a worker that ended leaves it; their mean bytes."""
    state = StateDirectory(path)
    incarnation = state.allocate_incarnation()
    lines = [line for line in _GOLDEN.read_bytes().splitlines() if b'"outcome":"completed"' in line]
    # The usual ones: long ones are of routes with a judge or sketches.
    lines = sorted(lines, key=len)[: max(len(lines) * 3 // 4, 1)]
    parts = [_around_id(line) for line in lines]
    source = state.source_directory(incarnation, "worker")
    source.mkdir(mode=0o700, parents=True)
    total, segment, room = 0, 0, 0
    with ExitStack() as stack:
        for number in range(count):
            before, after = parts[number % len(parts)]
            line = before + uuid.UUID(int=number + (incarnation << 64)).hex.encode() + after
            if room < len(line):
                segment, room = segment + 1, _SEGMENT_BYTES
                stack.close()
                write = stack.enter_context((source / f"{segment:08d}.jsonl").open("wb")).write
            write(line)
            room -= len(line)
            total += len(line)
    return total // count


def _around_id(line: bytes) -> tuple[bytes, bytes]:
    before, _, rest = line.partition(b'"id":"')
    return before + b'"id":"', rest[rest.index(b'"') :] + b"\n"


def _watch_rate(servers: Engines, node: Node, before: int) -> tuple[float, float]:
    """Events a second between the first and the last tenth, and the optimizer's CPU for each in microseconds."""
    until = time.monotonic() + _SHIP_S
    optimizer = int(node.pids()["optimizer"])
    first: tuple[int, float, float] | None = None
    while time.monotonic() < until:
        done = records(servers.kafka.bootstrap, TOPIC) - before
        now, cpu = time.monotonic(), cpu_seconds([optimizer])
        if first is None and done >= 0.1 * EVENTS:
            first = (done, now, cpu)
        if first is not None and done >= 0.9 * EVENTS:
            count = max(done - first[0], 1)
            return count / max(now - first[1], 1e-3), (cpu - first[2]) / count * 1e6
        time.sleep(0.05)
    raise Failed(f"{EVENTS} events were not shipped within {_SHIP_S:g} s")


def _overhead(servers: Engines, directory: Path, rounds: int) -> list[dict[str, Any]]:
    """CPU of a worker per request with everything on, against off."""
    found: dict[str, list[Throughput]] = {"off": [], "on": []}
    allowed = cores()
    body = directory / "body.json"
    body.write_bytes(chat_body(PROMPT, model="chat"))
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx_upstream(allowed, directory))
        proxies = {}
        for name in found:
            blocks = cluster_blocks(servers, shards=SHARDS) if name == "on" else {}
            node = Node(name, directory / name, configuration(upstream.url, **blocks))
            node.start()
            stack.callback(node.stop)
            proxies[name] = pinned(node, allowed)
        for proxy in proxies.values():
            run_wrk(proxy, upstream, allowed, body, seconds=1)
        for number in range(rounds):
            # Who goes first takes turns too.
            order = list(proxies) if number % 2 else list(reversed(proxies))
            for name in order:
                found[name].append(run_wrk(proxies[name], upstream, allowed, body, seconds=SECONDS))
    return _compared(found)


def pinned(node: Node, allowed: Cores) -> Proxy:
    """The node's workers on the worker core, everything else of it on the other."""
    assert node.child is not None
    workers = tuple(node.worker_pids())
    others = tuple(pid for pid in descendants(node.child.pid) if pid not in workers)
    for pid in workers:
        pin(pid, allowed.worker)
    for pid in others:
        pin(pid, allowed.load)
    return Proxy(node.name, node.port, workers, others, node.child)


def _compared(found: Mapping[str, Sequence[Throughput]]) -> list[dict[str, Any]]:
    cost = {name: [1e6 / run.capacity for run in runs] for name, runs in found.items()}
    ratios = [on / off for on, off in zip(cost["on"], cost["off"], strict=True)]
    steadiness = f"spread of the rounds {spread(cost['on']):.1%} and {spread(cost['off']):.1%}"
    rows = [
        {
            "name": f"worker CPU per request, Kafka and Redis {name}",
            "value": round(median(cost[name]), 1),
            "unit": "us",
            "asked": "",
            "note": f"{len(cost[name])} rounds of {SECONDS} s, 64 connections",
        }
        for name in cost
    ]
    rows.append(
        {
            "name": "on / off",
            "value": round(median(ratios), 4),
            "unit": "x",
            "asked": f"<= {ASKED_RATIO}",
            "note": f"median of the rounds' ratios; {steadiness}",
        }
    )
    return rows
