"""Routes that look at requests, under requests that nobody should send, and the propensities of many ordinary ones."""

import asyncio
import json
from base64 import b64decode
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.context.features import ProjectionInfo, features_of
from optimizer.routing import ClientFeature, Features, RoutingTable, Selector
from optimizer.settings import ContextSettings
from policies.contextual import Index

SETTINGS = ContextSettings(
    lexical=True,
    client=(
        ClientFeature("tier", "header", "x-tier", values=("gold", "free")),
        ClientFeature("risk", "metadata", "risk", low=0.0, high=10.0),
    ),
)
# Beyond this a chi-square of two degrees of freedom is once in ten thousand times.
LARGEST_CHI_SQUARE = 18.42


def _index(arms: int, size: int) -> Index:
    """Every arm competes for every request, and what the request is like matters a lot."""
    rng = np.random.default_rng(5)
    return Index(
        value=rng.normal(0.0, 0.5, (arms, size)),
        charges=rng.normal(0.0, 0.1, (1, arms, size)) - 3.0 * np.eye(1, size),
        spread=np.stack([0.05 * np.eye(size)] * arms),
        noise=np.full(arms, 1e-3),
        given=np.full(arms, 0.02),
        drawn=np.ones(arms, dtype=np.bool_),
        cost=np.zeros((arms, size)),
    )


def _looking(proxy: Any, shapes: Any, settings: ContextSettings = SETTINGS) -> tuple[RoutingTable, Features]:
    """The route with three arms that are drawn by what a request is like."""
    directory = proxy.state.selector_directory
    projection = None
    if settings.lexical:
        rows = np.random.default_rng(1).normal(0.0, 0.3, (4096, 4)).astype(np.float32)
        projection = ProjectionInfo(selector_file.write_projection(directory, rows), 4)
    features = features_of(settings, projection)
    source = proxy.worker.plane.table.source
    side = shapes.side(shapes.arm("a"), shapes.arm("b"), shapes.arm("a", "terse"))
    name = selector_file.write(directory, _index(3, features.size))
    side = replace(side, selector=Selector("looks", "thompson", (0.4, 0.3, 0.3), name))
    route = replace(source.routes[0], control=side, features=features)
    return replace(source, version=2, routes=(route,)), features


def _chat(**members: Any) -> bytes:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **members}
    return json.dumps(body).encode()


def _said(content: Any, **message: Any) -> bytes:
    return _chat(messages=[{"role": "user", "content": content, **message}])


EXTREMES: dict[str, bytes] = {
    "ten megabytes": _said("What is a word? " * 640_000),
    "words without end": _said("x" * 3_000_000),
    "many messages": _chat(messages=[{"role": "user", "content": "a"}] * 50_000),
    "many parts": _said([{"type": "text", "text": "b"}] * 50_000),
    "nothing said": _said(""),
    "NUL": _said("\0" * 5000),
    "lone surrogate": b'{"model":"chat","messages":[{"role":"user","content":"\\ud800 and \\udfff"}]}',
    "no UTF-8": b'{"model":"chat","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "every script": _said("".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x11000)]))),
    "beyond the first plane": _said("\U0001f600" * 5000),
    "parts that are none": _said([None, 1, "text", {"type": 5}, {"type": "text", "text": 7}, {}, [[]]]),
    "content that is none": _said({"deep": [1, 2, 3]}),
    "a number": _said(7),
    "roles that are none": _chat(messages=[{"role": ["user"], "content": "a"}, {"role": None}, {}]),
    "deep": _chat(metadata=json.loads("[" * 500 + "]" * 500)),
    "too deep": b'{"model":"chat","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "large metadata": _chat(metadata={"risk": "9" * 1_000_000}),
    "much metadata": _chat(metadata={f"key-{number}": number for number in range(100_000)}),
    "metadata that is none": _chat(metadata=["risk"]),
    "risk that is none": _chat(metadata={"risk": {"a": [1]}}),
    "infinite risk": _chat(metadata={"risk": "inf"}),
    "large risk": _chat(metadata={"risk": 10**18}),
    "tools that are none": _chat(tools=[None, 5, {"function": 3}, {"function": {"parameters": []}}]),
    "many tools": _chat(tools=[{"type": "function", "function": {"name": "f"}}] * 20_000),
    "formats that are none": _chat(response_format=["json_object"], max_tokens=-(2**53)),
    "options": _said("A) B) C) " * 10_000),
    "digits and fences": _said("```" * 3000 + "1234567890" * 3000),
}


@pytest.mark.parametrize("kind", EXTREMES)
async def test_whatever_is_asked_is_answered_or_refused(proxy: Any, shapes: Any, kind: str) -> None:
    """Nothing breaks a decision: the vector is finite and bounded, or the body was refused before."""
    table, features = _looking(proxy, shapes)
    proxy.publish(table)
    headers = {"x-tier": "gold" * 4000, "content-type": "application/json"}

    reply = await proxy.client.post("/v1/chat/completions", content=EXTREMES[kind], headers=headers)

    assert reply.status_code in (200, 400), reply.text[:300]
    event = await proxy.event()
    if "context" in event:
        x = np.frombuffer(b64decode(event["context"]["x"]), "<f4")
        assert len(x) == features.size
        assert np.abs(x).max() < 100.0
        assert sum(event["probabilities"]) == pytest.approx(1.0)
        assert len(json.dumps(event)) < 8192
    else:
        assert reply.status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embeddings", {"input": "some text"}),
        ("embeddings", {"input": [[1, 2, 3], [4]]}),
        ("embeddings", {"input": ["a", 5, None]}),
        ("completions", {"prompt": "Once upon a time"}),
        ("completions", {"prompt": [[1, 2], [3]]}),
        ("responses", {"input": "What?", "store": False}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}),
        ("responses", {"input": [{"type": "function_call_output", "output": "x"}], "instructions": 5}),
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    ],
)
async def test_every_endpoint_is_looked_at(proxy: Any, shapes: Any, path: str, body: dict[str, Any]) -> None:
    """Requests of each endpoint, streams too, are decided with their vector in the event."""
    table, features = _looking(proxy, shapes)
    proxy.publish(table)

    await proxy.client.post(f"/v1/{path}", json={"model": "chat", **body})

    event = await proxy.event()
    assert event["outcome"] != "internal_error"
    assert len(b64decode(event["context"]["x"])) == 4 * features.size
    assert event["propensity"] == event["probabilities"][event["arms"].index(event["arm"])]


@pytest.mark.slow
async def test_arms_are_drawn_as_often_as_their_logged_probabilities_say(proxy: Any, shapes: Any) -> None:
    """Over real sockets, all requests different: chi-square of arms against the sum of what was logged.

    With sound propensities this fails for one seed in ten thousand; with those of any other request, for all.
    """
    table, _ = _looking(proxy, shapes)
    proxy.publish(table)
    rng = np.random.default_rng(11)

    for number in range(400):
        content = "?" * int(rng.integers(2)) + f"{'word ' * int(rng.integers(200))}{number}"
        body = _said(content) if number % 3 else _chat(metadata={"risk": float(rng.uniform(0, 10))})
        tier = {"x-tier": "gold"} if number % 2 else {}
        await proxy.client.post("/v1/chat/completions", content=body, headers=tier)
    await proxy.event(400)

    rows = [event["data"] for event in proxy.events()]
    vectors = np.array([row["probabilities"] for row in rows])
    drawn = np.array([np.eye(3)[row["arms"].index(row["arm"])] for row in rows])
    assert vectors.std(axis=0).max() > 0.1
    assert _chi_square(drawn, vectors) < LARGEST_CHI_SQUARE
    assert _chi_square(drawn, np.roll(vectors, 1, axis=1)) > LARGEST_CHI_SQUARE
    # And each draw is where its arm lies in its own vector.
    for row, vector in zip(rows, vectors, strict=True):
        assert row["arms"][int(np.searchsorted(vector.cumsum(), row["draw"], side="right"))] == row["arm"]


def _chi_square(drawn: Any, vectors: Any) -> float:
    """Of the totals of all arms but one, with the covariance that independent draws by ``vectors`` have."""
    off = (drawn - vectors).sum(axis=0)[:-1]
    covariance = np.diag(vectors.sum(axis=0)) - vectors.T @ vectors
    return float(off @ np.linalg.solve(covariance[:-1, :-1], off))


async def test_a_unit_moves_one_way_when_probabilities_do(proxy: Any, shapes: Any, sticky: Any) -> None:
    """As the first arm gains step by step, units go to it and none comes back."""
    table, features = _looking(proxy, shapes, ContextSettings())
    route = replace(table.routes[0], sticky=sticky(by="header", header="x-unit"))
    seen: dict[str, list[str]] = {f"u{number}": [] for number in range(25)}
    for step in range(5):
        index = _index(3, features.size)
        index.value[0, 0] += 0.4 * step
        name = selector_file.write(proxy.state.selector_directory, index)
        selector = Selector(f"step{step}", "thompson", (0.4, 0.3, 0.3), name)
        side = replace(route.control, selector=selector)
        proxy.publish(replace(table, version=3 + step, routes=(replace(route, control=side),)))
        for unit, arms in seen.items():
            reply = await proxy.client.post("/v1/chat/completions", content=_chat(), headers={"x-unit": unit})
            arms.append(reply.headers["x-llm-optimizer-arm"])

    assert any(arms[0] != arms[-1] for arms in seen.values())
    for arms in seen.values():
        first = arms.index("a") if "a" in arms else len(arms)
        assert set(arms[first:]) <= {"a"}


async def test_requests_under_way_keep_the_table_they_were_decided_by(proxy: Any, shapes: Any) -> None:
    """Blobs that are swept, and tables that come, while requests are decided by them: every answer is whole."""
    table, features = _looking(proxy, shapes)
    directory = proxy.state.selector_directory

    async def ask() -> int:
        reply = await proxy.client.post("/v1/chat/completions", content=_chat())
        return int(reply.status_code)

    for version in range(3, 9):
        name = selector_file.write(directory, _index(3, features.size))
        side = replace(table.routes[0].control, selector=Selector(f"v{version}", "t", (0.4, 0.3, 0.3), name))
        proxy.publish(replace(table, version=version, routes=(replace(table.routes[0], control=side),)))
        asked = [asyncio.ensure_future(ask()) for _ in range(8)]
        for path in directory.iterdir():
            if path.name.startswith("sel-"):
                path.unlink()
        assert await asyncio.gather(*asked) == [200] * 8
