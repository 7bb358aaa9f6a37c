"""What judges found: their state, corrected means of the arms that they rated, and comparisons of prompts."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from optimizer.settings import RouteSettings
from proxy.control.admin.endpoint import Call, answer
from proxy.control.admin.gathering import gather
from proxy.control.metrics.judging import JudgeFacts
from proxy.control.services import Services

ALPHA: Final = 0.05
# Of a normal distribution, two-sided.
_Z: Final = 1.96
_ADDED: Final = ("spent_today_usd", "usd_per_day", "cost_usd", "arms", "pairs")
"""What nodes say of a judge that is added up; each of them has the budget of the configuration."""


async def listing(call: Call) -> web.StreamResponse:
    """Every route with a judge. Every node judges what it served; what was found, the owner of the route knows."""
    services = call.services
    states = services.facts().judging
    rows = _here(services, states)
    waiting, samples = states.waiting, Counter(states.samples)
    gathered = await gather(call, "/api/v1/judges", everyone=True)
    for there, waiting_there, samples_there in gathered.parts(_read):
        rows = [_together(row, there.get(row["route"])) for row in rows]
        waiting += waiting_there
        samples.update(samples_there)
    return answer(gathered.mark({"judges": rows, "waiting": waiting, "samples": samples}))


def _here(services: Services, states: JudgeFacts) -> list[dict[str, Any]]:
    return [
        {
            "route": route.name,
            "name": state.name,
            "model": state.model,
            "version": state.version,
            "rate": state.rate,
            "answers": state.word is None,
            "problem": state.word,
            "spent_today_usd": state.spent_usd,
            "usd_per_day": state.usd_per_day,
            "judgements": {
                f"{kind}.{result}": count
                for (name, kind, result), count in sorted(states.judgements.items())
                if name == route.name
            },
            "cost_usd": states.cost_usd.get(route.name, 0.0),
            "arms": _arms(services, route, state.version),
            "pairs": _pairs(services, route, state.version),
        }
        for route in services.settings.routes
        if route.judge is not None and (state := states.states.get(route.name)) is not None
    ]


def _read(document: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], int, dict[str, int]]:
    rows = {row["route"]: row for row in document["judges"]}
    for row in rows.values():
        {name: row[name] for name in (*_ADDED, "judgements", "answers", "problem", "version")}
    return rows, int(document["waiting"]), dict(document["samples"])


def _together(row: dict[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """What two nodes say of the judge of a route."""
    if other is None or other["version"] != row["version"]:
        return row
    return (
        row
        | {name: row[name] + other[name] for name in _ADDED}
        | {
            "answers": row["answers"] and other["answers"],
            "problem": row["problem"] or other["problem"],
            "judgements": dict(Counter(row["judgements"]) + Counter(other["judgements"])),
        }
    )


def _arms(services: Services, route: RouteSettings, version: str) -> list[dict[str, Any]]:
    """What the judge says of each arm, with the help of heuristics about the answers that it did not see."""
    learning, rows = services.core.learners.of(route.name), []
    if learning is None:
        return []
    judgements = learning.judgements
    for arm in route.arms:
        found = judgements.corrected(route.name, arm.model_key, arm.variant_key, version)
        if found is None:
            continue
        half = _Z * found.variance**0.5
        rows.append(
            {
                "arm": arm.id,
                "ratings": judgements.ratings(route.name, arm.model_key, arm.variant_key, version),
                "mean": found.mean,
                # One rating has no scatter, so nothing can be said of where the mean is.
                "low": max(0.0, found.mean - half),
                "high": min(1.0, found.mean + half),
                "heuristics_weight": found.weight,
            }
        )
    return rows


def _pairs(services: Services, route: RouteSettings, version: str) -> list[dict[str, Any]]:
    names = {(arm.model_key, arm.variant_key): arm.id for arm in route.arms}
    learning = services.core.learners.of(route.name)
    found = learning.judgements.pairs(route.name, version) if learning is not None else {}
    rows = []
    for (model_key, first, second), tally in found.items():
        arms = names.get((model_key, first)), names.get((model_key, second))
        if None in arms:
            continue
        share = tally.share(ALPHA)
        rows.append(
            {
                "arm": arms[0],
                "other_arm": arms[1],
                "comparisons": tally.count,
                "torn": tally.torn,
                "preference": share.estimate,
                "low": share.low,
                "high": share.high,
            }
        )
    return rows
