"""The optimizations of a running node: who may say that candidates are guarded, and tables that can't be written."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimizer.guard import age_s
from optimizer.log.node import source_name
from optimizer.rollouts.records import Status
from optimizer.settings import RolloutPlan, Stage
from optimizer.table_file import TableReader
from proxy.control import publication as publishing

PLAN = RolloutPlan(stages=(Stage(30.0, 600.0), Stage(100.0)))
PARAMETERS = {"arms": ["small"], "baseline": "small", "policy": {"type": "fixed"}}


def report(node: Any) -> None:
    data = {"worker": 1, "table_version": 1, "routes": [], "guards": [], "stops": []}
    node.worker.append(f"s{time.monotonic_ns()}", "llm_optimizer.worker.stats.v1", data)


async def rollout(node: Any) -> Any:
    optimizing = node.core.learning.optimizing
    made = optimizing.controller.create("one", "manual", "chat", PARAMETERS, actor="tester")
    await optimizing.strategist.look_at(made)
    return await optimizing.controller.command(made.id, "deploy", actor="tester", plan=PLAN)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``full_disk("before")``: writing a table fails; ``"after"``: it fails when the workers can see it already."""
    write = publishing.write_table

    def fill(when: str) -> None:
        def refuse(path: Path, table: Any, *, order: Any) -> str:
            if when == "after":
                write(path, table, order=order)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(publishing, "write_table", write if when == "never" else refuse)

    return fill


@pytest.mark.parametrize("when", ["before", "after"])
async def test_traffic_that_can_not_be_taken_by_the_table_is_taken_by_the_guard(
    node, until, full_disk, when
) -> None:
    """At once, and until the table could be written; then with a version that no worker has seen."""
    report(node)
    await until(lambda: node.core.learning.optimizing.is_guarding)
    record = await rollout(node)
    await until(lambda: age_s(node.core.state.guard_file, time.time()) < 2)
    seen = node.core.learning.publication.version
    full_disk(when)
    await node.core.learning.optimizing.controller.command(record.id, "rollback", actor="tester")
    assert not node.core.state.guard_file.exists()
    assert not node.core.learning.optimizing.is_guarding
    await asyncio.sleep(1.2)
    assert not node.core.state.guard_file.exists()
    full_disk("never")
    report(node)
    await until(node.core.state.guard_file.exists)
    table = TableReader(node.core.state.table_file).poll()
    assert table is not None
    assert table.routes[0].candidate is None
    assert table.version > seen + (when == "after")


async def test_after_a_refused_reload_the_workers_get_the_old_configuration_again(
    node, until, full_disk
) -> None:
    """The disk fails after the new table was renamed into its place: it is refused, so it must not stay in use."""
    before = node.core.settings
    full_disk("after")
    text = node.path.read_text().replace("baseline: large", "baseline: small")
    node.path.write_text(text)
    status, _ = await node.post("/api/v1/config/reload")
    assert status == 422
    assert node.core.settings == before
    full_disk("never")
    reader = TableReader(node.core.state.table_file)

    def baseline() -> str:
        table = reader.poll()
        return table.routes[0].control.baseline if table is not None else ""

    os.utime(node.path)
    node.path.write_text(text.replace("baseline: small", "baseline: nope"))
    await until(lambda: baseline() == "large")


async def test_nobody_guards_while_the_reports_can_not_be_read(node, until) -> None:
    report(node)
    await until(lambda: node.core.learning.optimizing.is_guarding)
    broken = node.core.state.log_directory / source_name(1, 4000, "worker") / "00000001.jsonl"
    broken.mkdir(parents=True)
    await until(lambda: not node.core.learning.optimizing.is_guarding)
    broken.rmdir()
    report(node)
    await until(lambda: node.core.learning.optimizing.is_guarding)


async def test_a_clock_that_is_set_back_makes_no_old_look_a_fresh_one(node, until) -> None:
    report(node)
    optimizing = node.core.learning.optimizing
    await until(lambda: optimizing.is_guarding)
    optimizing.watched_at = time.time() + 3600.0
    node.runtime.tasks.down.clear()
    await node.runtime.tasks.cancel("rollout-watch")
    optimizing.watched_at = time.time() + 3600.0
    assert not optimizing.is_guarding


async def test_workers_that_say_nothing_are_not_watched(node, until) -> None:
    """Their reports may be lost on a full disk while they serve on."""
    report(node)
    optimizing = node.core.learning.optimizing
    await until(lambda: optimizing.is_guarding)
    optimizing.keeper.heard_at -= 60.0
    await asyncio.sleep(0.2)
    assert not optimizing.is_guarding
    report(node)
    await until(lambda: optimizing.is_guarding)


async def test_a_rollout_that_is_running_is_kept_by_a_restart(run_node, until) -> None:
    async with run_node() as first:
        record = await rollout(first)
    async with run_node() as second:
        await until(lambda: second.core.learning.optimizing.controller.knows_all)
        assert second.core.learning.optimizing.book.get(record.id).status is Status.RUNNING
