"""What the page asks one node for is of the whole cluster: sums over nodes, and the owner's word on a route."""

import time
from typing import Any

import pytest

from proxy.control.admin.registry import ENDPOINTS
from proxy.control.cluster.forwarding import Forwarder
from proxy.control.cluster.peers import Peer

PATHS = ("/api/v1/history", "/api/v1/history?route=code", "/api/v1/savings", "/api/v1/requests")


def served(member: Any, node_worker: Any, *routes: str) -> list[str]:
    """Requests on ``routes`` that the node served, and that the owner of each has learned if it is this one."""
    worker = node_worker(member.core.state.path)
    began = int(time.time() * 1000) - 2000
    ids = [
        worker.request(arm, route=route, started_ms=began, cost_usd=cost)
        for route in routes
        for arm, cost in (("large", 0.003), ("small", 0.001))
    ]
    worker.writer.close()
    while member.core.ingest.step():
        pass
    return ids


def learned(member: Any, node_worker: Any, *routes: str) -> None:
    """The same, as the owner's copy of the topic has them."""
    for learning in member.core.learners.all():
        [own] = learning.settings.routes
        worker = node_worker(learning.state.path)
        began = int(time.time() * 1000) - 2000
        for route in routes:
            if route == own.name:
                worker.request("large", route=route, started_ms=began, cost_usd=0.003)
                worker.request("small", route=route, started_ms=began, cost_usd=0.001)
        worker.writer.close()
        while learning.ingest.step():
            pass


def described(path: str, document: Any) -> None:
    [endpoint] = [e for e in ENDPOINTS if (e.method, e.path) == ("GET", path.partition("?")[0])]
    assert endpoint.about.answers is not None
    read = endpoint.about.answers.model_validate(document, strict=False)
    assert read.model_dump(mode="json", exclude_unset=True) == document


async def test_figures_of_all_nodes_add_up(pair: Any, node_worker: Any) -> None:
    """Requests from who served, savings from who learns; whichever node is asked."""
    served(pair.left, node_worker, "chat", "code", "code")
    served(pair.right, node_worker, "code")
    for member in (pair.left, pair.right):
        learned(member, node_worker, "chat", "code", "code", "code")

    for member in (pair.left, pair.right):
        everything = await member.get("/api/v1/history?minutes=5&points=30")
        code = await member.get("/api/v1/history?minutes=5&points=30&route=code")
        savings = await member.get("/api/v1/savings")
        assert {row["route"]: sum(row["requests"]) for row in everything["routes"]} == {
            "chat": 2,
            "code": 6,
            "idle": 0,
        }
        assert {row["route"]: sum(row["saved_usd"]) for row in everything["routes"]} == {
            "chat": pytest.approx(0.002),
            "code": pytest.approx(0.006),
            "idle": 0,
        }
        assert [(arm["arm"], sum(arm["requests"])) for arm in code["arms"]] == [("small", 3), ("large", 3)]
        assert next(one for one in code["arms"][0]["latency_p50_s"] if one is not None) == pytest.approx(
            0.4, rel=0.06
        )
        assert savings["routes"]["code"]["requests"] == 6
        assert savings["routes"]["code"]["low_usd"] < 0.006 < savings["routes"]["code"]["high_usd"]
        assert savings["total"]["saved_usd"] == pytest.approx(0.008)
        described("/api/v1/history", code)
        described("/api/v1/savings", savings)


async def test_requests_of_all_nodes_in_one_order(pair: Any, node_worker: Any) -> None:
    """By id, which is by time; pages lead through all of them."""
    ids = served(pair.left, node_worker, "chat", "code")
    ids += served(pair.right, node_worker, "chat", "code", "idle")
    seen: list[str] = []
    following: str | None = ""
    while following is not None:
        page = await pair.left.get(f"/api/v1/requests?limit=3{f'&before={following}' if following else ''}")
        seen += [row["id"] for row in page["requests"]]
        following = page["next"]
        described("/api/v1/requests", page)

    assert seen == sorted(ids, reverse=True)
    filtered = await pair.right.get("/api/v1/requests?route=code&arm=small")
    assert {(row["route"], row["arm"]) for row in filtered["requests"]} == {("code", "small")}
    assert len(filtered["requests"]) == 2


async def test_curves_come_from_the_owner(pair: Any, node_worker: Any) -> None:
    """Own, elsewhere, nowhere, and none."""
    learned(pair.right, node_worker, "code")
    there = await pair.right.get("/api/v1/arms/densities?route=code")
    here = await pair.left.get("/api/v1/arms/densities?route=code")
    idle = await pair.left.get("/api/v1/arms/densities?route=idle")

    assert [row["signal"] for row in here["signals"]] == [row["signal"] for row in there["signals"]]
    assert "cost_usd" in [row["signal"] for row in here["signals"]]
    assert (here["incomplete"], idle["signals"]) == ([], [])
    assert [row["shards"] for row in idle["incomplete"]] == [[2]]
    assert (await pair.left.ask("GET", "/api/v1/arms/densities?route=nope"))[0] == 404
    described("/api/v1/arms/densities?route=code", here)


async def test_who_does_not_answer_is_named(pair: Any, node_worker: Any) -> None:
    """And the rest is answered."""
    served(pair.left, node_worker, "chat")
    [other] = pair.left.peers.live
    dead = Peer(other.node, "127.0.0.1:1")
    pair.left.peers.live = [dead]
    pair.left.peers.at = {
        shard: dead if isinstance(where, Peer) else where for shard, where in pair.left.peers.at.items()
    }
    pair.left.services.forwarder = Forwarder(pair.left.peers, now=time.time, read_s=0.3, write_s=0.3)

    for path in PATHS:
        document = await pair.left.get(path)
        [missing] = [row for row in document["incomplete"] if row["node"] is not None]
        assert missing["node"] == f"{pair.right.peers.node:08x}"
        described(path, document)
