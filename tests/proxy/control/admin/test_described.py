"""Answers are what the OpenAPI document says: every real answer against its model, nothing missing or extra."""

from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from proxy.control.admin.registry import ENDPOINTS

ELSEWHERE = {
    "/api/v1/optimize", "/api/v1/optimize/{optimization_id}", "/api/v1/strategies", "/api/v1/audit",
}  # fmt: skip
QUERIES = {"/api/v1/arms/densities": "?route=chat", "/api/v1/history": "?route=chat"}


async def test_what_is_read_answers_as_described(node, ask, until, as_described) -> None:
    """Live views, keys, limits, health and decisions, with data behind them."""
    ids = [node.worker.request("small", signals={"empty": 0}) for _ in range(3)]
    node.worker.request("large", cost_usd=0.02, **{"gen_ai.response.id": "chatcmpl-1"})
    await ask(node, "POST", "/v1/feedback", [{"request_id": ids[0], "score": 0.9}])
    await until(lambda: node.core.ingest.counts["events"] >= 6)
    _, key, _ = await ask(node, "POST", "/api/v1/keys", {"name": "ci", "quota": {"usd_per_day": 2}})
    as_described("POST", "/api/v1/keys", key)
    places = {"{request_id}": ids[0], "{key_id}": key["id"], "{response_id}": "chatcmpl-1"}

    checked = set()
    for endpoint in ENDPOINTS:
        about = endpoint.about
        if endpoint.method != "GET" or about.answers is None or endpoint.path in ELSEWHERE:
            continue
        path = endpoint.path
        for name, value in places.items():
            path = path.replace(name, value)
        status, document, _ = await ask(node, "GET", path + QUERIES.get(path, ""))
        assert status in about.success, path
        as_described("GET", endpoint.path, document)
        checked.add(endpoint.path)

    assert {
        "/api/v1/arms",
        "/api/v1/decisions/{request_id}",
        "/health/detailed",
        "/api/v1/keys/{key_id}",
    } <= checked
    _, gone, _ = await ask(node, "DELETE", f"/api/v1/keys/{key['id']}")
    as_described("DELETE", "/api/v1/keys/{key_id}", gone)


async def test_what_steers_a_route_answers_as_described(
    run_node, config_path, ask, until, as_described
) -> None:
    """Constraints with the arms, and a decision that looked at its request."""
    steered = "chat: {context: true, constraints: {cost_per_request_usd: 0.001}, "
    config_path.write_text(config_path.read_text().replace("chat: {", steered))
    async with run_node() as node:
        await _check_steered(node, ask, until, as_described)


async def _check_steered(node, ask, until, as_described) -> None:
    x = b64encode(np.array([1.0, 0.5], dtype="<f4").tobytes()).decode()
    request_id = node.worker.request(
        "small", context={"version": "1-ab", "x": x}, draw=0.25, selector="sel-gone", arms=["small", "large"]
    )
    await until(lambda: node.core.ingest.counts["events"] >= 2)

    _, arms, _ = await ask(node, "GET", "/api/v1/arms")
    as_described("GET", "/api/v1/arms", arms)
    assert arms["steering"]["chat"]["kept"][0]["target"] == 0.001
    _, page, _ = await ask(node, "GET", "/metrics")
    assert b'llm_optimizer_constraint_target{constraint="cost",route="chat"} 0.001' in page
    _, routes, _ = await ask(node, "GET", "/api/v1/routes")
    as_described("GET", "/api/v1/routes", routes)
    assert routes["routes"][0]["context"]["by_request"]
    _, decision, _ = await ask(node, "GET", f"/api/v1/decisions/{request_id}")
    as_described("GET", "/api/v1/decisions/{request_id}", decision)
    assert decision["decision"]["features"] == [{"name": "x0", "value": 1.0}, {"name": "x1", "value": 0.5}]
    assert any("(sel-gone) is no longer kept" in sentence for sentence in decision["explanation"])
    assert decision["explanation"][-1].startswith("At this moment the route is held to at most 0.001000 USD")


async def test_what_changes_something_answers_as_described(node, ask, as_described) -> None:
    """The configuration's endpoints and feedback."""
    _, reloaded, _ = await ask(node, "POST", "/api/v1/config/reload")
    as_described("POST", "/api/v1/config/reload", reloaded)
    for text in (node.path.read_text(), "routes: {chat: {arms: [nope], baseline: nope}}\n"):
        _, found, _ = await ask(node, "POST", "/api/v1/config/validate", {"config": text})
        as_described("POST", "/api/v1/config/validate", found)
    taken = await ask(node, "POST", "/v1/feedback", {"request_id": node.worker.request(), "thumbs": "up"})
    as_described("POST", "/v1/feedback", taken[1])


async def test_a_decision_is_explained(node, ask, until) -> None:
    """The event as it was logged, and sentences beside it."""
    request_id = node.worker.request("small")
    await until(lambda: node.core.ingest.counts["events"] >= 2)

    _, document, _ = await ask(node, "GET", f"/api/v1/decisions/{request_id}")

    assert document["id"] == request_id
    assert document["data"]["arm"] == "small"
    assert any("baseline, 'large'" in sentence for sentence in document["explanation"])


async def test_the_summary_compares_with_the_baseline(node, ask, until) -> None:
    """What was spent, what the baseline would have taken for it, percentiles, quality and where it is going."""
    _, empty, _ = await ask(node, "GET", "/api/v1/metrics/summary")
    for _ in range(4):
        node.worker.request("large", cost_usd=0.003)
    cheap = [node.worker.request("small", cost_usd=0.0003, duration_ms=900.0) for _ in range(4)]
    await ask(node, "POST", "/v1/feedback", [{"request_id": id_, "score": 0.8} for id_ in cheap])
    await until(lambda: node.core.ingest.counts["events"] >= 13)

    _, full, _ = await ask(node, "GET", "/api/v1/metrics/summary")

    assert empty["cost"] == {"current": None, "previous": None, "reduction": None}
    assert empty["latency"] == {"p50_ms": None, "p95_ms": None, "p99_ms": None}
    assert empty["quality"] == {"score": None, "trend": None}
    assert full["cost"]["current"] == pytest.approx(4 * 0.003 + 4 * 0.0003)
    assert full["cost"]["previous"] == pytest.approx(8 * 0.003)
    assert full["cost"]["reduction"] == pytest.approx(0.45)
    assert full["latency"]["p50_ms"] == 500.0
    assert full["latency"]["p99_ms"] == 1000.0
    assert 0 < full["quality"]["score"] < 1
    assert isinstance(full["quality"]["trend"], float)


@pytest.mark.parametrize(
    "path", ["/api/v1/arms?rout=chat", "/api/v1/config/export?source=x", "/api/v1/arms?route=a&route=b"]
)
async def test_queries_are_checked(node, ask, path) -> None:
    """An unknown parameter is a problem and not ignored."""
    status, document, _ = await ask(node, "GET", path)

    assert status == 400
    assert document["error"]["details"]["problems"]
    assert isinstance(document["error"]["details"], dict)


async def test_every_error_has_the_one_shape(node, ask, until) -> None:
    """As the document's ErrorAnswer says."""
    await until(lambda: node.core.learning.optimizing.controller.knows_all)
    seen: list[tuple[int, Any]] = []
    for method, path in (
        ("GET", "/api/v1/nowhere"), ("PUT", "/api/v1/optimize"), ("GET", "/api/v1/arms?route=nope"),
        ("POST", "/api/v1/optimize"), ("DELETE", "/api/v1/optimize/x"),
    ):  # fmt: skip
        status, document, _ = await ask(node, method, path)
        seen.append((status, document))

    assert [status for status, _ in seen] == [404, 405, 404, 400, 404]
    for _, document in seen:
        assert set(document) == {"error"}
        assert set(document["error"]) == {"code", "message", "details"}
