"""One decision as it was logged, and in words."""

from aiohttp import web

from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.explanation import explain


async def show(call: Call) -> web.StreamResponse:
    """The event of a request: where it went, with what probability, what came of it, and why, in sentences."""
    request_id = call.request.match_info["request_id"]
    event = call.services.find_decision(request_id)
    if event is None:
        raise AdminFault(
            404,
            "NOT_FOUND",
            "No decision with this id is in the log: the id is not ours, the request has not ended, "
            "or retention has removed it.",
        )
    data = event.get("data")
    return answer({**event, "explanation": explain(data) if isinstance(data, dict) else []})
