"""What the product does now: the routing table in use, and what is believed about every arm."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from optimizer.routing import Route, RoutingTable, Side
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.gathering import Gathered, gather
from proxy.control.admin.models_live import ArmsQuery
from proxy.control.admin.reading import read_query
from proxy.control.optimization_desk import OptimizationDesk

_DRIVEN: Final = ("rollout", "deployed")
"""What a route's owner knows of it, beside the table."""


async def routes(call: Call) -> web.StreamResponse:
    """The published table: routes, arms and their percentages, and what optimizations have to do with them.

    In a cluster it is what this node's workers use; what drives a route comes from its owner.
    """
    services = call.services
    table = _table(call)
    upstreams = {model.name: model.upstream for model in table.models}
    gathered = await gather(call, "/api/v1/routes")
    driven = {row["name"]: row for rows in gathered.parts(_driven) for row in rows}
    rows = []
    for route in table.routes:
        desk = services.desk_of(route.name)
        if call.is_hop and desk is None:
            continue
        row = _route(route, upstreams, desk)
        if desk is None and route.name in driven:
            row |= {name: driven[route.name][name] for name in _DRIVEN}
        rows.append(row)
    return answer(
        gathered.mark(
            {
                "table_version": table.version,
                "published_at": table.published_at,
                "config_hash": table.config_hash,
                "routes": rows,
            }
        )
    )


async def arms(call: Call) -> web.StreamResponse:
    """Posteriors, shares and probabilities of every arm; ``?route=`` narrows."""
    services = call.services
    reports = dict(services.reports())
    wanted = read_query(call, ArmsQuery).route
    if wanted is not None:
        if wanted not in reports and (services.peers is None or services.settings.route(wanted) is None):
            raise AdminFault(404, "NOT_FOUND", f"There is no route {wanted[:200]!r}.")
        reports = {wanted: reports[wanted]} if wanted in reports else {}
    rows: list[dict[str, Any]] = []
    for route, found in reports.items():
        total = sum(report.pulls for report in found)
        rows += [
            {
                "route": route,
                **asdict(report),
                "share": report.pulls / total if total else 0.0,
                "alarms": _alarms(call, route, report.arm),
            }
            for report in found
        ]
    own = services.steering()
    steering: dict[str, Any] = {route: asdict(own[route]) for route in reports if route in own}
    gathered = await _arms_elsewhere(call, wanted, known=wanted in reports)
    for others, kept in gathered.parts(_believed):
        rows += [row for row in others if row["route"] not in reports and wanted in (None, row["route"])]
        steering |= {route: row for route, row in kept.items() if wanted in (None, route)}
    order = {route.name: place for place, route in enumerate(services.settings.routes)}
    rows.sort(key=lambda row: order.get(row["route"], len(order)))
    return answer(
        gathered.mark(
            {"table_version": services.core.learners.table_version, "arms": rows, "steering": steering}
        )
    )


async def _arms_elsewhere(call: Call, wanted: str | None, *, known: bool) -> Gathered:
    """What other nodes believe; of one route only its owner is asked."""
    peers = call.services.peers
    if peers is None or wanted is None:
        return await gather(call, "/api/v1/arms")
    if known:
        return Gathered(incomplete=None if call.is_hop else [])
    return await gather(call, f"/api/v1/arms?route={quote(wanted, safe='')}", place=peers.place_of(wanted))


def _believed(document: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, steering = document["arms"], document["steering"]
    for row in rows:
        row["route"], row["arm"]
    return list(rows), dict(steering)


def _driven(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("name", *_DRIVEN)} for row in document["routes"]]


def _table(call: Call) -> RoutingTable:
    table = call.services.core.learners.table
    if table is None:
        raise AdminFault(503, "SERVICE_UNAVAILABLE", "No table has been published yet.")
    return table


def _route(route: Route, upstreams: dict[str, str], desk: OptimizationDesk | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": route.name,
        "match": list(route.match),
        "sticky": asdict(route.sticky) if route.sticky is not None else None,
        "home": route.home,
        "control": _side(route.control, upstreams, 1.0 - route.candidate_fraction),
        "rollout": _rollout(route, desk),
        "deployed": _deployed(route.name, desk),
        "context": _context(route),
    }
    if route.candidate is not None:
        shown["candidate"] = _side(route.candidate, upstreams, route.candidate_fraction)
    return shown


def _alarms(call: Call, route: str, arm: str) -> list[dict[str, Any]]:
    """Sudden changes of the arm that were found, the newest first."""
    learning = call.services.core.learners.of(route)
    return [
        {
            "signal": alarm.signal,
            "before": alarm.before,
            "after": alarm.after,
            "keep": alarm.keep,
            "at": alarm.at,
        }
        for alarm in (learning.drift.alarms_of(route, arm) if learning is not None else ())
    ]


def _context(route: Route) -> dict[str, Any] | None:
    if route.features is None:
        return None
    return {
        "features_version": route.features.version,
        "size": route.features.size,
        "words": route.features.projection is not None,
        "by_request": route.control.selector.index is not None,
    }


def _rollout(route: Route, desk: OptimizationDesk | None) -> dict[str, Any] | None:
    """What divides the route's traffic: what the table says, and whose it is. ``stage`` counts from 0."""
    if route.rollout is None:
        return None
    known: dict[str, Any] = {"id": route.rollout, "percentage": round(100.0 * route.candidate_fraction, 4)}
    record = desk.rollout_on(route.name) if desk is not None else None
    if record is None or record.rollout is None or record.rollout.id != route.rollout:
        # The book is a moment ahead of the table, or behind it.
        return known
    rollout = record.rollout
    return known | {
        "optimization": record.id,
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "attempt": rollout.attempt,
        "stage": rollout.stage,
        "stages": len(rollout.plan.stages),
        "started_at": rollout.started_at,
        "stage_started_at": rollout.stage_started_at,
        "expected_s": rollout.expected_s,
    }


def _deployed(route: str, desk: OptimizationDesk | None) -> list[dict[str, Any]]:
    """The overlays of a route, in the order in which they apply."""
    return [
        {
            "optimization": record.id,
            "name": record.name,
            "strategy": record.strategy,
            "deployed_at": record.deployed_at,
        }
        for record in (desk.deployed_on(route) if desk is not None else ())
    ]


def _side(side: Side, upstreams: dict[str, str], fraction: float) -> dict[str, Any]:
    return {
        "percentage": round(100.0 * fraction, 4),
        "policy": side.selector.policy,
        "baseline": side.baseline,
        "arms": [
            {
                "id": arm.id,
                "model": arm.model,
                "upstream": upstreams.get(arm.model),
                "variant": arm.variant,
                "parameters": dict(arm.parameters),
                "percentage": round(100.0 * share, 4),
            }
            for arm, share in zip(side.arms, side.selector.probabilities, strict=True)
        ],
    }
