"""New tables and keys while requests are under way: what was begun ends as it began, what is wrong changes nothing."""

import asyncio
import time
from dataclasses import replace

import pytest
from aiohttp import web

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


async def until(condition, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


async def test_reloads_do_not_disturb_requests_under_way(proxy, upstream, shapes):
    """Ten new tables during a stream, its upstream removed in the end: it finishes, and the pool goes then."""
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        await release.wait()
        await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        return response

    upstream.handler = handler
    pool = proxy.worker.plane.table.handles["up"].pool
    async with proxy.client.stream("POST", CHAT, json=HELLO | {"stream": True}) as reply:
        parts = reply.aiter_raw()
        await anext(parts)
        for version in range(2, 11):
            proxy.publish(shapes.table(upstream.url, version=version))
        proxy.publish(
            shapes.table(upstream.url, version=11, upstreams=(), models=(), routes=(), passthrough=())
        )
        assert (await proxy.client.post(CHAT, json=HELLO)).status_code == 404
        release.set()
        rest = b"".join([part async for part in parts])

    assert rest.endswith(b"data: [DONE]\n\n")
    assert proxy.events()[-1]["data"]["table_version"] == 1
    await until(lambda: pool.busy == pool.idle == 0)


async def test_a_table_that_can_not_be_used_changes_nothing(proxy, upstream, shapes):
    """Neither its routes nor its limits; it is counted, the worker goes on looking, and the next one counts."""
    table = shapes.table(upstream.url, version=2)
    broken = replace(
        table,
        limits=replace(table.limits, max_body_bytes=1),
        routes=(replace(table.routes[0], control=shapes.side(shapes.arm("missing"))),),
    )
    with pytest.raises(AssertionError):
        proxy.publish(broken)

    assert (await proxy.client.post(CHAT, json=HELLO)).status_code == 200
    proxy.publish(replace(table, version=3))
    assert proxy.worker.plane.table.version == 3


async def test_a_literal_key_that_comes_later_opens_its_arms(proxy, upstream, shapes):
    """Until the supervisor sends it the arm is unavailable; afterwards it is drawn."""
    table = shapes.table(upstream.url, version=2)
    proxy.publish(replace(table, upstreams=(replace(table.upstreams[0], secret="literal:late"),)))
    before = await proxy.client.post(CHAT, json=HELLO)
    proxy.worker.learn_secrets({"literal:late": "sk-late"})
    after = await proxy.client.post(CHAT, json=HELLO)

    assert (before.status_code, after.status_code) == (503, 200)
    assert upstream.headers[-1]["authorization"] == "Bearer sk-late"


async def test_a_new_baseline_takes_effect(proxy, upstream, shapes):
    """A table that changes nothing but the baseline is not mistaken for the one before."""
    table = shapes.table(upstream.url, version=2)
    control = replace(table.routes[0].control, baseline="b")
    proxy.publish(replace(table, routes=(replace(table.routes[0], control=control),)))
    await proxy.client.post(CHAT, json=HELLO)

    assert (await proxy.event())["baseline_arm"] == "b"
