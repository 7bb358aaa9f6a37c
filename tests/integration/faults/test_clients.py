"""Faults as the official client sees them, and connections that go on after a failure."""

import aiohttp
import openai
import pytest

from loadtests.faults.scenario import Arm, Expected, Scenario, arms
from loadtests.faults.wire import TEXT

HELLO = [{"role": "user", "content": "Count, please."}]


def route(*faults: str | Arm, **resilience: object) -> Scenario:
    return Scenario("clients", "", arms(*faults), Expected("complete"), stream=True, resilience=resilience)


def client(stage) -> openai.AsyncOpenAI:
    """As it comes, but for its own retries."""
    return openai.AsyncOpenAI(base_url=stage.product.url + "/v1", api_key="caller", max_retries=0)


@pytest.mark.parametrize("fault", ["status:500", "cut:0,reset", "blackhole", "error-event:0", "only-done"])
async def test_the_sdk_reads_one_whole_answer_whatever_failed_before_it(staged, fault):
    """Streams: what went wrong before the first token is not to be seen."""
    async with staged(route(fault, "answer")) as stage, client(stage) as sdk:
        stream = await sdk.chat.completions.create(model="clients", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_sdk_reads_a_continued_answer_as_one(staged):
    """One id, one role, one text, one usage."""
    scenario = route("cut:4,reset", Arm("answer", can=("prefill",)), resume=True)
    async with staged(scenario) as stage, client(stage) as sdk:
        stream = await sdk.chat.completions.create(
            model="clients", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        bodies = [attempt.body for attempt in stage.upstream.attempts]

    said = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in said) == TEXT
    assert len([delta for delta in said if delta.role]) == 1
    assert len({chunk.id for chunk in chunks}) == 1
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert usage.completion_tokens >= 8
    assert [message["role"] for message in bodies[1]["messages"]] == ["user", "assistant"]


async def test_a_continued_answer_keeps_to_the_tokens_that_were_asked_for(staged):
    """What was spent before the cut is not spent again."""
    scenario = route("cut:4,reset", Arm("answer", can=("prefill",)), resume=True)
    async with staged(scenario) as stage, client(stage) as sdk:
        stream = await sdk.chat.completions.create(
            model="clients", messages=HELLO, stream=True, max_tokens=100
        )
        async for _ in stream:
            pass
        first, second = (attempt.body for attempt in stage.upstream.attempts)

    assert first["max_tokens"] == 100
    assert 90 <= second["max_tokens"] < 100


@pytest.mark.parametrize(
    "fault", ["cut:3,reset", "cut:3,end", "no-finish:3", "error-event:3,done", "half-event:end"]
)
async def test_the_sdk_is_told_of_a_broken_answer(staged, fault):
    """It raises; it neither ends quietly nor trips over half an event."""
    async with staged(route(fault)) as stage, client(stage) as sdk:
        stream = await sdk.chat.completions.create(model="clients", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass

    assert type(caught.value) is openai.APIError
    assert caught.value.code


async def test_the_sdk_raises_what_the_first_failure_was(staged):
    """Its own exception types: rate limits stay rate limits, with the time to wait."""
    async with staged(route("status:429,after=7", "status:500")) as stage, client(stage) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="clients", messages=HELLO)

    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize("fault", ["cut:3,reset", "error-event:3", "status:500", "cut:0,close", "answer"])
async def test_the_clients_connection_goes_on_after_a_failure(staged, fault):
    """A failure of an upstream's costs the caller an answer, not its connection."""
    async with staged(route(fault, attempts=1)) as stage:
        opened = 0

        async def count(*_: object) -> None:
            nonlocal opened
            opened += 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(count)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1), trace_configs=[trace]
        ) as session:
            stage.session = session
            for number in range(5):
                stage.turn("a", fault if number % 2 == 0 else "answer")
                reply = await stage.ask()
                assert reply.fault == ""
            assert reply.status in (200, 500, 502)

    assert opened == 1
