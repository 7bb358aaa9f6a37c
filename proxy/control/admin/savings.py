"""What was saved against the baselines, and how sure that is; the owner of a route knows."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from optimizer.savings import RouteSavings, saving_of
from proxy.control.admin.endpoint import Call, answer
from proxy.control.admin.gathering import gather
from proxy.control.services import Services

TARGET: Final = "/api/v1/savings"


async def savings(call: Call) -> web.StreamResponse:
    """Savings of every route and of all together, each with a 95 % interval."""
    found = _own(call.services)
    gathered = await gather(call, TARGET)
    if call.is_hop:
        return answer(gathered.mark({"part": {route: asdict(row) for route, row in found.items()}}))
    for other in gathered.parts(_read):
        _add(found, other)
    # Configured ones in their order, then those that are gone: taking away a route takes back no dollar.
    names = dict.fromkeys((*(route.name for route in call.services.settings.routes), *sorted(found)))
    known = {name: found.get(name, RouteSavings()) for name in names}
    return answer(
        gathered.mark(
            {
                "total": saving_of(list(known.values())),
                "routes": {name: saving_of([row]) for name, row in known.items()},
            }
        )
    )


def _own(services: Services) -> dict[str, RouteSavings]:
    """Of the routes that are learned here, and of those that no configuration has any more."""
    configured = {route.name for route in services.settings.routes}
    found: dict[str, RouteSavings] = {}
    for learning in services.core.learners.all():
        own = {route.name for route in learning.settings.routes}
        rows = learning.savings.routes
        _add(found, {name: rows[name] for name in rows if name in own or name not in configured})
    return found


def _add(found: dict[str, RouteSavings], other: Mapping[str, RouteSavings]) -> None:
    """A route has one owner. One that is gone may be remembered by several, by the last of them best."""
    for route, row in other.items():
        known = found.get(route)
        if known is None or _size(row) > _size(known):
            found[route] = row


def _size(row: RouteSavings) -> int:
    return row.requests + row.unknown


def _read(document: Mapping[str, Any]) -> dict[str, RouteSavings]:
    return {route: RouteSavings(**row) for route, row in document["part"].items()}
