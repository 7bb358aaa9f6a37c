"""Parts that die under a running rollout: optimizer, worker, database. Requests flow on, nothing is forgotten."""

import asyncio
import os
import signal
import time
from collections import Counter
from typing import Any

import pytest

from tests.integration.rollouts.conftest import Crowd, until_asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LONG = [{"percentage": 30, "duration_sec": 600}, {"percentage": 60, "duration_sec": 600}, {"percentage": 100}]
LEASE = "deployment: {guard_lease_sec: 2}"


async def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def transitions(product: Any, id_: str) -> list[dict[str, Any]]:
    events = product.events("llm_optimizer.optimization.transition.v1")
    return [event["data"] for event in events if event["data"]["optimization"] == id_]


async def test_without_an_optimizer_the_candidate_gets_nothing_after_the_lease(start, faulty):
    """SIGSTOP: nothing restarts it, nobody notices but the workers, by the age of the guard file."""
    product = await start(more=LEASE)
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 30)
        optimizer = product.pids()["optimizer"]
        os.kill(optimizer, signal.SIGSTOP)
        try:
            await asyncio.sleep(3.5)
            since = time.monotonic()
            await until_asked(crowd, "control", crowd.sides()["control"] + 100)
            assert crowd.sides(since)["candidate"] == 0
        finally:
            os.kill(optimizer, signal.SIGCONT)
        # Guarded again, the candidate has its share again, and the record never changed.
        await until_asked(crowd, "candidate", crowd.sides()["candidate"] + 20)
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}
    lost = [e for e in product.events() if e["data"].get("guard_lost")]
    assert lost
    assert {event["data"]["side"] for event in lost} == {"control"}


async def test_a_killed_optimizer_takes_the_rollout_up_again(start, faulty):
    product = await start(more=LEASE)
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        first = await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 30)
        for _ in range(3):
            os.kill(product.pids()["optimizer"], signal.SIGKILL)
            await asyncio.sleep(0.3)

            async def answers() -> bool:
                return (await admin.http.get(f"/api/v1/optimize/{id_}")).status_code == 200

            await until(answers)
        again = await admin.get(f"/api/v1/optimize/{id_}")
        assert again["status"] == "running"
        assert again["rollout"]["id"] == first["rollout"]["id"]
        faulty.fail["new"] = 1.0
        await admin.until(id_, "rolled_back")
        rolled_back = time.monotonic()
        await until_asked(crowd, "control", crowd.sides()["control"] + 100)
    assert crowd.failed == []
    assert crowd.sides(rolled_back + 0.5)["candidate"] == 0
    assert [row["verb"] for row in transitions(product, id_)][-1] == "rollback"
    told = Counter(row["revision"] for row in transitions(product, id_))
    assert set(told.values()) == {1}, "no transition twice, none under the same number"


async def test_a_killed_worker_loses_nothing_but_its_own_requests(start, faulty):
    product = await start()
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 30)
        before = product.pids()["workers"]
        os.kill(before[0], signal.SIGKILL)
        await until_asked(crowd, "candidate", crowd.sides()["candidate"] + 50)
        faulty.fail["new"] = 1.0
        await admin.until(id_, "rolled_back")
    # Eight people had at most one request each at the worker that was killed; it refuses connections for a moment.
    assert len([word for word in crowd.failed if "ConnectError" not in word]) <= 8
    assert {answer.status for answer in crowd.answers if answer.side == "control"} == {200}


@pytest.mark.parametrize("how", ["kill", "stop_answering"])
async def test_without_its_database_a_rollout_stays_guarded(start, faulty, postgres, how):
    """A person can't promote, anybody can take traffic back at once, and afterwards the database knows everything."""
    url = postgres.url(postgres.create())
    product = await start(more=f'database: {{url: "{url}", timeout_sec: 3}}')
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        await until_asked(crowd, "candidate", 20)
        getattr(postgres, how)()
        try:
            refused = await admin.http.post(f"/api/v1/optimize/{id_}/promote", json={})
            assert refused.status_code == 503, refused.text
            assert (await admin.get(f"/api/v1/optimize/{id_}"))["status"] == "running"
            before = time.monotonic()
            rolled = await admin.post(f"/api/v1/optimize/{id_}/rollback", {"reason": "the database is away"})
            took = time.monotonic() - before
            assert rolled["status"] == "rolled_back"
            assert took < 1.5, "taking traffic waits for no database"
            since = time.monotonic() + 0.5
            await until_asked(crowd, "control", crowd.sides()["control"] + 150)
            assert crowd.sides(since)["candidate"] == 0
        finally:
            postgres.resume() if how == "stop_answering" else postgres.start()

        async def stored() -> bool:
            rows = postgres.execute("SELECT status FROM optimizations", url.rpartition("/")[2])
            audit = postgres.execute("SELECT action FROM audit", url.rpartition("/")[2])
            return rows == [("rolled_back",)] and ("optimization.rollback",) in audit

        await until(stored, 60)
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}


async def test_a_product_that_starts_without_its_database_goes_on_with_what_was_deployed(
    start, faulty, postgres
):
    url = postgres.url(postgres.create())
    more = f'database: {{url: "{url}", timeout_sec: 3}}'
    product = await start(more=more)
    admin = product.admin
    id_ = await admin.create(None)
    await admin.until(id_, "deployed")
    product.signal(signal.SIGTERM)
    assert await product.ended() == 0
    postgres.kill()
    try:
        product = await start(more=more)
        admin = product.admin
        async with Crowd(product.url, people=2).asking() as crowd:
            await until_asked(crowd, "control", 20)
        assert {answer.arm for answer in crowd.answers} == {"new"}
        assert (await admin.get(f"/api/v1/optimize/{id_}"))["status"] == "deployed"
        health = (await admin.http.get("/health/detailed")).json()
        assert health["components"]["database"] == "degraded"
    finally:
        postgres.start()
