"""What the page asks for beside the rest: history, savings, densities, recent requests, on a running node."""

import time
from typing import Any

import numpy as np
import pytest

from optimizer.savings import RouteSavings


def known(column: list[float | None]) -> list[float | None]:
    """What is there, each once."""
    return list(dict.fromkeys(value for value in column if value is not None))


@pytest.fixture
def busy(ask, until) -> Any:
    """A node on which something has happened; the ids of its requests."""

    async def fill(node: Any) -> list[str]:
        began = {"started_ms": int(time.time() * 1000) - 2000}
        ids = [node.worker.request("large", cost_usd=0.003, duration_ms=900.0, **began) for _ in range(10)]
        streamed = {"stream": True, "ttft_ms": 50.0, "duration_ms": 100.0, **began}
        ids += [node.worker.request("small", **streamed) for _ in range(28)]
        failed = {
            "outcome": "upstream_fault",
            "status": 502,
            "cost_usd": None,
            "error.type": "connect",
            **began,
        }
        ids.append(node.worker.request("small", **failed))
        ids.append(node.worker.request("small", rollout="r1", side="candidate", **began))
        ratings = [{"request_id": one, "score": 0.75} for one in ids[10:14]]
        await ask(node, "POST", "/v1/feedback", ratings)
        await until(lambda: node.core.ingest.learner.counts["feedback_learned"] == 4)
        return ids

    return fill


async def test_history_of_all_routes_and_of_one(node, ask, busy) -> None:
    """Each figure in its step; arms and the candidate's share with a route only."""
    await busy(node)
    _, everything, _ = await ask(node, "GET", "/api/v1/history?minutes=2&points=12")
    _, one, _ = await ask(node, "GET", "/api/v1/history?minutes=2&points=12&route=chat")
    status, missing, _ = await ask(node, "GET", "/api/v1/history?route=nope")

    assert (everything["step_s"], len(everything["at"]), everything["arms"]) == (10, 12, None)
    assert everything["candidate_share"] is None
    assert everything["to"] - everything["from"] == 120
    [chat] = everything["routes"]
    assert sum(chat["requests"]) == 40
    assert sum(chat["failed"]) == 1
    assert sum(chat["saved_usd"]) == pytest.approx(29 * 0.001)
    assert sum(chat["cost_usd"]) == pytest.approx(10 * 0.003 + 29 * 0.002)
    small, large = one["arms"]
    assert (small["arm"], small["model"], small["variant"]) == ("small", "small", "default")
    assert [sum(column) for column in (small["requests"], small["failed"], large["requests"])] == [30, 1, 10]
    assert known(small["latency_p50_s"]) == known(small["latency_p95_s"]) == [pytest.approx(0.1, rel=0.06)]
    assert known(small["ttft_p50_s"]) == [pytest.approx(0.05, rel=0.06)]
    assert known(large["latency_p50_s"]) == [pytest.approx(0.9, rel=0.06)]
    assert known(large["ttft_p50_s"]) == known(large["quality"]) == []
    assert known(small["quality"]) == [pytest.approx(0.75)]
    assert (sum(small["rated"]), sum(large["rated"])) == (4, 0)
    assert known(one["candidate_share"]) == [1.0]
    assert (status, missing["error"]["code"]) == (404, "NOT_FOUND")


async def test_history_of_the_past_is_asked_for_by_its_end(node, ask, busy) -> None:
    """Nothing was there before there was anything."""
    await busy(node)
    until = int(time.time()) - 3600
    _, document, _ = await ask(node, "GET", f"/api/v1/history?minutes=60&points=60&until={until}&route=chat")

    assert document["to"] == until - until % 60 + 60
    assert sum(document["routes"][0]["requests"]) == 0
    assert [arm["arm"] for arm in document["arms"]] == ["small", "large"]
    assert document["arms"][0]["latency_p50_s"] == [None] * 60


async def test_history_is_asked_for_within_bounds(node, ask) -> None:
    """Two weeks, a thousand steps."""
    for query in (
        "minutes=0",
        "minutes=20161",
        "points=0",
        "points=1001",
        "until=-1",
        "minutes=x",
        "rout=chat",
    ):
        status, document, _ = await ask(node, "GET", f"/api/v1/history?{query}")
        assert (status, len(document["error"]["details"]["problems"])) == (400, 1), query


async def test_savings_have_an_interval(node, ask, busy) -> None:
    """Null until something could be compared."""
    _, before, _ = await ask(node, "GET", "/api/v1/savings")
    await busy(node)
    _, after, _ = await ask(node, "GET", "/api/v1/savings")
    _, summary, _ = await ask(node, "GET", "/api/v1/metrics/summary")

    assert before["total"]["requests"] == 0
    assert set(before["total"].values()) == {0, None}
    assert before["routes"]["chat"] == before["total"]
    chat = after["routes"]["chat"]
    assert chat == after["total"]
    assert chat["saved_usd"] == pytest.approx(summary["routes"]["chat"]["cost_savings_usd"])
    assert chat["low_usd"] < chat["saved_usd"] < chat["high_usd"]
    assert chat["low_share"] < chat["share"] < chat["high_share"] < 1.0


async def test_a_route_that_is_gone_still_counts(node, ask, busy) -> None:
    """Else a loss could be made to vanish by taking its route out of the configuration."""
    await busy(node)
    _, before, _ = await ask(node, "GET", "/api/v1/savings")
    [learning] = node.core.learners.all()
    learning.savings.routes["gone"] = RouteSavings(saved_usd=-0.5, actual_usd=1.0, requests=7, unknown=1)
    _, after, _ = await ask(node, "GET", "/api/v1/savings")

    assert list(after["routes"]) == ["chat", "gone"]
    assert after["routes"]["gone"]["saved_usd"] == -0.5
    assert after["total"]["saved_usd"] == pytest.approx(before["total"]["saved_usd"] - 0.5)
    assert after["total"]["requests"] == before["total"]["requests"] + 7


async def test_densities_say_what_arms_says(node, ask, busy) -> None:
    """The same means and intervals, as curves."""
    await busy(node)
    _, document, _ = await ask(node, "GET", "/api/v1/arms/densities?route=chat")
    _, arms, _ = await ask(node, "GET", "/api/v1/arms?route=chat")
    status, _, _ = await ask(node, "GET", "/api/v1/arms/densities?route=nope")
    unsaid, _, _ = await ask(node, "GET", "/api/v1/arms/densities")

    assert [row["signal"] for row in document["signals"]] == ["quality", "success", "cost_usd", "latency_s"]
    for signal in document["signals"]:
        for curve, arm in zip(signal["arms"], arms["arms"], strict=True):
            assert curve["arm"] == arm["arm"]
            # Beliefs fade between the two questions, a little.
            assert curve["mean"] == pytest.approx(arm[signal["signal"]]["mean"], rel=1e-3)
            assert np.trapezoid(curve["density"], curve["x"]) == pytest.approx(1.0)
    assert (status, unsaid) == (404, 400)


async def test_requests_are_listed_filtered_and_paged(node, ask, busy) -> None:
    """The newest first; ``next`` leads through all of them, and then is null."""
    ids = await busy(node)
    seen: list[dict[str, Any]] = []
    following: str | None = ""
    while following is not None:
        before = f"&before={following}" if following else ""
        _, page, _ = await ask(node, "GET", f"/api/v1/requests?limit=15{before}")
        seen += page["requests"]
        following = page["next"]

    assert [row["id"] for row in seen] == ids[::-1]
    _, failed, _ = await ask(node, "GET", "/api/v1/requests?outcome=upstream_fault&route=chat")
    [row] = failed["requests"]
    assert (row["error"], row["status"], row["arm"], row["cost_usd"]) == ("connect", 502, "small", None)
    _, large, _ = await ask(node, "GET", "/api/v1/requests?arm=large&limit=10")
    assert ({row["arm"] for row in large["requests"]}, large["next"]) == ({"large"}, None)
    _, none, _ = await ask(node, "GET", "/api/v1/requests?route=nope")
    assert none == {"requests": [], "next": None}
    assert (await ask(node, "GET", "/api/v1/requests?outcome=lost"))[0] == 400


async def test_all_of_it_survives_a_restart(run_node, ask, busy, as_described) -> None:
    """Figures are saved with the cursor; the requests are in the log."""
    paths = (
        "/api/v1/history?minutes=1440&points=1&route=chat",
        "/api/v1/savings",
        "/api/v1/requests?limit=100",
    )
    async with run_node() as node:
        await busy(node)
        before = [(await ask(node, "GET", path))[1] for path in paths]
    async with run_node() as node:
        after = [(await ask(node, "GET", path))[1] for path in paths]

    for path, old, new in zip(paths, before, after, strict=True):
        as_described("GET", path.partition("?")[0], new)
        assert new == old
