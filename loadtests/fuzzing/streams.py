"""Event streams of both dialects, whole replies and error bodies."""

import json
from collections.abc import Hashable, Mapping
from typing import Any

import orjson

from loadtests.fuzzing.target import Target, cuts, demand
from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault
from proxy.providers.anthropic import AnthropicCodec
from proxy.providers.base import Codec, Prepared, ReplyFacts, StreamDecoder
from proxy.providers.registry import CODECS
from proxy.providers.sse import event_data, split_events

_PAYLOADS: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "why?"}]},
    "completions": {"prompt": "why?"},
    "embeddings": {"input": "why?"},
    "responses": {"input": "why?"},
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
_MODEL = Model(
    "m", "up", "the-model", "key", max_output_tokens=1000, capabilities=frozenset({"stream_usage", "tools"})
)
_ARM, _IDENTITY = Arm("a", "m", "default", "mk", "vk"), Variant("default", "vk")
_UPSTREAM = Upstream("up", "openai", "https://api.example/v1", secret="env:KEY")
# A translated stream says when it was made.
_DIALECTS: Mapping[str, Codec] = {**CODECS, "anthropic": AnthropicCodec(now=lambda: 1_700_000_000.0)}


def envelope_for(endpoint: str, **fields: Any) -> Envelope:
    """A request to ``endpoint`` with these fields."""
    return parse(endpoint, orjson.dumps({"model": "gpt-4", **_PAYLOADS[endpoint], **fields}))


def prepared_for(codec: Codec, envelope: Envelope) -> Prepared:
    """What is sent to the model of these targets."""
    return codec.prepare(envelope, _ARM, _MODEL, _IDENTITY, _UPSTREAM)


def _facts(facts: ReplyFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in ReplyFacts.__slots__}


def _decode(decoder: StreamDecoder, pieces: list[bytes]) -> tuple[bytes, dict[str, Any]]:
    decoder.keep_answer(1 << 20)
    out = b"".join([decoder.feed(piece) for piece in pieces])
    out += decoder.finish()
    state = _facts(decoder.facts) | {
        "terminal": decoder.terminal,
        "complete": decoder.complete,
        "content_events": decoder.content_events,
        "answer": decoder.answer(),
        "ending": decoder.ending(),
    }
    return out, state


def stream_target(name: str, codec: Codec, envelope: Envelope, seeds: tuple[bytes, ...]) -> Target:
    """Any cut of the same bytes gives the same bytes and facts; what goes out can be read by a client."""
    prepared = prepared_for(codec, envelope)

    def run(data: bytes) -> Hashable:
        out, state = _decode(codec.stream(envelope, prepared), [data])
        for pieces in cuts(data):
            again, other = _decode(codec.stream(envelope, prepared), pieces)
            demand(again == out, f"another cut gives other bytes: {again[-200:]!r} instead of {out[-200:]!r}")
            different = {key: (state[key], other[key]) for key in state if state[key] != other[key]}
            demand(not different, f"another cut gives other facts: {different}")
        for event in split_events(out):
            payload = event_data(event)
            if payload.strip() not in (b"", b"[DONE]"):
                json.loads(payload.strip().decode("utf-8", "replace"), strict=False)
        tokens = [
            state[key] for key in ("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens")
        ]
        demand(
            all(n is None or (type(n) is int and n >= 0) for n in tokens), f"no numbers of tokens: {tokens}"
        )
        return (
            state["terminal"], state["complete"], state["usage_source"], state["error_type"], state["tool_calls"],
            min(state["content_events"], 3), tuple(state["finish_reasons"][:2]), min(state["skipped_events"], 3),
        )  # fmt: skip

    tokens = (
        b"data: ", b"\n\n", b"\r\n\r\n", b"\r\n", b"data: [DONE]\n\n", b"event: ", b": ping\n\n", b"id: 1\n",
        b"retry: 1\n",
        b'"finish_reason":"stop"', b'"delta":{}', b'"usage":{"prompt_tokens":1}', b'"choices":[]',
        b'"error":{}', b"data:",
        b'"content":"', b'"index":0', b"\xef\xbb\xbf", b"\n\r\n", b"event: error\n", b'{"type":"ping"}',
        b'"tool_calls":[',
        b'"text_delta"', b'"message_stop"', b'"input_json_delta"', b'"response.completed"', b'"output_text"', b"\\",
    )  # fmt: skip
    return Target(name, run, seeds, tokens, ("providers/",))


def reply_target(name: str, codec: Codec, envelope: Envelope, seeds: tuple[bytes, ...]) -> Target:
    """Whole replies and error bodies never raise, and errors always come out in OpenAI's shape."""

    def run(data: bytes) -> Hashable:
        body, facts = codec.unary(envelope, data)
        for status in (400, 429, 500):
            shaped, kind, code = codec.error(status, data)
            if shaped != data:  # what has the shape already is passed on
                error = orjson.loads(shaped)["error"]
                demand({"message", "type", "code"} <= set(error), f"an error without its fields: {error}")
            demand(
                isinstance(kind, str) and (code is None or isinstance(code, str)), "type or code is no text"
            )
        return (
            facts.usage_source,
            facts.error_type,
            facts.tool_calls,
            tuple(facts.finish_reasons[:2]),
            body is data,
        )

    tokens = (
        b'"usage":',
        b'"choices":',
        b'"message":',
        b'"content":',
        b'"error":',
        b'"type":',
        b'"code":',
        b'"stop_reason":',
    )
    return Target(name, run, seeds, tokens, ("providers/",))


def _events(*documents: Any, named: bool = False, done: bool = False) -> bytes:
    out = b""
    for document in documents:
        if named:
            out += b"event: " + document["type"].encode() + b"\n"
        out += b"data: " + orjson.dumps(document) + b"\n\n"
    return out + (b"data: [DONE]\n\n" if done else b"")


def _chunk(**delta: Any) -> dict[str, Any]:
    finish = delta.pop("finish", None)
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 2},
}
_CHAT = (
    _events(_chunk(role="assistant", content=""), _chunk(content='a"\\u00e9\n'), _chunk(finish="stop"), done=True),
    _events(_chunk(content="{\"a\": "), _chunk(content="1}"), _chunk(finish="length"), {**_chunk(),
    "choices": [], "usage": _USAGE},
            done=True),
    _events(_chunk(tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]),
            _chunk(finish="tool_calls"), done=True),
    _events(_chunk(content="x"), {"error": {"message": "m", "type": "server_error", "code": "c"}}),
    b": comment\r\n\r\n" + _events(_chunk(content="x")).replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n",
)  # fmt: skip
_RESPONSES = (
    _events(
        {"type": "response.created", "response": {"id": "r", "model": "m", "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "hi", "item_id": "i", "output_index": 0, "content_index": 0},
        {"type": "response.completed", "response": {"id": "r", "model": "m", "status": "completed",
         "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
         "usage": {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}}},
        named=True,
    ),
    _events({"type": "response.failed", "response": {"error": {"code": "x", "message": "m"}}}, named=True),
    _events({"type": "error", "code": "x", "message": "m"}, named=True),
)  # fmt: skip
_MESSAGES = (
    _events(
        {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 5,
        "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
        named=True,
    ),
    _events(
        {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"cache_read_input_tokens": 5}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t",
        "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta",
        "partial_json": "{\"a\":1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
        named=True,
    ),
)  # fmt: skip
_REPLIES = (
    orjson.dumps({"id": "c", "model": "m", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
    "usage": _USAGE}),
    orjson.dumps({"id": "r", "model": "m", "status": "completed", "output": [{"type": "message", "content": [
        {"type": "output_text", "text": "hi"}]}], "usage": {"input_tokens": 1, "output_tokens": 2}}),
    orjson.dumps({"id": "m", "model": "c", "type": "message", "content": [{"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}], "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 1}}}),
    orjson.dumps({"error": {"message": "m", "type": "t", "code": "context_length_exceeded", "param": None}}),
    orjson.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
    b'[{"error": {"code": 404, "status": "NOT_FOUND"}}]', b"<html>502</html>", b"", b"null",
)  # fmt: skip


def targets() -> list[Target]:
    """Every decoder with the kinds of requests that make it behave differently."""
    openai, anthropic = _DIALECTS["openai"], _DIALECTS["anthropic"]
    chat = envelope_for("chat", stream=True)
    strict = envelope_for(
        "chat", stream=True, response_format=_FORMAT, stream_options={"include_usage": True}
    )
    made = [
        stream_target("chat-stream", openai, chat, _CHAT),
        stream_target("chat-stream-json", openai, strict, _CHAT),
        stream_target("completions-stream", openai, envelope_for("completions", stream=True), _CHAT),
        stream_target("responses-stream", openai, envelope_for("responses", stream=True), _RESPONSES),
        stream_target("anthropic-stream", anthropic, chat, _MESSAGES),
        stream_target("anthropic-stream-json", anthropic, strict, _MESSAGES),
    ]
    made += [
        reply_target(f"{endpoint}-reply", openai, envelope_for(endpoint), _REPLIES) for endpoint in _PAYLOADS
    ]
    made.append(reply_target("anthropic-reply", anthropic, envelope_for("chat"), _REPLIES))
    return made


def translate(envelope: Envelope) -> Hashable:
    """Prepare a parsed request for both dialects; only ``ClientFault`` and too deep a nesting may stop it."""
    outcomes: list[Hashable] = []
    for codec in _DIALECTS.values():
        try:
            body = prepared_for(codec, envelope).body
        except ClientFault as fault:
            outcomes.append(fault.code)
        except orjson.JSONEncodeError:
            outcomes.append("too deep")
        else:
            orjson.loads(body)
            outcomes.append("prepared")
    return tuple(outcomes)
