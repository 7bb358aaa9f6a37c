"""Rollouts of the whole product over real sockets: promoted, rolled back, seen by the CLI, kept over restarts."""

import asyncio
import signal
import sys
import time

import httpx
import pytest

from tests.integration.rollouts.conftest import Admin, Crowd, until_asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

QUICK = [
    {"percentage": 20, "duration_sec": 1, "min_samples": 20},
    {"percentage": 50, "duration_sec": 1, "min_samples": 20},
    {"percentage": 100},
]
LONG = [{"percentage": 10, "duration_sec": 600}, {"percentage": 100}]


async def watch(product, id_: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli", "optimize", "status", id_, "--watch", "--state-dir", str(product.state),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def table_share(admin: Admin) -> float:
    route = (await admin.get("/api/v1/routes"))["routes"][0]
    return float(route["candidate"]["percentage"]) if "candidate" in route else 0.0


async def test_a_good_candidate_goes_through_its_stages_to_all_traffic(start, faulty):
    product = await start()
    admin = product.admin
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(QUICK, interval_sec=0.5)
        record = await admin.until(id_, "deployed", seconds=30)
        await asyncio.sleep(0.6)
        since = time.monotonic()
        await until_asked(crowd, "control", crowd.sides()["control"] + 50)
    assert record["metrics"]["deployment_percentage"] == 100.0
    assert crowd.failed == []
    assert {answer.arm for answer in crowd.answers if answer.begun > since} == {"new"}
    events = product.events("llm_optimizer.optimization.transition.v1")
    verbs = [event["data"]["verb"] for event in events if event["data"]["optimization"] == id_]
    assert verbs == ["create", "propose", "deploy", "advance", "complete"]


async def test_a_failing_candidate_is_back_at_zero_within_two_seconds(start, faulty):
    """Every request of the candidate fails from some moment on: hard stop, seen by the CLI, all workers at 0 %."""
    product = await start()
    admin = product.admin
    async with Crowd(product.url, people=16).asking() as crowd:
        id_ = await admin.create(LONG)
        await admin.until(id_, "running")
        watching = await watch(product, id_)
        await until_asked(crowd, "candidate", 20)
        before = faulty.asked["new"]
        faulty.fail["new"] = 1.0
        # The deciding request is one of the first few that fail; counting from the first is the stricter way.
        while faulty.asked["new"] == before:
            await asyncio.sleep(0.005)
        decided = time.monotonic()
        record = await admin.until(id_, "rolled_back")
        rolled_back = time.monotonic()
        status = await asyncio.wait_for(watching.wait(), 10)
        await until_asked(crowd, "control", crowd.sides()["control"] + 200)
    assert rolled_back - decided < 2.0, record
    assert status == 3
    assert record["reason"] in ("hard_stop", "guard:error")
    assert await table_share(admin) == 0.0
    late = [
        answer for answer in crowd.answers if answer.begun > rolled_back + 0.5 and answer.side == "candidate"
    ]
    assert late == []
    assert [
        answer.status for answer in crowd.answers if answer.side == "control" and answer.status != 200
    ] == []


async def test_ten_percent_errors_are_found_by_the_guard(start, faulty):
    faulty.fail = {"old": 0.02, "new": 0.10}
    product = await start()
    admin = product.admin
    async with Crowd(product.url, people=16, pause_s=0.005).asking():
        id_ = await admin.create([{"percentage": 10, "duration_sec": 600}, {"percentage": 100}])
        record = await admin.until(id_, "rolled_back", seconds=60)
    assert record["reason"].startswith(("guard:error", "hard_stop"))
    assert record["status"] == "rolled_back"


async def test_a_person_pauses_resumes_promotes_and_rolls_back(start, faulty):
    product = await start()
    admin = product.admin
    stages = [
        {"percentage": 12.5, "duration_sec": 600},
        {"percentage": 50, "duration_sec": 600},
        {"percentage": 100},
    ]
    async with Crowd(product.url).asking() as crowd:
        id_ = await admin.create(stages)
        await admin.until(id_, "running")
        assert await table_share(admin) == 12.5
        assert (await admin.post(f"/api/v1/optimize/{id_}/pause"))["status"] == "paused"
        assert await table_share(admin) == 12.5
        assert (await admin.post(f"/api/v1/optimize/{id_}/resume"))["status"] == "running"
        assert (await admin.post(f"/api/v1/optimize/{id_}/promote"))["status"] == "running"
        assert await table_share(admin) == 50.0
        assert (await admin.post(f"/api/v1/optimize/{id_}/promote", {"full": True}))["status"] == "deployed"
        assert await table_share(admin) == 0.0
        rolled = await admin.post(f"/api/v1/optimize/{id_}/rollback")
        assert rolled["status"] == "rolled_back"
        assert rolled["rolled_back_at"]
        since = time.monotonic() + 0.6
        await until_asked(crowd, "control", crowd.sides()["control"] + 100)
    assert {answer.arm for answer in crowd.answers if answer.begun > since} <= {"old"}
    audit = await admin.get("/api/v1/audit?limit=50")
    actions = [row["action"] for row in audit["audit"] if row["target"] == id_]
    assert {"pause", "resume", "promote", "rollback"} <= {action.rpartition(".")[2] for action in actions}


async def test_abort_is_latched_and_retry_draws_anew(start, faulty):
    product = await start()
    admin = product.admin
    id_ = await admin.create(LONG)
    first = await admin.until(id_, "running")
    assert (await admin.post(f"/api/v1/optimize/{id_}/abort"))["status"] == "aborted"
    refused = await admin.http.post(f"/api/v1/optimize/{id_}/resume", json={})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "CONFLICT"
    assert await table_share(admin) == 0.0
    again = await admin.post(f"/api/v1/optimize/{id_}/retry")
    assert again["status"] == "running"
    assert again["rollout"]["id"] != first["rollout"]["id"]


async def test_a_second_rollout_on_the_route_is_refused_by_name(start, faulty):
    product = await start()
    admin = product.admin
    id_ = await admin.create(LONG)
    await admin.until(id_, "running")
    second = await admin.post("/api/v1/optimize", {"name": "b", "strategy": "manual", "route": "chat",
                                                  "parameters": {"arms": ["old"], "baseline": "old"}})  # fmt: skip
    await admin.until(second["id"], "proposed")
    refused = await admin.http.post(f"/api/v1/optimize/{second['id']}/deploy", json={})
    assert refused.status_code == 409
    assert id_ in refused.text


async def test_everything_is_still_there_after_a_restart(start, faulty):
    product = await start()
    admin = product.admin
    deployed = await admin.create(None)
    await admin.until(deployed, "deployed")
    product.signal(signal.SIGTERM)
    assert await product.ended() == 0
    product = await start()
    admin = product.admin
    assert (await admin.get(f"/api/v1/optimize/{deployed}"))["status"] == "deployed"
    async with Crowd(product.url, people=2).asking() as crowd:
        await until_asked(crowd, "control", 30)
    assert {answer.arm for answer in crowd.answers} == {"new"}


async def test_the_file_wins_over_an_overlay_and_the_reload_says_so(start, faulty, tmp_path):
    product = await start()
    admin = product.admin
    id_ = await admin.create(LONG)
    await admin.until(id_, "running")
    file = tmp_path / "config.yaml"
    exported = (await admin.http.get("/api/v1/config/export")).text
    assert "chat" in exported
    # An unrelated edit leaves the rollout alone.
    file.write_text(file.read_text() + "\nmetrics: {custom: [joy]}\n")
    reloaded = await admin.post("/api/v1/config/reload")
    assert reloaded["superseded"] == []
    assert (await admin.get(f"/api/v1/optimize/{id_}"))["status"] == "running"
    # The operator edits what it stands on.
    file.write_text(file.read_text().replace("arms: [old, new]", "arms: [old]"))
    reloaded = await admin.post("/api/v1/config/reload")
    record = await admin.until(id_, "superseded")
    assert record["reason"] in ("file_changed", "arm_vanished")
    assert await table_share(admin) == 0.0


async def test_the_user_guides_lines_work_as_written(start, faulty):
    """Its curl and CLI lines against a server with the built-in answer for a route that has no evidence yet."""
    product = await start()
    async with httpx.AsyncClient(base_url=product.url) as http:
        made = await http.post(
            "/api/v1/optimize",
            content='{"name": "Cost Optimization", "strategy": "cost_reduction", '
            '"parameters": {"target_reduction": "0.40"}}',
            headers={"Content-Type": "application/json"},
        )
        assert made.status_code == 201, made.text
        id_ = made.json()["id"]
        assert (await http.get(f"/api/v1/optimize/{id_}")).json()["strategy"] == "cost_reduction"
        listed = (await http.get("/api/v1/optimize")).json()
        assert [row["id"] for row in listed["optimizations"]] == [id_]

    async def cli(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.cli", *arguments, "--state-dir", str(product.state),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, output.decode()
        return output.decode()

    created = await cli("optimize", "create", "--name", "Cost Optimization", "--strategy", "cost_reduction")
    second = next(word for word in created.split() if word.startswith("opt_")).strip(".,:")
    assert second in await cli("optimize", "list")
    assert "cost_reduction" in await cli("optimize", "status", second)
    await cli("optimize", "deploy", second)
    await cli("optimize", "rollback", second)
    assert "rolled_back" in await cli("optimize", "status", second, "-o", "json")
