"""What happened when: requests, cost and savings of every route, and of one route latency and quality of every arm.

Requests are counted by the node that served them, savings and ratings by the owner of their route; all are sums by
step, so those of several nodes add up to what one node would have said.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from optimizer.history_reading import (
    ArmPart,
    HistoryUnreadable,
    Part,
    Window,
    empty_arm,
    empty_route,
    percentiles,
    valid,
    window_of,
)
from optimizer.settings import RouteSettings
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.gathering import RETRY_S, gather
from proxy.control.admin.models_page import HistoryQuery
from proxy.control.admin.reading import read_query
from proxy.control.services import Services

TARGET: Final = "/api/v1/history"


async def history(call: Call) -> web.StreamResponse:
    """Figures by step; ``?route=`` adds the route's arms, and leaves the other routes out."""
    query = read_query(call, HistoryQuery)
    # Every node has to answer for the same steps, whatever its clock says.
    until = query.until if query.until is not None else int(call.services.core.now())
    window = window_of(query.minutes, query.points, until=until)
    part = await _own(call.services, window, query.route)
    narrowed = f"&route={quote(query.route, safe='')}" if query.route is not None else ""
    target = f"{TARGET}?minutes={query.minutes}&points={query.points}&until={until}{narrowed}"
    gathered = await gather(call, target, everyone=True)
    if call.is_hop:
        return answer(gathered.mark({"part": asdict(part)}))
    for other in gathered.parts(lambda document: valid(document["part"], window.points)):
        part.add(other)
    known = call.services.settings.route(query.route) if query.route is not None else None
    if query.route is not None and known is None and query.route not in part.routes:
        raise AdminFault(404, "NOT_FOUND", f"There is no route {query.route[:200]!r}.")
    shown = await asyncio.to_thread(_shown, part, window, call.services, query.route)
    return answer(gathered.mark(shown))


async def _own(services: Services, window: Window, route: str | None) -> Part:
    """What this node counted, and what it learned; on one node both are in one file.

    Raises:
        AdminFault: 503, if a file can't be read just now.
    """
    own = services.core.ingest.store.path
    learned = [learning.ingest.store.path for learning in services.core.learners.all()]
    part = Part()
    try:
        paths = list(dict.fromkeys((own, *learned)))
        read = services.core.history.read
        parts = await asyncio.gather(*(asyncio.to_thread(read, path, window, route) for path in paths))
        for path, found in zip(paths, parts, strict=True):
            if path not in learned:
                # What a node learned before it was one of several is nobody's word on its routes any more.
                found.forget_learned()
            part.add(found)
    except HistoryUnreadable as error:
        raise AdminFault(
            503,
            "SERVICE_UNAVAILABLE",
            f"The history can't be read at the moment: {error}.",
            retry_after_s=RETRY_S,
        ) from error
    return part


def _shown(part: Part, window: Window, services: Services, route: str | None) -> dict[str, Any]:
    configured = [known.name for known in services.settings.routes] if route is None else [route]
    names = dict.fromkeys((*configured, *sorted(part.routes)))
    routes = {name: part.routes.get(name) or empty_route(window.points) for name in names}
    return {
        "from": window.start,
        "to": window.end,
        "step_s": window.step_s,
        "at": window.at,
        "routes": [
            {
                "route": name,
                **{column: row[column] for column in ("requests", "failed", "cost_usd", "saved_usd")},
            }
            for name, row in routes.items()
        ],
        "arms": _arms(part, window, services.settings.route(route)) if route is not None else None,
        "candidate_share": _divided(routes[route]["candidate"], routes[route]["split"])
        if route is not None
        else None,
    }


def _arms(part: Part, window: Window, route: RouteSettings | None) -> list[dict[str, Any]]:
    """The configured arms in their order, then those that only had traffic."""
    configured = {arm.id: arm for arm in route.arms} if route is not None else {}
    rows = []
    for name in dict.fromkeys((*configured, *sorted(part.arms))):
        own, arm = part.arms.get(name), configured.get(name)
        if own is None:
            own = empty_arm(window.points, None, None)
        model, variant = (arm.model, arm.variant) if arm is not None else (own.model, own.variant)
        rows.append({"arm": name, "model": model, "variant": variant, **_arm(own, window.points)})
    return rows


def _arm(part: ArmPart, points: int) -> Mapping[str, Any]:
    figures = part.figures
    p50, p95 = percentiles(part, points, (0.5, 0.95), first_token=False)
    [first] = percentiles(part, points, (0.5,), first_token=True)
    return {
        "requests": figures["requests"],
        "failed": figures["failed"],
        "cost_usd": figures["cost_usd"],
        "latency_p50_s": p50,
        "latency_p95_s": p95,
        "ttft_p50_s": first,
        "quality": _divided(figures["quality"], figures["rated"]),
        "rated": figures["rated"],
    }


def _divided(over: list[float], under: list[float]) -> list[float | None]:
    return [a / b if b else None for a, b in zip(over, under, strict=True)]
