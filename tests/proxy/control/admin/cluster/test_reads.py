"""What one node answers for the whole cluster: gathered, merged, and honest about who could not be asked."""

import time
from typing import Any

import pytest

from optimizer.cluster.types import NodeState, Version
from proxy.control.admin.registry import ENDPOINTS
from proxy.control.cluster.facts import EngineFacts
from proxy.control.cluster.forwarding import HEADER, Forwarder, Question
from proxy.control.cluster.peers import Peer

BASE = "/api/v1/optimize"
CHEAPER: dict[str, Any] = {
    "name": "Cheaper",
    "strategy": "manual",
    "parameters": {"arms": ["small"], "baseline": "small"},
}


def served(member: Any, node_worker: Any, *routes: str) -> list[str]:
    """Requests on ``routes`` that the node served, and that the owner of each has learned if it is this one."""
    worker = node_worker(member.core.state.path)
    ids = [worker.request("small", route=route) for route in routes]
    worker.writer.close()
    while member.core.ingest.step():
        pass
    for learning in member.core.learners.all():
        [own] = learning.settings.routes
        copy = node_worker(learning.state.path)
        for route in routes:
            if route == own.name:
                copy.request("small", route=route)
        copy.writer.close()
        while learning.ingest.step():
            pass
    return ids


def nowhere(member: Any) -> None:
    """The other node is dead, and this one does not wait long."""
    [other] = member.peers.live
    dead = Peer(other.node, "127.0.0.1:1")
    member.peers.live = [dead]
    member.peers.at = {
        shard: dead if isinstance(where, Peer) else where for shard, where in member.peers.at.items()
    }
    member.services.forwarder = Forwarder(member.peers, now=time.time, read_s=0.3, write_s=0.3)


def described(method: str, path: str, document: Any) -> None:
    """The document is what its endpoint's model says."""
    [endpoint] = [e for e in ENDPOINTS if (e.method, e.path) == (method, path)]
    assert endpoint.about.answers is not None
    read = endpoint.about.answers.model_validate(document, strict=False)
    assert read.model_dump(mode="json", exclude_unset=True) == document


async def test_arms_of_all_routes_whoever_learns_them(pair: Any, node_worker: Any) -> None:
    """In the configuration's order; the shard without an owner is named."""
    served(pair.right, node_worker, "code")
    left, right = await pair.left.get("/api/v1/arms"), await pair.right.get("/api/v1/arms")

    assert [row["route"] for row in left["arms"]] == ["chat", "chat", "code", "code"]
    assert [(row["route"], row["arm"]) for row in left["arms"]] == [
        (row["route"], row["arm"]) for row in right["arms"]
    ]
    assert sum(row["pulls"] for row in left["arms"] if row["route"] == "code") == pytest.approx(1.0)
    assert left["incomplete"] == [
        {"node": None, "address": None, "shards": [2], "reason": "the database does not answer"}
    ]
    described("GET", "/api/v1/arms", left)


async def test_arms_of_one_route_ask_its_owner_only(pair: Any) -> None:
    """Own, elsewhere, nowhere, and none."""
    own = await pair.left.get("/api/v1/arms?route=chat")
    there = await pair.left.get("/api/v1/arms?route=code")
    idle = await pair.left.get("/api/v1/arms?route=idle")

    assert {row["route"] for row in own["arms"]} == {"chat"}
    assert own["incomplete"] == []
    assert {row["route"] for row in there["arms"]} == {"code"}
    assert there["incomplete"] == []
    assert idle["arms"] == []
    assert [row["shards"] for row in idle["incomplete"]] == [[2]]
    assert (await pair.left.ask("GET", "/api/v1/arms?route=nope"))[0] == 404


async def test_who_does_not_answer_is_named_with_its_shards(pair: Any) -> None:
    """And the rest is answered, soon."""
    nowhere(pair.left)
    began = time.monotonic()
    for path in ("/api/v1/arms", "/api/v1/routes", "/api/v1/metrics/summary", "/api/v1/judges", BASE):
        document = await pair.left.get(path)
        [missing] = [row for row in document["incomplete"] if row["node"] is not None]
        assert missing["node"] == f"{pair.right.peers.node:08x}"
        assert missing["shards"] == [1]
        assert "connect" in missing["reason"]
        described("GET", path, document)

    assert time.monotonic() - began < 5.0


async def test_a_slow_node_costs_its_time_out_once(pair: Any, stalled: str) -> None:
    """All are asked at the same time."""
    nowhere(pair.left)
    slow = [Peer(node, stalled) for node in range(20)]
    pair.left.peers.live = slow
    began = time.monotonic()
    document = await pair.left.get("/api/v1/metrics/summary")

    assert time.monotonic() - began < 2.0
    late = [row for row in document["incomplete"] if row["reason"] == "did not answer in time"]
    assert len(late) == len(slow)


async def test_a_new_owner_that_is_not_ready_is_named(pair: Any) -> None:
    """It answers, though not about the shard that it still catches up with."""
    pair.right.core.learners._own = []
    pair.right.peers.own = ()
    for path in ("/api/v1/arms", "/api/v1/arms?route=code", "/api/v1/metrics/summary", BASE):
        document = await pair.left.get(path)
        [missing] = [row for row in document["incomplete"] if row["node"] is not None]
        assert (missing["shards"], missing["reason"]) == ([1], "is not ready with them yet"), path
    status, document, _ = await pair.left.ask("POST", f"{BASE}/nobody/rollback", {})
    created, _, _ = await pair.left.ask("POST", BASE, {**CHEAPER, "route": "code"})

    assert (status, created) == (503, 503), document


async def test_routes_are_the_tables_and_rollouts_the_owners(pair: Any) -> None:
    """What drives a route is asked of its owner; what workers use is here."""
    await pair.right.ask("POST", BASE, {**CHEAPER, "route": "code"})
    left = await pair.left.get("/api/v1/routes")

    assert [row["name"] for row in left["routes"]] == ["chat", "code", "idle"]
    described("GET", "/api/v1/routes", left)


async def test_totals_of_all_nodes_add_up(pair: Any, node_worker: Any) -> None:
    """Requests are counted where they were served, whoever owns the route."""
    served(pair.left, node_worker, "chat", "code", "code")
    served(pair.right, node_worker, "code", "chat")
    left = await pair.left.get("/api/v1/metrics/summary")
    right = await pair.right.get("/api/v1/metrics/summary")

    assert left["total"]["requests"] == 5
    assert {name: row["requests"] for name, row in left["routes"].items()} == {
        "chat": 2,
        "code": 3,
        "idle": 0,
    }
    assert left["total"]["cost_usd"] == pytest.approx(0.01)
    assert left["latency"]["p50_ms"] is not None
    assert {**left, "incomplete": []} == {**right, "incomplete": []}
    described("GET", "/api/v1/metrics/summary", left)


async def test_a_list_of_all_optimizations(pair: Any) -> None:
    """The newest first, whoever has them; pages and filters as on one node."""
    made = []
    for number in range(6):
        route = ("chat", "code")[number % 2]
        status, record, _ = await pair.left.ask(
            "POST", BASE, {**CHEAPER, "name": f"n{number}", "route": route}
        )
        assert status == 201, record
        made.append(record["id"])
        await pair.left.ask("POST", f"{BASE}/{record['id']}/rollback", {})
    whole = await pair.right.get(f"{BASE}?limit=100")
    page = await pair.left.get(f"{BASE}?limit=2&offset=3")
    chat = await pair.right.get(f"{BASE}?route=chat&limit=1")

    assert [row["id"] for row in whole["optimizations"]] == made[::-1]
    assert whole["total"] == page["total"] == 6
    assert [row["id"] for row in page["optimizations"]] == made[::-1][3:5]
    assert (chat["total"], chat["optimizations"][0]["id"]) == (3, made[4])
    described("GET", BASE, whole)


async def test_a_decision_is_with_the_node_that_made_it(pair: Any, node_worker: Any) -> None:
    """The id names the node; ids are of one key in a cluster."""
    [request_id] = served(pair.right, node_worker, "code")
    path = f"/api/v1/decisions/{request_id}"

    assert (await pair.left.get(path))["id"] == request_id
    assert (await pair.right.get(path))["id"] == request_id
    pair.left.peers.live = []
    status, document, _ = await pair.left.ask("GET", path)
    assert status == 503
    assert document["error"]["details"]["node"] == f"{pair.right.peers.node:08x}"
    assert (await pair.left.ask("GET", "/api/v1/decisions/req_0"))[0] == 404


async def test_judges_are_those_of_the_configuration(pair: Any) -> None:
    """None here; samples are counted over nodes."""
    document = await pair.left.get("/api/v1/judges")

    assert document["judges"] == []
    described("GET", "/api/v1/judges", document)


async def test_audit_and_configuration_are_answered_by_any_node(pair: Any) -> None:
    """From the shared database, and from the node's own file."""
    await pair.left.ask("POST", BASE, {**CHEAPER, "route": "code"})

    assert (await pair.right.get("/api/v1/audit"))["audit"]
    assert b"routes:" in (await pair.left.ask("GET", "/api/v1/config/export"))[1]
    assert (await pair.left.get("/api/v1/strategies"))["strategies"]


async def test_the_cluster_is_shown_alike_on_both_nodes(pair: Any) -> None:
    """Nodes, shards, engines, with what each says of itself."""
    pair.right.peers.engines = {"redis": EngineFacts(up=False, error="refused", errors=3)}
    document = await pair.left.get("/api/v1/cluster")

    described("GET", "/api/v1/cluster", document)
    assert document["enabled"] is True
    nodes = {row["node"]: row for row in document["nodes"]}
    there = nodes[f"{pair.right.peers.node:08x}"]
    assert there["owns"] == [1]
    assert there["late"] == [0]
    assert there["engines_down"] == ["redis"]
    assert there["config_hash"] == pair.left.services.settings.config_hash
    assert abs(there["clock_skew_s"]) < 1.0
    owners = [(row["owner"], row["lag"], row["reason"]) for row in document["shards"]]
    assert owners == [
        (f"{pair.left.peers.node:08x}", 2, None),
        (f"{pair.right.peers.node:08x}", 2, None),
        (None, None, "the database does not answer"),
    ]
    assert document["feedback"] == {"forwarded": 4, "received": 2, "undeliverable": 0, "dead_lettered": 0}


async def test_a_node_that_uses_an_old_table_is_late(pair: Any) -> None:
    """By the version that all of its workers run."""
    now = time.time()
    runs = ({0: Version(7, 3)}, {0: Version(7, 2)})
    pair.left.peers.states = [
        NodeState(one.peers.node, one.address, now, runs=run)
        for one, run in zip((pair.left, pair.right), runs, strict=True)
    ]
    nodes = (await pair.left.get("/api/v1/cluster"))["nodes"]

    assert [row["late"] for row in nodes] == [[], [0]]


async def test_rebuilding_is_the_databases(pair: Any) -> None:
    """Told once, on whichever node; away, nothing is forgotten."""
    status, document, _ = await pair.left.ask("POST", "/api/v1/cluster/rebuild", {})
    pair.right.peers.database_away = True
    refused, _, headers = await pair.right.ask("POST", "/api/v1/cluster/rebuild", {})

    assert (status, document) == (202, {"shards": [0, 1, 2]})
    assert (pair.left.peers.rebuilt, pair.right.peers.rebuilt) == (1, 0)
    assert refused == 503
    assert headers["Retry-After"]


async def test_health_says_what_is_degraded_and_why(pair: Any) -> None:
    """Engines and ownership are components; the reason is for operators."""
    pair.left.peers.engines = {"postgresql": EngineFacts(up=False, error="no route")}
    pair.left.peers.waiting = {2: "waits for the database"}
    document = await pair.left.get("/health/detailed")

    assert document["components"]["postgresql"] == "degraded"
    assert document["components"]["redis"] == "healthy"
    assert document["components"]["ownership"] == "degraded"
    assert "waits for the database" in document["ownership"]["error"]
    assert document["engines"]["postgresql"]["error"] == "no route"
    described("GET", "/health/detailed", document)


async def test_a_scrape_shows_shards_and_engines(pair: Any) -> None:
    """Of this node; others are scraped themselves."""
    pair.left.peers.engines = {"kafka": EngineFacts(up=True, errors=4)}
    text = (await pair.left.ask("GET", "/metrics"))[1].decode()

    for line in (
        'llm_optimizer_engine_up{engine="kafka"} 1.0',
        'llm_optimizer_engine_up{engine="redis"} NaN',
        'llm_optimizer_engine_errors_total{engine="kafka"} 4.0',
        'llm_optimizer_shard_lag_records{shard="0"} 2.0',
        'llm_optimizer_shard_generation{shard="0"} 7.0',
        "llm_optimizer_shards_owned 1.0",
        'llm_optimizer_feedback_forwarding_total{result="forwarded"} 2.0',
    ):
        assert line in text, line
    assert 'shard="1"' not in text


async def test_what_another_node_asks_is_answered_from_here_alone(pair: Any) -> None:
    """No second hop: the other side would ask back otherwise."""
    pair.right.services.forwarder.ask = None  # whoever asks on fails
    for path in ("/api/v1/arms", "/api/v1/routes", "/api/v1/judges", BASE):
        question = Question("GET", path, "local", headers={"content-type": ["application/json"]})
        signature = pair.left.services.forwarder._sign(pair.right.peer, question)
        status, document, _ = await pair.right.ask("GET", path, **{HEADER: signature})
        assert status == 200
        assert "incomplete" not in document


async def test_feedback_by_response_id_finds_the_node_that_answered(pair: Any, node_worker: Any) -> None:
    """A balancer sends ratings anywhere; the id of the answer is known where it was given."""
    worker = node_worker(pair.right.core.state.path)
    request_id = worker.request("small", route="code", **{"gen_ai.response.id": "chatcmpl-77"})
    worker.writer.close()
    while pair.right.core.ingest.step():
        pass
    rating = {"response_id": "chatcmpl-77", "value": 1.0}

    assert (await pair.right.get("/api/v1/responses/chatcmpl-77"))["request_id"] == request_id
    assert (await pair.left.ask("POST", "/v1/feedback", rating))[0] == 200
    assert (await pair.left.ask("POST", "/v1/feedback", {**rating, "response_id": "chatcmpl-78"}))[0] == 404
    log = b"".join(path.read_bytes() for path in pair.left.core.state.log_directory.glob("*/*.jsonl"))
    assert request_id.encode() in log


async def test_without_a_cluster_the_header_is_one_of_a_stranger(node: Any) -> None:
    """A node that is alone believes no signature, and what is forwarded is not local."""
    status, _ = await node.get("/api/v1/arms", **{HEADER: "v1;anything"})

    assert status == 401


async def test_one_node_says_that_there_is_no_cluster(node: Any) -> None:
    """And refuses to forget while it runs."""
    assert await node.get("/api/v1/cluster") == (200, {"enabled": False})
    status, document = await node.post("/api/v1/cluster/rebuild", {})

    assert (status, document["error"]["code"]) == (409, "CONFLICT")
    assert "ownership" not in (await node.get("/health/detailed"))[1]["components"]
    assert "llm_optimizer_shards_owned" not in (await node.get("/metrics"))[1]
