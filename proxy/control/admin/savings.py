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
        found |= {route: row for route, row in other.items() if route not in found}
    names = dict.fromkeys(route.name for route in call.services.settings.routes)
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
    return {
        route.name: learning.savings.routes.get(route.name, RouteSavings())
        for learning in services.core.learners.all()
        for route in learning.settings.routes
    }


def _read(document: Mapping[str, Any]) -> dict[str, RouteSavings]:
    return {route: RouteSavings(**row) for route, row in document["part"].items()}
