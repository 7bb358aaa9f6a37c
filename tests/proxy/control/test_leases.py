"""The endpoint of leases: for workers alone, and what an operator sees of it."""

import json
from typing import Any

import pytest

from proxy.control.access import PEER_HEADER, WORKER_HEADER, AccessRules, Asked, Reach, digest, judge

PATH = "/internal/v1/leases"
TOKEN = "the-token"


def report(*claims: list[Any], sequence: int = 1) -> bytes:
    return json.dumps({"worker": 7, "sequence": sequence, "claims": claims}).encode()


async def post(node: Any, body: bytes, **headers: str) -> tuple[int, Any]:
    wanted = {WORKER_HEADER: node.core.state.worker_token, **headers}
    async with node.session.post(f"http://optimizer{PATH}", data=body, headers=wanted) as response:
        return response.status, await response.json()


async def test_a_worker_is_granted_and_the_operator_sees_it(node: Any) -> None:
    """Grants in the order of the claims; dollars and counts in the operator's listing."""
    now = int(node.core.now())
    minute = now - now % 60
    day = now - now % 86_400

    status, answer = await post(
        node,
        report(
            ["key:k1", "requests", minute, 1, 100, 0, 0, 2, 10],
            ["route:r", "usd_day", day, 2, 5_000_000_000, 0, 0, 1_000_000_000, 1_000_000_000],
        ),
    )
    listing_status, listing = await node.get("/api/v1/limits")

    assert (status, answer) == (200, {"grants": [[10, 90], [1_000_000_000, 4_000_000_000]]})
    assert listing_status == 200
    by_subject = {row["subject"]: row for row in listing["limits"]}
    assert by_subject["route:r"] == {
        "subject": "route:r",
        "measure": "usd",
        "window": "day",
        "starts_at": day,
        "resets_at": day + 86_400,
        "limit": 5.0,
        "granted": 1.0,
        "used": 0.0,
    }


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"worker":1,"sequence":1,"claims":[[1]]}'])
async def test_what_is_no_report_is_a_400(node: Any, body: bytes) -> None:
    """A worker of another version is told so."""
    status, answer = await post(node, body)

    assert status == 400
    assert answer["error"]["code"] == "INVALID_REQUEST"


def judged(**headers: str) -> bool:
    asked = Asked("POST", {name.replace("_", "-"): [value] for name, value in headers.items()})
    rules = AccessRules(key_digests=(digest("admin-key"),))
    return judge(asked, Reach.WORKER, rules, worker_token=TOKEN).allowed


def test_only_a_worker_on_nobodys_behalf_is_let_in() -> None:
    """Neither the admin key nor being local nor a worker that forwards for somebody opens it."""
    assert judged(**{WORKER_HEADER: TOKEN})
    assert not judged()
    assert not judged(authorization="Bearer admin-key")
    assert not judged(**{WORKER_HEADER: "wrong"})
    assert not judged(**{WORKER_HEADER: TOKEN, PEER_HEADER: "127.0.0.1"})
    assert not judged(**{WORKER_HEADER: TOKEN, PEER_HEADER: "127.0.0.1", "authorization": "Bearer admin-key"})
    tcp = Asked("POST", {WORKER_HEADER: [TOKEN]}, direct_peer="127.0.0.1")
    assert not judge(tcp, Reach.WORKER, AccessRules(), worker_token=TOKEN).allowed
