"""The synchronous parts alone: the decision, and the event's way into the log.

Invariant: the real objects are measured, built from a configuration as the product builds them; only time is
taken here. Calls are timed in batches, because a clock read costs as much as a draw.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import yaml

from loadtests.figures import Figure
from loadtests.load import chat_body
from loadtests.peers import Upstream
from loadtests.product import ROUTE, configuration
from loadtests.scenarios.context import Context, Report
from optimizer.evidence import NoEvidence
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode, event_source
from optimizer.publisher import build_table
from optimizer.routing import RoutingTable
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.config.load import load_text
from proxy.dispatch import Decision, decide
from proxy.envelope import Envelope, parse
from proxy.http1.client import Pool
from proxy.providers.registry import CODECS
from proxy.record import Ending, Recorder, Timing
from proxy.resilience.breaker import Board

BATCH = 50
BATCHES = 1000
# Between batches of appends: no worker writes without a break, and a full disk queue is not what is measured.
WRITER_PAUSE_S = 0.003
REPLY = (
    b'{"id":"chatcmpl-mock","object":"chat.completion","created":1735689600,"model":"mock","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}}'
)


def decision(context: Context) -> Report:
    """``dispatch.decide`` (resolve, eligibility, draw) and the draw alone, with 10 and 1,000 arms."""
    return Report(tuple(figure for arms in (10, 1000) for figure in _decision(context, arms)))


def _decision(context: Context, arms: int) -> list[Figure]:
    table, envelope = small_table(arms), parse("chat", chat_body(2048, model=ROUTE))
    uniform = random.Random(1).random
    whole = timed(context, lambda: decide(table, envelope, {}, uniform=uniform, guarded=True))
    selector = table.routes[ROUTE].control.selector
    draw = timed(context, lambda: selector.choose(uniform(), selector.full_mask))
    context.say(f"{arms} arms: decide {whole:.2f} us, draw {draw:.2f} us")
    return [
        Figure(f"decision p50, {arms} arms", whole, "us", note="resolve, eligibility and draw"),
        Figure(f"draw alone p50, {arms} arms", draw, "us"),
    ]


def event(context: Context) -> Report:
    """A real ``request.v1`` event: built by the recorder; and, apart, what serialize + append costs."""
    directory: Path = context.directory / "state"
    state = StateDirectory(directory)
    incarnation = state.allocate_incarnation()
    writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
    source = event_source(state.node, "worker", incarnation)
    appended = _Stopwatch(writer)
    recorder = Recorder(appended, source=source, count=lambda *_: None)  # type: ignore[arg-type]
    table, envelope = small_table(10), parse("chat", chat_body(2048, model=ROUTE))
    chosen = decide(table, envelope, {}, uniform=random.Random(1).random, guarded=True)
    record = _record(recorder, envelope, chosen)
    whole = timed(context, record, pause_s=WRITER_PAUSE_S)
    append = timed(context, lambda: writer.append(appended.line), pause_s=WRITER_PAUSE_S)
    size = len(appended.line)
    encoded = timed(context, _encode_again(appended.line))
    lost = dict(writer.lost)
    writer.close()
    return Report(
        (
            Figure(
                "event: serialize + append p50",
                encoded + append,
                "us",
                note=f"{size} bytes, one write(2) each; append alone {append:.1f} us",
                void=f"events lost: {lost}" if lost else "",
            ),
            Figure("event: build + serialize + append p50", whole, "us", note="Recorder.request as called"),
        )
    )


class _Stopwatch:
    """A log that keeps the newest line and passes it on."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.line = b""

    def append(self, line: bytes, *, priority: int = 0) -> None:
        self.line = line
        self._writer.append(line)


def _encode_again(line: bytes) -> Callable[[], bytes]:
    parsed: dict[str, Any] = orjson.loads(line)
    now = int(time.time() * 1000)
    return lambda: encode(parsed["id"], parsed["type"], parsed["source"], now, parsed["data"])


def _record(recorder: Recorder, envelope: Envelope, chosen: Decision) -> Callable[[], object]:
    _, facts = CODECS["openai"].unary(envelope, REPLY)
    now = int(time.time() * 1000)

    def record() -> float | None:
        return recorder.request(
            "req_" + "0" * 60,
            envelope=envelope,
            decision=chosen,
            table_version=1,
            facts=facts,
            timing=Timing(
                started_ms=now, duration_ms=812.4, overhead_ms=0.21, upstream_ms=812.0, ttft_ms=812.0
            ),
            ending=Ending("completed", 200, upstream_status=200, request_bytes=2048, response_bytes=700),
        )

    return record


def small_table(arms: int) -> CompiledTable:
    """One route of ``arms`` models, ready for requests."""
    document = configuration(Upstream(9, ()))
    del document["upstreams"]["mock"]["api_key"]
    names = [f"model-{index}" for index in range(arms)]
    document["models"] = {
        name: {"upstream": "mock", "price": {"input": 1.0, "output": 2.0}, "endpoints": ["chat"]}
        for name in names
    }
    route = document["routes"][ROUTE]
    route |= {"baseline": names[0], "arms": names, "policy": {"type": "thompson", "floor": 0.2 / arms}}
    settings = load_text(yaml.safe_dump(document), {}).settings
    table = build_table(settings, NoEvidence(), version=1, now=time.time(), rng=np.random.default_rng(0))
    return compile_table(table)


def compile_table(table: RoutingTable) -> CompiledTable:
    """A table as a worker holds it; its pools never connect."""
    loop = asyncio.new_event_loop()
    try:
        compiler = Compiler(
            make_pool=lambda origin: Pool(origin, loop=loop),
            resolve_secret=lambda _: None,
            retire=lambda pool: pool.close(),
            unit_secret=b"loadtests",
            board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
        )
        return compiler.compile(table)
    finally:
        loop.close()


def timed(context: Context, call: Callable[[], object], *, pause_s: float = 0.0) -> float:
    """Median microseconds of one call, on the worker core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {context.cores.worker})
    try:
        samples = []
        for _ in range(BATCHES):
            begun = time.perf_counter_ns()
            for _ in range(BATCH):
                call()
            samples.append((time.perf_counter_ns() - begun) / BATCH / 1000)
            time.sleep(pause_s)
        return median(samples)
    finally:
        os.sched_setaffinity(0, allowed)
