"""Added latency at concurrency 1, and the tail at a constant rate of 500 requests per second.

Invariant: added means minus the same client straight at the upstream in the same round.
"""

from contextlib import ExitStack
from functools import partial
from statistics import median

from loadtests.figures import Figure
from loadtests.load import Latencies, at_rate, chat_body, on_core, one_at_a_time
from loadtests.peers import aiohttp_proxy, nginx_proxy, nginx_upstream
from loadtests.product import configuration, product
from loadtests.scenarios.context import Context, Report

REQUESTS = 2000
RATE = 500.0
DIRECT = "direct"


def latency(context: Context) -> Report:
    """All four ways, interleaved."""
    body = chat_body(2048)
    single: dict[str, list[Latencies]] = {}
    steady: dict[str, list[Latencies]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx_upstream(context.cores, context.directory))
        scratch = context.directory / "product"
        ports = {
            DIRECT: upstream.port,
            "product": stack.enter_context(product(context.cores, scratch, configuration(upstream))).port,
            "aiohttp": stack.enter_context(aiohttp_proxy(context.cores, context.directory, upstream)).port,
            "nginx": stack.enter_context(nginx_proxy(context.cores, context.directory, upstream)).port,
        }
        for number in range(context.rounds):
            for name, port in ports.items():
                alone = on_core(context.cores.load, partial(one_at_a_time, port, body, requests=REQUESTS))
                single.setdefault(name, []).append(alone)
                paced = on_core(
                    context.cores.load, partial(at_rate, port, body, rate=RATE, seconds=context.seconds)
                )
                steady.setdefault(name, []).append(paced)
                context.say(
                    f"round {number + 1} {name}: alone p50 {alone.at(50) * 1000:.0f} us, "
                    f"at {RATE:g}/s p50 {paced.at(50):.2f} p99 {paced.at(99):.2f} ms"
                )
    return _report(single, steady)


def _report(single: dict[str, list[Latencies]], steady: dict[str, list[Latencies]]) -> Report:
    p50 = {name: median(run.at(50) for run in runs) * 1000 for name, runs in single.items()}
    p99 = {name: median(run.at(99) for run in runs) for name, runs in steady.items()}
    ours, bare = p50["product"] - p50[DIRECT], p50["aiohttp"] - p50[DIRECT]
    rows = tuple(
        f"{name}: p50 {p50[name]:.0f} us alone; at {RATE:g} requests/s p50 "
        f"{median(run.at(50) for run in steady[name]):.2f} ms, p99 {p99[name]:.2f} ms"
        for name in p50
    )
    return Report(
        figures=(
            Figure("added latency p50", ours, "us"),
            Figure("added latency p50 / aiohttp", ours / bare, "x"),
            Figure(
                "p99 at 500 requests/s",
                p99["product"],
                "ms",
                note=f"whole round trip; straight at the upstream {p99[DIRECT]:.2f} ms",
            ),
        ),
        rows=rows,
    )
