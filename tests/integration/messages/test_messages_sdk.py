"""The official ``anthropic`` SDK against a route with an OpenAI arm and an Anthropic arm: it must not notice which."""

import asyncio
import base64
from dataclasses import replace

import anthropic
import orjson
import pytest
from aiohttp import web

ASK = {"model": "chat", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
BOTH = pytest.mark.parametrize("arm", ["a", "claude"])
TOOLS = [
    {
        "name": "weather",
        "description": "Get the weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


def pin(arm: str) -> dict[str, str]:
    return {"x-llm-optimizer-pin": arm}


def chunks(*docs: dict) -> bytes:
    events = [{"id": "chatcmpl-1", "model": "a-id", **doc} for doc in docs]
    return b"".join(b"data: " + orjson.dumps(doc) + b"\n\n" for doc in events) + b"data: [DONE]\n\n"


def choice(delta: dict, reason: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


TEXT_STREAM = chunks(
    choice({"role": "assistant", "content": ""}),
    choice({"content": "Hello"}),
    choice({"content": " there"}),
    choice({}, "stop"),
    {"choices": [], "usage": {"prompt_tokens": 1020, "completion_tokens": 7, "total_tokens": 1027,
                              "prompt_tokens_details": {"cached_tokens": 1000}}},
)  # fmt: skip


def streaming(data: bytes, *, cut: bool = False):
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(data)
        if cut:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


async def read_all(sdk, arm: str, seen: list):
    """The final message of a stream, whose events go to ``seen``; raises what the SDK raises."""
    async with sdk.messages.stream(**ASK, extra_headers=pin(arm)) as stream:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 - what came before a failure counts
        return await stream.get_final_message()


async def test_both_arms_answer_one_route(sdk, both, claude, upstream):
    """Text, reason and usage are there whichever arm is drawn; no credential crosses."""
    arms = set()
    for _ in range(16):
        raw = await sdk.messages.with_raw_response.create(**ASK)
        reply = await raw.parse()
        arms.add(raw.headers["x-llm-optimizer-arm"])
        assert (reply.type, reply.role, reply.stop_reason) == ("message", "assistant", "end_turn")
        assert reply.content[0].text in ("Hello", 'Grüße, "Welt"')
        assert reply._request_id == raw.headers["x-llm-optimizer-request-id"]

    assert arms == {"a", "claude"}
    sent = orjson.dumps([claude.headers, upstream.headers]).decode()
    assert "caller-key" not in sent
    assert all(seen["x-api-key"] == "sk-ant-planted-77aa" for seen in claude.headers)
    assert all("x-api-key" not in seen for seen in upstream.headers)


async def test_an_anthropic_upstream_gets_and_gives_the_same_bytes(both, claude):
    """But for the model, whatever members are in it; version and beta headers cross."""
    raw = b'{"model": "chat","max_tokens":5, "messages":[{"role":"user","content":[{"type":"new","x":1.50}]}],"y":{}}'
    headers = {
        "anthropic-version": "2031-01-01",
        "anthropic-beta": "a-1,b-2",
        "content-type": "application/json",
    }

    reply = await both.client.post("/v1/messages?beta=true", content=raw, headers=headers)

    assert reply.status_code == 200
    assert claude.raw == [raw.replace(b'"chat"', b'"claude-x"')]
    assert reply.content == orjson.dumps(claude.message())
    assert claude.paths == ["/v1/messages?beta=true"]
    assert (claude.headers[0]["anthropic-version"], claude.headers[0]["anthropic-beta"]) == (
        "2031-01-01",
        "a-1,b-2",
    )
    logged = await both.event()
    assert (logged["endpoint"], logged["arm"], logged["gen_ai.response.id"]) == (
        "messages",
        "claude",
        "msg_01ABC",
    )
    assert "no counterpart for messages[0].content[0] of type 'new'" in logged["filtered"]["a"]


@BOTH
async def test_a_stream_is_what_the_sdk_expects(sdk, both, claude, upstream, arm):
    """Events in the order of the protocol, assembled by the SDK; cost and usage are logged."""
    upstream.handler = streaming(TEXT_STREAM)

    seen = []
    final = await read_all(sdk, arm, seen)

    assert final.content[0].text == "Hello there"
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 7)
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens) == (20, 1000)
    shown = [event.type for event in seen if event.type.startswith(("message_", "content_block"))]
    assert (shown[0], shown[-2:]) == ("message_start", ["message_delta", "message_stop"])
    logged = await both.event()
    assert (logged["outcome"], logged["gen_ai.usage.input_tokens"]) == ("completed", 1020)
    assert (logged["stream"], logged["endpoint"]) == (True, "messages")
    # 20 fresh at 1, 1000 cached at 0.5, 7 out at 2, per million.
    assert logged["cost_usd"] == pytest.approx((20 + 500 + 14) / 1e6)


async def test_a_native_stream_is_relayed_byte_by_byte(both, claude):
    """Pings, unknown events and padding included."""
    odd = claude.event("whatever", x=1)
    claude.stream = [claude.stream[0], odd, *claude.stream[1:]]

    reply = await both.client.post("/v1/messages", json={**ASK, "stream": True}, headers=pin("claude"))

    assert reply.content == b"".join(claude.stream)
    assert reply.headers["content-type"].startswith("text/event-stream")


@BOTH
async def test_tools_are_called_and_answered(sdk, both, claude, upstream, arm):
    """A call comes as a block, streamed too, and its result goes back as the provider wants it."""
    function = {"name": "weather", "arguments": '{"city":"Zürich"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    said = {
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    whole = {
        "id": "x",
        "model": "m",
        "choices": [said],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }

    async def answer(request: web.Request) -> web.StreamResponse:
        if not upstream.bodies[-1].get("stream"):
            return web.json_response(whole)
        pieces = [{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": ""}},
                  {"index": 0, "function": {"arguments": '{"city":"Zü'}},
                  {"index": 0, "function": {"arguments": 'rich"}'}}]  # fmt: skip
        docs = [choice({"tool_calls": [piece]}) for piece in pieces]
        return await streaming(chunks(*docs, choice({}, "tool_calls")))(request)

    upstream.handler = answer
    block = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Zürich"}}
    claude.reply = claude.message(block, stop_reason="tool_use")
    start = {**block, "input": {}}
    parts = [{"type": "input_json_delta", "partial_json": part} for part in ('{"city":"Zü', 'rich"}')]
    claude.stream = [
        claude.stream[0],
        claude.event("content_block_start", index=0, content_block=start),
        *(claude.event("content_block_delta", index=0, delta=part) for part in parts),
        claude.event("content_block_stop", index=0),
        claude.event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 7}),
        claude.event("message_stop"),
    ]

    reply = await sdk.messages.create(**ASK, tools=TOOLS, tool_choice={"type": "any"}, extra_headers=pin(arm))
    async with sdk.messages.stream(**ASK, tools=TOOLS, extra_headers=pin(arm)) as stream:
        streamed = await stream.get_final_message()
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "sunny"}]}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
    ]
    await sdk.messages.create(**{**ASK, "messages": turns}, tools=TOOLS, extra_headers=pin(arm))

    for told in (reply, streamed):
        assert told.stop_reason == "tool_use"
        assert told.content[0].model_dump()["input"] == {"city": "Zürich"}
        assert (told.content[0].id, told.content[0].name) == ("call_1", "weather")
    if arm == "a":
        first, *_, last = upstream.bodies
        assert first["tool_choice"] == "required"
        assert first["tools"][0]["function"]["parameters"] == TOOLS[0]["input_schema"]
        assert last["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"
        assert last["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    else:
        assert claude.body["messages"][2]["content"] == [result]


async def test_pictures_reach_an_openai_arm_as_data(sdk, upstream):
    """And what it was not asked for is named in a header."""
    data = base64.b64encode(b"png").decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    content = [{"type": "text", "text": "what?"}, image]

    raw = await sdk.messages.with_raw_response.create(
        **{**ASK, "messages": [{"role": "user", "content": content}]},
        system="Be kind.",
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"top_k": 3},
        extra_headers=pin("a"),
    )

    sent = upstream.bodies[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
    assert sent["messages"][1]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert {"top_k", "thinking"}.isdisjoint(sent)
    assert raw.headers["x-llm-optimizer-left-out"] == "thinking, top_k"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.OverloadedError),
    ],
)
@BOTH
async def test_errors_have_the_apis_shape(sdk, claude, upstream, arm, status, kind):
    """The SDK raises what it would raise without us; the provider's own words come through."""
    said = {"type": "error", "error": {"type": "x_error", "message": "told"}, "request_id": "req_upstream"}
    claude.status, claude.reply = status, said

    async def refuse(request: web.Request) -> web.Response:
        error = {"error": {"message": "told", "type": "x", "param": None, "code": "y"}}
        return web.json_response(error, status=status)

    upstream.handler = refuse

    with pytest.raises(kind) as caught:
        await sdk.messages.create(**ASK, extra_headers=pin(arm))

    body = caught.value.body
    assert (body["type"], body["error"]["message"]) == ("error", "told")
    if arm == "claude":
        assert body == said


async def test_our_own_refusals_have_the_apis_shape(sdk, both):
    """Unknown model, bad body, wrong method, nobody who can: type, message and our id."""
    with pytest.raises(anthropic.NotFoundError) as caught:
        await sdk.messages.create(**{**ASK, "model": "nobody"})
    unlimited = await both.client.post("/v1/messages", json={"model": "chat", "messages": ASK["messages"]})
    broken = await both.client.post("/v1/messages", content=b"{")
    method = await both.client.get("/v1/messages")
    packed = await both.client.post("/v1/messages", content=b"x", headers={"content-encoding": "br"})

    body = caught.value.body
    assert body["error"]["type"] == "not_found_error"
    assert body["request_id"] == caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert (unlimited.status_code, broken.status_code, method.status_code, packed.status_code) == (
        400,
        400,
        405,
        415,
    )
    for reply in (unlimited, broken, method, packed):
        assert (reply.json()["type"], reply.json()["error"]["type"]) == ("error", "invalid_request_error")
    assert "max_tokens" in unlimited.json()["error"]["message"]


@BOTH
async def test_a_broken_stream_ends_with_an_error_event(sdk, both, claude, upstream, arm):
    """The text so far is there, and the SDK raises; no ``message_stop``."""
    upstream.handler = streaming(TEXT_STREAM[: TEXT_STREAM.index(b'"finish_reason":"stop"') - 80], cut=True)
    claude.stream, claude.cut = claude.stream[:4], True

    seen = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        await read_all(sdk, arm, seen)

    assert "".join(event.text for event in seen if event.type == "text").startswith("Hello")
    assert "message_stop" not in [event.type for event in seen]
    assert caught.value.body["error"]["type"] == "api_error"
    assert caught.value.body["request_id"].startswith("req_")
    logged = await both.event()
    assert (logged["outcome"], logged["status"]) == ("upstream_fault", 200)


@BOTH
async def test_an_error_event_of_the_upstreams_is_told_as_one(sdk, claude, upstream, arm):
    """Overloaded in the middle of an answer."""
    head = TEXT_STREAM[: TEXT_STREAM.index(b"data: ", TEXT_STREAM.index(b" there"))]
    upstream.handler = streaming(head + b'data: {"error":{"message":"busy","type":"overloaded_error"}}\n\n')
    error = {"type": "overloaded_error", "message": "busy"}
    claude.stream = [*claude.stream[:4], claude.event("error", error=error)]

    with pytest.raises(anthropic.APIStatusError) as caught:
        await read_all(sdk, arm, [])

    assert caught.value.body["error"] == error


async def test_a_block_that_only_the_api_knows_goes_there(sdk, both, claude, upstream):
    """Whatever the draw; and pinned elsewhere it is refused by name."""
    block = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}
    ask = {**ASK, "messages": [{"role": "user", "content": [block]}]}

    for _ in range(6):
        raw = await sdk.messages.with_raw_response.create(**ask)
        assert raw.headers["x-llm-optimizer-arm"] == "claude"
    with pytest.raises(anthropic.BadRequestError, match="search_result"):
        await sdk.messages.create(**ask, extra_headers=pin("a"))
    with pytest.raises(anthropic.BadRequestError, match="search_result"):
        await sdk.messages.create(**{**ask, "model": "a"})

    assert upstream.bodies == []


async def test_state_of_the_api_stays_at_the_api(sdk, both, claude):
    """A file and a hosted tool: the route's home is an OpenAI upstream, which can hold neither."""
    source = {"type": "file", "file_id": "file_1"}
    ask = {**ASK, "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    tool = {"type": "web_search_20250305", "name": "web_search"}

    first = await sdk.messages.with_raw_response.create(**ask)
    second = await sdk.messages.with_raw_response.create(**ASK, tools=[tool])

    assert {first.headers["x-llm-optimizer-arm"], second.headers["x-llm-optimizer-arm"]} == {"claude"}
    assert (await both.event(2))["reason"] == "home"


async def test_a_failed_arm_is_followed_by_another(sdk, both, claude, upstream, shapes):
    """Across providers, with the request translated anew."""
    table = both.worker.plane.table.source
    route = replace(table.routes[0], resilience=replace(table.routes[0].resilience, attempts=2, same_arm=0))
    side = replace(route.control, selector=replace(route.control.selector, id="s", probabilities=(0.0, 1.0)))
    both.publish(replace(table, version=9, routes=(replace(route, control=side),)))
    claude.status, claude.reply = 500, {"type": "error", "error": {"type": "api_error", "message": "x"}}

    reply = await sdk.messages.create(**ASK)

    assert reply.content[0].text == "Hello"
    assert upstream.bodies[-1]["max_tokens"] == 50
    logged = await both.event()
    assert [row["arm"] for row in logged["attempts"]] == ["claude", "a"]


async def test_the_sync_client(blocking, both, claude):
    """Whole and streamed, from a thread."""

    def ask() -> tuple[str, str]:
        whole = blocking.messages.create(**ASK, extra_headers=pin("claude"))
        with blocking.messages.stream(**ASK, extra_headers=pin("claude")) as stream:
            return whole.content[0].text, "".join(stream.text_stream)

    assert await asyncio.to_thread(ask) == ('Grüße, "Welt"', "Hello there")


async def test_tokens_are_counted_there_or_estimated(sdk, both, claude, shapes, upstream):
    """By the first arm that can, under its model's name; without one an estimate that says so."""
    counted = await sdk.messages.with_raw_response.count_tokens(model="chat", messages=ASK["messages"])
    estimated = await sdk.messages.with_raw_response.count_tokens(model="a", messages=ASK["messages"])
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.count_tokens(model="nobody", messages=ASK["messages"])

    assert (await counted.parse()).input_tokens == 1234
    assert counted.headers["x-llm-optimizer-token-count"] == "counted"
    assert claude.paths == ["/v1/messages/count_tokens"]
    assert claude.body["model"] == "claude-x"
    assert claude.headers[0]["x-api-key"] == "sk-ant-planted-77aa"
    assert estimated.headers["x-llm-optimizer-token-count"] == "estimated"
    assert (await estimated.parse()).input_tokens > 5
    assert upstream.bodies == []
    assert both.worker.plane.in_flight == 0


async def test_batches_pass_through(sdk, claude):
    """Under the prefix that names the upstream."""
    batch = await sdk.messages.batches.create(requests=[{"custom_id": "1", "params": ASK}])

    assert batch.id == "msgbatch_1"
    assert claude.paths == ["/v1/messages/batches"]


async def test_the_id_of_a_message_is_what_feedback_may_name(both, sdk):
    """The caller sees the id that the log knows."""
    for arm in ("a", "claude"):
        reply = await sdk.messages.create(**ASK, extra_headers=pin(arm))
        assert (await both.event(1 if arm == "a" else 2))["gen_ai.response.id"] == reply.id


async def test_a_caller_that_leaves_is_nobodys_failure(both, claude):
    """Half a stream read, then gone."""
    claude.stream, claude.endless = claude.stream[:4], True
    async with both.client.stream(
        "POST", "/v1/messages", json={**ASK, "stream": True}, headers=pin("claude")
    ) as reply:
        async for _ in reply.aiter_raw():
            break

    logged = await both.event()
    assert (logged["outcome"], logged["status"]) == ("censored", 499)
    assert logged["usage_source"] == "estimated"
