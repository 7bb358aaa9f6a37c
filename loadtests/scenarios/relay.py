"""Event streams: CPU of the relay per chunk beside nginx, and memory per open stream.

Invariant: CPU and chunks are taken over one window in which all streams flow.
"""

import json
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from loadtests.figures import Figure
from loadtests.load import MAX_LOAD_SHARE, PATH, SCRIPT, chat_body
from loadtests.peers import (
    Certificates,
    Proxy,
    Upstream,
    aiohttp_proxy,
    certificates,
    mock_upstream,
    nginx_proxy,
    tool,
)
from loadtests.processes import Child, Failed, cpu_seconds, python_module, rss_bytes
from loadtests.product import configuration, product
from loadtests.scenarios.context import Context, Report

STREAMS = 200
WATCHED = 10
RATE = 50
OPEN_STREAMS = 1000
SLOW_RATE = 1


@dataclass(frozen=True, slots=True)
class Relayed:
    """One window of one proxy."""

    chunks: int
    cpu_us_per_chunk: float
    worker_share: float
    load_share: float
    p50_ms: float
    p99_ms: float


def relay(context: Context) -> Report:
    """200 streams of 50 chunks per second through the product, aiohttp and nginx."""
    runs: dict[str, list[Relayed]] = {}
    with ExitStack() as stack:
        options = ("--chunks", "1000", "--rate", str(RATE))
        upstream = stack.enter_context(mock_upstream(context.cores, context.directory, *options))
        scratch = context.directory / "product"
        proxies = [
            stack.enter_context(product(context.cores, scratch, configuration(upstream))),
            stack.enter_context(aiohttp_proxy(context.cores, context.directory, upstream)),
            stack.enter_context(nginx_proxy(context.cores, context.directory, upstream)),
        ]
        for number in range(context.rounds):
            for proxy in proxies:
                seen = _window(context, proxy, upstream)
                runs.setdefault(proxy.name, []).append(seen)
                context.say(
                    f"round {number + 1} {proxy.name}: {seen.cpu_us_per_chunk:.1f} us/chunk "
                    f"worker {seen.worker_share:.0%} load {seen.load_share:.0%} p99 {seen.p99_ms:.2f} ms"
                )
        asking = _window(context, proxies[0], upstream, "--ask-usage")
    cost = {name: median(run.cpu_us_per_chunk for run in seen) for name, seen in runs.items()}
    busiest = max(run.load_share for run in runs["product"])
    void = f"load side at {busiest:.0%}" if busiest > MAX_LOAD_SHARE else ""
    rows = tuple(
        f"{name}: {cost[name]:.1f} us of CPU per chunk, chunk delay p50 {median(r.p50_ms for r in seen):.2f} ms "
        f"p99 {median(r.p99_ms for r in seen):.2f} ms, worker core {median(r.worker_share for r in seen):.0%}, "
        f"load core {median(r.load_share for r in seen):.0%}"
        for name, seen in runs.items()
    )
    return Report(
        figures=(
            Figure(
                "relay CPU per chunk", cost["product"], "us", note="usage asked for and stripped", void=void
            ),
            Figure("relay CPU per chunk, client asks for usage", asking.cpu_us_per_chunk, "us"),
            Figure("relay CPU per chunk / nginx", cost["product"] / cost["nginx"], "x", void=void),
            Figure("relay CPU per chunk / aiohttp", cost["product"] / cost["aiohttp"], "x", void=void),
        ),
        rows=rows,
    )


def _window(context: Context, proxy: Proxy, upstream: Upstream, *options: str) -> Relayed:
    """Most streams end in wrk, which costs little; a few end in the client that measures delays."""
    body = context.directory / "stream.json"
    asks = '"stream_options":{"include_usage":true},' if "--ask-usage" in options else ""
    body.write_bytes(
        chat_body(2048, stream=True).replace(b'{"messages"', b"{" + asks.encode() + b'"messages"', 1)
    )
    port, seconds = str(proxy.port), context.seconds + 6
    watch = [*("--port", port), *("--streams", str(WATCHED)), *("--seconds", str(context.seconds))]
    sink = [tool("wrk", "wrk"), "-t1", f"-c{STREAMS - WATCHED}", f"-d{seconds}s", "--timeout", "60s"]
    sink += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{PATH}"]
    with (
        Child(
            sink,
            core=context.cores.load,
            log=context.directory / "sink.log",
            environ={"LOADTEST_BODY": str(body)},
        ) as bulk,
        Child(
            python_module("loadtests.streams", *watch, *options),
            core=context.cores.load,
            log=context.directory / "streams.log",
        ) as client,
    ):
        client.wait_for(rf"opened {WATCHED}\b", seconds=40)
        time.sleep(1.0)
        others = [*upstream.pids, *proxy.side_pids, client.pid, bulk.pid]
        begun = _sample(proxy, upstream, others)
        time.sleep(context.seconds - 1.2)
        ended = _sample(proxy, upstream, others)
        seen = json.loads(client.wait_for("JSON (.*)", seconds=10).group(1))
    elapsed, chunks = ended[0] - begun[0], ended[1] - begun[1]
    if seen["broken"] or chunks < 0.9 * STREAMS * RATE * elapsed:
        raise Failed(f"{proxy.name}: {chunks} chunks in {elapsed:.1f} s; {seen}")
    return Relayed(
        chunks=chunks,
        cpu_us_per_chunk=(ended[2] - begun[2]) / chunks * 1e6,
        worker_share=(ended[2] - begun[2]) / elapsed,
        load_share=(ended[3] - begun[3]) / elapsed,
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
    )


def _sample(proxy: Proxy, upstream: Upstream, others: list[int]) -> tuple[float, int, float, float]:
    """Time, chunks the upstream has sent, CPU of the worker, CPU of everything else."""
    with urllib.request.urlopen(f"{upstream.url}/", timeout=5) as reply:
        chunks = int(json.loads(reply.read())["chunks"])
    return time.monotonic(), chunks, cpu_seconds(proxy.worker_pids), cpu_seconds(others)


def memory(context: Context) -> Report:
    """Resident memory of the worker with 1,000 open streams, after warming up on 50; over TCP and over TLS."""
    idle, few, many = _memory(context, "plain", None)
    _, few_tls, many_tls = _memory(context, "tls", certificates(context.directory))
    return Report(
        figures=(
            Figure("worker RSS, idle", idle / 1e6, "MB"),
            Figure("worker RSS per open stream", _per_stream(few, many), "KB"),
            Figure("worker RSS, 1000 open streams", many / 1e6, "MB"),
            Figure("worker RSS per open stream, TLS upstream", _per_stream(few_tls, many_tls), "KB"),
            Figure("worker RSS, 1000 open streams, TLS upstream", many_tls / 1e6, "MB"),
        ),
    )


def _per_stream(few: int, many: int) -> float:
    return (many - few) / (OPEN_STREAMS - 50) / 1000


def _memory(context: Context, name: str, tls: Certificates | None) -> tuple[int, int, int]:
    """Bytes: idle, with 50 streams, with 1,000."""
    with ExitStack() as stack:
        options = ("--chunks", "100000", "--rate", str(SLOW_RATE))
        upstream = stack.enter_context(mock_upstream(context.cores, context.directory, *options, tls=tls))
        proxy = stack.enter_context(product(context.cores, context.directory / name, configuration(upstream)))
        idle = rss_bytes(proxy.worker_pids[0])
        return idle, _held(context, proxy, 50), _held(context, proxy, OPEN_STREAMS)


def _held(context: Context, proxy: Proxy, streams: int) -> int:
    command = python_module(
        "loadtests.streams", "--port", str(proxy.port), "--streams", str(streams), "--seconds", "4"
    )
    with Child(command, core=context.cores.load, log=context.directory / "held.log") as client:
        client.wait_for(rf"opened {streams}\b", seconds=40)
        time.sleep(2.0)
        held = rss_bytes(proxy.worker_pids[0])
        seen = json.loads(client.wait_for("JSON (.*)", seconds=20).group(1))
    if seen["broken"]:
        raise Failed(f"streams broke: {seen}")
    return held
