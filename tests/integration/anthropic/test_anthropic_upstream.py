"""A route with an OpenAI arm and an Anthropic arm: the official ``openai`` SDK must not notice which one answers."""

import asyncio
import base64

import orjson
import pydantic
import pytest

PIN = {"x-llm-optimizer-pin": "claude"}
QUESTION = [{"role": "user", "content": "hi"}]
TEXT = [{"type": "text", "text": 'Grüße, "Welt"\n'}]
THOUGHT = [{"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"}, *TEXT]
CALLS = [
    {"type": "text", "text": "I look it up."},
    {"type": "tool_use", "id": "toolu_01A", "name": "weather", "input": {"city": "Zürich", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_01B", "name": "now", "input": {}},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {name}.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }
    for name, properties in (
        ("weather", {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}}),
        ("now", {}),
    )
]


async def test_both_arms_answer_one_route_with_their_own_credentials(claude, messages, upstream, caller, sdk):
    """Callers see one shape; neither key, nor the caller's, reaches the other provider."""
    shapes_seen = set()
    for _ in range(16):
        raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4", messages=QUESTION)
        answer = raw.parse()
        shapes_seen.add((raw.headers["x-llm-optimizer-arm"], answer.object, answer.choices[0].finish_reason))

    assert shapes_seen == {("a", "chat.completion", "stop"), ("claude", "chat.completion", "stop")}
    assert all(sent["authorization"].startswith("Bearer sk-planted-upstream") for sent in upstream.headers)
    assert all("x-api-key" not in sent for sent in upstream.headers)
    sent = orjson.dumps([messages.headers, upstream.headers]).decode()
    assert "caller-key" not in sent
    assert "sk-planted-upstream" not in orjson.dumps(messages.headers).decode()


async def test_unary_answer_usage_cost_and_headers(claude, messages, caller, sdk):
    """Cached tokens are priced once each, and the caller gets the ids of both sides."""
    raw = await sdk.chat.completions.with_raw_response.create(
        model="chat", messages=QUESTION, extra_headers=PIN
    )
    answer = raw.parse()

    assert messages.paths == ["/v1/messages"]
    assert answer.choices[0].message.content == messages.text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        1220,
        7,
        1227,
    )
    assert answer.usage.prompt_tokens_details.cached_tokens == 1000
    shown = {name: raw.headers[f"x-llm-optimizer-{name}"] for name in ("route", "arm", "model", "variant")}
    assert shown == {"route": "chat", "arm": "claude", "model": "claude", "variant": "default"}
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-llm-optimizer-upstream-request-id"] == "req_011CSHoEeqs5C35K2UUqR7Fy"
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "99"
    assert float(raw.headers["x-llm-optimizer-cost-usd"]) == pytest.approx(messages.cost)
    logged = await claude.event()
    assert logged["cost_usd"] == pytest.approx(messages.cost, rel=1e-12)
    assert logged["gen_ai.provider.name"] == "anthropic"
    assert logged["gen_ai.request.model"] == "claude-sonnet-4-5"
    assert logged["gen_ai.response.model"] == "claude-sonnet-4-5-20250929"
    assert logged["gen_ai.response.id"] == "msg_01XFDUDYJgAACzvnptvVoYEL"
    assert logged["gen_ai.response.finish_reasons"] == ["stop"]
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["gen_ai.usage.output_tokens"] == 7
    assert logged["gen_ai.usage.cache_read.input_tokens"] == 1000
    assert logged["gen_ai.usage.cache_creation.input_tokens"] == 200
    assert logged["cache_write_1h_tokens"] == 50
    assert logged["usage_source"] == "reported"
    assert logged["upstream_request_id"] == "req_011CSHoEeqs5C35K2UUqR7Fy"


@pytest.mark.parametrize(
    ("content", "stop", "reason"),
    [
        (TEXT, "end_turn", "stop"),
        (TEXT, "stop_sequence", "stop"),
        (TEXT, "max_tokens", "length"),
        (TEXT, "model_context_window_exceeded", "length"),
        (TEXT, "refusal", "content_filter"),
        (THOUGHT, "end_turn", "stop"),
        (CALLS, "tool_use", "tool_calls"),
        ([], "end_turn", "stop"),
    ],
    ids=["text", "stop", "length", "window", "refusal", "thinking", "tools", "empty"],
)
@pytest.mark.parametrize("piece_bytes", [0, 5], ids=["whole", "pieces"])
async def test_a_stream_assembles_to_the_unary_answer(
    claude, messages, caller, content, stop, reason, piece_bytes
):
    """What the SDK assembles from the stream equals the whole reply, event and cost included."""
    messages.replies = [messages.message(content, stop)]
    messages.piece_bytes = piece_bytes
    tools = {"tools": TOOLS} if stop == "tool_use" else {}
    whole = (await caller.ask(**tools)).model_dump()
    # The SDK's own helper refuses to hand out cut or filtered answers, so those are put together here.
    if reason in ("length", "content_filter"):
        parts = [part async for part in await caller.ask(stream=True) if part.choices]
        assert "".join(part.choices[0].delta.content or "" for part in parts) == messages.text
        assert parts[-1].choices[0].finish_reason == reason
    else:
        built = (await caller.assembled(**tools)).model_dump()
        ours, theirs = built["choices"][0]["message"], whole["choices"][0]["message"]
        assert (ours["content"] or "") == (theirs["content"] or "")
        assert ours.get("reasoning_content") == theirs.get("reasoning_content")
        calls = [
            [
                (call["id"], call["function"]["name"], orjson.loads(call["function"]["arguments"]))
                for call in found
            ]
            for found in (ours["tool_calls"] or [], theirs["tool_calls"] or [])
        ]
        assert calls[0] == calls[1]
        assert built["usage"]["prompt_tokens"] == 1220
        assert built["usage"]["completion_tokens"] == 7
    assert whole["choices"][0]["finish_reason"] == reason
    first, second = await claude.event(1), await claude.event(2)
    same = ("cost_usd", "gen_ai.response.finish_reasons", "gen_ai.usage.input_tokens", "outcome", "signals")
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert second["cost_usd"] == pytest.approx(messages.cost, rel=1e-12)
    assert second["upstream_request_id"] == "req_011CSHoE"
    if content:
        assert second["ttft_ms"] <= second["duration_ms"]


async def test_first_text_is_sent_on_at_once_and_pings_are_no_content(claude, messages, caller):
    """The caller has the first text before the second is written; time to first token is that text's, not a ping's."""
    read = asyncio.Event()
    whole = messages.events(messages.message())
    messages.stream = [b"".join(whole[:3]), 0.2, whole[3], read, *whole[4:]]
    texts = []
    async for part in await caller.ask(stream=True):
        if part.choices[0].delta.content:
            texts.append(part.choices[0].delta.content)
            read.set()

    assert len(texts) == 2
    logged = await claude.event()
    assert logged["ttft_ms"] >= 150
    assert logged["chunks"] == 2


async def test_tools_round_trip(claude, messages, caller):
    """Tool calls go out to the caller, and its results back, as the Messages API wants them paired."""
    messages.replies = [messages.message(CALLS, "tool_use"), messages.message(TEXT)]
    turns = [{"role": "system", "content": "Use tools."}, *QUESTION]
    first = await caller.ask(messages=turns, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    said = first.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} is fine"}
        for call in said.tool_calls
    ]
    second = await caller.ask(messages=[*turns, said.model_dump(), *results], tools=TOOLS)

    assert second.choices[0].message.content == messages.text
    one, two = messages.bodies
    assert one["system"] == [{"type": "text", "text": "Use tools."}]
    assert [tool["name"] for tool in one["tools"]] == ["weather", "now"]
    assert one["tools"][0]["input_schema"] == TOOLS[0]["function"]["parameters"]
    assert one["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert two["messages"][1] == {"role": "assistant", "content": CALLS}
    assert [block["content"] for block in two["messages"][2]["content"]] == ["weather is fine", "now is fine"]
    assert (await claude.event())["signals"]["empty"] == 0


async def test_pictures_prompts_and_limits(claude, messages, caller):
    """Pictures, system text, stop words and limits arrive in Anthropic's words; what it lacks is left out."""
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    await caller.ask(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/png;base64,{png}", "detail": "low"},
                    },
                    {"type": "image_url", "image_url": {"url": "https://example.org/cat.jpg"}},
                ],
            },
            {"role": "assistant", "content": "It is "},
        ],
        max_completion_tokens=100,
        temperature=1.7,
        stop=["END", " "],
        seed=3,
        presence_penalty=0.5,
        logit_bias={"5": 1},
        user="user-77",
        metadata={"team": "x"},
        extra_body={"reasoning_effort": "low"},
    )

    (sent,) = messages.bodies
    assert sent == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "temperature": 1,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "user-77"},
        "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.jpg"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "It is"}]},
        ],
    }


@pytest.mark.parametrize(("answer", "valid"), [('{"n": 4}', 1), ('{"n": "four"}', 0)])
@pytest.mark.parametrize("stream", [False, True])
async def test_structured_output(claude, messages, caller, sdk, answer, valid, stream):
    """A schema is passed on, and the answer is checked against it; plain JSON mode stays with the other arm."""
    messages.replies = [messages.message([{"type": "text", "text": answer}])]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema, "strict": True}}
    reply = await caller.ask(response_format=wanted, stream=stream)
    if stream:
        assert "".join([part.choices[0].delta.content or "" async for part in reply]) == answer
    else:
        assert reply.choices[0].message.content == answer

    assert messages.bodies[0]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert (await claude.event())["signals"]["json_valid"] == valid
    raw = await sdk.chat.completions.with_raw_response.create(
        model="chat", messages=QUESTION, response_format={"type": "json_object"}
    )
    assert raw.headers["x-llm-optimizer-arm"] == "a"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_replies_are_still_translated(claude, messages, caller, encoding, stream):
    """A reply compressed against our wish is decoded, translated and sent on plain."""
    messages.encoding = encoding
    messages.piece_bytes = 9
    answer = await (caller.assembled() if stream else caller.ask())

    assert messages.headers[0]["accept-encoding"] == "identity"
    assert answer.choices[0].message.content == messages.text
    logged = await claude.event()
    assert logged["cost_usd"] == pytest.approx(messages.cost, rel=1e-12)
    assert logged["outcome"] == "completed"


async def test_the_end_is_told_before_the_connection_ends(claude, messages, caller):
    """``message_stop`` is the end for the caller, whatever the provider does with its connection."""
    messages.stream = [*messages.events(messages.message()), 30.0]
    answer = await asyncio.wait_for(caller.assembled(), 2)

    assert answer.choices[0].message.content == messages.text
    assert (await claude.event())["outcome"] == "completed"


async def test_a_long_answer_is_translated_whole(claude, messages, caller):
    """Larger than what is held back of replies that pass untouched."""
    text = "Wörter " * 300_000
    messages.replies = [messages.message([{"type": "text", "text": text}])]
    whole, built = await caller.ask(), await caller.assembled()

    assert whole.choices[0].message.content == built.choices[0].message.content == text


async def test_usage_without_a_cache(claude, messages, caller):
    """Older replies have no cache members, or null in them."""
    usages = [
        {"input_tokens": 20, "output_tokens": 7},
        {
            "input_tokens": 20,
            "output_tokens": 7,
            "cache_read_input_tokens": None,
            "cache_creation_input_tokens": 0,
        },
    ]
    for usage in usages:
        messages.replies = [messages.message(usage=usage)]
        assert (await caller.ask()).usage.total_tokens == 27
        assert (await caller.assembled()).usage.total_tokens == 27

    for number in range(1, 5):
        assert (await claude.event(number))["cost_usd"] == pytest.approx((20 * 3 + 7 * 15) / 1e6, rel=1e-12)


async def test_typed_answers(claude, messages, caller, sdk):
    """The SDK's ``parse`` with a pydantic model works as it does with OpenAI."""

    class Count(pydantic.BaseModel):
        n: int
        of: list[str]

    messages.replies = [messages.message([{"type": "text", "text": '{"n": 2, "of": ["a", "b"]}'}])]
    answer = await sdk.chat.completions.parse(
        model="chat", messages=QUESTION, response_format=Count, extra_headers=PIN
    )

    assert answer.choices[0].message.parsed == Count(n=2, of=["a", "b"])
    assert messages.bodies[0]["output_config"]["format"]["schema"]["required"] == ["n", "of"]
    assert (await claude.event())["signals"]["json_valid"] == 1
