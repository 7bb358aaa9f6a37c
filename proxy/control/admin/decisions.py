"""One decision as it was logged, and in words."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.explanation import explain
from proxy.control.admin.gathering import RETRY_S, node_name, pass_on
from proxy.control.admin.sight import constraint_words, look_at, sentences
from proxy.control.services import Services


async def show(call: Call) -> web.StreamResponse:
    """The event of a request: where it went, with what probability, what came of it, and why, in sentences."""
    request_id = call.request.match_info["request_id"]
    event = call.services.find_decision(request_id)
    if event is None:
        elsewhere = await _from_its_node(call, request_id)
        if elsewhere is not None:
            return elsewhere
        raise AdminFault(
            404,
            "NOT_FOUND",
            "No decision with this id is in the log: the id is not ours, the request has not ended, "
            "or retention has removed it.",
        )
    data = event.get("data")
    if not isinstance(data, dict):
        return answer({**event, "explanation": [], "decision": None})
    core = call.services.core
    sight = await asyncio.to_thread(look_at, data, core.learners.table, core.state.selector_directory)
    seen = list(sentences(sight, str(data.get("arm")))) if sight is not None else []
    return answer(
        {
            **event,
            "explanation": [*explain(data, seen), *_held(call.services, data)],
            "decision": sight.document() if sight is not None else None,
        }
    )


async def _from_its_node(call: Call, request_id: str) -> web.StreamResponse | None:
    """The answer of the node that decided, which the id names; None when that is this one or none.

    Raises:
        AdminFault: 503, when it does not answer or was not heard of lately.
    """
    services = call.services
    node = services.decided_by(request_id)
    if services.peers is None or call.is_hop or node is None or node == services.peers.node:
        return None
    for peer in services.peers.others():
        if peer.node == node:
            return await pass_on(call, peer, "show the decision")
    raise AdminFault(
        503,
        "SERVICE_UNAVAILABLE",
        f"Node {node_name(node)} decided this, has its event and was not heard of lately.",
        {"node": node_name(node)},
        retry_after_s=RETRY_S,
    )


def _held(services: Services, data: Mapping[str, Any]) -> list[str]:
    """What the route is held to. Bounds and multipliers move, so it is said that they are those of now."""
    steering = services.steering().get(str(data.get("route")))
    if steering is None or not steering.kept:
        return []
    return [f"At this moment the route is held to {'; '.join(constraint_words(steering))}."]
