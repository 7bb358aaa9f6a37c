"""What a route keeps of its answers: the block to the frozen type that workers act on, and back."""

from collections.abc import Iterable
from typing import Any

from optimizer.routing import REDIS, Caching
from optimizer.settings import RouteSettings
from proxy.config.models import File
from proxy.config.models_cache import CacheBlock
from proxy.config.problems import Findings


def compile_caching(block: CacheBlock | None) -> Caching | None:
    """None for a route that keeps nothing."""
    if block is None or not block.enabled:
        return None
    return Caching(
        ttl_s=block.ttl_sec,
        max_entry_bytes=block.max_entry_bytes,
        shared=block.shared_between_keys,
        store=block.store,
        cold_only=block.temperature_zero_only,
    )


def uses_redis(routes: Iterable[RouteSettings]) -> bool:
    """Whether any route keeps its answers in Redis."""
    return any(route.caching is not None and route.caching.store == REDIS for route in routes)


def check_stores(file: File, routes: Iterable[RouteSettings], findings: Findings) -> None:
    """Report routes whose store is nowhere."""
    there = (file.redis is not None and file.redis.url is not None) or ("redis", "url") in findings.broken
    for route in routes:
        if route.caching is not None and route.caching.store == REDIS and not there:
            findings.problem(
                ("routes", route.name, "cache", "store"), "needs a Redis.", "Give its address as `redis.url`."
            )


def caching(settings: Caching | None) -> dict[str, Any]:
    """The block in its full form, under the key of a route; nothing for a route that keeps nothing."""
    if settings is None:
        return {}
    return {
        "cache": {
            "enabled": True,
            "ttl_sec": settings.ttl_s,
            "max_entry_bytes": settings.max_entry_bytes,
            "shared_between_keys": settings.shared,
            "store": settings.store,
            "temperature_zero_only": settings.cold_only,
        }
    }
