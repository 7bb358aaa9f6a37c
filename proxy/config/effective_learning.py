"""The blocks about learning in their full form, for ``effective_document``; each loads to what it was made of."""

from dataclasses import asdict
from typing import Any

from optimizer.routing import ClientFeature
from optimizer.settings import Constraints, ContextSettings, JudgeSettings, RouteSettings
from proxy.config.compile_learning import complement


def learning(route: RouteSettings) -> dict[str, Any]:
    """``context``, ``constraints``, ``drift`` and ``judge`` of a route, as far as it has them."""
    document: dict[str, Any] = {}
    if route.context is not None:
        document["context"] = _context(route.context)
    if route.constraints.any:
        document["constraints"] = constraints(route.constraints)
    document["drift"] = asdict(route.drift)
    if route.judge is not None:
        document["judge"] = _judge(route.judge)
    return document


def constraints(settings: Constraints) -> dict[str, float]:
    """Constraints under the names that a file has for them."""
    reduction = None if settings.cost_ratio is None else complement(settings.cost_ratio)
    document = {
        "cost_per_request_usd": settings.cost_per_request_usd,
        "cost_per_day_usd": settings.cost_per_day_usd,
        "target_reduction": reduction,
        "max_request_usd": settings.max_request_usd,
        "quality_floor": settings.quality_floor,
        "quality_threshold": settings.quality_ratio,
        "latency_p95_ms": settings.latency_p95_ms,
    }
    return {key: value for key, value in document.items() if value is not None}


def _context(context: ContextSettings) -> dict[str, Any]:
    document: dict[str, Any] = {"enabled": True, "lexical": context.lexical}
    # Without words a size has no meaning, and a file that gives one is told so.
    if context.lexical or context.lexical_size != ContextSettings().lexical_size:
        document["lexical_size"] = context.lexical_size
    if context.client:
        document["client"] = [_client(feature) for feature in context.client]
    return document


def _client(feature: ClientFeature) -> dict[str, Any]:
    document: dict[str, Any] = {"name": feature.name, feature.source: feature.key}
    if feature.values:
        return document | {"values": list(feature.values)}
    return document | {"min": feature.low, "max": feature.high}


def _judge(judge: JudgeSettings) -> dict[str, Any]:
    document = asdict(judge)
    del document["version"]
    return document
