"""The admin surface over its real socket: who gets in, and what they see."""

import asyncio
import io
import socket

import aiohttp
import pytest
import yaml

from proxy.config.load import load_text
from proxy.control.access import Reach
from proxy.control.admin.app import build_app
from proxy.control.admin.registry import ENDPOINTS
from proxy.control.page.serving import Page


async def test_every_route_denies_strangers_by_default(node) -> None:
    """Every resource of the app, with every method, asks a stranger for a key, unless the registry opens it."""
    app = build_app(node.runtime.services, ENDPOINTS, Page())
    opened = {
        (endpoint.method, endpoint.path)
        for endpoint in ENDPOINTS
        if endpoint.reach in (Reach.HEALTH, Reach.METRICS)
    }
    paths = {route.resource.canonical for route in app.router.routes()} | {
        "/",
        "/nowhere",
        "/api/v1/optimize/nowhere/at/all",
    }

    seen = {}
    for path in paths:
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            url = "http://optimizer" + path.replace("{", "").replace("}", "")
            async with node.session.request(method, url, headers={"Host": "evil.example"}) as response:
                seen[method, path] = response.status

    for (method, path), status in seen.items():
        if path in ("/ui", "/ui/{name}") and method in ("GET", "HEAD"):
            # Files, where the page was built, and the same for everybody; of its data nothing.
            assert status in (200, 404, 503)
            continue
        is_open = ("GET" if method == "HEAD" else method, path) in opened
        assert (status == 200) if is_open else (status == 401), (method, path, status)
    assert opened == {("GET", "/health/detailed"), ("GET", "/metrics")}


async def test_a_refusal_says_how_to_get_in(node) -> None:
    """The one error shape, a challenge, and no detail about the key."""
    async with node.session.get("http://optimizer/api/v1/routes") as response:
        document = await response.json()

    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert document["error"]["code"] == "UNAUTHORIZED"
    assert "Authorization: Bearer" in document["error"]["message"]
    assert str(node.core.state.path) not in document["error"]["message"]


async def test_the_generated_key_opens_from_anywhere(node) -> None:
    """Both headers; the file in the state directory holds the key."""
    key = node.core.state.admin_key_file.read_text().strip()

    for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
        async with node.session.get("http://optimizer/api/v1/routes", headers=headers) as response:
            assert response.status == 200


async def test_configured_keys_replace_the_generated_one(run_node, config_path) -> None:
    """No key file is made; the key is found behind its reference."""
    config_path.write_text(config_path.read_text() + "admin: {key: '${ADMIN_KEY}'}\n")

    async with run_node({"ADMIN_KEY": "operator-key-1"}) as node:
        assert not node.core.state.admin_key_file.exists()
        headers = {"x-api-key": "operator-key-1"}
        async with node.session.get("http://optimizer/api/v1/routes", headers=headers) as response:
            assert response.status == 200


async def test_the_generated_key_counts_only_while_none_is_configured(run_node, config_path) -> None:
    """A reload that brings a key retires the generated one; taking it away brings that back."""
    text = config_path.read_text()

    async with run_node({"ADMIN_KEY": "operator-key-1"}) as node:
        generated = node.core.state.admin_key_file.read_text().strip()
        seen = []
        for extra in ("", "admin: {key: '${ADMIN_KEY}'}\n", ""):
            config_path.write_text(text + extra)
            await node.runtime.reload("api")
            for key in (generated, "operator-key-1"):
                headers = {"x-api-key": key}
                async with node.session.get("http://optimizer/api/v1/routes", headers=headers) as response:
                    seen.append(response.status)

    assert seen == [200, 401, 401, 200, 200, 401]


async def test_a_rotated_key_counts_after_an_asked_reload(node) -> None:
    """The operator writes a new key into the file and reloads."""
    node.core.state.admin_key_file.write_text("lopt-admin-rotated-1\n")
    assert (await node.post("/api/v1/config/reload"))[0] == 200

    headers = {"x-api-key": "lopt-admin-rotated-1"}
    async with node.session.get("http://optimizer/api/v1/routes", headers=headers) as response:
        assert response.status == 200


async def test_settings_close_health_metrics_and_the_keyless_door(run_node, config_path) -> None:
    """admin.require_key, health_open and metrics_open act."""
    text = "admin: {require_key: true, health_open: false, metrics_open: false}\n"
    config_path.write_text(config_path.read_text() + text)

    async with run_node() as node:
        statuses = [(await node.get(path))[0] for path in ("/health/detailed", "/metrics", "/api/v1/routes")]

    assert statuses == [401, 401, 401]


async def test_unknown_paths_and_methods_are_told_apart_inside(node) -> None:
    """An authorised caller gets 404 and 405 in the one shape."""
    assert (await node.get("/api/v1/optimise"))[0] == 404
    assert (await node.get("/uix"))[0] == 404
    asked = node.session.post(
        "http://optimizer/api/v1/routes", headers=node.local(**{"Content-Type": "application/json"})
    )
    async with asked as response:
        document = await response.json()

    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert document["error"]["code"] == "METHOD_NOT_ALLOWED"
    assert "GET" in document["error"]["message"]


async def test_strangers_see_states_and_operators_see_figures(node) -> None:
    """/health/detailed is open, and tells a stranger nothing but states."""
    async with node.session.get("http://optimizer/health/detailed") as response:
        public = await response.json()
    _, full = await node.get("/health/detailed")

    assert set(public) == {"status", "components", "timestamp"}
    assert public["components"]["configuration"] == "healthy"
    assert {"version", "uptime_seconds", "table", "event_log"} <= set(full)


async def test_routes_show_the_published_percentages(node) -> None:
    """The live table, with shares that sum to 100."""
    _, document = await node.get("/api/v1/routes")

    side = document["routes"][0]["control"]
    assert document["table_version"] == 1
    assert [arm["id"] for arm in side["arms"]] == ["small", "large"]
    assert sum(arm["percentage"] for arm in side["arms"]) == pytest.approx(100)
    assert side["baseline"] == "large"


async def test_arms_show_posteriors_and_shares(node, until) -> None:
    """What was learned appears with interval and weight; an unknown route is 404."""
    for _ in range(3):
        node.worker.request("small")
    node.worker.request("large", cost_usd=0.02)
    await until(lambda: node.core.ingest.counts["events"] >= 5)

    _, document = await node.get("/api/v1/arms?route=chat")
    rows = {row["arm"]: row for row in document["arms"]}

    assert rows["small"]["pulls"] == 3
    assert rows["small"]["share"] == 0.75
    assert (
        rows["small"]["cost_usd"]["low"]
        <= rows["small"]["cost_usd"]["mean"]
        <= rows["small"]["cost_usd"]["high"]
    )
    assert (await node.get("/api/v1/arms?route=nope"))[0] == 404


async def test_summary_adds_up(node, until) -> None:
    """Totals per route and over all, with what is unknown shown as null."""
    node.worker.request("small")
    node.worker.request("small", outcome="upstream_fault", status=502, cost_usd=None)
    await until(lambda: node.core.ingest.counts["events"] >= 3)

    _, document = await node.get("/api/v1/metrics/summary")

    assert document["total"]["requests"] == 2
    assert document["total"]["completed"] == 1
    assert document["total"]["error_rate_5m"] == 0.5
    assert document["routes"]["chat"]["cost_usd"] == pytest.approx(0.002)
    assert document["routes"]["chat"]["quality_score"] is None


async def test_a_decision_is_found_by_its_request_id(node, until) -> None:
    """The logged row, word for word; forged and unknown ids are 404."""
    request_id = node.worker.request("small", propensity=0.5)
    await until(lambda: node.core.ingest.counts["events"] >= 2)

    status, event = await node.get(f"/api/v1/decisions/{request_id}")
    forged = request_id[:-1] + ("0" if request_id[-1] != "0" else "1")

    assert status == 200
    assert event["id"] == request_id
    assert event["data"]["propensity"] == 0.5
    assert (await node.get(f"/api/v1/decisions/{forged}"))[0] == 404
    assert (await node.get(f"/api/v1/decisions/{node.worker.ids.mint(1)}"))[0] == 404


async def test_feedback_by_response_id_reaches_the_arm(node, until) -> None:
    """Posted before the event was read, resolved within the patience, learned once."""
    node.worker.request("small", **{"gen_ai.response.id": "chatcmpl-1"})

    status, document = await node.post("/v1/feedback", {"response_id": "chatcmpl-1", "score": 1})
    await until(lambda: node.core.ingest.learner.counts["feedback_learned"] == 1)

    assert (status, document) == (200, {"object": "feedback", "accepted": 1})


async def test_feedback_on_an_unknown_response_points_to_the_request_id(node) -> None:
    """404 in OpenAI's shape, after waiting for the learner; nothing of the batch counts."""
    known = node.worker.request("small")
    batch = [{"request_id": known, "score": 1}, {"response_id": "nobody", "score": 1}]

    status, document = await node.post("/v1/feedback", batch)

    assert status == 404
    assert document["error"]["code"] == "unknown_response_id"
    assert "request id" in document["error"]["message"]
    assert node.core.ingest.learner.counts["feedback_accepted"] == 0


async def test_a_long_batch_of_unknown_responses_is_refused_soon(node) -> None:
    """One patience for all of it, not one for each."""
    batch = [{"response_id": f"nobody-{number}", "score": 1} for number in range(500)]

    async with asyncio.timeout(5):
        status, _ = await node.post("/v1/feedback", batch)

    assert status == 404


@pytest.mark.parametrize("body", [{"response_id": "x"}, {"response_id": "x", "scor": 1}, "text"])
async def test_feedback_that_is_none_is_refused(node, body) -> None:
    """400 naming the field."""
    status, document = await node.post("/v1/feedback", body)

    assert status == 400
    assert document["error"]["code"] == "invalid_feedback"


async def test_export_loads_again_and_holds_no_secret(run_node, config_path) -> None:
    """Effective and as written; a literal key is replaced by its reference."""
    text = config_path.read_text().replace(
        'base_url: "http://127.0.0.1:9/v1"', 'base_url: "http://127.0.0.1:9/v1", api_key: "planted-secret-1"'
    )
    config_path.write_text(text + "redis: {url: 'redis://${REDIS_HOST}/0'}\n")

    async with run_node({"REDIS_HOST": "cache.internal"}) as node:
        _, effective = await node.get("/api/v1/config/export")
        _, written = await node.get("/api/v1/config/export?source=file")
        refused, _ = await node.get("/api/v1/config/export?source=other")
        settings = node.core.configuration.settings

    assert refused == 400
    assert "planted-secret-1" not in effective + written
    assert "${REDIS_HOST}" in written
    assert yaml.safe_load(effective)
    for text in (effective, written):
        assert load_text(text, {"REDIS_HOST": "cache.internal"}).settings.config_hash == settings.config_hash


async def test_validate_lists_problems_and_changes_nothing(node) -> None:
    """JSON with the text, or the YAML itself."""
    before = node.core.configuration.settings
    bad = "routes: {chat: {arms: [nope], baseline: nope}}\n"

    _, refused = await node.post("/api/v1/config/validate", {"config": bad})
    _, accepted = await node.post("/api/v1/config/validate", {"config": node.path.read_text()})
    malformed, _ = await node.post("/api/v1/config/validate", {"text": bad})
    key = node.core.state.admin_key_file.read_text().strip()
    headers = {"x-api-key": key, "Content-Type": "application/yaml"}
    async with node.session.post(
        "http://optimizer/api/v1/config/validate", headers=headers, data=bad
    ) as response:
        as_yaml = await response.json()

    assert refused["valid"] is False
    assert any("nope" in problem["message"] for problem in refused["problems"])
    assert as_yaml == refused
    assert accepted["valid"] is True
    assert accepted["routes"] == ["chat"]
    assert malformed == 400
    assert node.core.configuration.settings is before


async def test_a_large_body_is_refused_in_our_shape(node) -> None:
    """413 instead of memory."""
    body = io.BytesIO(b'{"config": "' + b"x" * (5 * 1024 * 1024) + b'"}')
    headers = node.local(**{"Content-Type": "application/json"})
    url = "http://optimizer/api/v1/config/validate"
    async with node.session.post(url, headers=headers, data=body) as response:
        document = await response.json()

    assert response.status == 413
    assert document["error"]["code"] == "INVALID_REQUEST"


async def test_a_separate_listener_is_a_setting(run_node, config_path) -> None:
    """admin.listen serves the same surface over TCP, where the socket's own address counts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config_path.write_text(config_path.read_text() + f"admin: {{listen: '127.0.0.1:{port}'}}\n")

    async with run_node(), aiohttp.ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{port}/api/v1/routes") as response:
            assert response.status == 200
        headers = {"x-forwarded-for": "127.0.0.1"}
        async with client.get(f"http://127.0.0.1:{port}/api/v1/routes", headers=headers) as response:
            assert response.status == 401
