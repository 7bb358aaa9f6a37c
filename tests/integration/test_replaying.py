"""The log of a running worker is one that can be replayed: plain, contextual, sticky and many-armed routes."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.context.features import features_of
from optimizer.replaying.reading import log_directory, read_decisions
from optimizer.replaying.rows import COST, Decisions
from optimizer.replaying.targets import AsLogged, Shares
from optimizer.routing import Route, Selector, Side, Sticky
from optimizer.settings import ContextSettings
from policies.contextual import Index
from policies.offpolicy import SNIPS, apply, estimate

FEATURES = features_of(ContextSettings())
ASKED = 40


def _index() -> Index:
    """Two arms that differ by the length of a request, unsurely."""
    value = np.zeros((2, FEATURES.size))
    value[1, :2] = (-0.5, 1.0)
    return Index(
        value=value,
        charges=np.zeros((0, 2, FEATURES.size)),
        spread=np.zeros((2, FEATURES.size, FEATURES.size)),
        noise=np.full(2, 1.0),
        given=np.full(2, 0.05),
        drawn=np.ones(2, dtype=np.bool_),
        cost=np.zeros((2, FEATURES.size)),
    )


async def _ask(proxy: Any, headers: dict[str, str] | None = None, **fields: Any) -> None:
    async def one(number: int) -> None:
        reply = await proxy.client.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": "word " * (1 + 20 * number)}]}
            | fields,
            headers={name: value.format(number % 5) for name, value in (headers or {}).items()},
        )
        assert reply.status_code == 200, reply.text

    await asyncio.gather(*(one(number) for number in range(ASKED)))
    await proxy.event(ASKED)


def _publish(proxy: Any, *, version: int = 2, **changes: Any) -> None:
    source = proxy.worker.plane.table.source
    route: Route = replace(source.routes[0], **changes)
    proxy.publish(replace(source, version=version, routes=(route,)))


def _read(proxy: Any) -> Decisions:
    (decisions,) = read_decisions(log_directory(proxy.state.path)).values()
    return decisions


def _check(decisions: Decisions) -> None:
    """The log on itself is the plain mean, and every drawn arm could be drawn."""
    assert len(decisions) == ASKED
    assert not decisions.left_out
    scored = apply(decisions.logged(COST), AsLogged().vectors(decisions), decisions.n_arms)
    assert scored.overlap == pytest.approx(1.0)
    assert estimate(scored, SNIPS).mean == pytest.approx(decisions.outcomes[COST].mean())
    rows = np.arange(ASKED)
    assert decisions.eligible[decisions.vector_of, :][rows, decisions.chosen].all()


async def test_a_plain_route(proxy: Any) -> None:
    """Probabilities as published, one shared vector."""
    await _ask(proxy)

    decisions = _read(proxy)

    _check(decisions)
    assert decisions.vectors.tolist() == [[0.5, 0.5]]
    assert decisions.x is None
    assert np.isfinite(decisions.outcomes[COST]).all()


async def test_a_contextual_route(proxy: Any) -> None:
    """Every request has its own vector and features."""
    name = selector_file.write(proxy.state.selector_directory, _index())
    source = proxy.worker.plane.table.source.routes[0].control
    _publish(
        proxy,
        control=replace(source, selector=Selector("sel2", "thompson", (0.5, 0.5), name)),
        features=FEATURES,
    )
    await _ask(proxy)

    decisions = _read(proxy)

    _check(decisions)
    assert decisions.features == FEATURES.version
    assert decisions.x is not None
    assert decisions.x.shape == (ASKED, FEATURES.size)
    assert (decisions.x[:, 0] == 1.0).all()
    assert len(np.unique(decisions.vectors, axis=0)) > 10


async def test_a_sticky_route(proxy: Any) -> None:
    """Requests of one unit are one cluster."""
    _publish(proxy, sticky=Sticky("header", "x-team"))
    await _ask(proxy, {"x-team": "team {}"})

    decisions = _read(proxy)

    _check(decisions)
    assert decisions.units is not None
    assert len(np.unique(decisions.units)) == 5


async def test_a_route_with_many_arms(proxy: Any, shapes: Any) -> None:
    """Vectors of more than 32 arms are found in the `selector.v1` event; ineligible arms are known."""
    names = [f"m{number}" for number in range(40)]
    source = proxy.worker.plane.table.source
    models = [shapes.model(name) for name in names]
    models[3] = replace(models[3], capabilities=frozenset())
    arms = tuple(shapes.arm(name) for name in names)
    side = Side(arms, Selector("many", "thompson", (1 / 40,) * 40), "m0")
    route = replace(source.routes[0], control=side)
    proxy.publish(replace(source, version=2, models=tuple(models), routes=(route,)))
    await _ask(proxy, response_format={"type": "json_object"})

    decisions = _read(proxy)

    _check(decisions)
    place = decisions.arms.index("m3")
    assert not decisions.eligible[:, place].any()
    assert decisions.offered[:, place].all()
    vector = Shares("m3 or m5", {"m3": 0.5, "m5": 0.5}).vectors(decisions)(0, 1)[0]
    assert vector[decisions.arms.index("m5")] == 1.0
