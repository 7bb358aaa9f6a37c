"""The simulator as a client sees it: OpenAI's shapes, seeded answers, faults, cut replies."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from openai import APIStatusError, AsyncOpenAI

from proxy.simulator.called import example
from proxy.simulator.profiles import (
    STEPS,
    Fault,
    ModelProfile,
    ProfileProblem,
    builtin_profiles,
    load_profiles,
)
from proxy.simulator.server import Simulator

SURE = ModelProfile(id="sure", skill=1.0, words=4)
NEVER = ModelProfile(id="never", skill=0.0, words=4)
QUESTION = [{"role": "user", "content": "What is 37 * 12 + 5?"}]


@asynccontextmanager
async def serving(profiles: Sequence[ModelProfile], seed: int = 0) -> AsyncIterator[AsyncOpenAI]:
    """A simulator without delays on a free port, and the official SDK pointed at it."""
    runner = web.AppRunner(
        Simulator(profiles, seed=seed, speed=0.0).application(), access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client
    await runner.cleanup()


async def raw(client: AsyncOpenAI, path: str, body: dict) -> httpx.Response:
    async with httpx.AsyncClient(base_url=str(client.base_url)) as plain:
        return await plain.post(path, json=body)


async def test_a_skilled_model_is_right_and_an_unskilled_one_wrong() -> None:
    """The answer in the text is what a grader can check."""
    async with serving([SURE, NEVER]) as client:
        right = await client.chat.completions.create(model="sure", messages=QUESTION)
        wrong = await client.chat.completions.create(model="never", messages=QUESTION)

    assert right.choices[0].message.content.endswith("Answer: 449")
    assert not wrong.choices[0].message.content.endswith("Answer: 449")
    assert right.usage.completion_tokens > 0


async def test_a_marker_in_the_system_prompt_changes_the_chance_and_the_length() -> None:
    """Prompt variants matter: the marked prompt is answered rightly, and at more length."""
    profile = builtin_profiles()[2]

    assert profile.chance("math", f"Think {STEPS.upper()}.") > profile.chance("math", "")
    assert profile.length(f"Think {STEPS}.") > 1.0


async def test_streams_carry_null_usage_then_one_usage_chunk_only_when_asked() -> None:
    """The chunk shapes are those of the real service."""
    async with serving([SURE]) as client:
        body = {"model": "sure", "messages": QUESTION, "stream": True}
        plain = await raw(client, "chat/completions", body)
        asked = await raw(client, "chat/completions", body | {"stream_options": {"include_usage": True}})

    assert plain.headers["content-type"].startswith("text/event-stream")
    assert '"usage"' not in plain.text
    lines = [line.removeprefix("data: ") for line in asked.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1]).endswith("Answer: 449")


async def test_same_seed_same_answers_and_repeats_differ() -> None:
    """A seed fixes the whole sequence of answers to a repeated question, and only that."""
    coin = ModelProfile(id="coin", skill=0.5, words=3)

    async def answers(seed: int) -> list[str]:
        async with serving([coin], seed) as client:
            replies = [
                await client.chat.completions.create(model="coin", messages=QUESTION) for _ in range(12)
            ]
        return [reply.choices[0].message.content for reply in replies]

    first = await answers(1)
    assert first == await answers(1)
    assert first != await answers(2)
    assert len({text.endswith("449") for text in first}) == 2


async def test_completions_responses_and_embeddings_answer_the_official_sdk() -> None:
    """Every endpoint parses in the SDK, streamed and not."""
    async with serving([SURE]) as client:
        text = await client.completions.create(model="sure", prompt="What is 2 + 3?")
        pieces = [
            chunk.choices[0].text
            async for chunk in await client.completions.create(
                model="sure", prompt="What is 2 + 3?", stream=True
            )
        ]
        whole = await client.responses.create(model="sure", input="What is 2 + 3?")
        events = [
            event
            async for event in await client.responses.create(
                model="sure", input="What is 2 + 3?", stream=True
            )
        ]
        vectors = await client.embeddings.create(model="sure", input=["a", "b"], dimensions=8)
        listed = await client.models.list()

    assert text.choices[0].text.endswith("Answer: 5")
    assert "".join(pieces).endswith("Answer: 5")
    assert whole.output_text.endswith("Answer: 5")
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text.endswith("Answer: 5")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [len(item.embedding) for item in vectors.data] == [8, 8]
    assert [model.id for model in listed.data] == ["sure"]


async def test_embeddings_come_as_base64_floats_when_asked() -> None:
    """base64 and numbers are the same vector."""
    async with serving([SURE]) as client:
        body = {"model": "sure", "input": "a", "dimensions": 4}
        numbers = (await raw(client, "embeddings", body)).json()["data"][0]["embedding"]
        packed = (await raw(client, "embeddings", body | {"encoding_format": "base64"})).json()

    unpacked = struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"]))
    assert unpacked == pytest.approx(numbers)


async def test_limits_and_forced_tools_and_json_are_honoured() -> None:
    """The finish reason tells why a reply ended; JSON is JSON."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    async with serving([SURE]) as client:
        short = await client.chat.completions.create(model="sure", messages=QUESTION, max_tokens=2)
        called = await client.chat.completions.create(
            model="sure", messages=QUESTION, tools=[tool], tool_choice="required"
        )
        as_json = await client.chat.completions.create(
            model="sure", messages=QUESTION, response_format={"type": "json_object"}
        )

    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 2
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.tool_calls[0].function.name == "look"
    assert json.loads(as_json.choices[0].message.content) == {"answer": "449"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("chat/completions", {"model": "nope", "messages": QUESTION}, 404, "model"),
        ("chat/completions", {"messages": QUESTION}, 400, "model"),
        ("chat/completions", {"model": "sure"}, 400, "messages"),
        ("chat/completions", {"model": "sure", "messages": QUESTION, "n": 0}, 400, "n"),
        ("embeddings", {"model": "sure", "input": []}, 400, "input"),
        ("responses", {"model": "sure"}, 400, "input"),
        ("nothing/here", {}, 404, None),
    ],
)
async def test_wrong_requests_get_openai_shaped_errors(
    path: str, body: dict, status: int, param: str | None
) -> None:
    """Each refusal names the field."""
    async with serving([SURE]) as client:
        reply = await raw(client, path, body)

    assert reply.status_code == status
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["message"]


async def test_faults_hit_at_their_rate_with_their_status() -> None:
    """A model with faults fails as its profile says."""
    flaky = ModelProfile(id="flaky", skill=1.0, faults=(Fault(rate=0.3, status=429),))
    statuses = []
    async with serving([flaky]) as client:
        for _ in range(100):
            try:
                await client.chat.completions.create(model="flaky", messages=QUESTION)
            except APIStatusError as error:
                statuses.append(error.status_code)

    assert set(statuses) == {429}
    assert 15 <= len(statuses) <= 45


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_reply_is_seen_to_be_incomplete(stream: bool) -> None:
    """A cut fault ends the connection in the middle of the body."""
    cut = ModelProfile(id="cut", faults=(Fault(rate=1.0, kind="cut"),))
    async with serving([cut]) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await raw(client, "chat/completions", {"model": "cut", "messages": QUESTION, "stream": stream})


def test_a_profile_file_is_checked_whole(tmp_path: Path) -> None:
    """Good files load; a wrong field, a repeated id and an empty list are named."""
    good = tmp_path / "good.yaml"
    good.write_text("models:\n  - {id: a, skill: 0.4, skills: {math: 0.1}}\n  - {id: b}\n")
    wrong = tmp_path / "wrong.json"
    wrong.write_text('[{"id": "a", "skil": 1}]')
    twice = tmp_path / "twice.yaml"
    twice.write_text("[{id: a}, {id: a}]")

    assert [profile.id for profile in load_profiles(good)] == ["a", "b"]
    with pytest.raises(ProfileProblem, match="skil"):
        load_profiles(wrong)
    with pytest.raises(ProfileProblem, match="more than once: a"):
        load_profiles(twice)
    with pytest.raises(ProfileProblem, match=r"none\.yaml"):
        load_profiles(tmp_path / "none.yaml")


async def test_a_caller_that_hangs_up_ends_its_stream() -> None:
    """A stream nobody reads any more does not go on in the background."""
    slow = ModelProfile(id="slow", ttft_ms=0.0, token_ms=60_000.0, words=50)
    runner = web.AppRunner(
        Simulator([slow], speed=1.0).application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=30.0,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"

    body = {"model": "slow", "messages": QUESTION, "stream": True}
    async with httpx.AsyncClient() as client, client.stream("POST", url, json=body) as reply:
        await anext(reply.aiter_bytes())

    async with asyncio.timeout(5):
        await runner.cleanup()


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2},
        "unit": {"$ref": "#/$defs/Unit"},
        "hours": {"type": "array", "items": {"type": ["number", "null"]}},
    },
    "required": ["city"],
    "$defs": {"Unit": {"enum": ["C", "F"]}},
}
ASKED = {"city": "text", "days": 2, "unit": "C", "hours": [1]}


async def test_a_forced_call_has_arguments_that_its_schema_accepts() -> None:
    """The one that is named is called; in a stream the arguments come in pieces."""
    tools = [
        {"type": "function", "function": {"name": name, "parameters": WEATHER}}
        for name in ("other", "weather")
    ]
    named = {"type": "function", "function": {"name": "weather"}}
    async with serving([SURE]) as client:
        create = client.chat.completions.create
        whole = await create(model="sure", messages=QUESTION, tools=tools, tool_choice=named)
        parts = [
            part.choices[0].delta.tool_calls[0]
            async for part in await create(
                model="sure", messages=QUESTION, tools=tools, tool_choice=named, stream=True
            )
            if part.choices[0].delta.tool_calls
        ]

    call = whole.choices[0].message.tool_calls[0].function
    assert (call.name, json.loads(call.arguments)) == ("weather", ASKED)
    assert (parts[0].function.name, parts[0].function.arguments) == ("weather", "")
    assert json.loads("".join(part.function.arguments for part in parts)) == ASKED


async def test_responses_call_functions_and_answer_in_json() -> None:
    """Streamed and not, as the SDK puts it together."""
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}]
    shape = {"type": "object", "properties": {"answer": {"type": "string"}}}
    async with serving([SURE]) as client:
        create = client.responses.create
        called = await create(model="sure", input="Weather?", tools=tools, tool_choice="required")
        async with client.responses.stream(
            model="sure", input="Weather?", tools=tools, tool_choice="required"
        ) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
        text = await create(
            model="sure",
            input="What is 37 * 12 + 5?",
            text={"format": {"type": "json_schema", "name": "answer", "schema": shape}},
        )

    for reply in (called, streamed):
        assert (reply.output[0].type, reply.output[0].name) == ("function_call", "weather")
        assert json.loads(reply.output[0].arguments) == ASKED
    assert "response.function_call_arguments.delta" in kinds
    assert json.loads(text.output_text) == {"answer": "449"}


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}}

    assert example(node)["next"]["next"] != {}
