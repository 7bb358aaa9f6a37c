"""Where the microseconds of one unary request go: every synchronous stage alone, on the real objects.

Information, without budgets: it tells which stage to look at when throughput is missed. Reading and writing
sockets is what is left between the sum here and one request's CPU time in ``unary``.
"""

import random
import time

from loadtests.figures import Figure
from loadtests.load import chat_body
from loadtests.mock_upstream import unary_document
from loadtests.product import ROUTE
from loadtests.scenarios.context import Context, Report
from loadtests.scenarios.parts import WRITER_PAUSE_S, small_table, timed
from optimizer.ids import RequestIds
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, event_source
from proxy.dispatch import decide
from proxy.envelope import parse
from proxy.record import Ending, Recorder, Timing


def stages(context: Context) -> Report:
    """Parse, decide, prepare, read the reply, record; for 2 KB and 100 KB prompts."""
    figures: list[Figure] = []
    for size in (2048, 100_000):
        for name, cost in _measure(context, size).items():
            figures.append(Figure(f"{size // 1000} KB prompt: {name}", cost, "us"))
            context.say(f"{size // 1000} KB prompt: {name} {cost:.2f} us")
    return Report(tuple(figures))


def _measure(context: Context, size: int) -> dict[str, float]:
    body, reply = chat_body(size, model=ROUTE), unary_document(700)
    table = small_table(3)
    uniform = random.Random(1).random
    envelope = parse("chat", body)
    chosen = decide(table, envelope, {}, uniform=uniform, guarded=True)
    arm = chosen.arm
    codec = arm.handle.codec
    _, facts = codec.unary(envelope, reply)
    state = StateDirectory(context.directory / f"state-{size}")
    incarnation = state.allocate_incarnation()
    ids = RequestIds(node=state.node, incarnation=incarnation, key=state.id_key)
    writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
    recorder = Recorder(writer, source=event_source(state.node, "worker", incarnation), count=lambda *_: None)
    now = int(time.time() * 1000)
    timing = Timing(started_ms=now, duration_ms=812.4, overhead_ms=0.21, upstream_ms=812.0)
    ending = Ending("completed", 200, upstream_status=200, request_bytes=size, response_bytes=700)
    costs = {
        "mint an id": timed(context, lambda: ids.mint(now)),
        "parse the request": timed(context, lambda: parse("chat", body)),
        "decide": timed(context, lambda: decide(table, envelope, {}, uniform=uniform, guarded=True)),
        "prepare the upstream body": timed(
            context, lambda: codec.prepare(envelope, arm.arm, arm.model, arm.variant, arm.handle.upstream)
        ),
        "read the reply": timed(context, lambda: codec.unary(envelope, reply)),
        "record the event": timed(
            context,
            lambda: recorder.request(
                "req_" + "0" * 60,
                envelope=envelope,
                decision=chosen,
                table_version=1,
                facts=facts,
                timing=timing,
                ending=ending,
            ),
            pause_s=WRITER_PAUSE_S,
        ),
    }
    writer.close()
    return costs | {"all of these": sum(costs.values())}
