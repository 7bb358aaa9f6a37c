"""Optimizations over the real admin socket: made, listed, moved, refused, and what the audit keeps of it."""

import asyncio
import socket
from typing import Any

import orjson
import pytest

from optimizer.rollouts.records import Status

ONE = "/api/v1/optimize/{optimization_id}"
BASE = "/api/v1/optimize"
STAGES = [{"percentage": 2.5, "duration_sec": 600, "min_samples": 10}, {"percentage": 50, "duration_sec": 60}]
SEVERAL = """
  other: {arms: [small, large], baseline: large}
"""


def _problems(document: Any) -> dict[str, str]:
    return {row["path"]: row["message"] for row in document["error"]["details"]["problems"]}


async def test_an_optimization_is_made_with_its_proposal(node, ask, as_described) -> None:
    """201, the strategy's answer in it, an ETag, and everything as the document describes it."""
    wish = {"name": " Cheaper ", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}
    status, made, headers = await ask(node, "POST", BASE, wish)
    shown = await ask(node, "GET", f"{BASE}/{made['id']}")
    listed = await ask(node, "GET", BASE)

    assert status == 201
    assert (made["name"], made["route"], made["status"], made["origin"]) == (
        "Cheaper",
        "chat",
        "proposed",
        "api",
    )
    assert made["proposal"]["candidate"]["arms"] == ["small"]
    assert made["metrics"]["deployment_percentage"] == made["candidate_percentage"] == 0
    assert made["plan"]["stages"][0]["percentage"] == 1.0
    assert {"deploy", "delete", "rollback"} <= set(made["verbs"])
    assert headers["ETag"] == f'"{made["revision"]}"'
    assert shown[:2] == (200, made)
    assert shown[2]["ETag"] == headers["ETag"]
    assert listed[1] == {"optimizations": [made], "total": 1, "limit": 20, "offset": 0}
    as_described("POST", BASE, made)
    as_described("GET", BASE, listed[1])


async def test_the_user_guides_request_is_accepted_as_written(node, ask, as_described) -> None:
    """A number in quotes, no route; without data the answer says what is missing."""
    wish = {
        "name": "Cost Optimization",
        "strategy": "cost_reduction",
        "parameters": {"target_reduction": "0.40"},
    }
    status, made, _ = await ask(node, "POST", BASE, wish)

    assert status == 201
    assert made["parameters"]["target_reduction"] == 0.4
    assert (made["status"], made["reason"]) == ("collecting", "not_enough_data")
    assert made["explanation"]
    as_described("POST", BASE, made)


async def test_every_problem_of_a_wish_is_told_at_once(node, ask) -> None:
    """Unknown names with a suggestion, wrong types, and nothing is made."""
    wish = {"nam": "x", "name": "", "strategy": 5, "parameters": [], "deploy": "yes", "route": "a\nb"}
    status, document, _ = await ask(node, "POST", BASE, wish)
    problems = {row["path"]: row for row in document["error"]["details"]["problems"]}

    assert (status, document["error"]["code"]) == (400, "INVALID_REQUEST")
    assert set(problems) == {"nam", "name", "strategy", "parameters", "deploy", "route"}
    assert "'name'" in problems["nam"]["suggestion"]
    assert (await ask(node, "GET", BASE))[1]["total"] == 0


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"strategy": "cost_reductoin"}, {"strategy"}),
        ({"strategy": "nope", "route": "nope"}, {"strategy", "route"}),
        ({"parameters": {"arms": ["nope"]}}, {"parameters.arms[0]"}),
        ({"parameters": {"arm": ["small"]}, "route": "nope"}, {"parameters.arm", "route"}),
        ({"parameters": {"route": 5}}, {"parameters.route"}),
        ({"parameters": {"route": "a", "arms": ["small"]}, "route": "chat"}, {"parameters.route"}),
        ({"parameters": {}}, {"parameters"}),
        ({"parameters": {"x": "y" * 20_000}}, {"parameters"}),
        ({"name": "a" * 201}, {"name"}),
        ({"name": None}, {"name"}),
    ],
)
async def test_each_field_is_checked(node, ask, fields, paths) -> None:
    """By us, by the strategy, by the configuration."""
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"]}} | fields
    status, document, _ = await ask(node, "POST", BASE, wish)

    assert status == 400
    assert paths <= set(_problems(document))
    assert node.core.learning.optimizing.book.live() == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'"x"', b"{", b"{}", b'{"name": NaN}', b"\xff\xfe", b"[" * 5000,
        b'{"name":"x","strategy":"manual","parameters":' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
        b'{"name":"x","strategy":"manual","parameters":{"arms":' + b"[" * 250 + b"]" * 250 + b"}}",
        b'{"name":"x","strategy":"manual","parameters":{"arms":["\\ud800"]}}',
        b'{"name":"x\\u0000","strategy":"manual","parameters":{"arms":["small"]}}',
        b'{"name":"x","strategy":"manual","parameters":{"arms":["small"],"baseline":1e400}}',
        b'{"name":"x","strategy":"cost_reduction","parameters":{"target_reduction":' + b"9" * 400 + b"}}",
        b'{"__proto__":{},"name":"x","strategy":"manual"}',
    ],
)  # fmt: skip
async def test_hostile_bodies_are_refused(node, ask, body) -> None:
    """400 in the one shape; no trace of them."""
    status, document, _ = await ask(node, "POST", BASE, body=body)

    assert status == 400, document
    assert document["error"]["code"] == "INVALID_REQUEST"
    assert node.core.learning.optimizing.book.live() == []


def _stages(count: int) -> bytes:
    rows = [{"percentage": 99 * (row + 1) / count, "duration_sec": 1} for row in range(count)]
    return orjson.dumps({"canary": {"stages": rows}})


async def test_no_answer_tells_more_problems_than_somebody_reads(node, ask) -> None:
    """And none are looked into that nobody is told of."""
    status, document, _ = await ask(node, "POST", BASE, {f"nam{row}": 1 for row in range(3000)})

    assert status == 400
    assert len(document["error"]["details"]["problems"]) == 100


async def test_hostile_commands_are_refused(node, ask, made) -> None:
    """Each with its status; the record stays as it is."""
    record = await made(node)
    path = f"{BASE}/{record['id']}"
    for verb, body, headers, wanted in (
        ("deploy", b"[]", {}, 400),
        ("deploy", b'{"canary":{"stages":[{"percentage":0}]}}', {}, 400),
        ("deploy", b'{"canary":{"stages":[{"percentage":1e999}]}}', {}, 400),
        ("deploy", b'{"canary":{"stages":[{"percentage":5}]}}', {}, 400),
        ("deploy", b'{"canary":{"stages":[{"percentage":5,"duration_sec":-1}]}}', {}, 400),
        ("deploy", b'{"canary":[]}', {}, 400),
        ("deploy", _stages(101), {}, 400),
        ("deploy", b" " * 70_000, {}, 413),
        ("promote", b'{"full":1}', {}, 400),
        ("rollback", b'{"reason":5}', {}, 400),
        ("rollback", b'{"reason":"a\\nb"}', {}, 400),
        ("rollback", b'{"why":"a"}', {}, 400),
        ("rollback", b"{}", {"Idempotency_Key": "a b"}, 400),
        ("rollback", b"{}", {"Idempotency_Key": "x" * 201}, 400),
        ("rollback", b"{}", {"If_Match": '"x"'}, 412),
        ("rollback", b"{}", {"If_Match": "9" * 400}, 412),
        ("rollback", b"{}", {"If_Match": f'W/"{record["revision"]}"'}, 412),
        ("promote", b"{}", {}, 409),
        ("pause", b"{}", {}, 409),
        ("explode", b"{}", {}, 404),
    ):
        status, document, _ = await ask(node, "POST", f"{path}/{verb}", body=body, **headers)
        assert status == wanted, (verb, body, headers, document)
        assert document["error"]["code"]
    assert (await ask(node, "GET", path))[1] == record


async def test_unknown_ids_are_404(node, ask, until) -> None:
    """Every verb, whatever the id looks like; as soon as the database was asked."""
    await until(lambda: node.core.learning.optimizing.controller.knows_all)
    for id_ in ("opt_0000000000000000", "%00", "..%2f..", "x" * 3000):
        assert (await ask(node, "GET", f"{BASE}/{id_}"))[0] == 404
        assert (await ask(node, "DELETE", f"{BASE}/{id_}"))[0] == 404
        for verb in ("deploy", "rollback", "pause", "resume", "promote", "abort", "retry"):
            status, document, _ = await ask(node, "POST", f"{BASE}/{id_}/{verb}", {})
            assert (status, document["error"]["code"]) == (404, "NOT_FOUND")


async def test_a_whole_life(node, ask, made, as_described, until) -> None:
    """Deploy, pause, resume, promote, promote to the end, roll back, retry, abort, delete."""
    record = await made(node)
    path = f"{BASE}/{record['id']}"

    async def say(verb: str, document: Any = None, status: int = 200) -> Any:
        answered, shown, headers = await ask(node, "POST", f"{path}/{verb}", document)
        assert answered == status, (verb, shown)
        as_described("POST", f"{ONE}/{verb}", shown)
        assert headers["ETag"] == f'"{shown["revision"]}"'
        return shown

    canary = {"stages": STAGES, "health_check": {"error_rate_threshold": 0.05}}
    running = await say("deploy", {"canary": canary, "reason": "the bill"})
    assert (running["status"], running["current_stage"]) == ("running", 1)
    assert running["deployment_id"] == running["rollout"]["id"]
    assert [stage["percentage"] for stage in running["plan"]["stages"]] == [2.5, 50, 100]
    assert running["plan"]["stages"][0]["min_samples"] == 10
    assert running["plan"]["checks"]["error_rate"] == 0.05
    assert running["candidate_percentage"] == 2.5

    _, routes = await node.get("/api/v1/routes")
    [route] = routes["routes"]
    as_described("GET", "/api/v1/routes", routes)
    assert route["rollout"]["optimization"] == record["id"]
    assert (route["rollout"]["stage"], route["rollout"]["stages"]) == (0, 3)
    assert route["candidate"]["percentage"] == 2.5

    assert (await say("pause"))["status"] == "paused"
    assert (await say("resume"))["status"] == "running"
    assert (await say("promote"))["current_stage"] == 2
    deployed = await say("promote", {"full": True})
    assert (deployed["status"], deployed["current_stage"]) == ("deployed", None)
    _, routes = await node.get("/api/v1/routes")
    as_described("GET", "/api/v1/routes", routes)
    assert routes["routes"][0]["deployed"][0]["optimization"] == record["id"]
    assert [arm["id"] for arm in routes["routes"][0]["control"]["arms"]] == ["small"]

    back = await say("rollback", {"reason": "answers are too short"})
    assert (back["status"], back["explanation"]) == ("rolled_back", "answers are too short")
    assert back["rolled_back_at"] == back["updated_at"]
    assert back["candidate_percentage"] == 0
    again = await say("retry")
    assert (again["status"], again["rollout"]["attempt"]) == ("running", 2)
    assert again["deployment_id"] != running["deployment_id"]
    assert (await say("abort"))["status"] == "aborted"

    status, gone, _ = await ask(node, "DELETE", path)
    assert (status, gone["status"]) == (200, "deleted")
    assert record["id"] in gone["message"]
    as_described("DELETE", ONE, gone)
    assert (await ask(node, "GET", BASE))[1]["total"] == 0
    assert (await ask(node, "GET", f"{BASE}?status=deleted"))[1]["total"] == 1
    assert (await ask(node, "DELETE", path))[0] == 404

    async def audited() -> bool:
        _, page = await node.get(f"/api/v1/audit?target={record['id']}&limit=50")
        as_described("GET", "/api/v1/audit", page)
        actions = {row["action"] for row in page["audit"] if row["actor"] == "local"}
        wanted = {"deploy", "pause", "resume", "promote", "rollback", "retry", "abort", "delete", "create"}
        return {f"optimization.{verb}" for verb in wanted} <= actions

    await until(audited)


async def test_deploying_before_there_is_a_proposal_is_accepted(node, ask) -> None:
    """202: it is remembered and done as soon as there is one."""
    wish = {"name": "x", "strategy": "cost_reduction", "parameters": {"target_reduction": "40%"}}
    _, made, _ = await ask(node, "POST", BASE, wish)
    status, shown, _ = await ask(node, "POST", f"{BASE}/{made['id']}/deploy")

    assert (status, shown["status"], shown["auto_deploy"]) == (202, "collecting", True)
    assert (shown["deployment_id"], shown["current_stage"]) == (None, None)


async def test_a_wish_may_say_deploy(node, made, until) -> None:
    """The controller does it as soon as it can."""
    record = await made(node, deploy=True)
    assert record["auto_deploy"] is True

    await until(lambda: node.core.learning.optimizing.book.get(record["id"]).status is Status.RUNNING)


async def test_a_second_rollout_on_the_route_is_a_conflict(node, ask, made) -> None:
    """409 that names the first."""
    first, second = await made(node), await made(node, name="other")
    assert (await ask(node, "POST", f"{BASE}/{first['id']}/deploy"))[0] == 200

    status, document, _ = await ask(node, "POST", f"{BASE}/{second['id']}/deploy")

    assert (status, document["error"]["code"]) == (409, "CONFLICT")
    assert first["id"] in document["error"]["message"]


async def test_if_match_holds_who_has_seen_something_else(node, ask, made) -> None:
    """412 with how it stands; the right tag, a list with it and `*` go on."""
    record = await made(node)
    path, revision = f"{BASE}/{record['id']}", record["revision"]

    stale, document, _ = await ask(node, "POST", f"{path}/deploy", If_Match=f'"{revision - 1}"')
    fresh, running, _ = await ask(node, "POST", f"{path}/deploy", If_Match=f'"{revision}"')
    late, _, _ = await ask(node, "DELETE", path, If_Match=f'"{revision}"')
    some, _, _ = await ask(node, "POST", f"{path}/pause", If_Match=f'"1", "{running["revision"]}"')
    any_, _, _ = await ask(node, "POST", f"{path}/rollback", If_Match="*")

    assert (stale, fresh, late, some, any_) == (412, 200, 412, 200, 200)
    assert document["error"]["code"] == "PRECONDITION_FAILED"
    assert document["error"]["details"]["revision"] == revision


async def test_if_none_match_spares_the_body(node, ask, made) -> None:
    """304 until it changes."""
    record = await made(node)
    path, tag = f"{BASE}/{record['id']}", f'"{record["revision"]}"'

    same = await ask(node, "GET", path, If_None_Match=tag)
    await ask(node, "POST", f"{path}/rollback")
    changed = await ask(node, "GET", path, If_None_Match=tag)

    assert (same[0], same[1]) == (304, b"")
    assert changed[0] == 200


async def test_lists_are_filtered_and_paged(node, ask, made) -> None:
    """The newest first; the total counts what matches."""
    ids = [(await made(node, name=f"n{number}"))["id"] for number in range(5)]
    await ask(node, "POST", f"{BASE}/{ids[0]}/rollback")

    async def page(query: str) -> tuple[list[str], int]:
        status, document, _ = await ask(node, "GET", f"{BASE}?{query}")
        assert status == 200, document
        return [row["id"] for row in document["optimizations"]], document["total"]

    assert set((await page(""))[0]) == set(ids)
    assert (await page("limit=2"))[1] == 5
    first, second, third = [(await page(f"limit=2&offset={offset}"))[0] for offset in (0, 2, 4)]
    assert [*first, *second, *third] == (await page("limit=100"))[0]
    assert await page("status=rolled_back") == ([ids[0]], 1)
    assert (await page("status=rolled_back,proposed"))[1] == 5
    assert await page("strategy=cost_reduction") == ([], 0)
    assert (await page("strategy=manual&route=chat&status=proposed"))[1] == 4
    assert await page("route=nope") == ([], 0)
    for bad in (
        "status=x",
        "limit=0",
        "limit=1000",
        "limit=a",
        "offset=-1",
        "limit=1&limit=2",
        "page=1",
        "offset=1e9",
    ):
        status, document, _ = await ask(node, "GET", f"{BASE}?{bad}")
        assert status == 400, bad
        assert _problems(document)


async def test_the_route_is_the_one_that_can_be_meant(run_node, config_path, ask) -> None:
    """Of several the caller has to say which; in the body or among the parameters."""
    config_path.write_text(config_path.read_text().replace("routes:\n", f"routes:{SEVERAL}"))
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}

    async with run_node() as node:
        status, document, _ = await ask(node, "POST", BASE, wish)
        named = await ask(node, "POST", BASE, {**wish, "route": "other"})
        inner = {**wish, "parameters": {**wish["parameters"], "route": "other"}}
        among = await ask(node, "POST", BASE, inner)

    assert status == 400
    [problem] = document["error"]["details"]["problems"]
    assert problem["path"] == "route"
    assert "chat" in problem["suggestion"]
    assert "other" in problem["suggestion"]
    assert (named[0], named[1]["route"]) == (201, "other")
    assert (among[0], among[1]["route"]) == (201, "other")
    assert "route" not in among[1]["parameters"]


async def test_auto_is_meant_when_there_is_one(run_node, config_path, ask) -> None:
    """As the user guide's flat blocks make it."""
    config_path.write_text(
        config_path.read_text().replace("routes:\n", f"routes:{SEVERAL.replace('other', 'auto')}")
    )
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}

    async with run_node() as node:
        status, made, _ = await ask(node, "POST", BASE, wish)

    assert (status, made["route"]) == (201, "auto")


async def test_a_repeated_request_is_done_once(node, ask, made) -> None:
    """The same answer again, marked; another request with that key is refused; a refusal is not kept."""
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}
    first = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
    again = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
    other = await ask(node, "POST", BASE, {**wish, "name": "y"}, Idempotency_Key="k-1")
    path = f"{BASE}/{first[1]['id']}"
    elsewhere = await ask(node, "POST", f"{path}/deploy", Idempotency_Key="k-1")
    refused = await ask(node, "POST", f"{path}/promote", Idempotency_Key="k-2")
    deployed = await ask(node, "POST", f"{path}/deploy", Idempotency_Key="k-2")

    assert (first[0], again[0]) == (201, 201)
    assert first[1] == again[1]
    assert again[2]["Idempotent-Replayed"] == "true"
    assert again[2]["ETag"] == first[2]["ETag"]
    assert (other[0], elsewhere[0]) == (409, 409)
    assert (refused[0], deployed[0]) == (409, 200)
    assert (await ask(node, "GET", BASE))[1]["total"] == 1


async def test_repetitions_at_the_same_time_are_done_once(node, ask) -> None:
    """Ten at once make one optimization."""
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}
    answers = await asyncio.gather(*(ask(node, "POST", BASE, wish, Idempotency_Key="k") for _ in range(10)))

    assert {status for status, _, _ in answers} <= {201, 409}
    assert len({document["id"] for status, document, _ in answers if status == 201}) == 1
    assert (await ask(node, "GET", BASE))[1]["total"] == 1


async def test_answers_are_repeated_after_a_restart(run_node, ask) -> None:
    """They are in the database."""
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}
    async with run_node() as node:
        first = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
    async with run_node() as node:
        again = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
        total = (await ask(node, "GET", BASE))[1]["total"]

    assert again[:2] == first[:2]
    assert total == 1


async def test_strategies_say_what_they_take(node, as_described) -> None:
    """Every one, with its parameters."""
    _, document = await node.get("/api/v1/strategies")

    as_described("GET", "/api/v1/strategies", document)
    rows = {row["name"]: row for row in document["strategies"]}
    assert {"cost_reduction", "manual", "prompt_optimization"} <= set(rows)
    assert any(row["name"] == "target_reduction" for row in rows["cost_reduction"]["parameters"])


async def test_an_export_has_what_is_deployed(node, ask, made) -> None:
    """By default; the file stays as the operator wrote it."""
    record = await made(node)
    await ask(node, "POST", f"{BASE}/{record['id']}/deploy", {"canary": {"enabled": False}})

    _, effective, _ = await ask(node, "GET", "/api/v1/config/export")
    _, written, _ = await ask(node, "GET", "/api/v1/config/export?source=file")

    assert record["id"] in effective.decode()
    assert record["id"] not in written.decode()


async def test_a_broken_database_stops_giving_and_nothing_else(run_node, config_path, ask, made) -> None:
    """A server that swallows calls: 503 for deploy; create, rollback and reading go on at once."""

    # The kernel accepts, and nobody ever answers.
    black_hole = socket.create_server(("127.0.0.1", 0))
    port = black_hole.getsockname()[1]
    url = f"database: {{url: 'postgresql://u:p@127.0.0.1:{port}/x', timeout_sec: 0.5}}\n"
    config_path.write_text(config_path.read_text() + url)
    loop = asyncio.get_running_loop()
    async with run_node() as node:
        record = await made(node)
        path = f"{BASE}/{record['id']}"
        status, document, _ = await ask(node, "POST", f"{path}/deploy")
        began = loop.time()
        back = await ask(node, "POST", f"{path}/rollback", Idempotency_Key="k")
        took = loop.time() - began
        again = await ask(node, "POST", f"{path}/rollback", Idempotency_Key="k")
        audit = await ask(node, "GET", "/api/v1/audit")
    black_hole.close()

    assert (status, document["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert (back[0], back[1]["status"]) == (200, "rolled_back")
    assert took < 0.45
    assert (again[0], again[1]) == (200, back[1])
    assert (audit[0], audit[1]["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")


async def test_a_running_one_shows_what_the_guards_say_now(node, ask, made, until, as_described) -> None:
    """Not what they said at the last transition; with what the stage still needs, and no 304 in between."""
    id_ = (await made(node))["id"]
    plan = {"canary": {"stages": [{"percentage": 20, "duration_sec": 600, "min_samples": 50}]}}
    status, deployed, _ = await ask(node, "POST", f"{BASE}/{id_}/deploy", plan)
    assert status == 200, deployed
    counts = {"assigned": 7, "resolved": 7, "errors": 1}
    row = ["chat", deployed["deployment_id"], 0, "candidate", counts]
    data = {"worker": 1, "table_version": 1, "routes": [], "guards": [row], "stops": []}
    node.worker.append("stats-1", "llm_optimizer.worker.stats.v1", data)

    async def counted() -> bool:
        seen = (await ask(node, "GET", f"{BASE}/{id_}"))[1]["measured"]["guards"]
        return bool(seen["error"]["samples"] == 7)

    await until(counted)
    status, shown, _ = await ask(node, "GET", f"{BASE}/{id_}", If_None_Match=f'"{deployed["revision"]}"')
    _, paused, _ = await ask(node, "POST", f"{BASE}/{id_}/pause", {"reason": "lunch"})
    _, audit, _ = await ask(node, "GET", f"/api/v1/audit?target={id_}&action=optimization.pause")

    assert (status, shown["revision"]) == (200, deployed["revision"])
    assert shown["measured"]["guards"]["error"]["candidate"] == pytest.approx(1 / 7)
    needs = shown["measured"]["needs"]
    assert (needs["waits_for"], needs["samples"]) == ("samples", 43)
    assert 500 < needs["time_s"] <= 600
    assert needs["pauses_in_s"] > needs["time_s"]
    assert paused["measured"]["needs"]["waits_for"] == "person"
    [row] = audit["audit"]
    assert row["detail"]["measured"]["error"]["candidate_samples"] == 7
    as_described("GET", ONE, shown)


async def test_a_deletion_may_say_why(node, ask, made) -> None:
    """In the query, because a DELETE has no body that everybody passes on; a misspelt name is refused."""
    id_ = (await made(node))["id"]

    status, document, _ = await ask(node, "DELETE", f"{BASE}/{id_}?reson=tidy")
    assert (status, set(_problems(document))) == (400, {"reson"})
    status, gone, _ = await ask(node, "DELETE", f"{BASE}/{id_}?reason=no%20longer%20wanted")
    _, audit, _ = await ask(node, "GET", f"/api/v1/audit?target={id_}&action=optimization.delete")

    assert (status, gone["explanation"]) == (200, "no longer wanted")
    assert audit["audit"][0]["detail"]["explanation"] == "no longer wanted"


GUIDE = """
server: {host: 0.0.0.0, port: 8080, timeout_ms: 30000}
database: {url: postgresql://localhost:9/optimizer, max_connections: 20, timeout_sec: 5}
redis: {url: redis://localhost:9, max_connections: 10}
kafka: {brokers: [localhost:9], topic: llm-feedback, group_id: optimizer-group}
optimization: {enabled: true, interval_sec: 300, strategies: [model_selection, prompt_optimization, cost_reduction]}
"""


async def test_the_guides_basic_configuration_works_without_its_servers(run_node, config_path, ask) -> None:
    """No route, no database, no Kafka, no Redis: what is asked for is kept, shown, and can be taken back."""
    config_path.write_text(GUIDE)
    wish = {"name": "Cost", "strategy": "cost_reduction", "parameters": {"target_reduction": "0.40"}}
    async with run_node() as node:
        status, made, _ = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
        again = await ask(node, "POST", BASE, wish, Idempotency_Key="k-1")
        path = f"{BASE}/{made['id']}"
        asked = await ask(node, "POST", f"{path}/deploy", {})
        listed = await ask(node, "GET", BASE)
        back = await ask(node, "POST", f"{path}/rollback", {"reason": "never mind"})
        retried = await ask(node, "POST", f"{path}/retry", {})

    assert (status, made["status"], made["reason"], made["route"]) == (201, "collecting", "no_route", "auto")
    assert again[:2] == (201, made)
    assert (asked[0], asked[1]["auto_deploy"]) == (202, True)
    assert listed[1]["total"] == 1
    assert (back[0], back[1]["status"]) == (200, "rolled_back")
    assert (retried[0], retried[1]["status"]) == (200, "collecting")


async def test_a_new_configuration_is_looked_at_at_once(run_node, config_path, ask, until) -> None:
    """Not after the old interval, which may be hours: the route that an optimization waited for is there now."""
    config_path.write_text("optimization: {enabled: true, interval_sec: 86400, strategies: []}\n")
    async with run_node() as node:
        _, made, _ = await ask(
            node, "POST", BASE, {"name": "Cost", "strategy": "cost_reduction", "route": "auto"}
        )
        assert made["reason"] == "no_route"
        config_path.write_text(
            'upstreams: {sim: {base_url: "http://127.0.0.1:9/v1"}}\n'
            "models:\n"
            "  small: {upstream: sim, model: small, price: {input: 1, output: 4}}\n"
            "  large: {upstream: sim, model: large, price: {input: 10, output: 40}}\n"
            "routes: {auto: {arms: [small, large], baseline: large}}\n"
            "optimization: {enabled: true, interval_sec: 86400, strategies: []}\n"
        )
        await ask(node, "POST", "/api/v1/config/reload")

        async def looked_again() -> bool:
            return bool((await ask(node, "GET", f"{BASE}/{made['id']}"))[1]["reason"] == "not_enough_data")

        await until(looked_again)
