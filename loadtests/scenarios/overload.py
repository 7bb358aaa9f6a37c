"""More requests than the worker can serve: how much it still serves, and how soon the rest is told to come back.

Invariant: what is offered does not depend on what is answered. Many connections each wait between their requests, so
that the rate is theirs as long as answers are quick; goodput is what was answered 200. A second client of a few
requests per second, each timed from when it was due, sees how long refusals take.
"""

import json
import os
import select
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loadtests.figures import Figure
from loadtests.load import PATH, chat_body, connect, on_core, request_bytes, run_wrk, spread
from loadtests.load import Latencies as Milliseconds
from loadtests.peers import Proxy, Upstream, nginx_upstream, tool
from loadtests.processes import Failed, cpu_seconds
from loadtests.product import configuration, product
from loadtests.scenarios.context import Context, Report

SCRIPT = Path(__file__).resolve().parent.parent / "templates" / "paced.lua"
MULTIPLES = (1.0, 1.5, 2.0, 3.0)
CONNECTIONS = 2000
PROBES_PER_S = 100
WARM_UP_S = 2


@dataclass(frozen=True, slots=True)
class Offered:
    """One measurement at one multiple of the peak. Rates per second, times in milliseconds."""

    offered: float
    goodput: float
    shed: float
    errors: int
    shed_p50_ms: float
    shed_p99_ms: float
    served_p99_ms: float
    worker_share: float
    load_share: float


def overload(context: Context) -> Report:
    """Peak first, then 1x to 3x of it in turn."""
    body = context.directory / "body.json"
    body.write_bytes(chat_body(2048))
    seen: dict[float, list[Offered]] = {multiple: [] for multiple in MULTIPLES}
    with (
        nginx_upstream(context.cores, context.directory) as upstream,
        product(context.cores, context.directory / "product", configuration(upstream)) as proxy,
    ):
        peaks = [
            run_wrk(proxy, upstream, context.cores, body, seconds=context.seconds).rate
            for _ in range(max(2, context.rounds // 2))
        ]
        peak = median(peaks)
        context.say(f"peak {peak:,.0f} requests/s, spread {spread(peaks):.1%}")
        for number in range(context.rounds):
            for multiple in MULTIPLES:
                run = _offer(context, proxy, upstream, body, multiple * peak)
                seen[multiple].append(run)
                context.say(
                    f"round {number + 1} at {multiple:g}x: offered {run.offered:,.0f}, served {run.goodput:,.0f} "
                    f"({run.goodput / peak:.0%} of peak), shed {run.shed:,.0f}, shed p99 {run.shed_p99_ms:.1f} ms"
                )
    return _report(seen, peak)


def _offer(context: Context, proxy: Proxy, upstream: Upstream, body: Path, rate: float) -> Offered:
    seconds = context.seconds + WARM_UP_S
    # Every connection waits so long after an answer that all of them together make the rate.
    pause_ms = CONNECTIONS / rate * 1000
    command = ["taskset", "-c", str(context.cores.load), tool("wrk", "wrk"), "-t1", f"-c{CONNECTIONS}"]
    command += [
        f"-d{seconds}s",
        "--timeout",
        "20s",
        "-s",
        str(SCRIPT),
        f"http://127.0.0.1:{proxy.port}{PATH}",
    ]
    others = [*upstream.pids, *proxy.side_pids]
    begun, before = time.monotonic(), (cpu_seconds(proxy.worker_pids), cpu_seconds(others))
    spent = os.times()
    wrk = subprocess.Popen(
        command,
        env={**os.environ, "LOADTEST_BODY": str(body), "LOADTEST_PAUSE_MS": f"{pause_ms:.3f}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(WARM_UP_S)
        probed: dict[int, list[float]] = {200: [], 503: []}
        on_core(
            context.cores.load, lambda: _probe(proxy.port, body.read_bytes(), context.seconds - 0.5, probed)
        )
        output, _ = wrk.communicate(timeout=60)
    finally:
        if wrk.poll() is None:
            wrk.kill()
            wrk.communicate()
    elapsed = time.monotonic() - begun
    own = os.times()
    load = own.children_user + own.children_system - spent.children_user - spent.children_system
    after = (cpu_seconds(proxy.worker_pids), cpu_seconds(others))
    at = output.find("JSON ")
    if at < 0:
        raise Failed(f"wrk said: {output[-500:]}")
    told = json.loads(output[at + 5 :].splitlines()[0])
    shed, served = (Milliseconds(tuple(sorted(probed[status]) or [0.0])) for status in (503, 200))
    return Offered(
        offered=told["requests"] / told["seconds"],
        goodput=(told["requests"] - told["bad_status"]) / told["seconds"],
        shed=told["bad_status"] / told["seconds"],
        errors=told["socket_errors"],
        shed_p50_ms=shed.at(50),
        shed_p99_ms=shed.at(99),
        served_p99_ms=served.at(99),
        worker_share=(after[0] - before[0]) / elapsed,
        load_share=(after[1] - before[1] + load) / elapsed,
    )


def _probe(port: int, body: bytes, seconds: float, found: dict[int, list[float]]) -> Milliseconds:
    """A few requests per second, each on a connection that is free, timed from when it was due."""
    request = request_bytes(port, body)
    idle = [connect(port) for _ in range(64)]
    busy: dict[socket.socket, float] = {}
    start = time.perf_counter() + 0.01
    sent = 0
    while (now := time.perf_counter()) < start + seconds or busy:
        due = start + sent / PROBES_PER_S
        if now >= due and now < start + seconds and idle:
            connection = idle.pop()
            connection.sendall(request)
            busy[connection] = due
            sent += 1
            continue
        for connection in select.select(list(busy), [], [], max(0.0005, min(due - now, 0.01)))[0]:
            data = connection.recv(65_536)  # a reply of these sizes comes in one piece
            if not data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")):
                raise Failed(f"unexpected reply under load: {data[:200]!r}")
            found[int(data[9:12])].append((time.perf_counter() - busy.pop(connection)) * 1000)
            idle.append(connection)
    for connection in idle:
        connection.close()
    return Milliseconds(tuple(sorted(found[200])))


def _report(seen: dict[float, list[Offered]], peak: float) -> Report:
    double = seen[2.0]
    busiest = median([run.load_share for run in double])
    reached = median([run.offered for run in double]) / peak
    note = f"offered {reached:.2f}x of {peak:,.0f}/s, load core {busiest:.0%}"
    rows = tuple(
        f"{multiple:g}x: offered {median([r.offered for r in runs]):,.0f}/s, served "
        f"{median([r.goodput for r in runs]):,.0f}/s ({median([r.goodput for r in runs]) / peak:.0%} of peak), shed "
        f"{median([r.shed for r in runs]):,.0f}/s in p50 {median([r.shed_p50_ms for r in runs]):.1f} ms, p99 "
        f"{median([r.shed_p99_ms for r in runs]):.1f} ms; served p99 {median([r.served_p99_ms for r in runs]):.1f} "
        f"ms, worker core {median([r.worker_share for r in runs]):.0%}, load core "
        f"{median([r.load_share for r in runs]):.0%}, broken {sum(r.errors for r in runs)}"
        for multiple, runs in seen.items()
    )
    return Report(
        figures=(
            Figure("goodput at 2x / peak", median([r.goodput for r in double]) / peak, "x", note=note),
            Figure("shed reply p99 at 2x", median([r.shed_p99_ms for r in double]), "ms", note=note),
        ),
        rows=rows,
    )
