"""``/health/detailed``: what becomes degraded, and who is told the figures."""

from typing import Any

from optimizer.events import WORKER_STATS
from optimizer.lease_terms import Claim, Report


def stats(node: Any, **fields: Any) -> None:
    worker = node.worker.incarnation
    node.worker.append(f"stats-{len(fields)}", WORKER_STATS, {"worker": worker, **fields})


async def health(node: Any) -> Any:
    return (await node.get("/health/detailed"))[1]


async def test_a_breaker_that_is_not_closed_is_a_degraded_component(node: Any, until: Any) -> None:
    """The operator sees which; a stranger sees only that."""
    rows = [["sim", "small", "open", 2], ["sim", "large", "closed", 1]]
    stats(node, breakers=rows)

    async def shown() -> bool:
        return (await health(node))["components"]["breakers"] == "degraded"

    await until(shown)
    full = await health(node)
    async with node.session.get("http://optimizer/health/detailed") as response:
        public = await response.json()

    assert full["breakers"] == [{"upstream": "sim", "model": "small", "state": "open"}]
    assert full["status"] == public["status"] == "degraded"
    assert "sim" not in str(public)


async def test_breakers_that_closed_again_are_healthy(node: Any, until: Any) -> None:
    """The newest report of a worker counts."""
    stats(node, breakers=[["sim", "small", "half_open", 1]])
    stats(node, breakers=[["sim", "small", "closed", 1]], in_flight=0)

    async def closed() -> bool:
        found = await health(node)
        return "in_flight" in str(found["workers"]) and found["components"]["breakers"] == "healthy"

    await until(closed)
    assert (await health(node))["breakers"] == []


async def test_limits_that_can_not_be_stored_are_a_degraded_component(node: Any) -> None:
    """Budgets grant nothing then, which nobody should have to guess."""
    before = (await health(node))["components"]["limits"]
    # The disk's refusal, as sqlite reports it when its file is gone from under it.
    node.core.lease_store.close()
    now = int(node.core.now())
    claim = Claim("route:chat", "usd_day", now - now % 86_400, 1, 10_000, 0, 0, 5, 5)
    granted = node.core.leases.report(Report(7, 1, [claim]))
    found = await health(node)

    assert before == "healthy"
    assert granted == [None]
    assert found["components"]["limits"] == "degraded"
    assert found["limits"] == {"unstored_reports": 1}


async def test_deaths_of_numbered_tasks_are_one_series(node: Any) -> None:
    """Each reload that a signal asks for is a task of its own."""
    node.runtime.tasks.deaths.update({"reload-1": 1, "reload-27": 2, "config-watch": 1})

    text = (await node.get("/metrics"))[1]

    assert 'task_deaths_total{task="reload"} 3.0' in text
    assert 'task_deaths_total{task="config-watch"} 1.0' in text
    assert "reload-" not in text
