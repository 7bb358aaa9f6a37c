"""Endpoints beside chat, through the official ``openai`` SDK: replies pass untouched and are counted."""

import base64
import struct
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web


def response_object(status: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": "Hello", "annotations": []}
    output = [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    ]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": output if status == "completed" else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(proxy, upstream, sdk, stream):
    """The responses API passes untouched; its usage is read from the completed response."""
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 38,
    }
    done = response_object("completed", usage=usage)
    steps = [
        {"type": "response.created", "response": response_object("in_progress")},
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hel", "logprobs": []},
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "lo", "logprobs": []},
        {"type": "response.completed", "response": done},
    ]
    content = b"".join(
        b"event: %b\ndata: %b\n\n" % (step["type"].encode(), orjson.dumps(step | {"sequence_number": at}))
        for at, step in enumerate(steps)
    )

    async def handler(request: web.Request) -> web.StreamResponse:
        if stream:
            return web.Response(body=content, content_type="text/event-stream")
        return web.json_response(done)

    upstream.handler = handler
    asked = {"model": "chat", "input": "Say hello", "store": False}
    if stream:
        found = [step async for step in await sdk.responses.create(**asked, stream=True)]
        assert [step.type for step in found] == [step["type"] for step in steps]
        assert found[-1].response.output_text == "Hello"
        raw = await proxy.client.post("/v1/responses", json=asked | {"stream": True})
        assert raw.content == content
    else:
        assert (await sdk.responses.create(**asked)).output_text == "Hello"

    assert "stream_options" not in upstream.bodies[0]
    logged = await proxy.event()
    assert logged["endpoint"] == "responses"
    assert logged["gen_ai.response.id"] == "resp_1"
    assert logged["reasoning_tokens"] == 3
    assert logged["cost_usd"] == pytest.approx((10 + 20 * 0.5 + 8 * 2) / 1e6, rel=1e-12)
    assert logged["signals"] == {"empty": 0, "refusal": 0}


async def test_embeddings_in_base64(proxy, upstream, sdk):
    """The SDK asks for packed floats and unpacks them: the numbers survive to the last bit."""
    numbers = [Random(5).uniform(-1, 1) for _ in range(1536)]
    packed = struct.pack("<1536f", *numbers)

    async def handler(request: web.Request) -> web.StreamResponse:
        assert upstream.bodies[-1]["encoding_format"] == "base64"
        text = base64.b64encode(packed).decode()
        data = [{"object": "embedding", "index": at, "embedding": text} for at in range(2)]
        usage = {"prompt_tokens": 6, "total_tokens": 6}
        return web.json_response({"object": "list", "data": data, "model": "e", "usage": usage})

    upstream.handler = handler
    reply = await sdk.embeddings.create(model="chat", input=["x", "y"])

    assert [struct.pack("<1536f", *entry.embedding) for entry in reply.data] == [packed, packed]
    assert reply.usage.prompt_tokens == 6
    logged = await proxy.event()
    assert logged["cost_usd"] == pytest.approx(6e-6)
    assert logged["usage_source"] == "reported"
