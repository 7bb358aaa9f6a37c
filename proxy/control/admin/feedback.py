"""Feedback that names a provider's response id: resolved to our request id here, where the index is.

Feedback by request id never comes here alone, but a batch may mix both. Answers and errors look like those of the
workers (OpenAI's shape), because callers do not see who answered.
"""

import asyncio
from typing import Final

from aiohttp import web

from optimizer import events
from optimizer.feedback import Feedback, FeedbackProblem, parse_feedback, to_event
from optimizer.ids import verify
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.services import Services
from proxy.errors import error_body

PATIENCE_S: Final = 0.25
"""A caller may rate a reply before the learner has read its event."""
_LOOK_EVERY_S: Final = 0.02


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
    give_up = asyncio.get_running_loop().time() + PATIENCE_S
    for index, item in enumerate(items):
        request_id = await _resolve(services, item, give_up)
        if request_id is None:
            return _unknown(index, item)
        found.append(to_event(item, request_id=request_id))
    for event_id, data in found:
        services.core.journal.write(events.FEEDBACK, data, event_id=event_id)
    return answer({"object": "feedback", "accepted": len(items)})


async def _resolve(services: Services, item: Feedback, give_up: float) -> str | None:
    """The request id; one patience for the whole batch, or a long list of unknown ids would hold the line."""
    if item.request_id is not None:
        genuine = verify(item.request_id, services.core.state.id_key) is not None
        return item.request_id if genuine else None
    response_id = item.response_id or ""
    clock = asyncio.get_running_loop().time
    while True:
        request_id = services.responses.lookup(response_id)
        if request_id is not None or clock() >= give_up:
            return request_id
        await asyncio.sleep(_LOOK_EVERY_S)


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
