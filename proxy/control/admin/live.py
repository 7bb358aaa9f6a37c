"""What the product does now: the routing table in use, what is believed about every arm, a summary."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import web

from optimizer.arm_report import ArmReport
from optimizer.events import COMPLETED, UPSTREAM_FAULT
from optimizer.routing import Route, RoutingTable, Side
from optimizer.savings import RouteSavings
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.models_live import ArmsQuery
from proxy.control.admin.reading import read_query
from proxy.control.metrics.totals import LATENCY_BUCKETS, ArmTotals, Histogram
from proxy.control.optimization_desk import OptimizationDesk


async def routes(call: Call) -> web.StreamResponse:
    """The published table: routes, arms and their percentages, and what optimizations have to do with them."""
    table = _table(call)
    desk = call.services.optimizations
    upstreams = {model.name: model.upstream for model in table.models}
    return answer(
        {
            "table_version": table.version,
            "published_at": table.published_at,
            "config_hash": table.config_hash,
            "routes": [_route(route, upstreams, desk) for route in table.routes],
        }
    )


async def arms(call: Call) -> web.StreamResponse:
    """Posteriors, shares and probabilities of every arm; ``?route=`` narrows."""
    reports = dict(call.services.reports())
    wanted = read_query(call, ArmsQuery).route
    if wanted is not None:
        if wanted not in reports:
            raise AdminFault(404, "NOT_FOUND", f"There is no route {wanted[:200]!r}.")
        reports = {wanted: reports[wanted]}
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
    steering = call.services.steering()
    return answer(
        {
            "table_version": call.services.core.learning.publication.version,
            "arms": rows,
            "steering": {route: asdict(steering[route]) for route in reports if route in steering},
        }
    )


async def summary(call: Call) -> web.StreamResponse:
    """Totals per route since the node's beginning, and over all of them; cost, latency and quality in short."""
    services = call.services
    facts = services.facts()
    by_route: dict[str, list[ArmTotals]] = {}
    for (route, _, _), totals in services.core.observer.arms.items():
        by_route.setdefault(route, []).append(totals)
    everything = [totals for found in by_route.values() for totals in found]
    saved = [usd for usd in facts.savings_usd.values() if usd is not None]
    return answer(
        {
            "cost": _cost(services.core.learning.savings.routes.values()),
            "latency": _latency(everything),
            "quality": _trend(facts.reports.values()),
            "total": {
                **_figures(everything, facts.now),
                "cost_savings_usd": sum(saved) if saved else None,
            },
            "routes": {
                route: {
                    **_figures(found, facts.now),
                    "cost_savings_usd": facts.savings_usd.get(route),
                    "quality_score": _quality(facts.reports.get(route, ())),
                }
                for route, found in sorted(by_route.items())
            },
        }
    )


def _table(call: Call) -> RoutingTable:
    table = call.services.core.learning.publication.table
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
    return [
        {
            "signal": alarm.signal,
            "before": alarm.before,
            "after": alarm.after,
            "keep": alarm.keep,
            "at": alarm.at,
        }
        for alarm in call.services.core.learning.drift.alarms_of(route, arm)
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


def _cost(routes: Iterable[RouteSavings]) -> dict[str, Any]:
    """USD of the requests that can be compared; ``previous`` is what the baselines would have taken for them."""
    found = list(routes)
    current, previous = sum(route.actual_usd for route in found), sum(route.baseline_usd for route in found)
    known = any(route.requests for route in found)
    return {
        "current": current if known else None,
        "previous": previous if known else None,
        "reduction": 1.0 - current / previous if known and previous > 0.0 else None,
    }


def _latency(found: Iterable[ArmTotals]) -> dict[str, Any]:
    """Percentiles in ms, as the upper bounds of the histogram's buckets."""
    latency = _joined(found)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    bounds = {name: latency.quantile(share) for name, share in shares.items()}
    return {name: None if bound is None else 1000.0 * bound for name, bound in bounds.items()}


def _trend(routes: Iterable[Sequence[ArmReport]]) -> dict[str, Any]:
    """``score`` is the believed quality of what was served so far; ``trend`` how much more the present shares give.

    A positive trend says that traffic moves to better arms.
    """
    now = past = tried = 0.0
    for reports in routes:
        rated = [(report, report.quality.mean) for report in reports if report.quality is not None]
        pulls = sum(report.pulls for report, _ in rated)
        shares = sum(report.probability for report, _ in rated)
        if pulls > 0.0 and shares > 0.0:
            past += sum(report.pulls * mean for report, mean in rated)
            tried += pulls
            now += pulls * sum(report.probability * mean for report, mean in rated) / shares
    return {
        "score": past / tried if tried else None,
        "trend": (now - past) / tried if tried else None,
    }


def _joined(found: Iterable[ArmTotals]) -> Histogram:
    latency = Histogram(LATENCY_BUCKETS)
    for totals in found:
        latency.counts = [a + b for a, b in zip(latency.counts, totals.latency.counts, strict=True)]
        latency.total += totals.latency.total
    return latency


def _figures(found: list[ArmTotals], now: float) -> dict[str, Any]:
    latency = _joined(found)
    asked = failed = 0
    for totals in found:
        recent = totals.errors.counts(now)
        asked, failed = asked + recent[0], failed + recent[1]
    outcomes = [(key[0], count) for totals in found for key, count in totals.requests.items()]
    completed = sum(count for outcome, count in outcomes if outcome == COMPLETED)
    return {
        "requests": sum(count for _, count in outcomes),
        "completed": completed,
        "failed": sum(count for outcome, count in outcomes if outcome == UPSTREAM_FAULT),
        "error_rate_5m": failed / asked if asked else 0.0,
        "cost_usd": sum(totals.cost_usd for totals in found),
        "cost_unknown_requests": sum(totals.cost_unknown for totals in found),
        "tokens": sum(totals.tokens.total() for totals in found),
        "latency_mean_s": latency.total / completed if completed else None,
        "latency_p50_s": latency.quantile(0.5),
        "latency_p95_s": latency.quantile(0.95),
    }


def _quality(reports: Sequence[ArmReport]) -> float | None:
    """Mean believed quality, weighted by how often each arm was tried; None without any observation."""
    known = [(report.quality.mean, report.pulls) for report in reports if report.quality is not None]
    weight = sum(pulls for _, pulls in known)
    return sum(mean * pulls for mean, pulls in known) / weight if weight else None
