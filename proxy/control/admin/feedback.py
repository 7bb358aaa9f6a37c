"""Feedback that names a provider's response id: resolved to our request id here, where the index is.

Feedback by request id never comes here alone, but a batch may mix both. Answers and errors look like those of the
workers (OpenAI's shape), because callers do not see who answered. A worker says by which client key it was sent; the
requests of others look unknown to it.
"""

import asyncio
import re
from typing import Final
from urllib.parse import quote

from aiohttp import web

from optimizer import events
from optimizer.feedback import Feedback, FeedbackProblem, parse_feedback, to_event
from optimizer.ids import verify
from proxy.control.access import WORKER_HEADER
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.cluster.forwarding import Question, Reply
from proxy.control.services import Services
from proxy.errors import error_body
from proxy.headers import KEY_TAG

RESPONSES: Final = "/api/v1/responses"
PATIENCE_S: Final = 0.25
"""A caller may rate a reply before the learner has read its event."""
_LOOK_EVERY_S: Final = 0.02
_TAG = re.compile(r"[0-9]{1,10}")
_NOBODY: Final = -1
"""A tag that no request id carries."""


async def post(call: Call) -> web.StreamResponse:
    """Take feedback; all items of a batch or none."""
    services = call.services
    try:
        items = parse_feedback(await call.document())
    except FeedbackProblem as problem:
        return _refuse(400, str(problem), problem.path or None, "invalid_feedback")
    except AdminFault as fault:
        return _refuse(fault.status, fault.message, None, "invalid_feedback")
    found = []
    tag = _caller_tag(call)
    give_up = asyncio.get_running_loop().time() + PATIENCE_S
    for index, item in enumerate(items):
        request_id = await _resolve(services, item, tag, give_up)
        if request_id is None:
            return _unknown(index, item)
        found.append(to_event(item, request_id=request_id))
    for event_id, data in found:
        services.core.journal.write(events.FEEDBACK, data, event_id=event_id)
    return answer({"object": "feedback", "accepted": len(items)})


async def response(call: Call) -> web.StreamResponse:
    """Which request of this node a provider's response id belongs to; other nodes ask for it."""
    request_id = call.services.responses.lookup(call.request.match_info["response_id"])
    if request_id is None:
        raise AdminFault(404, "NOT_FOUND", "No answer of this node had this id, or it is too old.")
    return answer({"request_id": request_id})


def _caller_tag(call: Call) -> int | None:
    """The tag of the client key that a request must have been made with; None when any will do."""
    headers = call.request.headers
    stated = headers.get(KEY_TAG.decode())
    if stated is not None:
        # A worker writes digits; whatever else comes is no key's tag.
        return int(stated) if _TAG.fullmatch(stated) else _NOBODY
    if WORKER_HEADER in headers and call.services.core.configuration.settings.access.client_keys:
        return _NOBODY
    return None


def _is_own(services: Services, request_id: str, tag: int | None) -> bool:
    """Whether the id is genuine and its request was made with the key of this tag."""
    genuine = verify(request_id, services.core.state.id_key)
    return genuine is not None and tag in (None, genuine.key_tag)


async def _resolve(services: Services, item: Feedback, tag: int | None, give_up: float) -> str | None:
    """The id of the caller's request; one patience for the whole batch, or unknown ids would hold the line.

    Requests of others are waited for like unknown ones, so that the time tells nothing either.
    """
    if item.request_id is not None:
        return item.request_id if _is_own(services, item.request_id, tag) else None
    return await request_of(services, item.response_id or "", tag, give_up)


async def request_of(services: Services, response_id: str, tag: int | None, give_up: float) -> str | None:
    """The id of the request that got an answer with this id, made with the key of ``tag``; on whichever node.

    Until ``give_up``, of the event loop's clock, this node's learner may still come to read it.
    """
    clock = asyncio.get_running_loop().time
    while True:
        request_id = services.responses.lookup(response_id)
        if request_id is not None and _is_own(services, request_id, tag):
            return request_id
        if clock() >= give_up:
            return await _elsewhere(services, response_id, tag)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _elsewhere(services: Services, response_id: str, tag: int | None) -> str | None:
    """The id of the request that another node has answered, made with the key of ``tag``; each knows its own."""
    if services.peers is None or services.forwarder is None:
        return None
    question = Question("GET", f"{RESPONSES}/{quote(response_id, safe='')}", "feedback")
    for _, reply in await services.forwarder.ask_all(services.peers.others(), question):
        document = reply.document() if isinstance(reply, Reply) and reply.status == 200 else None
        request_id = document.get("request_id") if isinstance(document, dict) else None
        if isinstance(request_id, str) and _is_own(services, request_id, tag):
            return request_id
    return None


def _unknown(index: int, item: Feedback) -> web.Response:
    if item.request_id is not None:
        return _refuse(
            404,
            f"feedback[{index}].request_id is not an id that this proxy gave out "
            "(the x-llm-optimizer-request-id header of the answer).",
            "request_id",
            "unknown_request_id",
        )
    return _refuse(
        404,
        f"feedback[{index}].response_id is not known (any more); use the request id from the "
        "x-llm-optimizer-request-id header of the answer.",
        "response_id",
        "unknown_response_id",
    )


def _refuse(status: int, message: str, param: str | None, code: str) -> web.Response:
    body = error_body(message, kind="invalid_request_error", code=code, param=param)
    return web.Response(status=status, body=body, content_type="application/json")
