"""The aiohttp application: routing, authorisation, one error shape.

Two invariants. Every request is judged before a handler or a 404 sees it, by the reach of the route that aiohttp has
matched; whatever matches nothing is ADMIN. And a bug answers 500 without telling a stranger what it was.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from proxy.control.access import HOW_TO_GET_IN, Asked, Reach, Verdict, judge
from proxy.control.admin import openapi
from proxy.control.admin.endpoint import AdminFault, Call, Endpoint, question_of
from proxy.control.cluster.forwarding import HEADER, Stranger
from proxy.control.page.serving import PATHS, Page
from proxy.control.services import Services
from proxy.logs import LOGGER_NAME

MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_VERDICT: Final = web.RequestKey("verdict", Verdict)
_HOP: Final = web.RequestKey("hop", bool)

_log = logging.getLogger(LOGGER_NAME)

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(services: Services, endpoints: Sequence[Endpoint], page: Page) -> web.Application:
    """An application that serves ``endpoints`` and ``page``, and judges everything."""
    reach_of: dict[tuple[str, str], Reach] = {}

    @web.middleware
    async def guard(request: web.Request, handler: _Next) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""
        method = "GET" if request.method == "HEAD" else request.method
        reach = reach_of.get((method, path), Reach.ADMIN)
        try:
            request[_HOP] = (
                services.forwarder is not None and reach is Reach.ADMIN and HEADER in request.headers
            )
            if request[_HOP]:
                request[_VERDICT] = await _recognised(request, services)
                return await handler(request)
            verdict = judge(
                Asked(request.method, _headers(request), direct_peer=_direct_peer(request)),
                reach,
                services.access_rules(),
                worker_token=services.worker_token,
            )
            if not verdict.allowed:
                return _unauthorized(f"{verdict.reason} {HOW_TO_GET_IN}")
            request[_VERDICT] = verdict
            return await handler(request)
        except Stranger as stranger:
            return _unauthorized(f"The request names itself one of another node, but {stranger}.")
        except AdminFault as refused:
            return refused.response()
        except web.HTTPException as refused:
            return _plain_fault(request, refused)
        except Exception:  # noqa: BLE001 - the outermost frame of a request; it is logged
            _log.exception("admin request failed: %s %s", request.method, path)
            return AdminFault(500, "INTERNAL_ERROR", "The request failed; the log says why.").response()

    app = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)

    async def close(app: web.Application) -> None:
        del app
        await services.close()

    app.on_cleanup.append(close)
    app[openapi.DOCUMENT] = openapi.Document(endpoints, version=services.version)
    for endpoint in endpoints:
        reach_of[endpoint.method, endpoint.path] = endpoint.reach
        app.router.add_route(endpoint.method, endpoint.path, _bound(services, endpoint))
        if endpoint.method == "GET":
            app.router.add_route("HEAD", endpoint.path, _bound(services, endpoint))
    reach_of |= _serve(page, app)
    return app


def _serve(page: Page, app: web.Application) -> dict[tuple[str, str], Reach]:
    """Route the page's paths; who may reach them."""
    resources = [app.router.add_resource(path) for path in PATHS]
    for resource in resources:
        for method in ("GET", "HEAD"):
            resource.add_route(method, page.serve)
    return {("GET", resource.canonical): Reach.OPEN for resource in resources}


def _bound(services: Services, endpoint: Endpoint) -> _Next:
    async def run(request: web.Request) -> web.StreamResponse:
        return await endpoint.handler(Call(request, services, request[_VERDICT], request[_HOP]))

    return run


async def _recognised(request: web.Request, services: Services) -> Verdict:
    """The verdict on what another node sent; its own answers never go further.

    Raises:
        Stranger: It was no node of this cluster.
        AdminFault: The body did not come.
    """
    assert services.forwarder is not None
    signatures = request.headers.getall(HEADER)
    if len(signatures) != 1:
        raise Stranger("it is signed more than once")
    question = await question_of(request, "")
    return Verdict(allowed=True, admin=True, actor=services.forwarder.recognise(signatures[0], question))


def _unauthorized(message: str) -> web.Response:
    response = AdminFault(401, "UNAUTHORIZED", message).response()
    response.headers["WWW-Authenticate"] = 'Bearer realm="llm-optimizer admin"'
    return response


def _direct_peer(request: web.Request) -> str | None:
    """Address of a TCP caller; None for the unix socket, whose peer has no address."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else ("gone", 0)
    return str(peer[0]) if isinstance(peer, tuple) else None


def _headers(request: web.Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        found.setdefault(name.lower(), []).append(value)
    return found


def _plain_fault(request: web.Request, refused: web.HTTPException) -> web.Response:
    """aiohttp's own refusals (no such path, wrong method, body too large) in our shape."""
    match refused.status:
        case 404:
            fault = AdminFault(404, "NOT_FOUND", f"Nothing is served at {request.path[:200]}.")
        case 405:
            allowed = ", ".join(sorted(getattr(refused, "allowed_methods", ())))
            response = AdminFault(
                405, "METHOD_NOT_ALLOWED", f"{request.path[:200]} takes {allowed}."
            ).response()
            response.headers["Allow"] = allowed
            return response
        case 413:
            fault = AdminFault(413, "INVALID_REQUEST", f"The body is over {MAX_BODY_BYTES} bytes.")
        case status:
            fault = AdminFault(status, "INVALID_REQUEST", refused.reason)
    return fault.response()
