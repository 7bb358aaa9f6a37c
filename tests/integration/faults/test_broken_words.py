"""Endings that only the bytes tell: what looks whole and is not, what looks broken and is whole, what must not hang."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from optimizer.routing import Resilience

CHAT = "/v1/chat/completions"
STREAM = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(doc: object) -> bytes:
    return b"data: " + orjson.dumps(doc) + b"\n\n"


def delta(text: str = "word", finish: str | None = None, index: int = 0, **more: object) -> bytes:
    inside: dict[str, object] = ({"content": text} if finish is None else {}) | more
    choice = {"index": index, "delta": inside, "finish_reason": finish}
    return event({"id": "c", "model": "m", "choices": [choice]})


def usage(given: int, output: int) -> bytes:
    counts = {"prompt_tokens": given, "completion_tokens": output, "total_tokens": given + output}
    return event({"id": "c", "model": "m", "choices": [], "usage": counts})


def docs(body: bytes) -> list[dict]:
    """What a client's parser makes of the stream; every event has to be JSON."""
    datas = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    return [orjson.loads(data) for data in datas if data != b"[DONE]"]


def said(body: bytes) -> str:
    choices = [choice for doc in docs(body) for choice in doc.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def in_turn(*replies: bytes | Callable) -> Callable:
    """Each request gets the next of these; bytes are followed by the end of the connection."""
    left = list(replies)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = left.pop(0)
        if not isinstance(reply, bytes):
            await reply(reader, writer)
            return
        writer.write(reply)
        await writer.drain()
        writer.close()
        raise ConnectionError

    return script


@pytest.fixture
def resuming(raw_proxy, raw_upstream, shapes):
    """Publishes a route whose arms can go on with each other's answers."""

    def publish(*, upstream: dict | None = None, **rules: object) -> None:
        table = shapes.table(raw_upstream.url, version=2)
        can = frozenset(("tools", "prefill", "stream_usage"))
        names = ("a", "b", "c")
        route = replace(
            table.routes[0],
            control=shapes.side(*map(shapes.arm, names), probabilities=(0.999998, 1e-6, 1e-6)),
            resilience=Resilience(**{"attempts": 3, "same_arm": 0, "resume": True} | rules),
        )
        raw_proxy.publish(
            replace(
                table,
                models=tuple(shapes.model(name, capabilities=can) for name in names),
                routes=(route,),
                upstreams=(replace(table.upstreams[0], **(upstream or {})),),
            )
        )

    return publish


async def test_prompts_of_one_completion_end_one_by_one(raw_proxy, raw_upstream):
    """Several prompts are several choices: the first one's finish reason is not the end of the answer."""

    def text(index: int, said: str, finish: str | None = None) -> bytes:
        return event({"id": "c", "choices": [{"index": index, "text": said, "finish_reason": finish}]})

    async def script(reader, writer):
        writer.write(SSE + piece(text(0, "one")) + piece(text(0, "", "stop")))
        for _ in range(6):
            await asyncio.sleep(0.5)
            writer.write(piece(text(1, "two ")))
        writer.write(piece(text(1, "", "stop") + DONE) + END)

    raw_upstream.script = script
    body = {"model": "chat", "prompt": ["a", "b"], "stream": True}
    reply = await raw_proxy.client.post("/v1/completions", json=body)
    assert reply.content.count(b"two ") == 6


@pytest.mark.parametrize("newline", [b"", b"\n", b"\r\n"])
async def test_a_last_event_without_its_blank_line_stays_an_event(raw_proxy, raw_upstream, newline):
    """The [DONE] that is added does not join what came before it."""
    last = delta(finish="stop")[:-2] + newline
    raw_upstream.script = in_turn(SSE + piece(delta()) + piece(last) + END)
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    assert reply.content.endswith(DONE)
    assert docs(reply.content)[-1]["choices"][0]["finish_reason"] == "stop"


async def test_no_text_is_lost_at_a_cut_that_lacks_a_blank_line(raw_proxy, raw_upstream, resuming):
    """What the next arm is told was said has reached the client."""
    resuming()

    async def cut(reader, writer):
        writer.write(SSE + piece(delta("one ")))
        await asyncio.sleep(0.1)
        writer.write(piece(delta("two ")[:-2]) + END)

    raw_upstream.script = in_turn(
        cut,
        SSE + piece(delta("three") + delta(finish="stop") + DONE) + END,
    )
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    sent = orjson.loads(raw_upstream.bodies[1])["messages"][-1]["content"]
    assert said(reply.content) == "one two three"
    assert sent == "one two"


async def test_usage_and_limits_count_every_piece_of_an_answer(raw_proxy, raw_upstream, resuming):
    """Two cuts: the third arm has what both left of the limit, and the client is told of all three."""
    resuming()
    raw_upstream.script = in_turn(
        SSE + piece(delta("a ") + delta("b ")),
        SSE + piece(delta("c ") + delta("d ") + delta("e ")),
        SSE + piece(delta("f") + delta(finish="stop") + usage(10, 1) + DONE) + END,
    )
    body = STREAM | {"max_tokens": 100, "stream_options": {"include_usage": True}}
    reply = await raw_proxy.client.post(CHAT, json=body)
    limits = [orjson.loads(sent)["max_tokens"] for sent in raw_upstream.bodies]
    told = docs(reply.content)[-1]["usage"]
    assert said(reply.content) == "a b c d e f"
    assert limits == [100, 98, 95]
    assert told["completion_tokens"] == 6


async def test_a_begun_tool_call_is_not_continued_as_text(raw_proxy, raw_upstream, resuming):
    """Its name has gone out; nobody can go on with it."""
    resuming()
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    raw_upstream.script = in_turn(SSE + piece(delta("Let me look. ")) + piece(delta("", tool_calls=[call])))
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    assert len(raw_upstream.bodies) == 1
    assert "error" in docs(reply.content)[-1]


async def test_nothing_is_begun_after_the_deadline_of_the_whole(raw_proxy, raw_upstream, resuming):
    """An answer that is cut by its own total is not asked for once more."""
    resuming(total_s=0.3)

    async def slow(reader, writer):
        writer.write(SSE + piece(delta()))
        await asyncio.sleep(3)

    raw_upstream.script = in_turn(slow, slow)
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    assert "error" in docs(reply.content)[-1]
    assert len(raw_upstream.bodies) == 1


async def test_another_arm_may_go_on_when_the_first_to_be_asked_refuses(raw_proxy, raw_upstream, resuming):
    resuming()
    refused = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
    raw_upstream.script = in_turn(
        SSE + piece(delta("one ")),
        refused,
        SSE + piece(delta("two") + delta(finish="stop") + DONE) + END,
    )
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    assert said(reply.content) == "one two"
    logged = await raw_proxy.event()
    assert [row["error"] for row in logged["attempts"]] == ["upstream_reset", "server_error", None]


async def test_the_first_cause_is_told_when_the_next_arm_breaks_in_words(raw_proxy, raw_upstream, resuming):
    """An error event of whoever went on does not hide why it had to."""
    resuming(attempts=2)
    raw_upstream.script = in_turn(
        SSE + piece(delta("one ")),
        SSE + piece(event({"error": {"message": "second", "type": "server_error", "code": "x"}})) + END,
    )
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    errors = [doc["error"]["code"] for doc in docs(reply.content) if "error" in doc]
    assert errors == ["upstream_reset"]


async def test_a_compressed_continuation_ends_with_an_error_event(raw_proxy, raw_upstream, resuming):
    resuming(attempts=2)
    head = SSE.replace(b"transfer", b"content-encoding: br\r\ntransfer")
    raw_upstream.script = in_turn(SSE + piece(delta("one ")), head + piece(b"xx") + END)
    reply = await raw_proxy.client.post(CHAT, json=STREAM)
    assert docs(reply.content)[-1]["error"]["code"] == "upstream_reset"


async def test_a_stream_that_nobody_here_can_read_has_no_first_token(raw_proxy, raw_upstream, resuming):
    """Its bytes go through as they come; there is no telling when the first token was among them."""
    resuming(first_token_s=0.3)
    head = SSE.replace(b"transfer", b"content-encoding: br\r\ntransfer")

    async def script(reader, writer):
        writer.write(head)
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(piece(b"x" * 10))
        writer.write(END)

    raw_upstream.script = script
    async with raw_proxy.client.stream("POST", CHAT, json=STREAM) as reply:
        assert len(b"".join([part async for part in reply.aiter_raw()])) == 80


@pytest.mark.parametrize("kilobytes", [10, 300])
async def test_half_a_document_is_no_answer_however_large(raw_proxy, raw_upstream, kilobytes):
    """A gateway that frames half of a reply properly has still lost the rest."""
    words = "word " * (kilobytes * 205)
    body = orjson.dumps(
        {"id": "c", "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "choices": [words]}
    )
    half = body[:-1000]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(half)

    async def script(reader, writer):
        writer.write(head + half)

    raw_upstream.script = script
    reply = await raw_proxy.client.post(CHAT, json=STREAM | {"stream": False})
    assert reply.status_code == 502


async def test_usage_that_a_slow_reader_has_not_got_to_is_not_lost(raw_proxy, raw_upstream):
    """The wait for the last events rests while the client does not read."""
    big = delta("x" * 8_000_000)
    seen = asyncio.Event()

    async def script(reader, writer):
        writer.write(SSE + piece(big + delta(finish="stop")))
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.write(piece(usage(77, 7) + DONE) + END)
        seen.set()

    raw_upstream.script = script
    body = STREAM | {"stream_options": {"include_usage": True}}
    async with raw_proxy.client.stream("POST", CHAT, json=body) as reply:
        parts = reply.aiter_raw()
        got = [await anext(parts)]
        await asyncio.sleep(2.6)
        got += [part async for part in parts]
    assert b'"prompt_tokens":77' in b"".join(got)[-1000:]
    assert (await raw_proxy.event())["usage_source"] == "reported"


async def test_a_client_that_does_not_read_holds_back_whoever_goes_on(raw_proxy, raw_upstream, resuming):
    """Back-pressure outlives the attempt that it began with."""
    resuming(upstream={"total_s": 0.5})
    written = 0

    async def thinking(reader, writer):
        writer.write(SSE + piece(delta("one ")))
        for _ in range(200):
            writer.write(piece(delta("", reasoning_content="y" * 1_000_000)))
            await writer.drain()

    async def endless(reader, writer):
        nonlocal written
        writer.write(SSE)
        for _ in range(200):
            writer.write(piece(delta("y" * 1_000_000)))
            await writer.drain()
            written += 1

    raw_upstream.script = in_turn(thinking, endless)
    async with raw_proxy.client.stream("POST", CHAT, json=STREAM) as reply:
        parts = reply.aiter_raw()
        await anext(parts)
        await asyncio.sleep(2.0)
        assert len(raw_upstream.bodies) > 1
        assert written < 12


@pytest.mark.parametrize(
    ("error", "status", "tries"),
    [
        ({"message": "slow down", "code": 429}, 429, 2),
        ({"message": "no", "type": "BadRequestError", "code": 400}, 400, 1),
        ({"message": "no", "code": "content_filter"}, 400, 1),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_in_a_200_is_taken_for_what_it_says(
    raw_proxy, raw_upstream, resuming, error, status, tries, stream
):
    """What is wrong with the request is not asked again, of nobody."""
    resuming(attempts=2, backoff_s=0.02)
    body = orjson.dumps({"error": error})
    unary = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    reply = SSE + piece(event({"error": error})) + END if stream else unary
    raw_upstream.script = in_turn(reply, reply)
    got = await raw_proxy.client.post(CHAT, json=STREAM | {"stream": stream})
    assert len(raw_upstream.bodies) == tries
    if stream:
        assert got.status_code == status
