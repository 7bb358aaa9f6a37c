"""Chat completions as messages: what odd servers send, read by the official SDK's own accumulator, in any pieces."""

from typing import Any, cast

import orjson
import pytest
from anthropic._models import construct_type_unchecked
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse
from proxy.providers.base import ReplyFacts
from proxy.providers.openai import OpenAICodec
from proxy.providers.sse import event_data, split_events

DONE = b"[DONE]"
WEI = "115792089237316195423570985008687907853269984665640564039457584007913129639935"
CODEC = OpenAICodec()


def _envelope(**fields: Any) -> Envelope:
    messages = [{"role": "user", "content": "Hi"}]
    return parse("messages", orjson.dumps({"model": "r", "max_tokens": 9, "messages": messages, **fields}))


def _chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return orjson.dumps({"id": "c1", "model": "m", "choices": [choice]})


def _call(arguments: Any, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"arguments": arguments} | ({"name": name} if name else {})}


def _streamed(*chunks: bytes, pieces: int = 10**9) -> tuple[Any, ReplyFacts, bool]:
    """What the SDK makes of a stream that comes in pieces of a size, its facts, and whether it is whole."""
    raw = b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks)
    envelope = _envelope(stream=True)
    prepared = CODEC.prepare(
        envelope,
        Arm(id="a", model="a", variant="d", model_key="a", variant_key=""),
        Model("a", "up", "a", "a"),
        Variant(name="d", key=""),
        Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1", auth="none"),
    )
    decoder = CODEC.stream(envelope, prepared)
    out = b"".join(decoder.feed(raw[at : at + pieces]) for at in range(0, len(raw), pieces))
    out += decoder.finish()
    if decoder.complete:
        out += decoder.ending()
    return _accumulated(out), decoder.facts, decoder.complete


def _accumulated(out: bytes) -> Any:
    message: Any = None
    buffers: dict[int, bytes] = {}
    is_open, newest = False, -1
    for event in split_events(out):
        doc = orjson.loads(event_data(event))
        match doc["type"]:
            case "content_block_start":
                newest += 1
                assert (is_open, doc["index"]) == (False, newest)
                is_open = True
            case "content_block_delta" | "content_block_stop":
                assert (is_open, doc["index"]) == (True, newest)
                is_open = doc["type"] == "content_block_delta"
            case "message_delta" | "message_stop":
                assert not is_open
            case "error":
                break
        typed = construct_type_unchecked(type_=cast(Any, RawMessageStreamEvent), value=doc)
        message = accumulate_event(event=typed, current_snapshot=message, json_bufs=buffers)
    return message


TEXTS = st.text(max_size=5).map(lambda text: _chunk(content=text))
CALLS = st.builds(
    lambda name, given: _chunk(tool_calls=[_call(orjson.dumps(given).decode(), name)]),
    st.sampled_from(("f", "g")),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


@given(chunks=st.lists(TEXTS | CALLS, max_size=6), pieces=st.integers(1, 300))
def test_any_order_of_texts_and_calls_is_a_stream_that_the_sdk_reads(chunks, pieces):
    message, facts, is_whole = _streamed(*chunks, _chunk("stop"), DONE, pieces=pieces)
    docs = [orjson.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    texts = "".join(doc.get("content", "") for doc in docs)
    calls = [call["function"] for doc in docs for call in doc.get("tool_calls", ())]

    assert is_whole
    assert facts.error_type is None
    assert "".join(block.text for block in message.content if block.type == "text") == texts
    used = [block for block in message.content if block.type == "tool_use"]
    assert [(block.name, block.input) for block in used] == [
        (call["name"], orjson.loads(call["arguments"])) for call in calls
    ]
    assert len({block.id for block in used} - {""}) == len(used)
    assert message.stop_reason == ("tool_use" if calls else "end_turn")


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ((b'{"choices":[{"delta":{"content":"a"},"logprobs":{"p":NaN}}]}',), "a"),
        ((b'{"choices":[{"delta":{"content":"a\xff"}}]}',), "a\N{REPLACEMENT CHARACTER}"),
        (
            (
                b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}',
                b'{"choices":[{"delta":{"content":"\\ude00b"}}]}',
            ),
            "a??b",
        ),
    ],
)
def test_what_lenient_clients_could_read_is_not_lost(chunks, text):
    message, facts, is_whole = _streamed(*chunks, _chunk("stop"), DONE)
    assert is_whole
    assert message.content[0].text == text
    assert facts.has_content


def test_arguments_may_come_as_an_object():
    call = {"tool_calls": [_call({"x": [1, "é"]}, "f", id="c", index=0)]}
    message, _, _ = _streamed(_chunk(**call), _chunk("tool_calls"), DONE)
    assert message.content[0].input == {"x": [1, "é"]}
    assert _whole(call)["content"][0]["input"] == {"x": [1, "é"]}


def test_an_end_without_a_reason_is_no_end():
    _, facts, is_whole = _streamed(_chunk(content="half an ans"), DONE)
    assert not is_whole
    assert facts.finish_reasons == []


def _whole(said: dict[str, Any], finish: str = "tool_calls", **fields: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": finish}
    doc = {"id": "c1", "model": "m", "choices": [choice], "usage": {"prompt_tokens": 1}}
    body, facts = CODEC.unary(_envelope(**fields), orjson.dumps(doc))
    return orjson.loads(body) if facts.error_type is None else facts.error_type


def test_calls_without_ids_get_some():
    calls = [_call("{}", "f"), _call("{}", "f", id="")]
    ids = [block["id"] for block in _whole({"tool_calls": calls})["content"]]
    assert all(type(name) is str and name for name in ids)
    assert len(set(ids)) == 2


def test_long_numbers_in_arguments_keep_their_digits():
    choice = {
        "message": {"tool_calls": [_call(f'{{"wei": {WEI}}}', "f", id="c")]},
        "finish_reason": "tool_calls",
    }
    body, _ = CODEC.unary(_envelope(), orjson.dumps({"choices": [choice]}))
    assert WEI.encode() in body


def test_an_empty_stop_sequence_stops_nothing():
    assert _whole({"content": "x"}, "stop", stop_sequences=[""])["stop_reason"] == "end_turn"


def test_one_piece_is_no_stream():
    """A client that awaits events would read it as an empty answer."""
    assert _whole({"content": "x"}, "stop", stream=True) == "invalid_reply"
