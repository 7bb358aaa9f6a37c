"""What judges found: their state, corrected means of the arms that they rated, and comparisons of prompts."""

from typing import Any, Final

from aiohttp import web

from optimizer.settings import RouteSettings
from proxy.control.admin.endpoint import Call, answer
from proxy.control.services import Services

ALPHA: Final = 0.05
# Of a normal distribution, two-sided.
_Z: Final = 1.96


async def listing(call: Call) -> web.StreamResponse:
    """Every route with a judge."""
    services = call.services
    states = services.facts().judging
    routes = [route for route in services.core.settings.routes if route.judge is not None]
    return answer(
        {
            "judges": [
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
                for route in routes
                if (state := states.states.get(route.name)) is not None
            ],
            "waiting": states.waiting,
            "samples": dict(states.samples),
        }
    )


def _arms(services: Services, route: RouteSettings, version: str) -> list[dict[str, Any]]:
    """What the judge says of each arm, with the help of heuristics about the answers that it did not see."""
    judgements, rows = services.core.learning.judgements, []
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
    rows = []
    for (model_key, first, second), tally in services.core.learning.judgements.pairs(
        route.name, version
    ).items():
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
