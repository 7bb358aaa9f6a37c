"""``Loaded`` back to a document: every route, model, upstream and prompt spelled out, nothing left to
guess.

Invariant: loading the document in the same environment gives equal ``Settings``; of routes that optimizations have
changed, it gives what they were changed to. Secrets are references only, and what the file took from a variable is
written as that variable again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from optimizer.routing import Arm, BreakerRules, Model, Price, Quota, Resilience, Upstream, Variant
from optimizer.settings import CustomMetric, Objective, PolicySettings, RouteSettings
from proxy.config.compile_cache import caching
from proxy.config.compile_models import STREAM_USAGE
from proxy.config.compile_routes import DEFAULT_PROMPT
from proxy.config.effective_cluster import several_nodes
from proxy.config.effective_deployment import database, deployment, optimization, tracing, webhooks
from proxy.config.effective_learning import learning
from proxy.config.flat import uses_known_models
from proxy.config.identity import EXACT
from proxy.config.interpolate import has_variable
from proxy.config.load import Loaded
from proxy.config.places import holds_password, is_secret, may_hold_password
from proxy.config.problems import KeyPath
from proxy.config.secrets import ENV, LITERAL, parse

_FIRST = (
    *("server", "access", "state_dir", "upstreams", "models", "prompts", "routes", "passthrough"),
    *(
        "known_models",
        "optimization",
        "deployment",
        "webhooks",
        "metrics",
        "database",
        "redis",
        "kafka",
        "cluster",
        "tracing",
    ),
)
# Secrets of blocks that are taken from the file, not from what it was compiled to.
_AS_WRITTEN = (("kafka", "security", "password"), ("cluster", "secret"))


def effective_document(loaded: Loaded, changed: Mapping[str, RouteSettings] | None = None) -> dict[str, Any]:
    """The configuration in its full form, as plain values ready for YAML.

    ``changed`` holds routes, by name, that deployed optimizations have made of those of the file.
    """
    settings, file = loaded.settings, loaded.source.file
    written = {route.name: _route(route) for route in settings.routes}
    routes = {**written, **{name: _route(route) for name, route in (changed or {}).items()}}
    document = _written_blocks(loaded)
    document["server"] = {
        **file.server.model_dump(exclude_none=True),
        "in_flight_bytes": settings.limits.in_flight_bytes,
    }
    document["access"] = file.access.model_dump()
    document["upstreams"] = {upstream.name: _upstream(upstream) for upstream in settings.upstreams}
    document["models"] = _models(loaded)
    document["prompts"] = {
        variant.name: _prompt(variant) for variant in settings.variants if variant.name != DEFAULT_PROMPT
    }
    document["routes"] = routes
    document["passthrough"] = {
        "default" if prefix == "/v1/" else prefix: upstream for prefix, upstream in settings.passthrough
    }
    document["known_models"] = uses_known_models(file)
    document["optimization"] = optimization(loaded)
    document["deployment"] = deployment(loaded)
    optional = {
        "metrics": {"custom": [_metric(metric) for metric in settings.custom_metrics]}
        if settings.custom_metrics
        else {},
        "webhooks": webhooks(loaded),
        "database": database(loaded),
        **several_nodes(loaded),
        "tracing": tracing(loaded),
    }
    document |= {key: part for key, part in optional.items() if part}
    ordered = {key: document.pop(key) for key in _FIRST if key in document}
    held = frozenset(_differing(written, routes))
    result: dict[str, Any] = _restore({**ordered, **document}, loaded, (), held)
    return result


def _differing(written: Mapping[str, Any], routes: Mapping[str, Any]) -> Iterator[KeyPath]:
    """What is no longer as the file has it; a variable that stands there says nothing about it."""
    for name, route in routes.items():
        for key, value in route.items():
            if written[name].get(key) != value:
                yield ("routes", name, key)


def _models(loaded: Loaded) -> dict[str, Any]:
    """Every model but those that ``known_models`` brings in by itself."""
    file, settings = loaded.source.file, loaded.settings
    named = {arm.model for route in settings.routes for arm in (*route.arms, *route.fallbacks)}
    named |= {route.judge.model for route in settings.routes if route.judge is not None}
    named |= set(file.models)
    everything = not uses_known_models(file)
    return {model.name: _model(model) for model in settings.models if everything or model.name in named}


def _written_blocks(loaded: Loaded) -> dict[str, Any]:
    """The other blocks, as far as the file or the environment sets them."""
    written: dict[str, Any] = loaded.source.file.model_dump(exclude_unset=True, exclude_none=True)
    return {key: value for key, value in written.items() if value not in ({}, [])}


def _restore(value: Any, loaded: Loaded, path: KeyPath, held: frozenset[KeyPath]) -> Any:
    """Put variables back in their places but for those in ``held``, mask what may hold a password, escape what
    looks like a variable.
    """
    if is_secret(path):
        return _reference(value, loaded, path)
    if path in held:
        return _escaped(value)
    raw = _raw(loaded.source.raw, path)
    taken = isinstance(raw, str) and has_variable(raw) and path not in loaded.source.overrides
    if isinstance(value, dict):
        return {key: _restore(child, loaded, (*path, key), held) for key, child in value.items()}
    if isinstance(value, list):
        # A variable may stand for a whole list, written with commas.
        return raw if taken else [_restore(child, loaded, (*path, i), held) for i, child in enumerate(value)]
    return raw if taken else _escaped(value)


def _escaped(value: Any) -> Any:
    """The same value with no variable in it, and whole numbers without a point."""
    if isinstance(value, dict):
        return {key: _escaped(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_escaped(child) for child in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value.replace("${", "$${") if isinstance(value, str) else value


def _reference(value: Any, loaded: Loaded, path: KeyPath) -> str:
    """The blocks of the file may hold literal keys; what is written out is only ever their reference."""
    text = str(value)
    if path[0] == "admin":
        keys, has_single = loaded.admin.keys, loaded.source.file.admin.key is not None
        text = keys[path[-1] + has_single] if isinstance(path[-1], int) else keys[0]
    elif may_hold_password(path):
        text = _address(text, loaded, path)
    elif path in _AS_WRITTEN:
        text, _ = parse(text, loaded.path.parent if loaded.path is not None else None)
    return f"${{{text.removeprefix(ENV)}}}" if text.startswith(ENV) else text


def address_reference(loaded: Loaded, path: KeyPath) -> str | None:
    """What the settings hold in the place of the address at ``path``."""
    database, redis = loaded.settings.database, loaded.settings.redis
    return database.url if path[0] == "database" else redis.url if redis is not None else None


def _address(text: str, loaded: Loaded, path: KeyPath) -> str:
    """As written as long as no password stands in it."""
    reference = address_reference(loaded, path) or text
    raw = _raw(loaded.source.raw, path)
    if not reference.startswith(LITERAL) or not isinstance(raw, str) or raw.startswith(LITERAL):
        return reference
    return reference if holds_password(raw) else raw


def _raw(data: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _milliseconds(seconds: float) -> float:
    """Milliseconds that divide back into exactly these seconds, whole where that is possible."""
    product = seconds * 1000
    whole = round(product)
    return whole if whole / 1000 == seconds else product


def _upstream(upstream: Upstream) -> dict[str, Any]:
    document: dict[str, Any] = {
        "provider": upstream.provider,
        "base_url": upstream.base_url,
        "auth": upstream.auth,
    }
    if upstream.secret is not None:
        document["api_key"] = upstream.secret
    document["key_header"] = upstream.key_header
    if upstream.headers:
        document["headers"] = dict(upstream.headers)
    if upstream.paths:
        document["paths"] = dict(upstream.paths)
    for key in ("unix_socket", "proxy", "ca_file"):
        if getattr(upstream, key) is not None:
            document[key] = getattr(upstream, key)
    document |= {
        "verify_tls": upstream.verify_tls,
        "connect_timeout_ms": _milliseconds(upstream.connect_s),
        "first_byte_timeout_ms": _milliseconds(upstream.first_byte_s),
        "idle_timeout_ms": _milliseconds(upstream.idle_s),
        "keepalive_timeout_ms": _milliseconds(upstream.keepalive_s),
        "max_connections": upstream.max_connections,
        "allow_private": upstream.allow_private,
        "breaker": _breaker(upstream.breaker),
        "retry_share": upstream.retry_share,
        "retry_floor": upstream.retry_floor,
    }
    if upstream.total_s is not None:
        document["total_timeout_ms"] = _milliseconds(upstream.total_s)
    return document


def _breaker(rules: BreakerRules) -> dict[str, Any]:
    if not rules.consecutive:
        return {"enabled": False}
    return {
        "enabled": True,
        "consecutive_failures": rules.consecutive,
        "error_rate": rules.error_rate,
        "min_requests": rules.min_volume,
        "window_ms": _milliseconds(rules.window_s),
        "open_ms": _milliseconds(rules.open_s),
        "max_open_ms": _milliseconds(rules.max_open_s),
    }


def _model(model: Model) -> dict[str, Any]:
    document: dict[str, Any] = {"upstream": model.upstream, "model": model.model_id}
    if model.price is not None:
        document["price"] = _price(model.price)
    for key in ("context_tokens", "max_output_tokens"):
        if getattr(model, key) is not None:
            document[key] = getattr(model, key)
    if model.first_token_s is not None:
        document["first_token_timeout_ms"] = _milliseconds(model.first_token_s)
    document["capabilities"] = sorted(model.capabilities - {STREAM_USAGE})
    document["stream_usage"] = STREAM_USAGE in model.capabilities
    document["endpoints"] = sorted(model.endpoints)
    return document


def _price(price: Price) -> dict[str, Any]:
    document = asdict(price)
    del document["version"]
    document["request"] = document.pop("request_usd")
    return {key: value for key, value in document.items() if value is not None}


def _prompt(variant: Variant) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if variant.system is not None:
        document |= {"system": variant.system, "mode": variant.mode}
    if variant.template is not None:
        document["template"] = variant.template
    return document


def _route(route: RouteSettings) -> dict[str, Any]:
    document: dict[str, Any] = {
        "match": list(route.match),
        "arms": [_arm(arm) for arm in route.arms],
        "baseline": route.baseline,
        "policy": _policy(route.policy, len(route.arms)),
        "objectives": [_objective(objective) for objective in route.objectives],
        "optimize": route.optimize,
    }
    if route.sticky is not None:
        document["sticky"] = {"by": route.sticky.by}
        if route.sticky.header:
            document["sticky"]["header"] = route.sticky.header
    if route.home is not None:
        document["home"] = route.home
    if route.fallbacks:
        document["fallbacks"] = [arm.id if arm in route.arms else _arm(arm) for arm in route.fallbacks]
    document |= learning(route) | _resilience(route.resilience)
    return document | _limits(route.quota) | caching(route.caching)


def _resilience(resilience: Resilience) -> dict[str, Any]:
    first, total, hedge = resilience.first_token_s, resilience.total_s, resilience.hedge_s
    document: dict[str, Any] = {
        "retries": {
            "attempts": resilience.attempts,
            "same_arm": resilience.same_arm,
            "backoff_ms": _milliseconds(resilience.backoff_s),
            "max_backoff_ms": _milliseconds(resilience.max_backoff_s),
            "retry_after_ms": _milliseconds(resilience.retry_after_s),
        },
        # Here null means something: no bound.
        "timeouts": {"first_token_ms": _milliseconds(first) if first is not None else None},
        "streams": {
            "hold_ms": _milliseconds(resilience.hold_s),
            "hold_tokens": resilience.hold_tokens,
            "resume": resilience.resume,
        },
    }
    if total is not None:
        document["timeouts"]["total_ms"] = _milliseconds(total)
    if hedge is not None:
        document["hedge_after_ms"] = _milliseconds(hedge)
    return document


def _limits(quota: Quota | None) -> dict[str, Any]:
    if quota is None:
        return {}
    return {"limits": {key: value for key, value in asdict(quota).items() if value is not None}}


def _arm(arm: Arm) -> dict[str, Any]:
    document: dict[str, Any] = {"id": arm.id, "model": arm.model}
    if arm.variant != DEFAULT_PROMPT:
        document["prompt"] = arm.variant
    if arm.parameters:
        document["parameters"] = dict(arm.parameters)
    return document


def _policy(policy: PolicySettings, arms: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": policy.name,
        **_floor(policy.floor, arms),
        "min_pulls": policy.min_pulls,
        "half_life_hours": policy.half_life_s / 3600,
        "max_memory": policy.max_memory,
        "prior_strength": policy.prior_strength,
        "epsilon": policy.epsilon,
    }
    if policy.fixed and policy.name == "fixed":
        document["probabilities"] = dict(policy.fixed)
    return document


def _floor(floor: float | None, arms: int) -> dict[str, float]:
    """The floor, as long as a file may say so: not more than all traffic.

    Optimizations may bring arms to a policy that was made for fewer. To
    the policy it is all the same, which never gives more than half of the traffic to floors.
    """
    return {} if floor is None else {"floor": min(floor, 1.0 / arms)}


def _objective(objective: Objective) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": objective.metric,
        "weight": objective.weight,
        "direction": "maximize" if objective.maximize else "minimize",
    }
    if objective.scale is not None:
        document["scale"] = objective.scale
    return document


def _metric(metric: CustomMetric) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": metric.name,
        "type": metric.kind,
        "aggregation": metric.aggregation,
        "direction": "maximize" if metric.maximize else "minimize",
    }
    if metric.low is not None:
        document["min"] = metric.low
    if metric.high is not None:
        document["max"] = metric.high
    return document
