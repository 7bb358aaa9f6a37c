"""Real workers and a real optimizer: who guards, who is told, and what a restart keeps."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest

from optimizer.log.node import source_name
from tests.integration.rollouts.conftest import MANUAL, Crowd, until_asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LONG = [{"percentage": 30, "duration_sec": 600}, {"percentage": 60, "duration_sec": 600}, {"percentage": 100}]
LEASE = "deployment: {guard_lease_sec: 2}"


async def kill(product: Any) -> None:
    """Kill the optimizer and wait until its successor has read its database."""
    old = product.pids()["optimizer"]
    os.kill(old, signal.SIGKILL)
    end = time.monotonic() + 20.0
    while True:
        assert time.monotonic() < end
        with suppress(httpx.HTTPError):
            reply = await product.admin.http.get("/api/v1/optimize/opt_unknown")
            if product.pids()["optimizer"] != old and reply.status_code == 404:
                return
        await asyncio.sleep(0.05)


async def test_a_table_that_can_not_be_written_takes_traffic_all_the_same(start, faulty):
    """Within half a second, by the guard; and when the disk has room again, the table says so too."""
    product = await start(more="deployment: {guard_lease_sec: 30}")
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 20)
        in_the_way = product.state / "table" / f".table.json.{product.pids()['optimizer']}.tmp"
        in_the_way.mkdir()
        rolled = await admin.post(f"/api/v1/optimize/{id_}/rollback")
        taken = time.monotonic()
        assert rolled["status"] == "rolled_back"
        await until_asked(crowd, "control", crowd.sides()["control"] + 300)
        assert crowd.sides(taken + 0.5)["candidate"] == 0
        assert not (product.state / "run" / "guard").exists()
        in_the_way.rmdir()
        end = time.monotonic() + 10.0
        while not (product.state / "run" / "guard").exists():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        await until_asked(crowd, "control", crowd.sides()["control"] + 100)
        assert crowd.sides(taken + 0.5)["candidate"] == 0
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}


async def test_reports_that_can_not_be_read_end_the_candidates_traffic_with_the_lease(start, faulty):
    product = await start(more=LEASE)
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 20)
        broken = product.state / "log" / source_name(1, 4000, "worker") / "00000001.jsonl"
        broken.mkdir(parents=True)
        # The file's age at that moment, the look's patience, the lease, and a look of the worker.
        gone = time.monotonic() + 1.0 + 3.0 + 2.0 + 0.5
        while time.monotonic() < gone:
            await asyncio.sleep(0.05)
        await until_asked(crowd, "control", crowd.sides()["control"] + 150)
        assert crowd.sides(gone)["candidate"] == 0
        broken.rmdir()
        await until_asked(crowd, "candidate", crowd.sides()["candidate"] + 10)
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}


async def test_an_optimizer_that_resumes_on_a_broken_file_keeps_what_is_deployed(start, faulty):
    """It goes on with the kept copy of the last good file, under which overlays fit as before."""
    product = await start(more=LEASE)
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        first = await admin.create(None)
        await admin.until(first, "deployed")
        config = product.state.parent / "config.yaml"
        good = config.read_text()
        config.write_text(good + "\nservr: {}\n")
        for _ in range(2):
            await kill(product)
            assert (await admin.get(f"/api/v1/optimize/{first}"))["status"] == "deployed"
        since = time.monotonic()
        await until_asked(crowd, "control", crowd.sides()["control"] + 100)
        assert {answer.arm for answer in crowd.answers if answer.begun > since} == {"new"}
        config.write_text(good)
        await asyncio.sleep(1.5)
        assert (await admin.get(f"/api/v1/optimize/{first}"))["status"] == "deployed"
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}


@pytest.mark.long
async def test_no_evidence_is_mixed_by_a_restart_at_any_transition(start, faulty):
    """Killed after each step: no stage's guards ever count more requests than were answered in that stage."""
    product = await start()
    admin = product.admin
    async with Crowd(product.url, people=4).asking() as crowd:
        made = await admin.post("/api/v1/optimize", MANUAL)
        id_ = made["id"]
        await kill(product)
        await admin.until(id_, "proposed")
        await kill(product)
        for verb, status in (
            ("deploy", "running"),
            ("pause", "paused"),
            ("resume", "running"),
            ("promote", "running"),
            ("rollback", "rolled_back"),
            ("retry", "running"),
            ("abort", "aborted"),
            ("retry", "running"),
        ):
            begins = verb in ("deploy", "promote", "retry")
            if begins:
                since = time.monotonic()
            await admin.post(
                f"/api/v1/optimize/{id_}/{verb}", {"canary": {"stages": LONG}} if verb == "deploy" else {}
            )
            await kill(product)
            record = await admin.get(f"/api/v1/optimize/{id_}")
            assert record["status"] == status, verb
            if status not in ("running", "paused"):
                continue
            await until_asked(crowd, "candidate", crowd.sides()["candidate"] + 15)
            await asyncio.sleep(1.0)
            counted = await samples(admin, id_)
            assert counted[1] > 0
            # A worker's report is at most 0.25 s away, a new table 0.1 s.
            asked = [one for one in crowd.answers if one.at >= since]
            assert sum(counted) <= len(asked), (verb, counted, len(asked))
            assert counted[1] <= sum(one.side == "candidate" for one in asked)
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}


async def samples(admin: Any, id_: str) -> tuple[int, int]:
    """How many requests of control and candidate the error guard has seen in the present stage."""
    record = await admin.get(f"/api/v1/optimize/{id_}")
    guard = record["measured"]["guards"]["error"]
    return int(guard["control_samples"]), int(guard["candidate_samples"])
