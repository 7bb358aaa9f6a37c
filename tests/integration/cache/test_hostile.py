"""What callers and upstreams do to the cache: endings that are none, long names, readers that are slow or leave."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web

from optimizer.routing import Caching

NAME = "x-llm-optimizer-cache"
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
REPLY = {
    "id": "c1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Answer"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


def _chunk(finish: str | None = None, **delta: Any) -> bytes:
    doc = {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + orjson.dumps(doc) + b"\n\n"


def _streams(kept: Any, *parts: bytes) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for part in parts:
            await reply.write(part)
        return reply

    kept.talker._stream = stream


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "parts",
    [
        (_chunk(content="Half an"), b"data: [DONE]\n\n"),
        (_chunk(content="Half an"), b'data: {"error":{"message":"planted"}}\n\n', b"data: [DONE]\n\n"),
        (_chunk(content="A"), b"data: {not json\n\n", _chunk("stop"), b"data: [DONE]\n\n"),
        (_chunk(content="A"), _chunk("length"), b"data: [DONE]\n\n"),
        (_chunk(content="A"), _chunk("stop"), b'data: {"error":{"message":"planted"}}\n\n'),
        (_chunk(role="assistant"), _chunk("stop"), b"data: [DONE]\n\n"),
    ],
    ids=("no reason", "error", "broken", "length", "late error", "empty"),
)
async def test_streams_that_are_not_whole_are_not_kept(kept, path, parts):
    _streams(kept, *parts)
    fields = {"path": path, "stream": True, "max_tokens": 9}
    assert await kept.results(kept.ask(**fields), kept.ask(**fields)) == ["miss", "miss"]
    _streams(kept, _chunk(content="A"), _chunk("stop"), b"data: [DONE]\n\n")
    assert await kept.results(kept.ask(**fields), kept.ask(**fields)) == ["miss", "hit"]


async def test_callers_of_messages_have_answers_of_their_own(kept):
    kept.talker.shape = lambda answer: {**REPLY, "id": f"c{kept.talker.asked}"}

    async def ask(key: str, **headers: str) -> Any:
        body = {"model": "chat", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
        body |= {"top_k": 5}
        return await kept.proxy.client.post(MESSAGES, json=body, headers={"x-api-key": key, **headers})

    first, again = await ask("one"), await ask("one")
    assert [first.headers[NAME], again.headers[NAME]] == ["miss", "hit"]
    assert again.content == first.content
    assert (
        again.headers["request-id"]
        == again.headers["x-llm-optimizer-request-id"]
        != first.headers["request-id"]
    )
    assert again.headers["x-llm-optimizer-left-out"] == first.headers["x-llm-optimizer-left-out"] == "top_k"
    others = [
        ask("two"),
        ask("one", **{"anthropic-beta": "b"}),
        ask("one", **{"anthropic-version": "2099-01-01"}),
    ]
    assert await kept.results(*others) == ["miss"] * 3
    assert await kept.results(ask("one")) == ["hit"]


async def test_a_message_is_no_answer_to_a_chat(kept):
    """The same bytes at two endpoints are two questions."""
    kept.talker.shape = lambda answer: REPLY
    fields = {"max_tokens": 9}
    asked = [kept.ask(path=path, **fields) for path in (CHAT, MESSAGES, CHAT, MESSAGES)]
    assert await kept.results(*asked) == ["miss", "miss", "hit", "hit"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_other_methods_ask_nobody(kept, path):
    kept.talker.shape = lambda answer: REPLY
    await kept.ask(path=path, max_tokens=9)
    for method in ("HEAD", "OPTIONS", "GET", "PUT"):
        reply = await kept.proxy.client.request(method, path, headers={"authorization": "Bearer one"})
        assert NAME not in reply.headers
        assert reply.status_code in (204, 405)
    assert kept.talker.asked == 1


async def test_a_replay_to_a_slow_reader_and_to_one_that_leaves(kept):
    kept.route(Caching(max_entry_bytes=8 * 1024 * 1024))
    parts = [_chunk(content="x" * 60_000) for _ in range(100)]
    _streams(kept, *parts, _chunk("stop"), b"data: [DONE]\n\n")
    first = await kept.ask(stream=True)
    body = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    head = b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\ncontent-type: application/json\r\n"
    request = head % CHAT.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    host, port = kept.proxy.url.removeprefix("http://").split(":")

    leaver = await asyncio.open_connection(host, int(port), limit=1024)
    leaver[1].write(request)
    assert b"200" in await leaver[0].readline()
    leaver[1].transport.abort()

    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(request)
    heads = await reader.readuntil(b"\r\n\r\n")
    assert b"x-llm-optimizer-cache: hit" in heads
    others = await asyncio.gather(*(kept.ask(stream=True) for _ in range(3)))
    assert all(other.content == first.content for other in others)
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        got += await reader.read(65536)
    assert got.count(b"x" * 60_000) == 100
    writer.close()
    assert (
        len([1 for number in range(1, 7) if (await kept.proxy.event(number))["outcome"] == "completed"]) == 6
    )


async def test_a_caller_cannot_fill_memory_with_names(kept):
    """What was left out of a Messages request is named in its reply, and kept with it."""
    limit = 200_000
    kept.publish(limits=replace(kept.proxy.worker.plane.table.source.limits, cache_bytes=limit))
    kept.talker.shape = lambda answer: REPLY
    cache = kept.proxy.worker.plane.cache
    for number in range(6):
        names = {f"member_{number}_{other}": 1 for other in range(500)}
        await kept.ask(path=MESSAGES, max_tokens=9, **names)
    held = sum(len(name) for _, entry in cache.memory._entries.values() for name in entry.left_out)
    assert held < limit
    assert len(cache.memory) < 6
