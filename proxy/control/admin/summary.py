"""Totals in short: cost, latency and quality, per route and over all of them.

What requests were is counted by the node that served them, what was saved and how good arms are by the owner of their
route. Both are gathered as sums that add up, so a summary over nodes is what one node would have said of all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from aiohttp import web

from optimizer.arm_report import ArmReport
from optimizer.events import COMPLETED, UPSTREAM_FAULT
from proxy.control.admin.endpoint import Call, answer
from proxy.control.admin.gathering import gather
from proxy.control.metrics.totals import LATENCY_BUCKETS, ArmTotals, Histogram
from proxy.control.services import Services

TARGET: Final = "/api/v1/metrics/summary"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one node counted for one arm; ``latency`` per bucket, ``latency_s`` in all."""

    outcomes: Mapping[str, int]
    asked: int
    failed: int
    cost_usd: float
    cost_unknown: int
    tokens: int
    latency: Sequence[int]
    latency_s: float


@dataclass(frozen=True, slots=True)
class Saved:
    """What the owner of a route compared: USD, and over how many requests; ``saved_usd`` None without any."""

    actual_usd: float
    baseline_usd: float
    requests: int
    saved_usd: float | None


@dataclass(frozen=True, slots=True)
class Rated:
    """Sums over the arms of a route that have ratings: tries, their qualities, shares, and theirs."""

    pulls: float
    past: float
    shares: float
    now: float


@dataclass(slots=True)
class Part:
    """What one node has to say, by route."""

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    saved: dict[str, Saved] = field(default_factory=dict)
    rated: dict[str, Rated] = field(default_factory=dict)

    def add(self, other: "Part") -> None:
        """Take in what another node says; a route has one owner."""
        for route, pieces in other.pieces.items():
            self.pieces.setdefault(route, []).extend(pieces)
        self.saved |= other.saved
        self.rated |= other.rated


async def summary(call: Call) -> web.StreamResponse:
    """Totals per route since the node's beginning, and over all of them; cost, latency and quality in short."""
    part = _own(call.services)
    gathered = await gather(call, TARGET, everyone=True)
    if call.is_hop:
        return answer(gathered.mark({"part": asdict(part)}))
    for other in gathered.parts(_read):
        part.add(other)
    return answer(gathered.mark(_shown(part)))


def _own(services: Services) -> Part:
    part, now = Part(), services.core.now()
    for (route, _, _), totals in services.core.observer.arms.items():
        part.pieces.setdefault(route, []).append(_piece(totals, now))
    for learning in services.core.learners.all():
        known, usd = learning.savings.routes, learning.savings_usd()
        for route in dict.fromkeys((*known, *usd)):
            found = known.get(route)
            figures = (found.actual_usd, found.baseline_usd, found.requests) if found else (0.0, 0.0, 0)
            part.saved[route] = Saved(*figures, usd.get(route))
    part.rated = {route: _rated(reports) for route, reports in services.reports().items()}
    return part


def _piece(totals: ArmTotals, now: float) -> Piece:
    asked, failed = totals.errors.counts(now)[:2]
    outcomes: dict[str, int] = {}
    for (outcome, _), count in totals.requests.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + count
    return Piece(
        outcomes,
        asked,
        failed,
        totals.cost_usd,
        totals.cost_unknown,
        totals.tokens.total(),
        totals.latency.counts,
        totals.latency.total,
    )


def _rated(reports: Sequence[ArmReport]) -> Rated:
    known = [(report, report.quality.mean) for report in reports if report.quality is not None]
    return Rated(
        sum(report.pulls for report, _ in known),
        sum(report.pulls * mean for report, mean in known),
        sum(report.probability for report, _ in known),
        sum(report.probability * mean for report, mean in known),
    )


def _read(document: Mapping[str, Any]) -> Part:
    """Another node's part; raises like ``dict`` and a constructor for anything else."""
    part = document["part"]
    pieces = {route: [Piece(**piece) for piece in rows] for route, rows in part["pieces"].items()}
    if any(len(piece.latency) != len(LATENCY_BUCKETS) + 1 for rows in pieces.values() for piece in rows):
        raise ValueError("its latencies have other buckets")
    return Part(
        pieces,
        {route: Saved(**row) for route, row in part["saved"].items()},
        {route: Rated(**row) for route, row in part["rated"].items()},
    )


def _shown(part: Part) -> dict[str, Any]:
    everything = [piece for pieces in part.pieces.values() for piece in pieces]
    usd = {route: saved.saved_usd for route, saved in part.saved.items()}
    known = [saved for saved in usd.values() if saved is not None]
    return {
        "cost": _cost(part.saved.values()),
        "latency": _latency(everything),
        "quality": _trend(part.rated.values()),
        "total": {**_figures(everything), "cost_savings_usd": sum(known) if known else None},
        "routes": {
            route: {
                **_figures(pieces),
                "cost_savings_usd": usd.get(route),
                "quality_score": _quality(part.rated.get(route)),
            }
            for route, pieces in sorted(part.pieces.items())
        },
    }


def _cost(routes: Iterable[Saved]) -> dict[str, Any]:
    """USD of the requests that can be compared; ``previous`` is what the baselines would have taken for them."""
    found = list(routes)
    current, previous = sum(route.actual_usd for route in found), sum(route.baseline_usd for route in found)
    known = any(route.requests for route in found)
    return {
        "current": current if known else None,
        "previous": previous if known else None,
        "reduction": 1.0 - current / previous if known and previous > 0.0 else None,
    }


def _latency(found: Iterable[Piece]) -> dict[str, Any]:
    """Percentiles in ms, as the upper bounds of the histogram's buckets."""
    latency = _joined(found)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    bounds = {name: latency.quantile(share) for name, share in shares.items()}
    return {name: None if bound is None else 1000.0 * bound for name, bound in bounds.items()}


def _trend(routes: Iterable[Rated]) -> dict[str, Any]:
    """``score`` is the believed quality of what was served so far; ``trend`` how much more the present shares give.

    A positive trend says that traffic moves to better arms.
    """
    rated = [route for route in routes if route.pulls > 0.0 and route.shares > 0.0]
    tried = sum(route.pulls for route in rated)
    past = sum(route.past for route in rated)
    now = sum(route.pulls * route.now / route.shares for route in rated)
    return {
        "score": past / tried if tried else None,
        "trend": (now - past) / tried if tried else None,
    }


def _quality(rated: Rated | None) -> float | None:
    """Mean believed quality, weighted by how often each arm was tried; None without any observation."""
    return rated.past / rated.pulls if rated is not None and rated.pulls else None


def _joined(found: Iterable[Piece]) -> Histogram:
    latency = Histogram(LATENCY_BUCKETS)
    for piece in found:
        latency.counts = [a + b for a, b in zip(latency.counts, piece.latency, strict=True)]
        latency.total += piece.latency_s
    return latency


def _figures(found: Sequence[Piece]) -> dict[str, Any]:
    latency = _joined(found)
    asked, failed = sum(piece.asked for piece in found), sum(piece.failed for piece in found)
    completed = sum(piece.outcomes.get(COMPLETED, 0) for piece in found)
    return {
        "requests": sum(sum(piece.outcomes.values()) for piece in found),
        "completed": completed,
        "failed": sum(piece.outcomes.get(UPSTREAM_FAULT, 0) for piece in found),
        "error_rate_5m": failed / asked if asked else 0.0,
        "cost_usd": sum(piece.cost_usd for piece in found),
        "cost_unknown_requests": sum(piece.cost_unknown for piece in found),
        "tokens": sum(piece.tokens for piece in found),
        "latency_mean_s": latency.total / completed if completed else None,
        "latency_p50_s": latency.quantile(0.5),
        "latency_p95_s": latency.quantile(0.95),
    }
