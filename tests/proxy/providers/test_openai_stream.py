"""Streams of OpenAI-compatible servers: facts read aside, injected usage taken out byte by byte."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.envelope import Envelope, parse
from proxy.providers.base import Prepared, ReplyFacts
from proxy.providers.openai import OpenAICodec
from proxy.providers.sse import complete_length

DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def request(endpoint: str = "chat", **fields: Any) -> Envelope:
    payload = (
        {"prompt": "p"} if endpoint == "completions" else {"messages": [{"role": "user", "content": "p"}]}
    )
    if endpoint == "responses":
        payload = {"input": "p"}
    return parse(endpoint, orjson.dumps({"model": "m", "stream": True, **payload, **fields}))


def decoder(envelope: Envelope, *, injected: bool = False):
    return OpenAICodec().stream(envelope, Prepared("/", b"", usage_injected=injected))


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "m-1",
        "choices": [choice],
        **more,
    }


def event(doc: Any) -> bytes:
    return b"data: " + orjson.dumps(doc) + b"\n\n"


def play(envelope: Envelope, parts: Sequence[bytes], *, injected: bool = False):
    reader = decoder(envelope, injected=injected)
    out = b"".join([reader.feed(part) for part in parts]) + reader.finish()
    return out, reader


def facts_of(facts: ReplyFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in ReplyFacts.__slots__}


def openai_stream(*, usage: bool) -> list[bytes]:
    """What OpenAI sends, with or without ``include_usage``."""
    null = {"usage": None} if usage else {}
    texts = ["Hel", 'lo "wor\nld"', " é中😀", ' usage":null, [DONE] finish_reason":"x']
    events = [event(chunk({"role": "assistant", "content": "", "refusal": None}, **null))]
    for number, text in enumerate(texts):
        events.append(event(chunk({"content": text}, **null, obfuscation="xY9" * number)))
    events.append(event(chunk({}, "stop", **null)))
    if usage:
        events.append(event({"id": "chatcmpl-1", "model": "m-1", "choices": [], "usage": USAGE}))
    return [*events, DONE]


def test_passes_the_same_bytes_object_and_reads_the_facts():
    """Nothing is copied when nothing is to be stripped."""
    parts = openai_stream(usage=True)
    reader = decoder(request(stream_options={"include_usage": True}))

    assert all(reader.feed(part) is part for part in parts)
    assert reader.finish() == b""

    facts = reader.facts
    assert reader.terminal
    assert reader.complete
    assert reader.content_events == 4
    assert (facts.response_id, facts.response_model) == ("chatcmpl-1", "m-1")
    assert (facts.input_tokens, facts.output_tokens, facts.usage_source) == (7, 3, "reported")
    assert (facts.cache_read_tokens, facts.reasoning_tokens) == (4, 1)
    assert facts.finish_reasons == ["stop"]
    assert facts.text_head == 'Hello "wor\nld" é中😀 usage":null, [DONE] finish_reason":"x'
    assert facts.has_content
    assert not facts.tool_calls


def test_injected_usage_leaves_no_trace():
    """The client gets exactly what the upstream sends to those who do not ask for usage."""
    out, reader = play(request(), openai_stream(usage=True), injected=True)

    assert out == b"".join(openai_stream(usage=False))
    assert reader.facts.usage_source == "reported"
    assert reader.facts.output_tokens == 3


def spaced(parts: Sequence[bytes]) -> list[bytes]:
    """The same events as Python's json module would write them."""
    return [
        part if part == DONE else b"data: " + json.dumps(orjson.loads(part[6:])).encode() + b"\n\n"
        for part in parts
    ]


def carriage(parts: Sequence[bytes]) -> list[bytes]:
    return [part.replace(b"\n\n", b"\r\n\r\n") for part in parts]


def tight(parts: Sequence[bytes]) -> list[bytes]:
    return [b"data:" + part[6:] for part in parts]


def commented(parts: Sequence[bytes]) -> list[bytes]:
    return [line for part in parts for line in (b": ping\n\n", b"event: chunk\n" + part)]


STYLES = {
    "compact": list,
    "spaced": spaced,
    "crlf": carriage,
    "no blank": tight,
    "comments": commented,
    "blank lines": lambda parts: [part + b"\n" for part in parts],
}


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_write_an_event_is_understood(style):
    """Stripping is byte-exact and the facts are the same in every style."""
    dressed = STYLES[style]
    plain = openai_stream(usage=False)
    if style in ("comments", "blank lines"):
        # What stands around the dropped usage event stays.
        expected = b"".join(dressed(plain[:-1]))
        expected += b": ping\n\n" if style == "comments" else b"\n"
        expected += b"".join(dressed([DONE]))
    else:
        expected = b"".join(dressed(plain))

    out, reader = play(request(), dressed(openai_stream(usage=True)), injected=True)
    _, aside = play(request(), dressed(openai_stream(usage=True)))

    assert out == expected
    for facts in (reader.facts, aside.facts):
        assert (facts.input_tokens, facts.output_tokens, facts.finish_reasons) == (7, 3, ["stop"])
        assert facts.text_head.startswith('Hello "wor\nld"')
    assert reader.terminal
    assert reader.content_events == 4


TEXTS = st.sampled_from(
    [
        "a",
        " b",
        "",
        'q"',
        "\\",
        "é",
        "😀",
        '": ',
        '"usage":null',
        "[DONE]",
        '{"error":1}',
        "\n\n",
        "data: x",
        "c",
    ]
)
EXTRA = st.sampled_from(
    [
        {},
        {},
        {"usage": None},
        {"usage": None},
        {"usage": None, "obfuscation": "ab"},
        {"usage": None, "obfuscation": "abcd"},
        {"x": {"usage": None}, "usage": None},
        {"usage": USAGE},
        {"x_groq": {"usage": USAGE}},
        {"error": None},
        {"p": 'usage":{'},
    ]
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text}, TEXTS),
    st.builds(lambda text: {"content": None, "reasoning": text}, TEXTS),
    st.builds(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, TEXTS),
    st.builds(lambda text: {"refusal": text}, TEXTS),
    st.just({"role": "assistant", "content": ""}),
)
DOCS = st.one_of(
    st.builds(lambda delta, extra: chunk(delta, **extra), DELTAS, EXTRA),
    st.builds(lambda delta, extra: chunk(delta, **extra), DELTAS, EXTRA),
    st.builds(lambda delta: chunk(delta, "stop", usage=None), DELTAS),
    st.just({"choices": [], "usage": USAGE}),
    st.just({"choices": [], "prompt_filter_results": [], "usage": None}),
    st.just({"error": {"message": "m", "type": "server_error", "code": "c"}}),
    st.just([1]),
)


@st.composite
def written(draw, doc):
    """One event in some spelling."""
    data = orjson.dumps(doc) if draw(st.integers(0, 3)) else json.dumps(doc).encode()
    end = draw(st.sampled_from([b"\n\n"] * 6 + [b"\r\n\r\n", b"\n\r\n", b"\n\n\n"]))
    head = draw(st.sampled_from([b"data: "] * 6 + [b"data:", b"event: e\ndata: ", b": c\n\ndata: "]))
    return head + data + end


@st.composite
def streams(draw):
    """A stream of events; endings and faults happen."""
    events = [draw(written(doc)) for doc in draw(st.lists(DOCS, max_size=8))]
    tail = draw(
        st.sampled_from([b"", DONE, b"data: [DONE]", b'data: {"choices":[', b"junk", b"data: nope\n\n"])
    )
    return b"".join(events) + tail


@st.composite
def cut(draw, stream):
    """The stream in pieces."""
    size = draw(st.sampled_from([1, 2, 7, 60, 10_000]))
    places = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=len(stream) // size + 1)))
    edges = [0, *places, len(stream)]
    return [stream[a:b] for a, b in pairwise(edges) if a != b]


@settings(max_examples=250, deadline=None)
@given(st.data(), streams(), st.booleans(), st.sampled_from(["chat", "completions", "json"]))
def test_any_chunking_gives_the_same_bytes_and_facts(data, stream, injected, kind):
    """Where the network cuts a stream must never show."""
    fields = {"response_format": {"type": "json_object"}} if kind == "json" else {}
    envelope = request("completions" if kind == "completions" else "chat", **fields)
    events = [piece + b"\n\n" for piece in stream.split(b"\n\n")]
    events[-1] = events[-1][:-2]

    whole, first = play(envelope, [stream], injected=injected)
    parted, second = play(envelope, data.draw(cut(stream)), injected=injected)
    by_event, third = play(envelope, [piece for piece in events if piece], injected=injected)

    assert whole == parted == by_event
    assert facts_of(first.facts) == facts_of(second.facts) == facts_of(third.facts)
    assert first.content_events == second.content_events == third.content_events
    assert first.terminal == second.terminal == third.terminal
    if not injected:
        # Events that are no JSON would end the client's parser; everything else arrives as it was sent.
        unreadable = (b'data: {"choices":[', b"data: nope\n\n")
        cleaned = next((stream.removesuffix(tail) for tail in unreadable if stream.endswith(tail)), stream)
        # The last event gets the blank line that it may lack.
        rest = cleaned[complete_length(cleaned) :]
        assert whole == (cleaned.rstrip(b"\r\n") + b"\n\n" if rest.strip() else cleaned)
        assert first.facts.skipped_events == (cleaned != stream)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["", "ab", "q0q"])), max_size=12), st.booleans())
def test_stripping_equals_not_asking(pieces, blanks):
    """For OpenAI's own stream, asked minus stripped is the stream that was not asked."""

    def build(null):
        docs = []
        for text, padding in pieces:
            extra = {**null, **({"obfuscation": padding} if padding else {})}
            docs.append(chunk({"content": text}, **extra))
        return [*docs, chunk({}, "stop", **null)]

    def wire(docs):
        return [
            b"data: " + (json.dumps(doc).encode() if blanks else orjson.dumps(doc)) + b"\n\n" for doc in docs
        ]

    asked = [*wire([*build({"usage": None}), {"choices": [], "usage": USAGE}]), DONE]

    out, reader = play(request(), asked, injected=True)

    assert out == b"".join([*wire(build({})), DONE])
    assert reader.content_events == sum(1 for text, _ in pieces if text)


def test_usage_beside_choices_is_the_providers_own_and_stays():
    """DeepSeek, Mistral and Groq send it unasked."""
    for parts in (
        [event(chunk({"content": "a"})), event(chunk({"content": ""}, "stop", usage=USAGE)), DONE],
        [event(chunk({"content": "a"})), event(chunk({}, "stop", x_groq={"id": "r", "usage": USAGE})), DONE],
    ):
        out, reader = play(request(), parts, injected=True)

        assert out == b"".join(parts)
        assert reader.facts.output_tokens == 3


def test_continuous_usage_goes_when_the_client_did_not_include_usage():
    """vLLM ignores continuous_usage_stats without include_usage, so the client would have seen none."""
    asked = [event(chunk({"content": "a"}, usage=USAGE)), event({"choices": [], "usage": USAGE}), DONE]

    out, reader = play(request(stream_options={"continuous_usage_stats": True}), asked, injected=True)

    assert out == event(chunk({"content": "a"})) + DONE
    assert reader.facts.usage_source == "reported"


def test_tool_calls_and_refusals_are_seen():
    """Arguments are content for timing; the refusal's text is the answer's head."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    arguments = {"index": 0, "function": {"arguments": '{"finish_reason":"length"}'}}
    parts = [
        event(chunk({"role": "assistant", "content": None, "tool_calls": [call]})),
        event(chunk({"tool_calls": [arguments]})),
        event(chunk({}, "tool_calls")),
        DONE,
    ]

    _, reader = play(request(), parts)
    _, refused = play(request(), [event(chunk({"refusal": "I'm sorry"})), event(chunk({}, "stop")), DONE])

    assert reader.facts.tool_calls
    assert not reader.facts.has_content
    assert reader.facts.finish_reasons == ["tool_calls"]
    assert reader.content_events == 1
    assert refused.facts.text_head == "I'm sorry"


def test_reasoning_is_content_but_not_the_answer():
    """Time to first token counts it; emptiness and refusals are judged by the answer."""
    parts = [event(chunk({"reasoning_content": "hmm"})), event(chunk({"reasoning": "well"})), DONE]

    _, reader = play(request(), parts)

    assert reader.content_events == 2
    assert not reader.facts.has_content
    assert reader.facts.text_head == ""


def test_an_error_event_is_not_a_completed_answer():
    """A stream that died is a failure, whatever follows."""
    parts = [event(chunk({"content": "a"})), event({"error": {"message": "m", "type": "t", "code": 5}}), DONE]

    out, reader = play(request(), parts)

    assert out == b"".join(parts)
    assert (reader.facts.error_type, reader.facts.error_code) == ("t", "5")
    assert not reader.complete


def test_a_stream_that_just_ends_is_not_complete():
    """Neither finish reason nor [DONE]: truncated."""
    out, reader = play(request(), [event(chunk({"content": "a"})), b'data: {"id"'], injected=True)

    assert out == event(chunk({"content": "a"}))
    assert reader.facts.skipped_events == 1
    assert not reader.complete
    assert not reader.terminal


def test_usage_is_estimated_when_nobody_reported_any():
    """Input from the request's size, output from what was seen; said to be an estimate."""
    envelope = request()
    reader = decoder(envelope)
    reader.feed(b"".join(event(chunk({"content": "word " * 8})) for _ in range(3)))

    reader.estimate_usage()

    facts = reader.facts
    assert facts.usage_source == "estimated"
    assert facts.input_tokens == envelope.input_tokens_estimate
    assert facts.output_tokens == 30
    assert not reader.complete


def test_asked_for_json_is_checked_at_the_end():
    """Valid, invalid, and cut off by length."""
    wanted = request(response_format={"type": "json_object"})

    def ended(reason, *texts):
        parts = [event(chunk({"content": text})) for text in texts]
        return play(wanted, [*parts, event(chunk({}, reason)), DONE])[1].facts.json_valid

    assert ended("stop", '{"a":', ' "b\\n"}') is True
    assert ended("stop", "Sure! {}") is False
    assert ended("length", '{"a": "') is False
    assert ended("tool_calls") is None


def test_an_endless_event_is_a_fault(monkeypatch):
    """The buffer is bounded."""
    monkeypatch.setattr("proxy.providers.event_stream.MAX_EVENT_BYTES", 1000)
    reader = decoder(request(), injected=True)

    for _ in range(20):
        reader.feed(b"x" * 100)

    assert reader.facts.error_type == "event_too_large"
    assert not reader.complete
    assert len(reader._pending) == 0


def response_events(kind="response.completed", **fields: Any) -> list[bytes]:
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 14,
    }
    final = {
        "id": "resp_1",
        "model": "m-1",
        "status": kind.split(".")[1],
        "error": None,
        "usage": usage,
        **fields,
    }
    docs = [
        {"type": "response.created", "response": {"id": "resp_1", "model": "m-1", "status": "in_progress"}},
        {"type": "response.reasoning_summary_text.delta", "delta": "thinking"},
        {"type": "response.output_text.delta", "item_id": "i", "delta": 'Hi "there"', "obfuscation": "x"},
        {"type": "response.output_text.delta", "item_id": "i", "delta": ", you", "obfuscation": "xyz"},
        {"type": "response.output_text.done", "text": 'Hi "there", you'},
        {"type": kind, "response": final},
    ]
    return [b"event: %b\n" % doc["type"].encode() + event(doc) for doc in docs]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["compact", "crlf"]))
def test_responses_streams_tell_usage_and_end(data, style):
    """The responses API has no [DONE]; its last event carries everything."""
    parts = STYLES[style](response_events())
    stream = b"".join(parts)

    out, reader = play(request("responses"), data.draw(cut(stream)))

    facts = reader.facts
    assert out == stream
    assert reader.terminal
    assert reader.complete
    assert reader.content_events == 3
    assert facts.text_head == 'Hi "there", you'
    assert (facts.input_tokens, facts.output_tokens) == (9, 5)
    assert (facts.cache_read_tokens, facts.reasoning_tokens) == (2, 3)
    assert (facts.response_id, facts.finish_reasons) == ("resp_1", ["completed"])


def test_failed_and_incomplete_responses():
    """Both are terminal; only the failure is an error."""
    error = {"code": "server_error", "message": "m"}
    failed = play(request("responses"), response_events("response.failed", error=error))[1]
    short = play(
        request("responses"),
        response_events("response.incomplete", incomplete_details={"reason": "max_output_tokens"}),
    )[1]
    broken = play(
        request("responses"), [b'data: {"type":"error","code":"x","message":"m","error":null}\n\n']
    )[1]

    assert failed.terminal
    assert not failed.complete
    assert failed.facts.error_code == "server_error"
    assert short.complete
    assert short.facts.finish_reasons == ["max_output_tokens"]
    assert broken.facts.error_type == "upstream_error"


def test_completions_text_is_content():
    """The older endpoint calls it text."""
    parts = [
        event({"id": "c", "choices": [{"text": text, "finish_reason": None}]}) for text in ("a", "b", "")
    ]

    _, reader = play(request("completions"), parts)

    assert reader.content_events == 2
    assert reader.facts.text_head == "ab"
