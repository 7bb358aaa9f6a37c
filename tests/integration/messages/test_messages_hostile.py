"""Odd messages and odd upstreams: the caller gets the shape of the API, and never half an answer as a whole one."""

import asyncio
import random
from dataclasses import replace

import pytest
from aiohttp import web

PATH = "/v1/messages"
PIN = "x-llm-optimizer-pin"
ASK = {"model": "chat", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}


def _shaped(reply, status: int) -> str:
    """The error's message, once its shape and id are checked."""
    assert reply.status_code == status, reply.text
    doc = reply.json()
    assert doc["type"] == "error"
    assert set(doc["error"]) == {"type", "message"}
    assert reply.headers["request-id"] == doc["request_id"]
    return doc["error"]["message"]


def _nested(levels: int) -> bytes:
    block = b'{"type":"text","text":"x"}'
    for _ in range(levels):
        block = b'{"type":"tool_result","tool_use_id":"t","content":[%b]}' % block
    return b'{"model":"chat","max_tokens":5,"messages":[{"role":"user","content":[%b]}]}' % block


@pytest.mark.parametrize("arm", ["a", "claude"])
@pytest.mark.parametrize("levels", [100, 330, 505, 2000])
async def test_any_depth_has_an_answer(both, upstream, shapes, arm, levels):
    for path in (PATH, f"{PATH}/count_tokens"):
        reply = await both.client.post(path, content=_nested(levels), headers={PIN: arm})
        assert reply.status_code in (200, 400), reply.text
        if reply.status_code == 400:
            assert reply.json()["type"] == "error"


@pytest.mark.parametrize("seed", range(3))
async def test_any_body_gets_an_answer_in_the_apis_shape(both, upstream, shapes, seed):
    rng = random.Random(seed)
    values = [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "x",
        [],
        [None],
        ["x"],
        {},
        {"type": "x"},
        [{"type": 5}],
        {"type": None},
    ]
    kinds = [
        "text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use",
        "web_search_tool_result", "search_result", "container_upload", "x", 5, None,
    ]  # fmt: skip
    names = [
        "system", "tools", "tool_choice", "stop_sequences", "metadata", "output_config", "output_format", "thinking",
        "container", "mcp_servers", "stream_options", "temperature", "top_p", "service_tier", "user",
    ]  # fmt: skip

    def block(depth: int = 0):
        made = {"type": rng.choice(kinds)}
        for name in ("text", "source", "content", "id", "name", "input", "citations", "tool_use_id", "title"):
            if rng.random() < 0.5:
                made[name] = rng.choice(values) if depth or rng.random() < 0.6 else [block(1)]
        return made

    def message():
        content = rng.choice([*values, [block() for _ in range(rng.randint(0, 3))]])
        return {"role": rng.choice(["user", "assistant", "system", "x", None, 5]), "content": content}

    for number in range(40):
        body = {**ASK, "messages": [message() for _ in range(rng.randint(1, 3))]}
        body |= {name: rng.choice([*values, [block()]]) for name in names if rng.random() < 0.2}
        path = PATH if number % 3 else f"{PATH}/count_tokens"
        reply = await both.client.post(path, json=body, headers={PIN: rng.choice(["a", "claude"])})
        assert reply.status_code in (200, 400), (body, reply.text)
        if reply.status_code == 400:
            assert "Internal" not in _shaped(reply, 400)


async def test_a_defect_of_ours_has_the_apis_shape(both, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr("proxy.entrance.decide", broken)
    monkeypatch.setattr("proxy.app.count_tokens", broken)
    for path in (PATH, f"{PATH}/count_tokens"):
        assert _shaped(await both.client.post(path, json=ASK), 500) == "Internal error."
    assert both.worker.plane.in_flight == 0


@pytest.mark.parametrize("arm", ["a", "claude"])
async def test_one_piece_for_a_stream_is_an_error(both, claude, upstream, shapes, arm):
    """The SDKs would read it as an empty answer."""

    async def whole(request: web.Request) -> web.Response:
        return web.json_response(shapes.completion("a", "x") if arm == "a" else claude.message())

    upstream.handler = claude.streamed = whole
    _shaped(await both.client.post(PATH, json={**ASK, "stream": True}, headers={PIN: arm}), 502)


async def test_an_overloaded_upstream_is_followed_and_then_told(both, claude, upstream, shapes):
    claude.status, claude.reply = (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "full"}},
    )
    source = both.worker.plane.table.source
    route = source.routes[0]
    patience = replace(route.resilience, attempts=2, same_arm=0)
    route = replace(route, resilience=patience)
    alone = replace(route, control=shapes.side(shapes.arm("claude")), fallbacks=(shapes.arm("a"),))
    both.publish(replace(source, version=3, routes=(alone,)))
    reply = await both.client.post(PATH, json=ASK)
    assert reply.json()["content"][0]["text"] == "Hello"
    both.publish(replace(source, version=4, routes=(replace(alone, fallbacks=()),)))
    reply = await both.client.post(PATH, json=ASK)
    assert reply.status_code == 529
    assert reply.json() == claude.reply


@pytest.mark.parametrize("mode", ["set", "append", "prepend"])
@pytest.mark.parametrize("arm", ["a+terse", "claude+terse"])
async def test_a_variant_joins_a_list_of_system_texts(both, claude, upstream, shapes, arm, mode):
    source = both.worker.plane.table.source
    variants = (source.variants[0], replace(source.variants[1], mode=mode))
    side = shapes.side(shapes.arm("a", "terse"), shapes.arm("claude", "terse"))
    both.publish(
        replace(source, version=3, variants=variants, routes=(replace(source.routes[0], control=side),))
    )
    mark = {"type": "ephemeral"}
    system = [{"type": "text", "text": "One", "cache_control": mark}, {"type": "text", "text": "Two"}]
    reply = await both.client.post(PATH, json={**ASK, "system": system}, headers={PIN: arm})
    assert reply.status_code == 200, reply.text
    if arm.startswith("claude"):
        sent = claude.body["system"]
        texts = sent if type(sent) is str else "".join(block["text"] for block in sent)
        assert mode == "set" or system[0] in sent
    else:
        texts = upstream.bodies[-1]["messages"][0]["content"]
    order = [name for name in ("One", "Be terse.", "Two") if name in texts]
    assert "Be terse." in texts
    assert (order == ["Be terse."]) == (mode == "set")
    if mode != "set":
        first = "Be terse." if mode == "prepend" else "One"
        assert texts.startswith(first)


async def test_a_caller_that_leaves_a_translated_stream_is_nobodys_failure(both, upstream):
    gone = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        try:
            while True:
                await reply.write(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
                await asyncio.sleep(0.005)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    upstream.handler = endless
    async with both.client.stream("POST", PATH, json={**ASK, "stream": True}, headers={PIN: "a"}) as reply:
        async for _ in reply.aiter_raw():
            break
    await asyncio.wait_for(gone.wait(), 5)
    assert (await both.event(1))["outcome"] == "censored"
