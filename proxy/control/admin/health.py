"""``/health/detailed`` and ``/metrics``: states for everybody, numbers for the operator."""

import asyncio
import datetime
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from proxy.control.admin.endpoint import Call, answer
from proxy.control.metrics import exposition
from proxy.control.metrics.faults import breaker_rows
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
    kafka = facts.kafka
    tripped = _tripped(fresh.values())
    components = {
        "optimizer": DEGRADED if facts.tasks_down else HEALTHY,
        "workers": HEALTHY if fresh else DEGRADED,
        "learning": HEALTHY if facts.ingest_lag_s < _LAG_S else DEGRADED,
        "event_log": DEGRADED if core.journal.writer.lost else HEALTHY,
        "breakers": DEGRADED if tripped else HEALTHY,
        "limits": DEGRADED if facts.limits.unstored else HEALTHY,
        "database": HEALTHY if facts.rollouts.store_up else DEGRADED,
        "guards": HEALTHY if core.learning.optimizing.is_guarding else DEGRADED,
        "configuration": HEALTHY if facts.config.last_successful else DEGRADED,
        "kafka": "off" if kafka is None else HEALTHY if kafka["up"] else DEGRADED,
    }
    now = datetime.datetime.fromtimestamp(facts.now, datetime.UTC)
    document: dict[str, Any] = {
        "status": DEGRADED if DEGRADED in components.values() else HEALTHY,
        "components": components,
        "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if call.admin:
        document |= {
            "version": services.version,
            "uptime_seconds": round(facts.now - services.started, 3),
            "configuration": {
                "hash": facts.config.config_hash,
                "generation": facts.config.generation,
                "last_reload_successful": facts.config.last_successful,
                "notes": [str(note) for note in core.configuration.loaded.notes],
            },
            "table": {"version": facts.table_version, "published_at": facts.table_published_at},
            "learning": {
                "lag_seconds": round(facts.ingest_lag_s, 3),
                "lag_bytes": facts.ingest_lag_bytes,
                "events": facts.ingest_events,
            },
            "event_log": {"bytes": facts.log_bytes, "lost": dict(facts.lost)},
            "breakers": tripped,
            "limits": {"unstored_reports": facts.limits.unstored},
            "database": {
                "error": core.learning.optimizing.controller.store_error,
                "pending_rows": facts.rollouts.pending_rows,
            },
            "workers": {name: _worker(data) for name, data in fresh.items()},
            "task_deaths": dict(facts.task_deaths),
            "kafka": {**(kafka or {}), **(facts.kafka_counters or {})},
        }
    return answer(document)


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
