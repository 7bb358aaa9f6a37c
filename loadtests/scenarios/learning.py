"""How fast the learner takes in a log: request events and feedback, as workers write them.

Invariant: the events are written by the product's own recorder and log writer, and the learner's counts must
say that all of them were taken.
"""

import os
import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from loadtests.figures import Figure
from loadtests.load import chat_body
from loadtests.peers import Upstream
from loadtests.processes import Failed
from loadtests.product import ROUTE, configuration
from loadtests.scenarios.context import Context, Report
from loadtests.scenarios.parts import REPLY, compile_table
from optimizer import events
from optimizer.context.features import features_of
from optimizer.context.vector import Context as Seen
from optimizer.evidence import NoEvidence
from optimizer.feedback import parse_feedback, to_event
from optimizer.ids import RequestIds
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode, event_source
from optimizer.publisher import build_table
from optimizer.routing import Features
from optimizer.settings import ContextSettings
from proxy.compiled import CompiledTable
from proxy.config.load import load_text
from proxy.dispatch import Sight, decide
from proxy.envelope import parse
from proxy.providers.registry import CODECS
from proxy.record import Ending, Recorder, Timing

REQUESTS = 60_000
FEEDBACK_EVERY = 10
ARMS = 10


def learner(context: Context) -> Report:
    """Write a log of requests with feedback on every tenth, then learn it all."""
    return _learn(context, "learner", configuration(Upstream(9, ())), None)


def contextual_learner(context: Context) -> Report:
    """The same with ten arms, and a vector of the built-in features' size and probabilities in every request."""
    document = configuration(Upstream(9, ()))
    (name, model), *_ = document["models"].items()
    names = [*document["models"], *(f"{name}-{number}" for number in range(ARMS - len(document["models"])))]
    document["models"] = {name: {**model, "model": name} for name in names}
    document["routes"][ROUTE]["arms"] = [{"model": name} for name in names]
    return _learn(context, "learner, contextual", document, features_of(ContextSettings()))


def _learn(context: Context, name: str, document: dict[str, Any], features: Features | None) -> Report:
    del document["upstreams"]["mock"]["api_key"]
    settings = load_text(yaml.safe_dump(document), {}).settings
    state = StateDirectory(context.directory / "state")
    table = build_table(settings, NoEvidence(), version=1, now=time.time(), rng=np.random.default_rng(0))
    looking = tuple(replace(route, features=features) for route in table.routes)
    written = _write_log(state, compile_table(replace(table, routes=looking)))
    context.say(f"{written} events written")
    ingest = Ingest(state)
    ingest.configure(settings)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {context.cores.worker})
    try:
        begun, used = time.perf_counter(), time.process_time()
        taken = 0
        while step := ingest.step():
            taken += step
        elapsed, used = time.perf_counter() - begun, time.process_time() - used
    finally:
        os.sched_setaffinity(0, allowed)
        ingest.close()
    counts = dict(ingest.learner.counts)
    if (features is not None) != any(cell.n for cell in ingest.linear.cells()):
        raise Failed("features were learned from where there are none, or not where there are")
    if taken != written or counts.get("feedback_learned") != written - REQUESTS:
        raise Failed(f"{taken} of {written} events taken; {counts}")
    return Report(
        (
            Figure(
                name,
                taken / elapsed,
                "events/s",
                note=f"{written} events, {written - REQUESTS} of them feedback, committed with the cursor; "
                f"{taken / used:,.0f} per CPU second",
            ),
        )
    )


def _write_log(state: StateDirectory, table: CompiledTable) -> int:
    incarnation = state.allocate_incarnation()
    writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
    source = event_source(state.node, "worker", incarnation)
    recorder = Recorder(writer, source=source, count=lambda *_: None)
    ids = RequestIds(node=state.node, incarnation=incarnation, key=state.id_key)
    envelope = parse("chat", chat_body(2048, model=ROUTE))
    rng, noise = random.Random(3), np.random.default_rng(3)
    _, facts = CODECS["openai"].unary(envelope, REPLY)
    written = 0
    for number in range(REQUESTS):
        now = int(time.time() * 1000)
        request_id = ids.mint(now, 0)
        facts.output_tokens = rng.randint(20, 400)
        decision = decide(table, envelope, {}, uniform=rng.random, guarded=True)
        if decision.route.source is not None and (features := decision.route.source.features) is not None:
            x = np.append(1.0, noise.normal(size=features.size - 1)).astype(np.float32)
            shares = noise.dirichlet(np.ones(len(decision.side.arms))).tolist()
            decision.sight = Sight(Seen(x), draw=rng.random(), vector=shares)
        recorder.request(
            request_id,
            envelope=envelope,
            decision=decision,
            table_version=1,
            facts=facts,
            timing=Timing(
                started_ms=now,
                duration_ms=rng.uniform(200, 2000),
                overhead_ms=0.2,
                upstream_ms=200.0,
                ttft_ms=100.0,
            ),
            ending=Ending("completed", 200, upstream_status=200, request_bytes=2048, response_bytes=700),
        )
        written += 1
        if number % FEEDBACK_EVERY == 0:
            (given,) = parse_feedback({"request_id": request_id, "value": rng.random()})
            event_id, data = to_event(given, request_id=request_id)
            writer.append(encode(event_id, events.FEEDBACK, source, now, data))
            written += 1
    lost = sum(writer.lost.values())
    writer.close()
    if lost:
        raise Failed(f"{lost} events were not written")
    return written
