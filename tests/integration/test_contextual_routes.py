"""Routes whose decisions look at requests, through a running worker: what is chosen, logged, and may go wrong."""

import asyncio
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.context.features import features_of
from optimizer.routing import Route, RoutingTable, Selector
from optimizer.settings import ContextSettings
from optimizer.table_file import write_table
from policies.contextual import ContextualSelector, Index

FEATURES = features_of(ContextSettings())
LONG = "word " * 400


def _index(
    *, arms: int = 2, size: int = FEATURES.size, cap: float = float("inf"), sure: bool = True
) -> Index:
    """Arm 0 is best for short requests, arm 1 for long ones; ``sure`` leaves little to chance."""
    value = np.zeros((arms, size))
    value[1] = np.where(np.arange(size) == 1, 4.0, 0.0)
    value[1, 0] = -2.0
    cost = np.zeros((arms, size))
    cost[:, 0] = -7.0
    cost[1, 0] = 0.0
    return Index(
        value=value,
        charges=np.zeros((0, arms, size)),
        spread=np.zeros((arms, size, size)),
        noise=np.full(arms, 1e-6 if sure else 4.0),
        given=np.full(arms, 0.05 if not sure else 0.0),
        drawn=np.ones(arms, dtype=np.bool_),
        cost=cost,
        max_request_usd=cap,
    )


def _contextual(table: RoutingTable, index: str | None, *, version: int, **route: Any) -> RoutingTable:
    old = table.routes[0]
    selector = Selector(f"sel{version}", "thompson", (0.5, 0.5), index)
    side = replace(old.control, selector=selector)
    return replace(table, version=version, routes=(replace(old, control=side, features=FEATURES, **route),))


def _x(event: dict[str, Any]) -> Any:
    return np.frombuffer(b64decode(event["context"]["x"]), "<f4")


async def _ask(proxy: Any, content: str = "hi", **headers: str) -> dict[str, Any]:
    before = len(proxy.events())
    reply = await proxy.client.post(
        "/v1/chat/completions",
        json={"model": "chat", "messages": [{"role": "user", "content": content}]},
        headers=headers,
    )
    assert reply.status_code == 200, reply.text
    event: dict[str, Any] = await proxy.event(before + 1)
    return event


async def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_the_request_decides(proxy: Any) -> None:
    """Two requests that differ go to different arms, and the event says why: vector, draw, probabilities, x."""
    index = _index(sure=False)
    name = selector_file.write(proxy.state.selector_directory, index)
    proxy.publish(_contextual(proxy.worker.plane.table.source, name, version=2))

    short, long = await _ask(proxy), await _ask(proxy, LONG)

    assert short["probabilities"][0] > 0.6
    assert long["probabilities"][0] < short["probabilities"][0]
    selector = ContextualSelector("sel2", selector_file.load(proxy.state.selector_directory / name))
    for event in (short, long):
        assert event["context"]["version"] == FEATURES.version
        assert _x(event)[0] == 1.0
        arm, vector = selector.choose(event["draw"], 0b11, _x(event))
        assert event["arms"][arm] == event["arm"]
        assert event["probabilities"] == pytest.approx(vector, abs=1e-6)
        assert event["propensity"] == event["probabilities"][arm]
        assert event["randomised"] is True
        assert event["selector"] == "sel2"


async def test_without_an_index_requests_are_looked_at_all_the_same(proxy: Any) -> None:
    """What is learned from needs x from the first request on; nothing was drawn by it, so there is no draw."""
    proxy.publish(_contextual(proxy.worker.plane.table.source, None, version=2))

    event = await _ask(proxy)

    assert len(_x(event)) == FEATURES.size
    assert event["probabilities"] == [0.5, 0.5]
    assert "draw" not in event


@pytest.mark.parametrize("damage", ["missing", "checksum", "size"])
async def test_a_file_that_can_not_be_used(proxy: Any, caplog: Any, damage: str) -> None:
    """The mean probabilities serve on; it is counted in the worker's report and said once."""
    arms = 3 if damage == "size" else 2
    name = selector_file.write(proxy.state.selector_directory, _index(arms=arms))
    path = proxy.state.selector_directory / name
    if damage == "missing":
        path.unlink()
    elif damage == "checksum":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    source = proxy.worker.plane.table.source
    proxy.publish(_contextual(source, name, version=2))
    proxy.publish(replace(_contextual(source, name, version=3), published_at=1.0))

    event = await _ask(proxy)

    assert event["probabilities"] == [0.5, 0.5]
    assert "draw" not in event
    assert [name in record.getMessage() for record in caplog.records].count(True) == 1
    await _until(
        lambda: any(
            damage in row["data"]["index_refused"] for row in proxy.events("llm_optimizer.worker.stats.v1")
        )
    )


async def test_a_file_that_is_repaired_is_taken_up(proxy: Any) -> None:
    """A refused blob is tried again with the next table."""
    name = selector_file.write(proxy.state.selector_directory, _index())
    path = proxy.state.selector_directory / name
    good = path.read_bytes()
    path.unlink()
    source = proxy.worker.plane.table.source
    proxy.publish(_contextual(source, name, version=2))
    path.write_bytes(good)

    proxy.publish(_contextual(source, name, version=3))

    assert "draw" in await _ask(proxy)


async def test_while_serving_tables_come_without_a_pause(proxy: Any) -> None:
    """The worker's own poll loads the blob in a thread and then uses it."""
    name = selector_file.write(proxy.state.selector_directory, _index())
    write_table(proxy.state.table_file, _contextual(proxy.worker.plane.table.source, name, version=2))

    await _until(lambda: proxy.worker.plane.table.version == 2)
    side = proxy.worker.plane.table.routes["chat"].control
    await _until(lambda: proxy.worker.plane.table.routes["chat"].control.contextual is not None)

    assert side.ids == proxy.worker.plane.table.routes["chat"].control.ids
    assert (await _ask(proxy, LONG))["arm"] != (await _ask(proxy))["arm"]


async def test_a_pin_and_a_cap(proxy: Any) -> None:
    """A pinned request is not drawn but still looked at; an arm that is predicted too dear is filtered, by name."""
    name = selector_file.write(proxy.state.selector_directory, _index(cap=0.01))
    proxy.publish(_contextual(proxy.worker.plane.table.source, name, version=2))

    pinned = await _ask(proxy, **{"x-llm-optimizer-pin": "b"})
    capped = await _ask(proxy, LONG)

    assert (pinned["arm"], pinned["propensity"], pinned["reason"]) == ("b", 1.0, "pinned")
    assert "draw" not in pinned
    assert len(_x(pinned)) == FEATURES.size
    assert capped["arm"] == "a"
    assert capped["filtered"] == {"b": "predicted to cost more than a request may"}
    assert (capped["reason"], capped["randomised"], capped["propensity"]) == ("single", False, 1.0)


async def test_sticky_units_keep_their_draw(proxy: Any, sticky: Any) -> None:
    """The same unit has the same draw whatever its request is like; the arm follows the request's own vector."""
    name = selector_file.write(proxy.state.selector_directory, _index(sure=False))
    source = proxy.worker.plane.table.source
    proxy.publish(_contextual(source, name, version=2, sticky=sticky(by="header", header="x-unit")))

    one, other = await _ask(proxy, **{"x-unit": "u1"}), await _ask(proxy, LONG, **{"x-unit": "u1"})

    assert one["draw"] == other["draw"]
    assert one["probabilities"] != other["probabilities"]


async def test_each_side_has_its_own_index(proxy: Any) -> None:
    """A candidate draws by its own blob, from the same features, and is guarded as ever."""
    directory = proxy.state.selector_directory
    control = selector_file.write(directory, _index())
    swapped = _index()
    candidate = selector_file.write(directory, replace(swapped, value=swapped.value[::-1]))
    table = _contextual(proxy.worker.plane.table.source, control, version=2)
    side = table.routes[0].control
    other = replace(side, selector=replace(side.selector, id="cand", index=candidate))
    route: Route = replace(table.routes[0], candidate=other, candidate_fraction=1.0, rollout="r1")
    proxy.publish(replace(table, routes=(route,)))

    lost = await _ask(proxy)
    proxy.worker.plane.guarded = True
    there = await _ask(proxy)

    assert (lost["side"], lost["arm"], lost["guard_lost"]) == ("control", "a", True)
    assert (there["side"], there["arm"], there["selector"]) == ("candidate", "b", "cand")
