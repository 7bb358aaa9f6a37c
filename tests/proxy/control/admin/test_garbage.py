"""Seeded garbage at every endpoint of optimizations: an answer in the one shape, never a fault of ours."""

import random
from typing import Any
from urllib.parse import quote

import pytest

from proxy.control.admin.registry import ENDPOINTS

NAMES = (
    "name", "strategy", "route", "parameters", "deploy", "canary", "stages", "percentage", "duration_sec", "enabled",
    "health_check", "error_rate_threshold", "reason", "full", "arms", "baseline", "policy", "type", "probabilities",
    "target_reduction", "objectives", "weight", "variants", "metrics", "min_samples", "max_wait_sec", "floor", "",
)  # fmt: skip
WORDS = (
    "small", "large", "chat", "manual", "cost_reduction", "latency_optimization", "multi_objective", "fixed",
    "thompson", "prompt_optimization", "model_selection", "quality", "cost", "0.4", "40%", "1e999", "-1", "", " ",
    "\u202e", "a" * 300, "null", "\x00", "é", "9" * 50,
)  # fmt: skip
NUMBERS = (0, 1, -1, 0.5, 100, 101, 1e-9, 1e18, 2**63, -(2**62), 1e308)


def _value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(6 if depth < 4 else 4)
    match kind:
        case 0:
            return draw.choice(WORDS)
        case 1:
            return draw.choice(NUMBERS)
        case 2:
            return draw.choice((True, False, None))
        case 3:
            return draw.choice(WORDS[:12])
        case 4:
            return [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
        case _:
            return {draw.choice(NAMES): _value(draw, depth + 1) for _ in range(draw.randrange(4))}


def _wish(draw: random.Random) -> Any:
    wish: dict[str, Any] = {
        "name": "x",
        "strategy": draw.choice(WORDS[3:11]),
        "parameters": {draw.choice(NAMES): _value(draw) for _ in range(draw.randrange(4))},
    }
    if draw.random() < 0.5:
        wish[draw.choice(NAMES)] = _value(draw)
    return wish


@pytest.mark.slow
async def test_garbage_is_answered_and_never_a_fault_of_ours(node, ask, made) -> None:
    """Bodies, ids, headers and queries; afterwards the node works as before."""
    draw = random.Random(20261122)
    record = await made(node)
    commands = [e for e in ENDPOINTS if "{optimization_id}" in e.path and e.method == "POST"]
    queries = [e for e in ENDPOINTS if e.method == "GET" and e.about.query is not None]
    seen: set[int] = set()
    for _ in range(250):
        what = draw.randrange(4)
        headers: dict[str, str] = {}
        if draw.random() < 0.2:
            headers["If_Match"] = draw.choice(('"1"', "*", "x", '"', ",", "W/", '"99999999999999999999"'))
        if draw.random() < 0.1:
            headers["Idempotency_Key"] = draw.choice(("a", "b", " ", "é", "a b"))
        if what == 0:
            method, path, body = "POST", "/api/v1/optimize", _wish(draw)
        elif what == 1:
            method, path, body = "POST", "/api/v1/optimize", _value(draw)
        elif what == 2:
            method, body = "POST", _value(draw)
            id_ = record["id"] if draw.random() < 0.8 else quote(draw.choice(WORDS) or "x", safe="")
            path = draw.choice(commands).path.replace("{optimization_id}", id_)
        else:
            method, body = "GET", None
            pairs = [
                f"{quote(draw.choice((*NAMES, 'limit', 'offset', 'status', 'before')))}={quote(str(_value(draw)))}"
            ]
            path = f"{draw.choice(queries).path}?{'&'.join(pairs)}"
        status, document, _ = await ask(node, method, path, body, **headers)
        seen.add(status)
        assert status < 500, (method, path, body, headers, document)
        if status >= 400:
            assert set(document["error"]) == {"code", "message", "details"}

    assert {200, 201, 400, 409} <= seen
    assert (await made(node))["status"] == "proposed"
    assert node.core.journal.writer.lost == {}
