"""What looking at requests costs a worker: features and decisions alone, and what the scenarios measured of the whole.

Parts are timed here, in one process, in batches; throughput, table sizes and stalls need processes of their own and are
taken from the kept results of ``python -m loadtests.run``.
"""

import os
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import orjson

from loadtests.figures import load
from loadtests.learning.team import Team
from loadtests.learning.worlds import PARETOBANDIT, paretobandit
from loadtests.load import chat_body
from loadtests.product import ROUTE
from loadtests.scenarios import SCENARIOS
from optimizer.context.features import ProjectionInfo, features_of
from optimizer.context.projection import fit
from optimizer.context.vector import compile_features, read_context
from optimizer.context.words import decode_sketch
from optimizer.routing import CHAT
from optimizer.settings import ContextSettings
from policies.contextual import ContextualSelector, Index
from proxy.context import extract
from proxy.envelope import Envelope, parse

Row: TypeAlias = dict[str, Any]

ARMS = 10
FEATURES = 32
BATCH = 50
BATCHES = 400
BODY_BYTES = 2048
WHOLE = "contextual"
"""Scenarios with this in their name belong on the page."""


def hotpath(team: Team) -> list[Row]:
    """Microseconds of the parts, and the kept figures of whole scenarios."""
    shown = team.progress.add_task("hotpath", total=3)
    envelopes = _envelopes()
    rows = []
    for name, context in (
        ("built-in features, prompts of 2 KB", ContextSettings()),
        ("built-in and lexical features, prompts of 2 KB", ContextSettings(lexical=True)),
    ):
        rows.append(_row(name, features(context, envelopes), promised="<= 60"))
        team.progress.advance(shown)
    rows.append(
        _row(f"decision, {ARMS} arms, {FEATURES} features", decision(ARMS, FEATURES), promised="<= 60")
    )
    team.progress.advance(shown)
    for scenario in SCENARIOS:
        kept = load(scenario) if WHOLE in scenario else None
        for figure in kept.figures if kept is not None else ():
            value = f"{figure.value:,.4g}"
            rows.append(
                {
                    "figure": figure.name,
                    "p50": None,
                    "p99": None,
                    "value": value,
                    "unit": figure.unit,
                    "promised": "",
                }
            )
    return rows


def _row(name: str, found: tuple[float, float], promised: str = "") -> Row:
    p50, p99 = found
    return {"figure": name, "p50": p50, "p99": p99, "value": None, "unit": "us", "promised": promised}


def _envelopes() -> list[Envelope]:
    """Requests of 2 KB: what the load generator sends, and recorded prompts made as long, where there are any."""
    made = [parse(CHAT, chat_body(BODY_BYTES, model=ROUTE))]
    for body in paretobandit().bodies[:200] if PARETOBANDIT.exists() else ():
        text = (body["messages"][0]["content"] + "\n") * BODY_BYTES
        document = {"model": ROUTE, "messages": [{"role": "user", "content": text[: BODY_BYTES - 100]}]}
        made.append(parse(CHAT, orjson.dumps(document)))
    return made


def features(context: ContextSettings, envelopes: list[Envelope]) -> tuple[float, float]:
    """p50 and p99 in microseconds of a request's vector."""
    features_ = features_of(context)
    plan = compile_features(features_)
    if context.lexical:
        sketches = [
            decode_sketch(read_context(envelope.doc, CHAT, plan).sketch or b"") for envelope in envelopes
        ]
        projection = fit(sketches * (400 // len(sketches) + 1), context.lexical_size)
        info = ProjectionInfo("prj-hotpath", projection.size)
        plan = compile_features(features_of(context, info), projection.matrix)
    rng = random.Random(5)
    return _timed(lambda: extract(rng.choice(envelopes), {}, plan))


def decision(arms: int, size: int) -> tuple[float, float]:
    """p50 and p99 in microseconds of one contextual draw, its exact probabilities included."""
    rng = np.random.default_rng(11)
    factor = rng.normal(0.0, 0.02, (arms, size, size))
    index = Index(
        value=rng.normal(0.0, 0.05, (arms, size)),
        charges=rng.normal(-1.0, 0.3, (1, arms, size)) / size,
        spread=factor @ factor.transpose(0, 2, 1) / size,
        noise=np.full(arms, 1e-4),
        given=np.full(arms, 0.002),
        drawn=np.ones(arms, dtype=np.bool_),
        cost=rng.normal(-1.0, 0.3, (arms, size)) / size,
    )
    selector = ContextualSelector("hotpath", index)
    xs = np.concatenate((np.ones((256, 1)), rng.normal(0.0, 0.5, (256, size - 1))), axis=1).astype(np.float32)
    numbers = random.Random(7)
    return _timed(lambda: selector.choose(numbers.random(), selector.full_mask, xs[numbers.randrange(256)]))


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """On one core; batches, because reading a clock costs as much as a small part does."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        taken = []
        for _ in range(BATCHES):
            begun = time.perf_counter()
            for _ in range(BATCH):
                call()
            taken.append((time.perf_counter() - begun) / BATCH * 1e6)
    finally:
        os.sched_setaffinity(0, allowed)
    return median(taken), float(np.percentile(taken, 99))
