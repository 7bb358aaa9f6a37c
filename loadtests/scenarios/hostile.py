"""Healthy clients beside hundreds that drip their heads and bodies or read nothing of their streams.

Invariant: calm and attacked are measured in turn within one run, and the attackers are a process of their own.
"""

import os
from contextlib import ExitStack
from functools import partial
from statistics import median

from loadtests.figures import Figure
from loadtests.load import Latencies, at_rate, chat_body, on_core
from loadtests.peers import Proxy, mock_upstream
from loadtests.processes import Child, python_module, rss_bytes
from loadtests.product import configuration, product
from loadtests.scenarios.context import Context, Report

RATE = 300.0
ATTACKERS = {"--heads": 300, "--bodies": 300, "--readers": 100}


def hostile(context: Context) -> Report:
    """p99 of 300 requests per second, calm and attacked, and what the attackers hold."""
    body = chat_body(2048)
    calm: list[Latencies] = []
    attacked: list[Latencies] = []
    descriptors = held = 0
    with ExitStack() as stack:
        upstream = stack.enter_context(
            mock_upstream(context.cores, context.directory, "--chunks", "100000", "--rate", "5")
        )
        proxy = stack.enter_context(
            product(context.cores, context.directory / "product", configuration(upstream))
        )
        before = rss_bytes(proxy.worker_pids[0])
        options = [text for name, count in ATTACKERS.items() for text in (name, str(count))]
        command = python_module("loadtests.attackers", "--port", str(proxy.port), *options)
        measure = partial(at_rate, proxy.port, body, rate=RATE, seconds=context.seconds)
        for number in range(context.rounds):
            calm.append(on_core(context.cores.load, measure))
            log = context.directory / f"attackers-{number}.log"
            with Child(command, core=context.cores.load, log=log) as attackers:
                attackers.wait_for("attacking", seconds=30)
                attacked.append(on_core(context.cores.load, measure))
                descriptors = max(descriptors, _descriptors(proxy))
                held = max(held, rss_bytes(proxy.worker_pids[0]) - before)
            context.say(
                f"round {number + 1}: p99 {calm[-1].at(99):.2f} ms calm, {attacked[-1].at(99):.2f} ms attacked"
            )
    ratios = [loud.at(99) / still.at(99) for still, loud in zip(calm, attacked, strict=True)]
    clients = sum(ATTACKERS.values())
    return Report(
        figures=(
            Figure("healthy p99, attacked / calm", median(ratios), "x", f"{clients} hostile clients"),
            Figure("healthy p99, calm", median(run.at(99) for run in calm), "ms"),
            Figure("healthy p99, attacked", median(run.at(99) for run in attacked), "ms"),
            Figure("worker descriptors, attacked", descriptors),
            Figure("worker RSS more than before, attacked", held / 1e6, "MB"),
        ),
    )


def _descriptors(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.worker_pids[0]}/fd"))
