"""Client keys on the Messages API, where SDKs send them as ``x-api-key``; and callers' own credentials there."""

import anthropic
import orjson
import pytest

ASK = {"model": "chat", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
THEIRS = "sk-their-own-credential"


async def test_a_client_key_opens_messages(keyed, upstream):
    """As ``x-api-key``, to messages and counts; it goes no further."""
    made = await keyed.make()
    async with anthropic.AsyncAnthropic(base_url=keyed.url, api_key=made["key"], max_retries=0) as sdk:
        reply = await sdk.messages.create(**ASK)
        count = await sdk.messages.count_tokens(model="chat", messages=ASK["messages"])

    assert reply.content[0].text == "Hello"
    assert count.input_tokens > 0
    assert made["key"] not in orjson.dumps(upstream.headers).decode()


@pytest.mark.parametrize("key", ["nothing", "llmo-" + "a" * 49])
async def test_a_bad_key_is_told_in_the_apis_shape(keyed, upstream, key):
    """401, by the SDK's own exception."""
    async with anthropic.AsyncAnthropic(base_url=keyed.url, api_key=key, max_retries=0) as sdk:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await sdk.messages.create(**ASK)
        with pytest.raises(anthropic.AuthenticationError):
            await sdk.messages.count_tokens(model="chat", messages=ASK["messages"])

    assert caught.value.body["error"]["type"] == "authentication_error"
    assert upstream.raw == []


async def test_scopes_and_limits_are_told_in_the_apis_shape(keyed):
    """403 for a route that is not the key's, 429 for more tokens than it has."""
    made = await keyed.make(routes=["chat"], quota={"tokens_per_minute": 1})
    async with anthropic.AsyncAnthropic(base_url=keyed.url, api_key=made["key"], max_retries=0) as sdk:
        with pytest.raises(anthropic.PermissionDeniedError) as refused:
            await sdk.messages.create(**{**ASK, "model": "other"})
        with pytest.raises(anthropic.PermissionDeniedError):
            await sdk.messages.count_tokens(model="other", messages=ASK["messages"])
        with pytest.raises(anthropic.RateLimitError) as limited:
            await sdk.messages.create(**ASK)

    assert refused.value.body["error"]["type"] == "permission_error"
    assert limited.value.body["error"]["type"] == "rate_limit_error"


async def test_the_callers_own_credential_reaches_its_upstream(keyed, upstream):
    """Sent as ``x-api-key`` by these SDKs, as the provider wants it there."""
    made = await keyed.make()
    headers = {"x-api-key": THEIRS, "x-llm-optimizer-key": made["key"]}

    reply = await keyed.http.post("/v1/messages", json={**ASK, "model": "byok"}, headers=headers)

    assert reply.status_code == 200
    assert upstream.headers[0]["authorization"] == f"Bearer {THEIRS}"
    assert made["key"] not in orjson.dumps(upstream.headers).decode()


async def test_a_key_of_ours_is_nobodys_credential(open_house, upstream):
    """Where no key is asked for, one that is sent all the same stays here."""
    ask = {**ASK, "model": "byok"}

    await open_house.http.post("/v1/messages", json=ask, headers={"x-api-key": THEIRS})
    await open_house.http.post("/v1/messages", json=ask, headers={"x-api-key": "llmo-" + "a" * 49})

    assert [headers.get("authorization") for headers in upstream.headers] == [f"Bearer {THEIRS}", None]
    assert "llmo-" not in orjson.dumps(upstream.headers).decode()
