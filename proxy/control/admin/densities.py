"""What is believed about the arms of a route, as curves to be drawn; its owner knows."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from optimizer.arm_densities import densities as curves_of
from optimizer.publisher import gather as evidence_of
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.gathering import Gathered, gather
from proxy.control.admin.models_page import DensitiesQuery
from proxy.control.admin.reading import read_query

TARGET: Final = "/api/v1/arms/densities"


async def densities(call: Call) -> web.StreamResponse:
    """Curves of quality, success, cost and latency, from the posteriors that decide."""
    services = call.services
    wanted = read_query(call, DensitiesQuery).route
    learning = services.core.learners.of(wanted)
    route = learning.settings.route(wanted) if learning is not None else None
    if learning is not None and route is not None:
        evidence = evidence_of(route, learning.ingest.statistics, now=services.core.now())
        alone = services.peers is None or call.is_hop
        gathered = Gathered(incomplete=None if alone else [])
        return answer(gathered.mark({"route": wanted, "signals": curves_of(route, evidence)}))
    if services.peers is None or services.settings.route(wanted) is None:
        raise AdminFault(404, "NOT_FOUND", f"There is no route {wanted[:200]!r}.")
    gathered = await gather(
        call, f"{TARGET}?route={quote(wanted, safe='')}", place=services.peers.place_of(wanted)
    )
    signals = [signal for part in gathered.parts(_signals) for signal in part]
    return answer(gathered.mark({"route": wanted, "signals": signals}))


def _signals(document: Mapping[str, Any]) -> list[Any]:
    return list(document["signals"])
