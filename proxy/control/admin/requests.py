"""The newest requests of all nodes, from each node's memory; ids sort by time, so pages need nothing else."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from optimizer.history_requests import RecentRequests, RequestRow
from proxy.control.admin.endpoint import Call, answer
from proxy.control.admin.gathering import gather
from proxy.control.admin.models_page import RequestsQuery
from proxy.control.admin.reading import read_query

TARGET: Final = "/api/v1/requests"


async def requests(call: Call) -> web.StreamResponse:
    """A page of requests, the newest first."""
    query = read_query(call, RequestsQuery)
    recent = call.services.core.recent
    await _complete(recent)
    page = recent.page(
        lambda row: _is_wanted(row, query),
        limit=query.limit,
        before=query.before,
    )
    rows, more = [row._asdict() for row in page.rows], page.more
    gathered = await gather(call, f"{TARGET}?{urlencode(query.model_dump(exclude_none=True))}", everyone=True)
    if call.is_hop:
        return answer(gathered.mark({"requests": rows, "more": more}))
    for theirs, is_more in gathered.parts(_read):
        rows += theirs
        more |= is_more
    rows.sort(key=lambda row: str(row["id"]), reverse=True)
    more |= len(rows) > query.limit
    shown = rows[: query.limit]
    return answer(gathered.mark({"requests": shown, "next": shown[-1]["id"] if more and shown else None}))


async def _complete(recent: RecentRequests) -> None:
    """What was there before the process started is read when somebody asks for the first time."""
    if not recent.is_complete:
        recent.complete(await asyncio.to_thread(recent.earlier))


def _is_wanted(row: RequestRow, query: RequestsQuery) -> bool:
    return (
        (query.route is None or row.route == query.route)
        and (query.arm is None or query.arm in (row.arm, row.served_by))
        and (query.outcome is None or row.outcome == query.outcome)
    )


def _read(document: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    rows = [{name: row[name] for name in RequestRow._fields} for row in document["requests"]]
    return rows, bool(document["more"])
