"""The blocks about optimizing and deploying in their full form, for ``effective_document``.

Each loads to the settings that it was made of. What the bandit is told stays as it was written: routes spell it out.
"""

from typing import Any

from optimizer.settings import HealthChecks, Stage
from proxy.config.flat import active_strategies
from proxy.config.load import Loaded
from proxy.config.models_optimization import (
    CostReductionBlock,
    LatencyOptimizationBlock,
    PromptOptimizationBlock,
)
from proxy.config.normalise import STRATEGY_BLOCKS

# What a strategy that is only listed works with.
_DEFAULTS = {
    "prompt_optimization": PromptOptimizationBlock,
    "cost_reduction": CostReductionBlock,
    "latency_optimization": LatencyOptimizationBlock,
}


def optimization(loaded: Loaded) -> dict[str, Any]:
    """Which strategies run, and every parameter. Prompt variants stand under ``prompts``; here they would be twice."""
    block = loaded.source.file.optimization
    active = active_strategies(block)
    document = block.model_dump(exclude={*STRATEGY_BLOCKS, "strategies"}, exclude_none=True)
    document["strategies"] = [name for name in STRATEGY_BLOCKS if name in active]
    for name in STRATEGY_BLOCKS:
        part = getattr(block, name)
        if part is None and name in active and name in _DEFAULTS:
            part = _DEFAULTS[name]()
        if part is not None:
            document[name] = part.model_dump(exclude={"variants"}, exclude_none=True)
    return document


def deployment(loaded: Loaded) -> dict[str, Any]:
    """The plan of every rollout. A bound stays in that of its two places where the file has it."""
    block, settings = loaded.source.file.deployment, loaded.settings.deployment
    canary: dict[str, Any] = {"enabled": bool(settings.plan.stages)}
    if settings.plan.stages:
        canary["stages"] = [_stage(stage) for stage in settings.plan.stages]
    checks = _checks(settings.plan.checks)
    document: dict[str, Any] = {
        "environment": settings.environment,
        "auto_promote": settings.auto_promote,
        "guard_lease_sec": loaded.settings.guard_lease_s,
        "canary": canary,
    }
    if block.health_check is not None:
        elsewhere = block.health_check.model_fields_set
        document["health_check"] = {key: value for key, value in checks.items() if key in elsewhere}
        checks = {key: value for key, value in checks.items() if key not in elsewhere}
    canary["health_check"] = checks
    return document


def webhooks(loaded: Loaded) -> list[dict[str, Any]]:
    """Subscribers with references in the place of secrets."""
    documents = []
    for webhook in loaded.settings.webhooks:
        document: dict[str, Any] = {"name": webhook.name, "url": webhook.url}
        if webhook.secret is not None:
            document["secret"] = webhook.secret
        if webhook.events:
            document["events"] = list(webhook.events)
        documents.append(document)
    return documents


def database(loaded: Loaded) -> dict[str, Any]:
    """Where optimizations are kept, when the file or the environment says so."""
    block = loaded.source.file.database
    return block.model_dump(exclude_none=True) if block is not None else {}


def tracing(loaded: Loaded) -> dict[str, Any]:
    """Where spans go, with references in the place of secrets."""
    settings = loaded.settings.tracing
    if settings is None:
        return {}
    document: dict[str, Any] = {"otlp_endpoint": settings.url, "sample_rate": settings.sample_rate}
    return document | ({"headers": dict(settings.headers)} if settings.headers else {})


def _stage(stage: Stage) -> dict[str, Any]:
    document: dict[str, Any] = {
        "percentage": stage.percentage,
        "duration_sec": stage.duration_s,
        "min_samples": stage.min_samples,
    }
    return document | ({"max_wait_sec": stage.max_wait_s} if stage.max_wait_s else {})


def _checks(checks: HealthChecks) -> dict[str, Any]:
    document = {
        "enabled": checks.enabled,
        "interval_sec": checks.interval_s,
        "error_rate_threshold": checks.error_rate,
        "latency_p95_threshold_ms": checks.latency_p95_ms,
        "cost_per_request_threshold_usd": checks.cost_per_request_usd,
        "quality_threshold": checks.quality_ratio,
        "non_inferiority_margin": checks.non_inferiority_margin,
    }
    return {key: value for key, value in document.items() if value is not None}
