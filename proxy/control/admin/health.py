"""``/health/detailed`` and ``/metrics``: states for everybody, numbers for the operator."""

import asyncio
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from optimizer.cluster.sharding import listed
from optimizer.log.node import StateDirectory
from proxy.control.admin.endpoint import Call, answer
from proxy.control.cluster.facts import ENGINES, ClusterFacts, EngineFacts
from proxy.control.metrics import exposition
from proxy.control.metrics.exposition import Facts
from proxy.control.metrics.faults import breaker_rows
from proxy.control.services import Services
from proxy.control.tracing import TraceFacts
from proxy.resilience.breaker import CLOSED

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"

_LAG_S: Final = 30.0
_WORKER_FRESH_S: Final = 6.0


async def metrics(call: Call) -> web.StreamResponse:
    """The Prometheus exposition."""
    services = call.services
    families = exposition.collect(services.core.observer, services.facts())
    # Thousands of lines of text take tens of milliseconds, which the loop has better uses for.
    text = await asyncio.to_thread(exposition.render, families)
    return web.Response(body=text, headers={"Content-Type": exposition.CONTENT_TYPE})


async def detailed(call: Call) -> web.StreamResponse:
    """States of all components; an operator also sees figures."""
    services = call.services
    core = services.core
    facts = services.facts()
    fresh = {
        str(worker): seen.data
        for worker, seen in core.observer.workers.items()
        if facts.now - seen.at <= _WORKER_FRESH_S
    }
    tripped, fleeting, unowned = _tripped(fresh.values()), _fleeting(core.state), _unowned(services)
    components = _components(services, facts, alive=bool(fresh), tripped=bool(tripped))
    if fleeting:
        components["state_directory"] = DEGRADED
    if facts.cluster is not None:
        components |= _of_cluster(facts.cluster, components["kafka"], unowned)
    now = datetime.datetime.fromtimestamp(facts.now, datetime.UTC)
    document: dict[str, Any] = {
        "status": DEGRADED if DEGRADED in components.values() else HEALTHY,
        "components": components,
        "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if call.admin:
        document |= _figures(services, facts)
        document |= {"breakers": tripped, "workers": {name: _worker(data) for name, data in fresh.items()}}
        if fleeting:
            document["state_directory"] = {"error": fleeting}
        if facts.cluster is not None:
            document |= {
                "engines": {name: asdict(engine) for name, engine in facts.cluster.engines.items()},
                "ownership": _ownership(facts.cluster, unowned),
            }
    return answer(document)


def _components(services: Services, facts: Facts, *, alive: bool, tripped: bool) -> dict[str, str]:
    """The state of each part of the node; ``alive``: a worker reports, ``tripped``: a breaker is not closed."""
    core, kafka = services.core, facts.kafka
    return {
        "optimizer": DEGRADED if facts.tasks_down else HEALTHY,
        "workers": HEALTHY if alive else DEGRADED,
        "learning": HEALTHY if facts.ingest_lag_s < _LAG_S else DEGRADED,
        "event_log": DEGRADED if core.journal.writer.lost else HEALTHY,
        "breakers": DEGRADED if tripped else HEALTHY,
        "limits": DEGRADED if facts.limits.unstored else HEALTHY,
        "database": HEALTHY if facts.rollouts.store_up else DEGRADED,
        "guards": HEALTHY if core.learners.is_guarding else DEGRADED,
        "configuration": HEALTHY if facts.config.last_successful else DEGRADED,
        "kafka": "off" if kafka is None else HEALTHY if kafka["up"] else DEGRADED,
        "tracing": "off" if facts.traces is None else HEALTHY if facts.traces.up else DEGRADED,
    }


def _figures(services: Services, facts: Facts) -> dict[str, Any]:
    """What operators see besides states."""
    return {
        "version": services.version,
        "uptime_seconds": round(facts.now - services.started, 3),
        "configuration": {
            "hash": facts.config.config_hash,
            "generation": facts.config.generation,
            "last_reload_successful": facts.config.last_successful,
            "problems": [str(problem) for problem in services.core.configuration.problems],
            "notes": [str(note) for note in services.core.configuration.loaded.notes],
        },
        "table": {"version": facts.table_version, "published_at": facts.table_published_at},
        "learning": {
            "lag_seconds": round(facts.ingest_lag_s, 3),
            "lag_bytes": facts.ingest_lag_bytes,
            "events": facts.ingest_events,
        },
        "event_log": {"bytes": facts.log_bytes, "lost": dict(facts.lost)},
        "limits": {"unstored_reports": facts.limits.unstored},
        "database": {"error": _store_error(services), "pending_rows": facts.rollouts.pending_rows},
        "task_deaths": dict(facts.task_deaths),
        "kafka": {**(facts.kafka or {}), **(facts.kafka_counters or {}), **_error(facts.kafka_error)},
        "tracing": _tracing(facts.traces),
    }


def _tracing(facts: TraceFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    figures = {"lag_bytes": facts.lag_bytes, "delivered": facts.delivered, "lost": dict(facts.lost)}
    return figures | _error(facts.error)


def _error(text: str) -> dict[str, str]:
    return {"error": text} if text else {}


def _fleeting(state: StateDirectory) -> str:
    """Why everything is forgotten with the next start; empty for a state directory on a disk."""
    try:
        reason = state.ephemeral_file.read_text("utf-8").strip()
    except OSError:
        return ""
    return f"in memory only, a restart forgets everything: {reason[:500]}"


def _of_cluster(facts: ClusterFacts, shipping: str, unowned: Mapping[int, str]) -> dict[str, str]:
    """The components that only a cluster has. Kafka is healthy when events are shipped and the group answers."""
    found = {
        name: DEGRADED if facts.engines.get(name, EngineFacts()).up is False else HEALTHY for name in ENGINES
    }
    if shipping == DEGRADED:
        found["kafka"] = DEGRADED
    return found | {"ownership": DEGRADED if facts.waiting or unowned or not facts.shards else HEALTHY}


def _ownership(facts: ClusterFacts, unowned: Mapping[int, str]) -> dict[str, Any]:
    """Who learns what, and why somebody does not."""
    reasons = {**unowned, **facts.waiting}
    by_reason: dict[str, list[int]] = {}
    for shard, why in sorted(reasons.items()):
        by_reason.setdefault(why, []).append(shard)
    error = "; ".join(f"shards {listed(shards)}: {why}" for why, shards in by_reason.items())
    return {
        "owns": sorted(shard.shard for shard in facts.owned),
        "shards": facts.shards,
        "waiting": {str(shard): why for shard, why in sorted(reasons.items())},
        "error": error if facts.shards else "how many shards there are is not known yet",
    }


def _unowned(services: Services) -> dict[int, str]:
    """The shards that nobody learns, and why."""
    places = services.peers.places() if services.peers is not None else ()
    return {
        place.shard: place.why or "it has no owner"
        for place in places
        if place.peer is None and not place.is_here
    }


def _store_error(services: Services) -> str:
    """What the database said last; empty while it answers."""
    controllers = (one.optimizing.controller for one in services.core.learners.all())
    return next((error for one in controllers if (error := one.store_error)), "")


def _tripped(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Breakers that are not closed, in the states in which workers have them."""
    rows = {
        (upstream, model, state)
        for report in reports
        for upstream, model, state, _ in breaker_rows(report.get("breakers"))
        if state != CLOSED
    }
    return [{"upstream": upstream, "model": model, "state": state} for upstream, model, state in sorted(rows)]


def _worker(data: Any) -> dict[str, Any]:
    shown = ("rss_bytes", "in_flight", "connections", "loop_lag_ms", "table_version", "upstreams", "uptime_s")
    return {name: data[name] for name in shown if name in data}
