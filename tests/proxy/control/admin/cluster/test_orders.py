"""Orders in a cluster: any node takes them, the owner of the route carries them out, once."""

import asyncio
import time
from typing import Any

import pytest

from proxy.control.access import obtain_key
from proxy.control.cluster.forwarding import HEADER, Forwarder
from proxy.control.cluster.peers import Peer

BASE = "/api/v1/optimize"
CHEAPER: dict[str, Any] = {
    "name": "Cheaper",
    "strategy": "manual",
    "route": "code",
    "parameters": {"arms": ["small"], "baseline": "small"},
}


def quick(member: Any) -> None:
    """Do not wait long for a node that does not answer."""
    member.services.forwarder = Forwarder(member.peers, now=time.time, read_s=0.3, write_s=0.3)


async def made(member: Any, **headers: str) -> dict[str, Any]:
    status, document, _ = await member.ask("POST", BASE, CHEAPER, **headers)
    assert status == 201, document
    return dict(document)


async def test_an_optimization_is_made_by_the_owner_of_its_route(pair: Any) -> None:
    """Asked on the other node; its book has it, ours has not."""
    record = await made(pair.left)

    assert record["route"] == "code"
    assert pair.right.services.desks()[0].get(record["id"]) is not None
    assert pair.left.services.desks()[0].get(record["id"]) is None


async def test_what_is_wrong_with_a_wish_is_told_whole(pair: Any) -> None:
    """Also through another node, and for a route that there is not."""
    status, document, _ = await pair.left.ask("POST", BASE, {**CHEAPER, "parameters": {"arms": ["huge"]}})
    _, nowhere, _ = await pair.right.ask("POST", BASE, {**CHEAPER, "route": "nope", "parameters": {"x": 1}})

    assert status == 400
    assert document["error"]["details"]["problems"]
    assert len(nowhere["error"]["details"]["problems"]) > 1


async def test_orders_go_to_the_owner_with_their_conditions(pair: Any) -> None:
    """ETag and If-Match mean the same on every node."""
    record = await made(pair.right)
    path = f"{BASE}/{record['id']}"

    status, shown, headers = await pair.left.ask("GET", path)
    assert (status, shown["id"], headers["ETag"]) == (200, record["id"], f'"{record["revision"]}"')
    status, _, _ = await pair.left.ask("GET", path, If_None_Match=headers["ETag"])
    assert status == 304
    status, refused, _ = await pair.left.ask("POST", f"{path}/rollback", {}, If_Match='"999"')
    assert (status, refused["error"]["code"]) == (412, "PRECONDITION_FAILED")
    status, done, _ = await pair.left.ask(
        "POST", f"{path}/rollback", {"reason": "no"}, If_Match=headers["ETag"]
    )
    assert (status, done["status"]) == (200, "rolled_back")
    status, gone, _ = await pair.left.ask("DELETE", path)
    assert status == 200
    assert gone["status"] == "deleted"


async def test_an_order_without_a_body_is_the_same_order_on_its_way(pair: Any) -> None:
    """As from ``curl -X POST``: no body and nobody says of which type; what is said is signed."""
    record = await made(pair.right)
    path = f"{BASE}/{record['id']}/rollback"
    url = f"http://{pair.left.address}{path}"

    key = {"Authorization": f"Bearer {obtain_key(pair.left.services.core.state.admin_key_file)[0]}"}
    async with pair.left.session.request(
        "POST", url, headers=key, skip_auto_headers=["Content-Type"]
    ) as said:
        document = await said.json()

    assert (said.status, document.get("id")) == (200, record["id"]), document


async def test_a_repetition_through_any_node_is_done_once(pair: Any) -> None:
    """The owner remembers the key; the same key for something else is refused."""
    first = await made(pair.left, Idempotency_Key="k-1")
    status, again, headers = await pair.right.ask("POST", BASE, CHEAPER, Idempotency_Key="k-1")
    status_left, _, headers_left = await pair.left.ask("POST", BASE, CHEAPER, Idempotency_Key="k-1")
    other, _, _ = await pair.left.ask("POST", BASE, {**CHEAPER, "name": "x"}, Idempotency_Key="k-1")

    assert (status, again["id"], status_left) == (201, first["id"], 201)
    assert headers["Idempotent-Replayed"] == headers_left["Idempotent-Replayed"] == "true"
    assert other == 409
    assert len((await pair.left.get(BASE))["optimizations"]) == 1


async def test_many_at_once_through_both_nodes_make_one(pair: Any) -> None:
    """Whoever comes while it is under way is told so."""
    answers = await asyncio.gather(
        *(member.ask("POST", BASE, CHEAPER, Idempotency_Key="k-2") for member in (pair.left, pair.right) * 4)
    )

    assert {status for status, _, _ in answers} <= {201, 409}
    assert (await pair.left.get(BASE))["total"] == 1


async def test_a_shard_without_an_owner_says_so_and_when_to_ask_again(pair: Any) -> None:
    """503, with the shard and why it waits."""
    status, document, headers = await pair.left.ask("POST", BASE, {**CHEAPER, "route": "idle"})

    assert (status, headers["Retry-After"]) == (503, "2")
    assert document["error"]["details"] == {"shard": 2, "reason": "the database does not answer"}


async def test_an_id_that_nobody_knows(pair: Any) -> None:
    """404 when all owners were asked; 503 while somebody who may know it could not be."""
    quick(pair.left)
    status, document, _ = await pair.left.ask("GET", f"{BASE}/nobody")
    assert (status, document["error"]["details"]["shards"]) == (503, [2])
    pair.left.peers.own += (2,)
    assert (await pair.left.ask("GET", f"{BASE}/nobody"))[0] == 404
    pair.right.peers.waiting = {1: "catches up"}
    assert (await pair.left.ask("GET", f"{BASE}/nobody"))[0] == 503
    pair.right.peers.waiting = {}
    pair.left.peers.at[1] = Peer(pair.right.peers.node, "127.0.0.1:1")
    status, document, _ = await pair.left.ask("POST", f"{BASE}/nobody/rollback", {})
    assert status == 503
    assert document["error"]["details"]["nodes"][0]["address"] == "127.0.0.1:1"


async def test_of_a_record_in_the_database_it_is_said_which_shard_waits(pair: Any) -> None:
    """Its owner is gone and nobody has taken the shard yet."""
    record = await made(pair.right)
    pair.left.peers.at[1] = "its owner has died"
    async with asyncio.timeout(10):
        while True:
            status, document, headers = await pair.left.ask("POST", f"{BASE}/{record['id']}/rollback", {})
            if "shard" in document["error"]["details"]:
                break
            await asyncio.sleep(0.05)

    assert (status, headers["Retry-After"]) == (503, "2")
    assert document["error"]["details"] == {"shard": 1, "reason": "its owner has died"}


async def test_a_record_whose_shard_moves_is_not_said_to_be_gone(pair: Any) -> None:
    """Its owner has let it go and nobody has said so yet: everybody who is asked knows nothing of it."""
    record = await made(pair.right)
    pair.left.peers.own += (2,)  # so that every shard has an owner
    pair.right.core.learners._own = ()
    async with asyncio.timeout(10):
        while record["id"] not in [found.id for found in await pair.left.core.store.load()]:
            await asyncio.sleep(0.05)

    for method, path in (("GET", ""), ("POST", "/rollback")):
        status, document, headers = await pair.left.ask(
            method, f"{BASE}/{record['id']}{path}", {} if path else None
        )
        assert (status, headers.get("Retry-After")) == (503, "2"), document
        assert document["error"]["details"]["shard"] == 1


async def test_a_dead_owner_did_nothing(pair: Any) -> None:
    """503 and no doubt: nobody took the connection."""
    record = await made(pair.right)
    pair.left.peers.at[1] = Peer(pair.right.peers.node, "127.0.0.1:1")

    status, document, headers = await pair.left.ask("POST", f"{BASE}/{record['id']}/rollback", {})
    created, _, _ = await pair.left.ask("POST", BASE, CHEAPER)

    assert (status, created) == (503, 503)
    assert headers["Retry-After"]
    assert "127.0.0.1:1" in str(document["error"]["details"])


async def test_a_slow_owner_may_have_done_it(pair: Any, stalled: str) -> None:
    """504, which says that it may be done and how to find out; it takes no longer than the bound."""
    quick(pair.left)
    pair.left.peers.at[1] = Peer(pair.right.peers.node, stalled)
    began = time.monotonic()
    status, document, _ = await pair.left.ask("POST", BASE, CHEAPER)

    assert time.monotonic() - began < 2.0
    assert (status, document["error"]["code"]) == (504, "UNCERTAIN")
    assert "Idempotency-Key" in document["error"]["message"]


async def test_nobody_forwards_what_was_forwarded(pair: Any) -> None:
    """Two nodes that each hold the other for the owner do not play ping-pong."""
    idle = {**CHEAPER, "route": "idle"}
    pair.left.peers.at[2], pair.right.peers.at[2] = pair.right.peer, pair.left.peer

    status, document, _ = await pair.left.ask("POST", BASE, idle)
    by_id, _, _ = await pair.left.ask("POST", f"{BASE}/nobody/rollback", {})

    assert (status, document["error"]["details"]["shard"]) == (503, 2)
    assert by_id in (404, 503)


async def test_the_actor_is_the_person_not_the_node(pair: Any) -> None:
    """Signed by the node that has judged who it is."""
    record = await made(pair.left)
    rows = (await pair.right.get(f"/api/v1/audit?target={record['id']}"))["audit"]

    assert {row["actor"] for row in rows} <= {"local", "optimizer"}
    assert any(row["actor"] == "local" for row in rows)


@pytest.mark.parametrize("change", ["token", "node", "clock", "body", "path", "twice", "shape"])
async def test_only_nodes_of_the_cluster_are_believed(pair: Any, change: str) -> None:
    """A signature is for one request to one node, at one time, once."""
    from proxy.control.cluster.forwarding import Question

    skew = 120.0 if change == "clock" else 0.0
    forger = Forwarder(pair.left.peers, now=lambda: time.time() - skew)
    if change == "token":
        pair.left.peers.token = b"another cluster's secret, 32 b.."
    target = Peer(1, pair.right.address) if change == "node" else pair.right.peer
    question = Question(
        "POST", f"{BASE}/nobody/rollback", "local", b"{}", {"content-type": ["application/json"]}
    )
    signature = forger._sign(target, question)
    if change == "shape":
        signature = "v1;" + signature
    path = f"{BASE}/somebody/rollback" if change == "path" else question.target
    body = {"reason": "x"} if change == "body" else {}
    status, document, _ = await pair.right.ask("POST", path, body, **{HEADER: signature})
    if change == "twice":
        # Believed, whether or not the database was read already.
        assert status in (404, 503), document
        status, document, _ = await pair.right.ask("POST", path, body, **{HEADER: signature})

    assert status == 401, document
    assert "another node" in document["error"]["message"]


async def test_a_nodes_signature_opens_nothing_that_is_for_workers(pair: Any) -> None:
    """Leases are the workers' alone."""
    from proxy.control.cluster.forwarding import Question

    question = Question("POST", "/internal/v1/leases", "local")
    signature = pair.left.services.forwarder._sign(pair.right.peer, question)
    status, _, _ = await pair.right.ask("POST", "/internal/v1/leases", **{HEADER: signature})

    assert status == 401


async def test_a_node_that_is_not_believed_is_named(pair: Any) -> None:
    """Another secret, or clocks that are far apart: the answer says so instead of leaving the routes out."""
    pair.right.peers.token = b"another cluster's secret, 32 b.."
    document = await pair.left.get("/api/v1/arms")

    [missing] = [row for row in document["incomplete"] if row["node"]]
    assert "cluster.secret" in missing["reason"]
    assert missing["shards"] == [1]
