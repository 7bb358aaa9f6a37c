"""What a worker passes on to the optimizer process of a request for the admin surface."""

from typing import Any

from proxy.admin_link import AdminLink
from proxy.control.cluster.forwarding import HEADER
from proxy.http1.messages import Request


def head_of(headers: dict[bytes, bytes]) -> bytes:
    request: Any = Request.__new__(Request)
    request.method, request.target, request.path, request.query = "GET", b"/api/v1/arms", "/api/v1/arms", ""
    request.headers, request.peer, request.body, request.caller = headers, "10.0.0.2", b"", None
    pool: Any = None
    return AdminLink(pool, token="t", worker=1)._head(request)


def test_what_one_node_signs_for_another_is_passed_on() -> None:
    """The header says of itself that the request was forwarded, so it goes where those go."""
    name = HEADER.lower().encode()

    assert name + b": v1;from=1" in head_of({name: b"v1;from=1"})


def test_what_is_a_workers_own_is_not_taken_from_outside() -> None:
    """Nobody is a worker by saying so."""
    head = head_of({b"x-llm-optimizer-worker": b"forged", b"x-llm-optimizer-peer": b"127.0.0.1"})

    assert b"forged" not in head
    assert b"x-llm-optimizer-peer: 10.0.0.2" in head
