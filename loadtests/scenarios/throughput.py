"""Unary throughput of the product beside a bare aiohttp pass-through and nginx proxy_pass, in one run.

Invariant: rounds are interleaved (every proxy once per round) and medians are compared. A proxy whose
core was not saturated (nginx outruns a load side of one core) is taken per CPU second; the note says so.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.figures import Figure
from loadtests.load import Throughput, chat_body, run_wrk, spread
from loadtests.peers import (
    Certificates,
    Proxy,
    Upstream,
    aiohttp_proxy,
    certificates,
    nginx_proxy,
    nginx_upstream,
)
from loadtests.product import configuration, product
from loadtests.scenarios.context import Context, Report

PROMPT = 2048
BIG_PROMPT = 100_000


@dataclass(frozen=True, slots=True)
class Peer:
    """The rounds of one proxy."""

    name: str
    runs: list[Throughput]

    @property
    def rate(self) -> float:
        return median(run.rate for run in self.runs)

    @property
    def capacity(self) -> float:
        """Median of ``Throughput.capacity``."""
        return median(run.capacity for run in self.runs)

    @property
    def is_saturated(self) -> bool:
        return all(run.is_saturated for run in self.runs)

    @property
    def is_load_bound(self) -> bool:
        return median(run.is_load_bound for run in self.runs) > 0.5

    def row(self) -> str:
        """One line for the results."""
        worker = median(run.worker_share for run in self.runs)
        load = median(run.load_share for run in self.runs)
        latency = median(run.p50_ms for run in self.runs)
        return (
            f"{self.name:8} {self.rate:8,.0f} requests/s seen, {self.capacity:8,.0f} with a core to itself, "
            f"worker core {worker:4.0%}, load core {load:4.0%}{' (over 90 %)' if self.is_load_bound else ''}, "
            f"p50 {latency:.2f} ms at 64 connections, spread {spread([run.capacity for run in self.runs]):.1%}"
        )


def unary(context: Context) -> Report:
    """The whole product with 2 KB prompts."""
    return _compare(context, "unary", PROMPT)


def variants(context: Context) -> Report:
    """The same with two prompts per model, so that half of the requests are rewritten (information)."""
    return _compare(context, "unary with prompt variants", PROMPT, with_variants=True)


def big(context: Context) -> Report:
    """100 KB prompts."""
    return _compare(context, "prompts of 100 KB", BIG_PROMPT)


def tls(context: Context) -> Report:
    """TLS to the upstream, verified by all three."""
    return _compare(context, "tls", PROMPT, tls=certificates(context.directory))


def _compare(
    context: Context, title: str, size: int, *, tls: Certificates | None = None, with_variants: bool = False
) -> Report:
    body = context.directory / "body.json"
    body.write_bytes(chat_body(size))
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx_upstream(context.cores, context.directory, tls=tls))
        document = configuration(upstream, with_variants=with_variants)
        proxies = _proxies(context, stack, upstream, document)
        peers = {proxy.name: Peer(proxy.name, []) for proxy in proxies}
        for proxy in proxies:
            run_wrk(proxy, upstream, context.cores, body, seconds=1)
        for number in range(context.rounds):
            for proxy in proxies:
                run = run_wrk(proxy, upstream, context.cores, body, seconds=context.seconds)
                peers[proxy.name].runs.append(run)
                context.say(
                    f"round {number + 1} {proxy.name}: {run.rate:,.0f}/s "
                    f"worker {run.worker_share:.0%} load {run.load_share:.0%}"
                )
    return _report(title, peers)


def _proxies(context: Context, stack: ExitStack, upstream: Upstream, document: dict[str, Any]) -> list[Proxy]:
    scratch: Path = context.directory
    return [
        stack.enter_context(product(context.cores, scratch / "product", document)),
        stack.enter_context(aiohttp_proxy(context.cores, scratch, upstream)),
        stack.enter_context(nginx_proxy(context.cores, scratch, upstream)),
    ]


def _report(title: str, peers: dict[str, Peer]) -> Report:
    ours, bare, nginx = peers["product"], peers["aiohttp"], peers["nginx"]
    void = "load side over 90 % while measuring the product" if ours.is_load_bound else ""
    held_up = ", ".join(peer.name for peer in peers.values() if not peer.is_saturated)
    note = f"by CPU second where the core was not saturated: {held_up}" if held_up else ""
    return Report(
        figures=(
            Figure(f"{title}: requests/s", ours.capacity, "1/s", note=note, void=void),
            Figure(f"{title}: throughput / aiohttp", ours.capacity / bare.capacity, "x", void=void),
            Figure(f"{title}: throughput / nginx", ours.capacity / nginx.capacity, "x", void=void),
        ),
        rows=tuple(peer.row() for peer in peers.values()),
    )
