"""The optimizer process in one loop: reload, publishing, exactly-once totals, an orderly end."""

import os
import stat
import time

import orjson
import pytest

from optimizer.guard import age_s
from optimizer.log.reader import LogReader
from optimizer.table_file import TableReader


def logged(node, kind: str) -> list[dict]:
    batch = LogReader(node.core.state.log_directory).poll({}, max_bytes=1 << 24)
    return [event["data"] for _, event in batch.events() if event["type"] == kind]


async def test_the_first_table_is_on_disk_before_any_task(run_node) -> None:
    """``Core.start`` publishes; the event says which version and configuration."""
    async with run_node() as node:
        table = TableReader(node.core.state.table_file).poll()
        (published,) = logged(node, "llm_optimizer.table.published.v1")

    assert table is not None
    assert published["version"] == table.version == 1
    assert published["config_hash"] == table.config_hash


async def test_versions_grow_over_restarts(run_node) -> None:
    """A second process continues the count."""
    async with run_node():
        pass
    async with run_node() as node:
        assert node.core.learning.publication.version == 2


async def test_what_is_learned_reaches_the_table(node, until) -> None:
    """After feedback, the better and cheaper arm gets more; nothing is written while nothing is learned."""
    for arm, score in (("small", 1.0), ("large", 0.2)):
        for _ in range(60):
            request_id = node.worker.request(arm, cost_usd=0.001 if arm == "small" else 0.01)
            data = {
                "request_id": request_id,
                "metric": "quality",
                "value": score,
                "source": "user",
                "key": None,
            }
            node.worker.append(f"fb-{request_id}", "llm_optimizer.feedback.v1", data)
    reader = TableReader(node.core.state.table_file)

    def shares() -> dict[str, float]:
        table = reader.poll() or node.core.learning.publication.table
        side = table.routes[0].control
        return dict(zip([arm.id for arm in side.arms], side.selector.probabilities, strict=True))

    await until(lambda: shares()["small"] > 0.8)
    settled = node.core.learning.publication.version
    assert node.core.learning.publish_learned() is False
    assert node.core.learning.publication.version == settled


async def test_the_guard_is_renewed(node, until) -> None:
    """Workers see that somebody is watching, once they have said what there is to be watched."""
    report = {"worker": 1, "table_version": 1, "routes": [], "guards": [], "stops": []}
    node.worker.append("s1", "llm_optimizer.worker.stats.v1", report)
    await until(lambda: age_s(node.core.state.guard_file, time.time()) < 2)


async def test_a_good_edit_is_used_and_keeps_what_was_learned(node, until) -> None:
    """Saving the file is enough; an unchanged arm keeps its evidence, the event is logged once."""
    for _ in range(5):
        node.worker.request("small")
    await until(lambda: node.core.ingest.counts["events"] >= 6)
    before = node.core.learning.publication.version

    text = (
        node.path.read_text()
        .replace("arms: [small, large]", "arms: [small]")
        .replace("baseline: large", "baseline: small")
    )
    temporary = node.path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(node.path)
    await until(lambda: node.core.learning.publication.version > before)

    _, arms = await node.get("/api/v1/arms")
    assert [(row["arm"], row["pulls"]) for row in arms["arms"]] == [("small", 5)]
    (event,) = logged(node, "llm_optimizer.config.reloaded.v1")
    assert (event["result"], event["trigger"]) == ("applied", "file")


async def test_a_bad_edit_changes_nothing_and_says_everything(node) -> None:
    """Table, settings and export stay; the answer lists each problem; the metric shows it."""
    before = node.core.configuration.loaded
    version = node.core.learning.publication.version
    node.path.write_text(node.path.read_text().replace("baseline: large", "baseline: nope") + "servr: {}\n")

    status, document = await node.post("/api/v1/config/reload")
    problems = document["error"]["details"]["problems"]

    assert status == 422
    assert {problem["path"] for problem in problems} >= {"servr", "routes.chat.baseline"}
    assert node.core.configuration.loaded is before
    assert node.core.learning.publication.version == version
    _, text = await node.get("/metrics")
    assert "llm_optimizer_config_last_reload_successful 0.0" in text
    _, health = await node.get("/health/detailed")
    assert any("servr" in problem for problem in health["configuration"]["problems"])


async def test_reload_names_what_needs_a_restart(node) -> None:
    """server.host, port and workers are bound by the workers at their start."""
    node.path.write_text(node.path.read_text() + "server: {port: 9999, workers: 3}\n")

    status, document = await node.post("/api/v1/config/reload")

    assert status == 200
    assert document["result"] == "applied"
    assert document["needs_restart"] == ["server.port", "server.workers"]


async def test_an_asked_reload_of_the_same_file_writes_the_table_again(node) -> None:
    """So that workers look a key up that has changed behind its reference; no event, same generation."""
    status, document = await node.post("/api/v1/config/reload")

    assert (status, document["result"]) == (200, "unchanged")
    assert document["table_version"] == 2
    assert logged(node, "llm_optimizer.config.reloaded.v1") == []


async def test_literal_keys_go_to_the_supervisor_before_the_table_names_them(node) -> None:
    """The workers hold the key when the table arrives; it is in no file of the state directory."""
    node.path.write_text(
        node.path.read_text().replace(
            'base_url: "http://127.0.0.1:9/v1"',
            'base_url: "http://127.0.0.1:9/v1", api_key: "planted-secret-7"',
        )
    )

    _, document = await node.post("/api/v1/config/reload")

    assert document["result"] == "applied"
    assert list(node.sent[0]["secrets"].values()) == ["planted-secret-7"]
    for path in node.core.state.path.rglob("*"):
        if path.is_file():
            assert b"planted-secret-7" not in path.read_bytes(), path


async def test_good_configurations_are_kept_private_and_few(node) -> None:
    """The newest ten, 0600, numbered by generation."""
    for number in range(12):
        node.path.write_text(node.path.read_text().replace("min_pulls: ", "min_pulls: 1"))
        result = await node.runtime.reload("api")
        assert result.generation == number + 2
        node.path.write_text(node.path.read_text().replace("min_pulls: 1", "min_pulls: 1"))

    files = sorted(node.core.state.config_history.iterdir())
    assert len(files) == 10
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_totals_survive_a_restart_and_count_once(run_node, until) -> None:
    """Counters, histograms and savings come back with the cursor."""
    async with run_node() as node:
        for _ in range(7):
            node.worker.request("small")
        await until(lambda: node.core.ingest.counts["events"] >= 8)
    async with run_node() as node:
        node.worker.request("small")
        await until(
            lambda: node.core.observer.arms["chat", "small", "small"].requests["completed", "2xx"] == 8
        )
        _, text = await node.get("/metrics")

    labels = 'arm="small",model="small",route="chat"'
    assert f"llm_optimizer_cost_total{{{labels}}} 0.016" in text
    assert f"llm_optimizer_latency_seconds_count{{{labels}}} 8.0" in text


async def test_the_end_folds_what_is_left(run_node) -> None:
    """Events that were written while stopping are learned before the process ends."""
    async with run_node() as node:
        node.worker.request("small")
        await node.runtime.stop()
        assert node.core.observer.arms["chat", "small", "small"].requests["completed", "2xx"] == 1
        node.runtime.stop = _nothing


async def _nothing() -> None:
    """Stopped already."""


async def test_the_socket_and_directory_are_private(node) -> None:
    """The admin socket lives below a directory that only the owner may enter."""
    state = node.core.state

    assert stat.S_ISSOCK(os.stat(state.optimizer_socket).st_mode)
    assert stat.S_IMODE(state.run_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


async def test_kafka_is_started_and_stopped_by_the_file(node, until) -> None:
    """Shipping follows the configuration; without a broker everything else goes on."""
    node.path.write_text(
        node.path.read_text() + "kafka: {brokers: ['127.0.0.1:9'], request_timeout_ms: 200}\n"
    )
    await node.post("/api/v1/config/reload")
    _, text = await node.get("/metrics")
    assert "llm_optimizer_kafka_up 0.0" in text
    assert [sink.name for sink in node.runtime.kafka.sinks] == ["kafka"]

    node.path.write_text(node.path.read_text().partition("kafka:")[0])
    await node.post("/api/v1/config/reload")

    assert not node.runtime.kafka.sinks
    _, text = await node.get("/metrics")
    assert "llm_optimizer_kafka" not in text


@pytest.mark.parametrize(
    "line", [b"{}\n", b"not json\n", b'{"type": "llm_optimizer.request.v1", "data": 7}\n']
)
async def test_bad_lines_in_the_log_hurt_nobody(node, until, line) -> None:
    """They are counted; the next event is learned."""
    node.worker.writer.append(line)
    node.worker.append("x", "llm_optimizer.request.v1", {"arm": ["a"], "route": {}, "duration_ms": "soon"})
    node.worker.request("small")

    await until(lambda: node.core.observer.arms["chat", "small", "small"].requests["completed", "2xx"] == 1)

    assert orjson.loads(orjson.dumps(node.runtime.tasks.deaths)) == {}
