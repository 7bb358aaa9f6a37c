"""One decision as it was logged."""

from aiohttp import web

from proxy.control.admin.endpoint import AdminFault, Call, answer


async def show(call: Call) -> web.StreamResponse:
    """The event of a request: where it went, with what probability, what came of it."""
    request_id = call.request.match_info["request_id"]
    event = call.services.find_decision(request_id)
    if event is None:
        raise AdminFault(
            404,
            "NOT_FOUND",
            "No decision with this id is in the log: the id is not ours, the request has not ended, "
            "or retention has removed it.",
        )
    return answer(event)
