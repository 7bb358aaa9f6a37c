"""Chat completions over Anthropic's Messages API: requests, whole replies, streams, errors."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault
from proxy.providers.anthropic import AnthropicCodec
from proxy.providers.anthropic_request import messages_request
from proxy.providers.base import Prepared

NOW = 1_760_000_000
CODEC = AnthropicCodec(now=lambda: NOW + 0.5)
UPSTREAM = Upstream("anthropic", "anthropic", "https://api.anthropic.com", secret="env:K")
ARM = Arm("a", "m", "default", "mk", "vk")
IDENTITY = Variant("default", "vk")
PLAIN = Model("m", "anthropic", "claude-x", "k")
CAPPED = Model(
    "m", "anthropic", "claude-x", "k", max_output_tokens=900, capabilities=frozenset({"json_schema"})
)


def chat(*messages: Any, **fields: Any) -> Envelope:
    given_messages = list(messages) or [{"role": "user", "content": "why?"}]
    return parse("chat", orjson.dumps({"model": "gpt-4", "messages": given_messages, **fields}))


def sent(*messages: Any, model: Model = PLAIN, **fields: Any) -> dict[str, Any]:
    return messages_request(chat(*messages, **fields).doc, model)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def user(value: Any = "why?") -> dict[str, Any]:
    return {"role": "user", "content": value}


def test_a_request_is_prepared_for_the_messages_api():
    """Path, version header, model and the required limit."""
    prepared = CODEC.prepare(chat(stream=True), ARM, PLAIN, IDENTITY, UPSTREAM)

    assert prepared.path == "/v1/messages"
    assert prepared.headers == ((b"anthropic-version", b"2023-06-01"),)
    assert orjson.loads(prepared.body) == {
        "model": "claude-x",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [text("why?")]}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("https://api.anthropic.com/v1", "/v1/messages"),
        ("https://gateway/anthropic", "/anthropic/v1/messages"),
        ("https://gateway/anthropic/v1/", "/anthropic/v1/messages"),
    ],
)
def test_the_path_follows_the_base_url(base_url, path):
    """With or without the version in it."""
    upstream = Upstream("a", "anthropic", base_url, headers=(("Anthropic-Version", "2024-01-01"),))

    prepared = CODEC.prepare(chat(), ARM, PLAIN, IDENTITY, upstream)

    assert prepared.path == path
    assert prepared.headers == ()


def test_the_key_has_its_own_header():
    """x-api-key, unless the operator says otherwise."""
    other = Upstream("a", "anthropic", "https://x", key_header="X-Key")

    assert CODEC.auth_header(UPSTREAM, "sk-ant") == (b"x-api-key", b"sk-ant")
    assert CODEC.auth_header(other, "sk-ant") == (b"x-key", b"sk-ant")


def test_instructions_become_the_system_prompt():
    """System and developer messages, wherever they stand."""
    body = sent(
        {"role": "system", "content": "A"},
        user("q"),
        {"role": "developer", "content": [text("B")]},
        user("r"),
    )

    assert body["system"] == [text("A"), text("B")]
    assert body["messages"] == [{"role": "user", "content": [text("q"), text("r")]}]


def test_instructions_alone_are_a_turn():
    """The API needs one."""
    body = sent({"role": "system", "content": "Say hi"})

    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [text("Say hi")]}]


def test_tools_travel_both_ways():
    """Definitions, calls, results; parallel results share one user turn, before the user's own words."""
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}}
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    bare = {"id": "t2", "type": "function", "function": {"name": "g", "arguments": ""}}
    body = sent(
        user(),
        {"role": "assistant", "content": None, "tool_calls": [call, bare]},
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": [text("two")]},
        user("so?"),
        tools=[
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}},
            {"type": "function", "function": {"name": "g", "strict": True}},
        ],
        tool_choice="required",
        parallel_tool_calls=False,
    )

    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [text("two")]},
                text("so?"),
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "f", "description": "d", "input_schema": parameters},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
        (None, None),
    ],
)
def test_tool_choices(choice, expected):
    """All of OpenAI's words have one here."""
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]

    body = sent(tools=tools, tool_choice=choice, model=CAPPED)

    assert body.get("tool_choice") == expected
    assert body["tools"][0]["strict"] is True


def test_old_functions_still_work():
    """The deprecated spelling of tools."""
    call = {"name": "f", "arguments": "{}"}
    body = sent(
        user(),
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "r"},
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )

    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "f", "name": "f", "input": {}}]
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "f", "content": "r"}]
    assert body["tool_choice"] == {"type": "tool", "name": "f"}


def test_pictures_and_documents():
    """Data URLs become base64 sources, others stay addresses."""
    body = sent(
        user(
            [
                text("look"),
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,UERG"}},
            ]
        )
    )

    assert [part.get("source") for part in body["messages"][0]["content"]] == [
        None,
        {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"},
        {"type": "url", "url": "https://x/y.png"},
        {"type": "base64", "media_type": "application/pdf", "data": "UERG"},
    ]


def test_empty_content_is_left_out():
    """Empty text blocks and empty turns are refused there; a final answer may not end in blanks."""
    body = sent(
        {"role": "assistant", "content": "Hello"},
        user(""),
        {"role": "assistant", "content": ""},
        user([text(""), text("x")]),
        {"role": "assistant", "content": "The answer is  "},
    )

    assert body["messages"] == [
        {"role": "user", "content": [text(".")]},
        {"role": "assistant", "content": [text("Hello")]},
        {"role": "user", "content": [text("x")]},
        {"role": "assistant", "content": [text("The answer is")]},
    ]


def test_limits_and_sampling():
    """The required limit comes from the request, else the model; temperature ends at 1."""
    assert sent(max_tokens=5, max_completion_tokens=7)["max_tokens"] == 7
    assert sent(max_tokens=5)["max_tokens"] == 5
    assert sent(max_tokens=5000, model=CAPPED)["max_tokens"] == 900
    assert sent(model=CAPPED)["max_tokens"] == 900
    assert sent(temperature=1.7)["temperature"] == 1
    assert sent(temperature=0.2, top_p=0.9).keys() & {"temperature", "top_p"} == {"temperature"}
    assert sent(top_p=0.9)["top_p"] == 0.9
    assert sent(stop="END")["stop_sequences"] == ["END"]
    assert sent(stop=["\n", "END"])["stop_sequences"] == ["END"]
    assert "stop_sequences" not in sent(stop=None)
    assert sent(user="u" * 300)["metadata"] == {"user_id": "u" * 256}
    assert not sent(seed=1, frequency_penalty=1, logit_bias={}, store=False).keys() & {"seed", "store"}


def test_a_schema_goes_into_the_output_configuration():
    """What the current API takes for structured output."""
    schema = {"type": "object", "additionalProperties": False}

    body = sent(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})

    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user(5)]}, "messages[0].content"),
        ({"messages": [user(["x"])]}, "messages[0].content[0]"),
        ({"messages": [user([{"type": "input_audio"}])]}, "messages[0].content[0]"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}])]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(fields, param):
    """Never silently another answer than the one asked for."""
    with pytest.raises(ClientFault) as caught:
        sent(**fields)

    assert caught.value.param == param


def test_only_chat_is_spoken():
    """Other endpoints are not translated."""
    envelope = parse("embeddings", b'{"model":"m","input":"x"}')

    with pytest.raises(ClientFault):
        CODEC.prepare(envelope, ARM, PLAIN, IDENTITY, UPSTREAM)


def test_variants_and_parameters_apply_first():
    """They are written in OpenAI's terms."""
    chosen = Arm("a", "m", "v", "mk", "vk", parameters={"max_tokens": 11, "stop": None})

    body = CODEC.prepare(chat(stop="x"), chosen, PLAIN, Variant("v", "k", system="S"), UPSTREAM).body

    asked = orjson.loads(body)
    assert asked["system"] == [text("S")]
    assert asked["max_tokens"] == 11
    assert "stop_sequences" not in asked


def message(*content: Any, stop: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-1",
        "content": list(content),
        "stop_reason": stop,
        "usage": {"input_tokens": 10, "output_tokens": 4, **usage},
    }


def test_a_whole_reply_in_openai_shape():
    """Text, calls, thinking and usage, cache tokens inside the prompt."""
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}
    body, facts = CODEC.unary(
        chat(),
        orjson.dumps(
            message(
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                text("Hello "),
                text("you"),
                call,
                stop="tool_use",
                cache_read_input_tokens=100,
                cache_creation_input_tokens=20,
            )
        ),
    )

    assert orjson.loads(body) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": NOW,
        "model": "claude-x-1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello you",
                    "refusal": None,
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
                    ],
                    "reasoning_content": "hm",
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 130,
            "completion_tokens": 4,
            "total_tokens": 134,
            "prompt_tokens_details": {"cached_tokens": 100, "cache_creation_tokens": 20},
        },
    }
    assert (facts.input_tokens, facts.output_tokens, facts.cache_write_tokens) == (130, 4, 20)
    assert (facts.tool_calls, facts.text_head, facts.finish_reasons) == (True, "Hello you", ["tool_calls"])
    assert (facts.response_id, facts.response_model) == ("msg_1", "claude-x-1")


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_stop_reasons(stop, reason):
    """Whole and streamed agree."""
    body, facts = CODEC.unary(chat(), orjson.dumps(message(text("x"), stop=stop)))
    out, reader = play(chat(stream=True), [b"".join(events(stop=stop))])

    assert orjson.loads(body)["choices"][0]["finish_reason"] == reason
    assert facts.finish_reasons == reader.facts.finish_reasons == [reason]
    assert b'"finish_reason":"%b"' % reason.encode() in out


def sse(doc: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (doc["type"].encode(), orjson.dumps(doc))


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def events(stop: str = "end_turn", *, blocks: Any = None) -> list[bytes]:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}
    start = {"id": "msg_1", "type": "message", "model": "claude-x-1", "content": [], "usage": usage}
    if blocks is None:
        deltas = [{"type": "text_delta", "text": part} for part in ("Hel", 'lo "é"\n😀', " you")]
        blocks = block(0, text(""), *deltas)
    docs = [
        {"type": "message_start", "message": start},
        {"type": "ping"},
        *blocks,
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return [sse(doc) for doc in docs]


def play(envelope: Envelope, parts: list[bytes]):
    reader = CODEC.stream(envelope, Prepared("/", b""))
    out = b"".join([reader.feed(part) for part in parts]) + reader.finish()
    return out, reader


def chunks(out: bytes) -> list[Any]:
    return [orjson.loads(part[6:]) for part in out.split(b"\n\n") if part and part != b"data: [DONE]"]


def test_a_stream_in_openai_shape():
    """Role first, deltas, finish, [DONE]; no usage unless asked."""
    out, reader = play(chat(stream=True), events())

    seen = chunks(out)
    assert out.endswith(b"data: [DONE]\n\n")
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in seen)
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in seen} == {
        ("msg_1", NOW, "claude-x-1")
    }
    assert [chunk["choices"][0]["delta"] for chunk in seen] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": 'lo "é"\n😀'},
        {"content": " you"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in seen] == [None] * 4 + ["stop"]
    assert not any("usage" in chunk for chunk in seen)
    facts = reader.facts
    assert reader.terminal
    assert reader.complete
    assert reader.content_events == 3
    assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == (15, 9, 5)
    assert (facts.usage_source, facts.text_head) == ("reported", 'Hello "é"\n😀 you')


def test_usage_is_streamed_when_asked():
    """As OpenAI does: null on every chunk, then one chunk without choices."""
    out, _ = play(chat(stream=True, stream_options={"include_usage": True}), events())

    *others, last = chunks(out)
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 15
    assert last["usage"]["completion_tokens"] == 9


def test_tool_calls_are_streamed_by_index():
    """Two calls after a text block; one without arguments still yields JSON."""
    blocks = [
        *block(0, text(""), {"type": "text_delta", "text": "ok"}),
        *block(
            1,
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"x":'},
            {"type": "input_json_delta", "partial_json": "1}"},
        ),
        *block(2, {"type": "tool_use", "id": "t2", "name": "g", "input": {}}),
    ]

    out, reader = play(chat(stream=True), events("tool_use", blocks=blocks))

    calls = [call for chunk in chunks(out) for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call.get("id"), call["function"].get("name")) for call in calls] == [
        (0, "t1", "f"),
        (0, None, None),
        (0, None, None),
        (1, "t2", "g"),
        (1, None, None),
    ]
    arguments = [
        "".join(c["function"]["arguments"] for c in calls if c["index"] == index) for index in (0, 1)
    ]
    assert arguments == ['{"x":1}', "{}"]
    assert reader.facts.tool_calls


def test_thinking_is_reasoning():
    """Shown where clients look for it, signatures dropped."""
    blocks = block(
        0,
        {"type": "thinking", "thinking": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "s"},
    )

    out, reader = play(chat(stream=True), events(blocks=blocks))

    assert {"reasoning_content": "hm"} in [chunk["choices"][0]["delta"] for chunk in chunks(out)]
    assert b"signature" not in out
    assert not reader.facts.has_content


def test_an_error_event_ends_the_answer_visibly():
    """The error in OpenAI's shape, and no [DONE] after it."""
    parts = events()[:4]
    parts.append(sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}))
    parts.extend(events()[-2:])

    out, reader = play(chat(stream=True), parts)

    assert chunks(out)[-1] == {
        "error": {"message": "Overloaded", "type": "server_error", "param": None, "code": "overloaded"}
    }
    assert b"[DONE]" not in out
    assert (reader.facts.error_type, reader.facts.error_code) == ("server_error", "overloaded")
    assert not reader.complete
    assert reader.terminal


def test_a_broken_stream_stays_broken():
    """No finish reason and no [DONE] are made up; usage is what was reported plus an estimate."""
    out, reader = play(chat(stream=True), events()[:5])

    assert b"[DONE]" not in out
    assert b'"finish_reason":"' not in out
    assert not reader.complete
    assert reader.facts.usage_source == "estimated"
    assert reader.facts.input_tokens == 15
    assert reader.facts.output_tokens == 3


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([b"\n", b"\r\n"]))
def test_any_chunking_gives_the_same_chunks(data, newline):
    """Where the network cuts a stream must never show."""
    stream = b"".join(events()).replace(b"\n", newline)
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    edges = [0, *places, len(stream)]

    whole, first = play(chat(stream=True), [stream])
    parted, second = play(chat(stream=True), [stream[a:b] for a, b in pairwise(edges) if a != b])

    assert whole == parted
    assert repr(first.facts) == repr(second.facts)
    assert first.facts.text_head == second.facts.text_head


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", ("invalid_request_error", "invalid_request")),
        (403, "permission_error", ("invalid_request_error", "permission_denied")),
        (404, "not_found_error", ("invalid_request_error", "not_found")),
        (413, "request_too_large", ("invalid_request_error", "request_too_large")),
        (429, "rate_limit_error", ("rate_limit_error", "rate_limit_exceeded")),
        (500, "api_error", ("server_error", "api_error")),
        (529, "overloaded_error", ("server_error", "overloaded")),
    ],
)
def test_errors_are_translated(status, kind, expected):
    """Type, code and message, in OpenAI's shape."""
    body = orjson.dumps({"type": "error", "error": {"type": kind, "message": "told"}, "request_id": "req_1"})

    shaped, got, code = CODEC.error(status, body)

    assert (got, code) == expected
    assert orjson.loads(shaped)["error"]["message"] == "told"


def test_foreign_errors_and_credentials():
    """Pages of a proxy in between, and refused keys."""
    assert CODEC.error(502, b"<html>")[1] == "server_error"
    denied = {
        "type": "error",
        "error": {"type": "authentication_error", "message": "invalid x-api-key sk-ant"},
    }

    shaped, _, code = CODEC.error(401, orjson.dumps(denied))

    assert b"sk-ant" not in shaped
    assert code == "invalid_api_key"


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"type":"error","error":{"type":"api_error","message":"m"}}']
)
def test_a_200_that_is_no_answer_is_an_error(body):
    """The client gets an error object, not an empty answer."""
    shaped, facts = CODEC.unary(chat(), body)

    assert facts.error_type == "server_error"
    assert "error" in orjson.loads(shaped)
