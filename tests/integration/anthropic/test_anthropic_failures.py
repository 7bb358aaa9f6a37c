"""What callers of an Anthropic arm see, and what is recorded, when the provider or the caller fails."""

import asyncio

import openai
import pytest

PIN = {"x-llm-optimizer-pin": "claude"}
QUESTION = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("status", "kind", "raised", "shown", "code", "outcome"),
    [
        (400, "invalid_request_error", openai.BadRequestError, 400, "invalid_request", "caller_fault"),
        (401, "authentication_error", openai.InternalServerError, 502, "upstream_auth_error", "censored"),
        (413, "request_too_large", openai.APIStatusError, 413, "request_too_large", "caller_fault"),
        (429, "rate_limit_error", openai.RateLimitError, 429, "rate_limit_exceeded", "censored"),
        (500, "api_error", openai.InternalServerError, 500, "api_error", "upstream_fault"),
        (529, "overloaded_error", openai.InternalServerError, 503, "overloaded", "upstream_fault"),
    ],
)
@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_errors_in_the_sdks_own_classes(
    claude, messages, caller, status, kind, raised, shown, code, outcome, encoding
):
    """Each refusal of the API becomes the exception that OpenAI's would be, with the provider's words."""
    messages.status = status
    messages.encoding = encoding
    messages.replies = [{"type": "error", "error": {"type": kind, "message": "the provider's words"}}]
    with pytest.raises(raised) as caught:
        await caller.ask(stream=True)

    error = caught.value
    assert (error.status_code, error.code) == (shown, code)
    if status != 401:
        assert "the provider's words" in error.message
    if status in (429, 529):
        assert error.response.headers["retry-after"] == "7"
    assert messages.key not in error.response.text
    logged = await claude.event()
    assert (logged["outcome"], logged["attempts"][0]["status"]) == (outcome, status)
    assert len(messages.bodies) == 1


async def test_overloaded_in_mid_stream(claude, messages, caller):
    """An error event ends the stream with that error, told once and recorded under its own name."""
    messages.stream = [
        *messages.events(messages.message())[:4],
        messages.event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    ]
    with pytest.raises(openai.APIError, match="Overloaded") as caught:
        await caller.assembled()
    assert caught.value.code == "overloaded"
    raw = await claude.client.post(
        "/v1/chat/completions", json={"model": "chat", "messages": QUESTION, "stream": True}, headers=PIN
    )

    assert raw.content.count(b'"error"') == 1
    assert b"[DONE]" not in raw.content
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", "upstream_overloaded")
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["cost_usd"] > 0


@pytest.mark.parametrize("cut", [True, False], ids=["connection cut", "clean end"])
@pytest.mark.parametrize("keep", [2, 4, -2], ids=["before text", "in text", "before stop reason"])
async def test_a_truncated_stream_is_an_error(claude, messages, caller, cut, keep):
    """Without stop reason nothing looks like success; what was billed so far is recorded."""
    messages.stream = list(messages.events(messages.message())[:keep])
    messages.cut = cut
    with pytest.raises(openai.APIError) as caught:
        await caller.assembled()

    assert caught.value.code == ("upstream_reset" if cut else "upstream_protocol_error")
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"]) == ("upstream_fault", caught.value.code)
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["usage_source"] == "estimated"


async def test_client_gone_in_mid_stream(claude, messages, caller):
    """The provider is told at once; input is what it reported, output what was seen."""
    messages.stream = [*messages.events(messages.message())[:5], 30.0]
    stream = await caller.ask(stream=True)
    async for part in stream:
        if part.choices[0].delta.content:
            break
    await stream.close()

    await asyncio.wait_for(messages.gone.wait(), 5)
    logged = await claude.event()
    assert (logged["outcome"], logged["error.type"], logged["status"]) == ("censored", "client_gone", 499)
    assert logged["usage_source"] == "estimated"
    assert logged["gen_ai.usage.input_tokens"] == 1220
    assert logged["gen_ai.usage.cache_read.input_tokens"] == 1000
    assert logged["gen_ai.usage.output_tokens"] >= 1
    assert logged["cost_usd"] > 0


async def test_a_200_with_an_error_inside_is_a_502(claude, messages, caller):
    """Success is judged by the body, not by the status line."""
    messages.replies = [{"type": "error", "error": {"type": "api_error", "message": "m"}}]
    with pytest.raises(openai.InternalServerError) as caught:
        await caller.ask()

    assert caught.value.status_code == 502
    assert (await claude.event())["outcome"] == "upstream_fault"


async def test_an_error_event_ends_the_answer_although_the_connection_stays(claude, messages, caller):
    """The caller does not wait for a provider that has already given up."""
    messages.stream = [
        *messages.events(messages.message())[:4],
        messages.event("error", error={"type": "api_error", "message": "Internal server error"}),
        30.0,
    ]
    with pytest.raises(openai.APIError, match="Internal server error"):
        await caller.assembled()
    reply = await claude.client.post(
        "/v1/chat/completions",
        json={"model": "chat", "messages": QUESTION, "stream": True},
        headers=PIN,
        timeout=2,
    )

    assert reply.content.count(b'"error"') == 1
    assert (await claude.event())["error.type"] == "api_error"


async def test_json_where_a_stream_was_asked_for(claude, messages, caller):
    """A 200 that is no event stream is a fault, not an empty answer."""
    messages.ignores_stream = True
    with pytest.raises(openai.InternalServerError) as caught:
        await caller.assembled()

    assert caught.value.code == "upstream_protocol_error"
    assert (await claude.event())["outcome"] == "upstream_fault"
