"""Limits over real sockets: two workers, one optimizer process, thirty-two callers at a time."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

# With a price of $0.001 a token, a completion of the scripted upstream (10 + 5 tokens) costs $0.015.
USD = 0.015
CLOSED = {"rates": "closed", "budgets": "closed"}


def statuses(replies: list[httpx.Response]) -> Counter[int]:
    return Counter(reply.status_code for reply in replies)


async def test_requests_never_pass_the_limit(begin: Any, upstream: Any, early_in_the_minute: Any) -> None:
    """Of 200 requests over two workers exactly as many go through as the limit says."""
    await early_in_the_minute()
    async with begin({"requests_per_minute": 50}, CLOSED) as node:
        replies = await node.storm(120)
        await asyncio.sleep(1.2)  # what an idle worker holds goes back
        replies += await node.storm(80)
        limits = await node.optimizer.limits()

    found = statuses(replies)
    assert found[200] == len(upstream.bodies) <= 50
    assert found[200] >= 49
    assert set(found) <= {200, 429, 503}
    assert limits["route:chat", "requests", "minute"]["granted"] <= 50
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) <= 60


async def test_tokens_never_pass_what_was_reserved(
    begin: Any, upstream: Any, shapes: Any, early_in_the_minute: Any
) -> None:
    """Replies that use all that was reserved: the sum of what was used stays below the limit."""
    used: list[int] = []

    async def whole(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        used.append(110)
        usage = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}
        reply = shapes.completion("m")
        return web.json_response({**reply, "usage": usage})

    upstream.handler = whole
    await early_in_the_minute()
    async with begin({"tokens_per_minute": 3000}, CLOSED) as node:
        replies = await node.storm(200, max_tokens=100, messages=[{"role": "user", "content": "x" * 40}])

    assert statuses(replies)[200] == len(used)
    # The estimate of the prompt's size is not the upstream's count; what was reserved is never exceeded by more.
    assert sum(used) <= 3000 * 1.05
    assert sum(used) >= 2000


async def test_dollars_never_pass_the_budget(begin: Any, upstream: Any, shapes: Any) -> None:
    """32-way concurrency over two workers on a budget for a few: not one too many."""

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return web.json_response(shapes.completion("m"))

    upstream.handler = slow
    async with begin({"usd_per_day": 0.6, "usd_per_month": 10.0}) as node:
        replies = await node.storm(150, max_tokens=5, messages=[{"role": "user", "content": "x" * 20}])
        while replies[-1].status_code != 429 and len(replies) < 300:
            await asyncio.sleep(0.05)
            replies.append(await node.chat(len(replies) % 2, max_tokens=5))
        await asyncio.sleep(1.2)
        limits = await node.optimizer.limits()

    found = statuses(replies)
    assert found[200] * USD <= 0.6
    assert found[200] >= 20
    day = limits["route:chat", "usd", "day"]
    assert day["used"] == pytest.approx(found[200] * USD)
    assert day["used"] <= day["granted"] <= 0.6
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert refused.headers["x-should-retry"] == "false"


async def test_refunds_let_more_through(begin: Any, early_in_the_minute: Any) -> None:
    """Each request reserves a thousand tokens and uses fifteen: one after the other, far more than three get in."""
    await early_in_the_minute()
    async with begin({"tokens_per_minute": 3200}, workers=1) as node:
        replies = [await node.chat(max_tokens=1000) for _ in range(40)]

    assert statuses(replies) == {200: 40}


async def test_the_sdk_sees_its_headers(begin: Any, early_in_the_minute: Any) -> None:
    """As the official client shows them: on success, on a stream, and on the refusal."""
    await early_in_the_minute()
    async with begin({"requests_per_minute": 3, "tokens_per_minute": 100_000}, workers=1) as node:
        message: Any = [{"role": "user", "content": "hello"}]
        async with openai.AsyncOpenAI(base_url=node.urls[0] + "/v1", api_key="k", max_retries=0) as sdk:
            create = sdk.chat.completions.with_raw_response.create
            first = await create(model="chat", messages=message, max_tokens=10)
            second = await create(model="chat", messages=message, max_tokens=10)
            await create(model="chat", messages=message, max_tokens=10)
            with pytest.raises(openai.RateLimitError) as refused:
                await create(model="chat", messages=message, max_tokens=10)

    seen = first.headers
    assert (seen["x-ratelimit-limit-requests"], seen["x-ratelimit-remaining-requests"]) == ("3", "2")
    assert seen["x-ratelimit-limit-tokens"] == "100000"
    assert 99_900 <= int(seen["x-ratelimit-remaining-tokens"]) < 100_000
    assert seen["x-ratelimit-reset-requests"].endswith("s")
    assert second.headers["x-ratelimit-remaining-requests"] == "1"
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert "route 'chat'" in refused.value.message


@pytest.fixture
async def black_hole() -> AsyncIterator[Callable[[Any], Any]]:
    """Puts a socket that accepts and never answers where the optimizer was."""
    held: list[asyncio.StreamWriter] = []
    holes: list[asyncio.Server] = []

    async def dig(node: Any) -> None:
        node.optimizer.end(signal.SIGKILL)
        node.optimizer.state.optimizer_socket.unlink(missing_ok=True)
        path = str(node.optimizer.state.optimizer_socket)
        holes.append(await asyncio.start_unix_server(lambda _, writer: held.append(writer), path))

    yield dig
    for end in (*holes, *held):
        end.close()
    await asyncio.sleep(0.01)


async def test_a_black_holed_optimizer_costs_next_to_nothing(
    begin: Any, black_hole: Any, early_in_the_minute: Any
) -> None:
    """Rates open, nothing fails, and the callers hardly notice."""
    await early_in_the_minute(15)
    async with begin({"requests_per_minute": 100_000}, workers=1) as node:
        await node.chat()
        plain = await timed(node, 100)
        await black_hole(node)
        await asyncio.sleep(1)
        during = await timed(node, 300)

    assert all(status == 200 for status, _ in during)
    slow = sorted(seconds for _, seconds in during)
    # The median knows nothing of it; the worst may have waited its 5 ms, on a busy machine a little more.
    assert slow[150] <= sorted(seconds for _, seconds in plain)[50] * 2 + 0.002
    assert slow[-1] <= 0.1


async def timed(node: Any, count: int) -> list[tuple[int, float]]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        reply = await node.chat()
        found.append((reply.status_code, time.perf_counter() - began))
    return found


async def test_without_the_optimizer_a_budget_closes_and_says_why(begin: Any) -> None:
    """The lease is spent; then 503, with the setting that decided it; then it goes on by itself."""
    async with begin({"usd_per_day": 100.0}, workers=1) as node:
        assert (await node.chat(max_tokens=5)).status_code == 200
        node.optimizer.end(signal.SIGKILL)
        replies = [await node.chat(max_tokens=5) for _ in range(60)]
        await node.optimizer.start()
        deadline = time.monotonic() + 10
        while (await node.chat(max_tokens=5)).status_code != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    assert replies[0].status_code == 200
    assert set(statuses(replies)) == {200, 503}
    error = replies[-1].json()["error"]
    assert error["code"] == "limits_unavailable"
    assert "access.when_optimizer_away.budgets" in error["message"]
    assert int(replies[-1].headers["retry-after"]) >= 1


@pytest.mark.slow
async def test_a_budget_survives_kill_9_of_the_optimizer(begin: Any, upstream: Any) -> None:
    """Killed again and again under load: what was spent before is never granted anew."""
    async with begin({"usd_per_day": 0.9}) as node:
        replies: list[httpx.Response] = []
        for _ in range(3):
            storm = asyncio.ensure_future(node.storm(60, width=8, max_tokens=5))
            await asyncio.sleep(0.15)
            node.optimizer.end(signal.SIGKILL)
            replies += await storm
            await node.optimizer.start()
            await asyncio.sleep(0.6)
        replies += await node.storm(100, max_tokens=5)
        await asyncio.sleep(1.2)
        replies += await node.storm(40, max_tokens=5)

    found = statuses(replies)
    assert found[200] == len(upstream.bodies)
    assert found[200] * USD <= 0.9
    assert found[200] >= 40


async def test_a_worker_that_stops_gives_back(begin: Any) -> None:
    """A rolling restart does not eat the budget: what was granted is what was used."""
    async with begin({"usd_per_day": 100.0}, workers=1) as node:
        for _ in range(5):
            assert (await node.chat(max_tokens=5)).status_code == 200
        await node.workers[0].stop(0.2)
        deadline = time.monotonic() + 5
        while True:
            day = (await node.optimizer.limits())["route:chat", "usd", "day"]
            if day["granted"] == day["used"]:
                break
            assert time.monotonic() < deadline, day
            await asyncio.sleep(0.02)

    assert day["used"] == pytest.approx(5 * USD)


async def test_no_client_reaches_the_lease_endpoint(begin: Any) -> None:
    """Not through a worker, whatever the path looks like, not with the admin key, not over the socket itself."""
    async with begin({"requests_per_minute": 100}, workers=1) as node:
        admin_key = node.optimizer.state.admin_key_file.read_text().strip()
        body = b'{"worker":9,"sequence":1,"claims":[["route:chat","requests",0,1,100,100,100,0,0]]}'
        for path in (
            "/internal/v1/leases",
            "/api/v1/../../internal/v1/leases",
            "/api/v1/%2e%2e/%2e%2e/internal/v1/leases",
            "/api/v1//internal/v1/leases",
            "/ui/../internal/v1/leases",
        ):
            for key in ({}, {"authorization": f"Bearer {admin_key}"}):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(node.urls[0].rsplit(":")[-1]))
                head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in key.items())
                head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                answer = await reader.read()
                writer.close()
                status = int(answer.split(b" ", 2)[1])
                assert status in (400, 401, 404, 405), (path, answer)
        connector = httpx.AsyncHTTPTransport(uds=str(node.optimizer.state.optimizer_socket))
        async with httpx.AsyncClient(transport=connector) as direct:
            for headers in (
                {},
                {"authorization": f"Bearer {admin_key}"},
                {"x-llm-optimizer-worker": "guess"},
                {
                    "x-llm-optimizer-worker": node.optimizer.state.worker_token,
                    "x-llm-optimizer-peer": "127.0.0.1",
                },
            ):
                reply = await direct.post(
                    "http://localhost/internal/v1/leases", content=body, headers=headers
                )
                assert reply.status_code == 401
        limits = await node.optimizer.limits()

    assert limits == {}
