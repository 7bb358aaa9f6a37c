"""The list of optimizations: those of this node's routes, and in a cluster those of all owners, as one list."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from optimizer.rollouts.records import Optimization
from proxy.control.admin.endpoint import Call, answer
from proxy.control.admin.gathering import gather, missing
from proxy.control.admin.models import MOST_LISTED, ListQuery
from proxy.control.admin.optimizations import shown
from proxy.control.admin.reading import read_query
from proxy.control.optimization_desk import OptimizationDesk
from proxy.control.services import Services

MOST_GATHERED: Final = 2_000
"""How far into the list of a cluster one can look; beyond that the list is narrowed by route or status."""

Found = tuple[OptimizationDesk, Optimization]


async def listing(call: Call) -> web.StreamResponse:
    """A page of optimizations, the newest first."""
    query = read_query(call, ListQuery)
    here = _here(call.services, query)
    if call.services.peers is None or call.is_hop:
        rows = [shown(desk, record) for desk, record in here[query.offset : query.offset + query.limit]]
        # Without asking anybody, it says what an answer for another node is about.
        return answer((await gather(call, call.request.path)).mark(_page(rows, len(here), query)))
    wanted = min(query.offset + query.limit, MOST_GATHERED)
    pages = [gather(call, _target(query, offset)) for offset in range(0, wanted, MOST_LISTED)]
    gathered = await asyncio.gather(*pages)
    found: dict[str, Mapping[str, Any]] = {}
    total = len(here)
    for number, page in enumerate(gathered):
        for rows_there, total_there in page.parts(_read):
            total += total_there if number == 0 else 0
            found |= {row["id"]: row for row in rows_there}
    found |= {record.id: shown(desk, record) for desk, record in here[:wanted]}
    newest = sorted(found.values(), key=lambda row: (row["created_at"], row["id"]), reverse=True)
    shown_rows = newest[query.offset : wanted]
    # The pages may meet different faults; whoever failed one of them is named once.
    faults = {str(line): line for page in gathered for line in page.incomplete or ()}
    incomplete = list(faults.values())
    if query.offset + query.limit > MOST_GATHERED and total > MOST_GATHERED:
        reason = f"of several nodes only the newest {MOST_GATHERED} are listed: narrow it by route or status"
        incomplete.append(missing(None, reason))
    return answer(_page(shown_rows, total, query) | {"incomplete": incomplete})


def _here(services: Services, query: ListQuery) -> list[Found]:
    found: dict[str, Found] = {}
    for desk in services.desks():
        records = desk.matching(statuses=query.statuses(), strategy=query.strategy, route=query.route)
        found |= {record.id: (desk, record) for record in records}
    return sorted(found.values(), key=lambda row: (row[1].created_at, row[1].id), reverse=True)


def _page(rows: Sequence[Any], total: int, query: ListQuery) -> dict[str, Any]:
    return {"optimizations": rows, "total": total, "limit": query.limit, "offset": query.offset}


def _target(query: ListQuery, offset: int) -> str:
    given = {"status": query.status, "strategy": query.strategy, "route": query.route}
    asked = {name: value for name, value in given.items() if value is not None}
    return f"/api/v1/optimize?{urlencode({**asked, 'limit': MOST_LISTED, 'offset': offset})}"


def _read(document: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    rows = document["optimizations"]
    for row in rows:
        float(row["created_at"]), str(row["id"])
    return rows, int(document["total"])
