"""A sudden change on its way from the workers' log to whoever looks: log, admin API, metrics."""

from optimizer import events
from optimizer.log.reader import LogReader


async def test_an_alarm_is_seen_everywhere(node, until) -> None:
    """One arm becomes ten times slower: told once, with its arm, and nobody else is blamed."""
    core = node.core
    route = core.settings.routes[0]
    arm = route.arms[0]

    for number in range(120):
        node.worker.request(arm=arm.id, route=route.name, duration_ms=400.0 + number % 7)
    for number in range(40):
        node.worker.request(arm=arm.id, route=route.name, duration_ms=4000.0 + number % 7)
    await until(core.learning.drift.counts.total)

    status, answer = await node.get("/api/v1/arms")
    assert status == 200
    (row,) = [row for row in answer["arms"] if (row["route"], row["arm"]) == (route.name, arm.id)]
    (alarm,) = row["alarms"]
    assert alarm["signal"] == "latency"
    assert 5.0 < alarm["after"] / alarm["before"] < 15.0
    assert all(other["alarms"] == [] for other in answer["arms"] if other is not row)
    _, page = await node.get("/metrics")
    name = "llm_optimizer_drift_alarms_total"
    assert f'{name}{{arm="{arm.id}",route="{route.name}",signal="latency"}} 1.0' in page
    assert f'{name}{{arm="{arm.id}",route="{route.name}",signal="quality"}} 0.0' in page
    lines = [entry.line for entry in LogReader(core.state.log_directory).poll({}, 1 << 24).entries]
    assert sum(f'"{events.DRIFT}"'.encode() in line for line in lines) == 1


async def test_alarms_survive_a_restart(run_node, until) -> None:
    """Counted and shown by the next process as by this one."""
    async with run_node() as node:
        route = node.core.settings.routes[0]
        arm = route.arms[0]
        for number in range(120):
            node.worker.request(arm=arm.id, route=route.name, duration_ms=400.0 + number % 7)
        for number in range(40):
            node.worker.request(arm=arm.id, route=route.name, duration_ms=4000.0 + number % 7)
        await until(node.core.learning.drift.counts.total)
        found = node.core.learning.drift.alarms_of(route.name, arm.id)

    async with run_node() as node:
        assert node.core.learning.drift.alarms_of(route.name, arm.id) == found
        assert node.core.learning.drift.counts == {(route.name, arm.id, "latency"): 1}
