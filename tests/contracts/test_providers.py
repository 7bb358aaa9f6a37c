"""What every provider codec promises, over the registry: a new one is tested by being registered."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import CHAT, ENDPOINTS, MESSAGES, Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault
from proxy.providers.base import Codec, Prepared, ReplyFacts
from proxy.providers.registry import CODECS

SECRET = "sk-planted-4711"
PROMPT = "planted prompt"


@dataclass(frozen=True)
class Dialect:
    """How a provider says the same things: "Hello you", 20 tokens in (5 cached), 3 out."""

    reply: dict[str, Any]
    stream: tuple[dict[str, Any], ...]
    errors: dict[int, dict[str, Any]]
    stream_error: dict[str, Any]
    endpoints: tuple[str, ...] = (CHAT,)


def _openai() -> Dialect:
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "r-1", "model": "m-1", "choices": [choice], "usage": None}

    def error(kind: str, code: str) -> dict[str, Any]:
        return {"error": {"message": "told", "type": kind, "param": None, "code": code}}

    message = {"role": "assistant", "content": "Hello you"}
    return Dialect(
        reply={
            "id": "r-1",
            "model": "m-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        },
        stream=(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Hello"}),
            chunk({"content": " you"}),
            chunk({}, "stop"),
            {"id": "r-1", "model": "m-1", "choices": [], "usage": usage},
        ),
        errors={
            400: error("invalid_request_error", "context_length_exceeded"),
            404: error("invalid_request_error", "model_not_found"),
            429: error("requests", "rate_limit_exceeded"),
            500: error("server_error", "x"),
        },
        stream_error=error("server_error", "x"),
        endpoints=ENDPOINTS,
    )


def _anthropic() -> Dialect:
    usage = {"input_tokens": 15, "cache_read_input_tokens": 5, "output_tokens": 3}
    message = {"id": "r-1", "type": "message", "model": "m-1", "usage": usage}

    def error(kind: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": "told"}}

    def delta(value: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": value}}

    return Dialect(
        reply={**message, "content": [{"type": "text", "text": "Hello you"}], "stop_reason": "end_turn"},
        stream=(
            {"type": "message_start", "message": {**message, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            delta("Hello"),
            delta(" you"),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ),
        errors={
            400: error("invalid_request_error"),
            404: error("not_found_error"),
            429: error("rate_limit_error"),
            529: error("overloaded_error"),
        },
        stream_error=error("api_error"),
        endpoints=(CHAT, MESSAGES),
    )


DIALECTS = {"openai": _openai(), "anthropic": _anthropic()}
EVERY = pytest.mark.parametrize("name", sorted(CODECS))


def envelope(**fields: Any) -> Envelope:
    messages = [{"role": "user", "content": PROMPT}]
    return parse(CHAT, orjson.dumps({"model": "gpt-4", "messages": messages, **fields}))


def prepared(codec: Codec, asked: Envelope) -> Prepared:
    upstream = Upstream("up", codec.name, "https://api.example/v1", secret="env:KEY")
    model = Model("m", "up", "the-model", "k", capabilities=frozenset({"stream_usage"}))
    return codec.prepare(
        asked, Arm("a", "m", "default", "mk", "vk"), model, Variant("default", "vk"), upstream
    )


def wire(docs: tuple[dict[str, Any], ...], *, done: bool) -> bytes:
    events = [b"data: " + orjson.dumps(doc) + b"\n\n" for doc in docs]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def stream_of(name: str) -> bytes:
    return wire(DIALECTS[name].stream, done=name == "openai")


def play(name: str, asked: Envelope, parts: list[bytes]):
    codec = CODECS[name]
    decoder = codec.stream(asked, prepared(codec, asked))
    out = b"".join([decoder.feed(part) for part in parts]) + decoder.finish()
    return out, decoder


def test_every_codec_has_fixtures_here():
    """And is registered under its own name."""
    assert set(DIALECTS) == set(CODECS)
    assert all(codec.name == name for name, codec in CODECS.items())


@EVERY
def test_the_request_carries_the_arms_model(name):
    """Target absolute, body JSON, extra headers lower-cased, the envelope untouched."""
    asked = envelope(stream=True)
    before = orjson.loads(asked.raw)

    sent = prepared(CODECS[name], asked)

    assert sent.path.startswith("/")
    assert orjson.loads(sent.body)["model"] == "the-model"
    assert orjson.loads(sent.body)["stream"] is True
    assert all(key == key.lower() for key, _ in sent.headers)
    assert asked.doc == before


@EVERY
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_is_spoken_or_refused(name, endpoint):
    """By the caller's mistake, never by another exception."""
    payload = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    asked = parse(endpoint, orjson.dumps({"model": "m", "max_tokens": 9, **payload}))

    if endpoint in DIALECTS[name].endpoints:
        assert prepared(CODECS[name], asked).body
    else:
        with pytest.raises(ClientFault, match=endpoint):
            prepared(CODECS[name], asked)


@EVERY
def test_a_whole_reply_tells_the_same_facts(name):
    """Whatever the dialect: all input, cached part, output, ids, reason, text."""
    body, facts = CODECS[name].unary(envelope(), orjson.dumps(DIALECTS[name].reply))

    assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == (20, 3, 5)
    assert (facts.usage_source, facts.finish_reasons) == ("reported", ["stop"])
    assert (facts.response_id, facts.response_model) == ("r-1", "m-1")
    assert (facts.text_head, facts.has_content, facts.error_type) == ("Hello you", True, None)
    shown = orjson.loads(body)
    assert shown["choices"][0]["message"]["content"] == "Hello you"
    assert shown["usage"]["prompt_tokens"] == 20


@EVERY
@settings(max_examples=60, deadline=None)
@given(data=st.data(), asks_usage=st.booleans())
def test_any_chunking_of_a_stream_is_the_same(name, data, asks_usage):
    """Bytes and facts do not depend on where the network cuts."""
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}
    asked = envelope(stream=True, **options)
    stream = stream_of(name)
    places = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    edges = [0, *places, len(stream)]

    whole, first = play(name, asked, [stream])
    parted, second = play(name, asked, [stream[a:b] for a, b in pairwise(edges)])

    assert parted == whole
    for slot in ReplyFacts.__slots__:
        assert getattr(first.facts, slot) == getattr(second.facts, slot), slot
    assert first.content_events == second.content_events == 2
    assert first.terminal
    assert second.terminal
    assert first.complete


@EVERY
@pytest.mark.parametrize("asks_usage", [True, False])
def test_a_stream_is_openais_to_the_client(name, asks_usage):
    """Text in order, one finish reason, [DONE] last; usage exactly when it was asked for."""
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}

    out, decoder = play(name, envelope(stream=True, **options), [stream_of(name)])

    *events, done, rest = out.split(b"\n\n")
    docs = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
    choices = [choice for doc in docs for choice in doc["choices"]]
    assert (done, rest) == (b"data: [DONE]", b"")
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Hello you"
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert any(doc.get("usage") for doc in docs) is asks_usage
    assert any("usage" in doc for doc in docs) is asks_usage
    facts = decoder.facts
    assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == (20, 3, 5)
    assert facts.text_head == "Hello you"


@EVERY
def test_a_stream_that_breaks_off_is_not_complete(name):
    """At every cut before the finish reason: no [DONE], not complete, and an estimate of what was used."""
    stream = stream_of(name)
    limit = stream.index(b"Hello") + 5

    for cut in range(1, limit, 7):
        out, decoder = play(name, envelope(stream=True), [stream[:cut]])

        assert b"[DONE]" not in out
        assert not decoder.complete
        assert not decoder.terminal
        assert decoder.facts.usage_source == "estimated"
        assert decoder.facts.input_tokens is not None


@EVERY
def test_an_error_inside_a_stream_is_a_failure(name):
    """The client sees an error object; the facts say so."""
    fixtures = DIALECTS[name]
    stream = wire((*fixtures.stream[:4], fixtures.stream_error), done=False)

    out, decoder = play(name, envelope(stream=True), [stream])

    last = out.rstrip(b"\n").rsplit(b"\n\n", 1)[-1]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["message"] == "told"
    assert decoder.facts.error_type
    assert not decoder.complete


@EVERY
def test_every_error_fixture_has_openais_shape(name):
    """Type and code are words, the message survives."""
    for status, doc in DIALECTS[name].errors.items():
        body, kind, code = CODECS[name].error(status, orjson.dumps(doc))

        error = orjson.loads(body)["error"]
        assert error["message"] == "told"
        assert error["type"] == kind
        assert error["code"] == code
        assert kind
        assert code


@EVERY
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'"x"', b"{}", b'{"error":5}', b"\xff"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 502, 503, 529])
def test_any_error_body_is_survived(name, status, body):
    """Whatever stands between us and the provider may answer."""
    shaped, kind, _ = CODECS[name].error(status, body)

    assert orjson.loads(shaped)["error"]["message"]
    assert kind


@EVERY
def test_credentials_are_sent_but_never_shown(name):
    """Not in the request's repr, not in an error about them; nor is the prompt."""
    codec = CODECS[name]
    asked = envelope(stream=True)
    sent = prepared(codec, asked)
    upstream = Upstream("up", codec.name, "https://api.example/v1", secret="env:KEY")

    header, value = codec.auth_header(upstream, SECRET)
    quoting = {"type": "error", "error": {"type": "authentication_error", "message": f"bad key {SECRET}"}}
    shaped, _, _ = codec.error(401, orjson.dumps(quoting))
    _, decoder = play(name, asked, [stream_of(name)])

    assert SECRET.encode() in value
    assert header == header.lower()
    assert SECRET.encode() not in shaped
    shown = [repr(thing) for thing in (sent, asked, codec, decoder, decoder.facts)]
    assert not any(SECRET in text or PROMPT in text or "Hello" in text for text in shown)


@EVERY
@settings(max_examples=80, deadline=None)
@given(junk=st.binary(max_size=200), lead=st.booleans())
def test_junk_never_raises(name, junk, lead):
    """A broken upstream is a fault of the arm, not of the proxy."""
    asked = envelope(stream=True, response_format={"type": "json_schema", "json_schema": {"schema": {}}})
    codec = CODECS[name]

    body, facts = codec.unary(asked, junk)
    play(name, asked, [stream_of(name)[:200] if lead else b"", junk, b"\n\n", b"data: {}\n\n"])
    play(name, asked, [b'data: {"choices":[{}, 1, {"delta":5}],"usage":{"prompt_tokens":"x"}}\n\n'])
    play(name, asked, [b'data: {"type":"message_start","message":5}\n\ndata: {"type":"error"}\n\n'])

    assert type(body) is bytes
    assert facts.error_type or facts.usage_source != "none"


JUNK = st.sampled_from([None, True, -1, 2.5, "x", "", [], [5], {}, {"a": None}, [[]], [{}], [None]])


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, item in inner for spot in spots(item, (*path, key)))]


def with_junk(draw: st.DrawFn, value: Any) -> Any:
    """A copy of the document in which a few values are something else."""
    copy = orjson.loads(orjson.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(spots(copy)[1:] or [()]))
        target = copy
        for key in path[:-1]:
            target = target[key]
        if path:
            target[path[-1]] = orjson.loads(orjson.dumps(draw(JUNK)))
    return copy


RICH = {
    "model": "m",
    "stream": True,
    "max_tokens": 5,
    "temperature": 0.5,
    "stop": ["x"],
    "user": "u",
    "modalities": ["text"],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}],
    "functions": [{"name": "g"}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"required": ["a"]}}},
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:;base64,AA"}}]},
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
            "function_call": {"name": "f", "arguments": "{}"},
        },
        {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": "r"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "AA"}}]},
    ],
}


@EVERY
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_malformed_request_is_the_callers_fault(name, data):
    """Whatever a client puts where, the answer is a request or a ClientFault."""
    raw = orjson.dumps(with_junk(data.draw, RICH))
    variant = Variant("v", "k", "S", data.draw(st.sampled_from(["set", "prepend", "append"])), "Q {question}")
    upstream = Upstream("up", name, "https://api.example/v1")
    model = Model("m", "up", "the-model", "k", capabilities=frozenset({"stream_usage"}))

    try:
        asked = parse(CHAT, raw)
        sent = CODECS[name].prepare(asked, Arm("a", "m", "v", "mk", "vk"), model, variant, upstream)
    except ClientFault:
        return

    assert orjson.loads(sent.body)["model"] == "the-model"


@EVERY
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_malformed_reply_never_raises(name, data):
    """Whole or streamed, valid JSON in an unexpected shape is survived."""
    fixtures = DIALECTS[name]
    asked = envelope(stream=True, response_format=RICH["response_format"])

    body, facts = CODECS[name].unary(asked, orjson.dumps(with_junk(data.draw, fixtures.reply)))
    docs = with_junk(data.draw, [*fixtures.stream, fixtures.stream_error])
    play(name, asked, [wire(tuple(docs), done=False)])
    status, doc = data.draw(st.sampled_from(sorted(fixtures.errors.items())))
    shaped, _, _ = CODECS[name].error(status, orjson.dumps(with_junk(data.draw, doc)))

    assert type(orjson.loads(body)) in (dict, list)
    assert facts.error_type or facts.usage_source != "none"
    assert "error" in orjson.loads(shaped)
