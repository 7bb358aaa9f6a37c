"""What every provider codec promises to callers of the Messages API, over the registry.

A provider of that API relays it; any other translates it both ways. Callers must not be able to tell, but for ids,
usage that the provider does not report, and what is named in ``left_out``.
"""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import CHAT, MESSAGES, Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault
from proxy.providers.base import Prepared, ReplyFacts
from proxy.providers.registry import CODECS
from proxy.providers.sse import event_data, split_events

EVERY = pytest.mark.parametrize("name", sorted(CODECS))
IDENTITY = Variant("default", "")
USAGE = {"input_tokens": 15, "cache_read_input_tokens": 5, "output_tokens": 3}
CALL = {"city": "Zürich", "days": [1, 2]}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"id": "r-1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call(index: int, **function: Any) -> dict[str, Any]:
    given = {"index": index, "function": function}
    return {"tool_calls": [given | ({"id": f"c-{index}"} if "name" in function else {})]}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


MESSAGE = {"id": "r-1", "type": "message", "role": "assistant", "model": "m-1"}
OPENAI_USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
# The same answer, text and two calls, as each provider says it: whole and in events.
REPLIES: dict[str, dict[str, Any]] = {
    "openai": {
        "id": "r-1",
        "model": "m-1",
        "usage": OPENAI_USAGE,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "Hello you",
                    "tool_calls": [
                        {"id": "c-0", "function": {"name": "f", "arguments": orjson.dumps(CALL).decode()}},
                        {"id": "c-1", "function": {"name": "g", "arguments": ""}},
                    ],
                },
            }
        ],
    },
    "anthropic": {
        **MESSAGE,
        "usage": USAGE,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "text", "text": "Hello you"},
            {"type": "tool_use", "id": "c-0", "name": "f", "input": CALL},
            {"type": "tool_use", "id": "c-1", "name": "g", "input": {}},
        ],
    },
}
ARGUMENTS = orjson.dumps(CALL).decode()
STREAMS: dict[str, tuple[dict[str, Any], ...]] = {
    "openai": (
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hello"}),
        chunk({"content": " you"}),
        chunk(call(0, name="f", arguments="")),
        chunk(call(0, arguments=ARGUMENTS[:9])),
        chunk(call(0, arguments=ARGUMENTS[9:])),
        chunk(call(1, name="g", arguments="")),
        chunk({}, "tool_calls"),
        {"id": "r-1", "model": "m-1", "choices": [], "usage": OPENAI_USAGE},
    ),
    "anthropic": (
        {"type": "message_start", "message": {**MESSAGE, "content": [], "usage": USAGE}},
        opened(0, type="text", text=""),
        {"type": "ping"},
        delta(0, type="text_delta", text="Hello"),
        delta(0, type="text_delta", text=" you"),
        {"type": "content_block_stop", "index": 0},
        opened(1, type="tool_use", id="c-0", name="f", input={}),
        delta(1, type="input_json_delta", partial_json=ARGUMENTS[:9]),
        delta(1, type="input_json_delta", partial_json=ARGUMENTS[9:]),
        {"type": "content_block_stop", "index": 1},
        opened(2, type="tool_use", id="c-1", name="g", input={}),
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ),
}
ERRORS = {
    "openai": {"error": {"message": "told", "type": "server_error", "param": None, "code": "x"}},
    "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "told"}},
}


def asked(**fields: Any) -> Envelope:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse(MESSAGES, orjson.dumps(body))


def prepared(name: str, envelope: Envelope, variant: Variant = IDENTITY, **parameters: Any) -> Prepared:
    model = Model("m", "up", "the-model", "k", capabilities=frozenset({"stream_usage"}))
    arm = Arm("a", "m", "default", "mk", "vk", parameters)
    upstream = Upstream("up", name, "https://api.example/v1")
    return CODECS[name].prepare(envelope, arm, model, variant, upstream)


def wire(name: str, docs: tuple[dict[str, Any], ...]) -> bytes:
    """As the provider writes it."""
    if name == "anthropic":
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (doc["type"].encode(), orjson.dumps(doc)) for doc in docs
        )
    return b"".join(b"data: " + orjson.dumps(doc) + b"\n\n" for doc in docs) + b"data: [DONE]\n\n"


def play(name: str, parts: list[bytes], **fields: Any):
    envelope = asked(stream=True, **fields)
    decoder = CODECS[name].stream(envelope, prepared(name, envelope))
    out = b"".join([decoder.feed(part) for part in parts]) + decoder.finish()
    return out, decoder


def assembled(out: bytes) -> dict[str, Any]:
    """The message that a client puts together, checking the order of the protocol."""
    message: dict[str, Any] = {}
    open_block: int | None = None
    texts: dict[int, str] = {}
    for event in split_events(out):
        head, doc = event.split(b"\n", 1)[0], orjson.loads(event_data(event))
        kind = doc["type"]
        assert head == b"event: " + kind.encode()
        assert (kind == "message_start") is not bool(message) or kind != "message_start"
        if kind == "message_start":
            message = doc["message"]
            assert message["content"] == []
        elif kind == "content_block_start":
            assert open_block is None
            assert doc["index"] == len(message["content"])
            open_block = doc["index"]
            texts[open_block] = ""
            message["content"].append(doc["content_block"])
        elif kind == "content_block_delta":
            assert doc["index"] == open_block
            texts[open_block] += doc["delta"].get("text", "") + doc["delta"].get("partial_json", "")
        elif kind == "content_block_stop":
            block = message["content"][doc["index"]]
            if block["type"] == "text":
                block["text"] = texts[doc["index"]]
            elif texts[doc["index"]]:
                block["input"] = orjson.loads(texts[doc["index"]])
            open_block = None
        elif kind == "message_delta":
            assert open_block is None
            message |= doc["delta"]
            message["usage"] |= doc["usage"]
    return message


def equal_facts(first: ReplyFacts, second: ReplyFacts) -> None:
    for slot in ReplyFacts.__slots__:
        assert getattr(first, slot) == getattr(second, slot), slot


@EVERY
def test_a_whole_reply_is_a_message(name):
    """Text, calls, reason and usage, where input excludes what came from a cache; the facts are as everywhere."""
    envelope = asked()

    body, facts = CODECS[name].unary(envelope, orjson.dumps(REPLIES[name]))

    shown = orjson.loads(body)
    expected = REPLIES["anthropic"]
    assert shown["content"] == expected["content"]
    assert (shown["id"], shown["type"], shown["role"], shown["model"]) == (
        "r-1",
        "message",
        "assistant",
        "m-1",
    )
    assert (shown["stop_reason"], shown["stop_sequence"]) == ("tool_use", None)
    assert USAGE.items() <= shown["usage"].items()
    assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == (20, 3, 5)
    assert (facts.usage_source, facts.finish_reasons) == ("reported", ["tool_calls"])
    assert (facts.response_id, facts.text_head, facts.tool_calls) == ("r-1", "Hello you", True)


@EVERY
def test_a_stream_assembles_to_the_whole_reply(name):
    """In the protocol's order; ids, text, calls, reason and usage are those of the whole reply."""
    out, decoder = play(name, [wire(name, STREAMS[name])])
    body, facts = CODECS[name].unary(asked(), orjson.dumps(REPLIES[name]))

    told, whole = assembled(out), orjson.loads(body)
    assert {key: told[key] for key in ("id", "content", "stop_reason")} == {
        key: whole[key] for key in ("id", "content", "stop_reason")
    }
    assert USAGE.items() <= told["usage"].items()
    assert out.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert decoder.terminal
    assert decoder.complete
    told_facts = decoder.facts
    assert (told_facts.input_tokens, told_facts.output_tokens) == (facts.input_tokens, facts.output_tokens)
    assert (told_facts.finish_reasons, told_facts.tool_calls) == (["tool_calls"], True)
    assert told_facts.text_head == "Hello you"


@EVERY
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_of_a_stream_is_the_same(name, data):
    """Bytes, facts and counts do not depend on where the network cuts."""
    stream = wire(name, STREAMS[name])
    places = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))

    whole, first = play(name, [stream])
    parted, second = play(name, [stream[a:b] for a, b in pairwise([0, *places, len(stream)])])

    assert parted == whole
    equal_facts(first.facts, second.facts)
    assert first.content_events == second.content_events == 4


def test_the_providers_own_stream_is_not_touched():
    """Unknown events, members, blocks and padding go through as they came."""
    odd = (
        b'event: content_block_start\ndata: {"index":0, "type":"content_block_start",'
        b'"content_block":{"type":"new"}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
        b'"text":"a\\u00e9\\""}      }\n\nevent: whatever\ndata: {"type":"whatever","x":[1.0]}\n\n: note\n\n'
    )
    stream = wire("anthropic", STREAMS["anthropic"][:1]) + odd + wire("anthropic", STREAMS["anthropic"][1:])

    out, decoder = play("anthropic", [stream])

    assert out == stream
    assert decoder.facts.text_head == 'aé"Hello you'


@EVERY
def test_a_stream_that_breaks_off_does_not_look_whole(name):
    """At every cut before the reason: no ``message_stop``, not complete, and an estimate of what was used."""
    stream = wire(name, STREAMS[name])
    limit = stream.index(b"Hello") + 5

    for cut in range(1, limit, 11):
        out, decoder = play(name, [stream[:cut]])

        assert b"message_stop" not in out
        assert b"message_delta" not in out
        assert not decoder.complete
        assert decoder.facts.usage_source == "estimated"


@EVERY
def test_a_whole_answer_without_its_terminal_event_is_ended(name):
    """Clients wait for ``message_stop``; where the reason is there, they get it."""
    last = -1 if name == "anthropic" else None
    stream = wire(name, STREAMS[name][:last]).removesuffix(b"data: [DONE]\n\n")

    out, decoder = play(name, [stream])

    assert decoder.complete
    assert not decoder.terminal
    told = assembled(out + decoder.ending())
    assert (told["stop_reason"], told["usage"]["output_tokens"]) == ("tool_use", 3)
    assert decoder.ending().endswith(b'data: {"type":"message_stop"}\n\n')


@EVERY
def test_an_error_inside_a_stream_has_the_apis_shape(name):
    """``event: error``, with the provider's words, and nothing after it."""
    stream = wire(name, (*STREAMS[name][:4], ERRORS[name], *STREAMS[name][4:]))

    out, decoder = play(name, [stream])

    last = [event for event in split_events(out) if event.startswith(b"event: error\n")]
    assert len(last) == 1
    error = orjson.loads(event_data(last[0]))
    assert (error["type"], error["error"]["message"]) == ("error", "told")
    assert decoder.facts.error_type
    assert not decoder.complete


@pytest.mark.parametrize(
    ("finish", "extra", "reason"),
    [
        ("stop", {}, ("end_turn", None)),
        ("length", {}, ("max_tokens", None)),
        ("content_filter", {}, ("refusal", None)),
        ("stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("stop", {"stop_reason": 128001}, ("end_turn", None)),
        ("eos", {}, ("end_turn", None)),
    ],
)
def test_reasons_of_chat_completions(finish, extra, reason):
    """Every finish reason has a stop reason, whole and streamed alike."""
    reply = {"id": "r", "choices": [{"message": {"content": "x"}, "finish_reason": finish, **extra}]}
    last = {"id": "r", "choices": [{"index": 0, "delta": {}, "finish_reason": finish, **extra}]}

    body, _ = CODECS["openai"].unary(asked(stop_sequences=["END"]), orjson.dumps(reply))
    out, _ = play("openai", [wire("openai", (chunk({"content": "x"}), last))], stop_sequences=["END"])

    told = assembled(out)
    assert (orjson.loads(body)["stop_reason"], orjson.loads(body)["stop_sequence"]) == reason
    assert (told["stop_reason"], told["stop_sequence"]) == reason


def test_calls_that_share_a_place_are_still_two():
    """Some servers give every call of an answer the index 0; each gets a block of its own."""
    both = [
        {"index": 0, "id": call_id, "function": {"name": "f", "arguments": f'{{"n":{number}}}'}}
        for number, call_id in enumerate(("x", "y"))
    ]
    stream = wire("openai", (chunk({"tool_calls": both}), chunk({}, "stop")))

    told = assembled(play("openai", [stream])[0])

    assert [(block["id"], block["input"]) for block in told["content"]] == [("x", {"n": 0}), ("y", {"n": 1})]
    assert told["stop_reason"] == "tool_use"


def test_arguments_that_come_too_late_are_an_error():
    """A closed block is not opened again, and no argument is lost in silence."""
    late = chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
    stream = wire("openai", (chunk(call(0, name="f")), chunk(call(1, name="g")), late))

    out, decoder = play("openai", [stream])

    assert b"event: error" in out
    assert not decoder.complete


def test_a_native_body_changes_in_the_model_alone():
    """Spelling, order and members that nobody knows stay as the caller wrote them."""
    raw = (
        b'{ "new_member": {"a": 1.50}, "model" : "m","max_tokens":9,"messages":[{"role":"user","content":'
        b'[{"type":"new_block","x":"\\u00e9"}]}] ,"thinking":{"type":"adaptive"}}'
    )
    envelope = parse(MESSAGES, raw)

    sent = prepared("anthropic", envelope)

    assert sent.body == raw.replace(b'"m"', b'"the-model"')
    assert not sent.translates
    assert envelope.needs == {"native_messages"}
    assert "new_block" in (envelope.own or "")


@pytest.mark.parametrize("mode", ["set", "prepend", "append"])
@pytest.mark.parametrize(
    "system", [None, "S", [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]]
)
@EVERY
def test_a_prompt_variant_reaches_every_provider(name, mode, system):
    """In ``system`` there, in a system message elsewhere; the template wraps the question, not a tool's result."""
    turns = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]},
    ]
    envelope = asked(messages=turns, **({"system": system} if system is not None else {}))

    sent = orjson.loads(prepared(name, envelope, Variant("v", "k", "V", mode, "<{question}>")).body)

    held = sent["system"] if name == "anthropic" else sent["messages"][0]["content"]
    text = held if type(held) is str else "".join(block["text"] for block in held)
    kept = {"set": "V", "prepend": "V\n\nS", "append": "S\n\nV"}[mode] if system is not None else "V"
    assert text.replace("\n\n\n\n", "\n\n") == kept
    assert "<Why?>" in orjson.dumps(sent).decode()
    assert "<42>" not in orjson.dumps(sent).decode()


def test_parameters_of_an_arm_speak_its_providers_language():
    """Written as for chat, they are renamed where the API has another word, and dropped where it has none."""
    arm = {"temperature": 1.7, "stop": "x", "seed": 1, "max_completion_tokens": 5, "top_p": None}

    native = orjson.loads(prepared("anthropic", asked(top_p=0.5), **arm).body)
    chat = orjson.loads(prepared("openai", asked(top_p=0.5), **arm).body)

    assert native == asked().doc | {
        "model": "the-model",
        "temperature": 1,
        "stop_sequences": ["x"],
        "max_tokens": 5,
    }
    assert {name: chat.get(name) for name in arm} == {**arm, "top_p": None}
    assert "max_tokens" not in chat


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
CALLS = st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=4), max_size=3)


@settings(max_examples=80, deadline=None)
@given(system=TEXTS, question=TEXTS, answer=TEXTS, arguments=CALLS, result=TEXTS, more=TEXTS)
def test_there_and_back_keeps_texts_and_tools(system, question, answer, arguments, result, more):
    """A Messages request as chat, and that as Messages again, asks the same."""
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
    turns = [
        {"role": "user", "content": [{"type": "text", "text": question}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": answer},
                {"type": "tool_use", "id": "t1", "name": "f", "input": arguments},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": result},
                {"type": "text", "text": more},
            ],
        },
    ]
    envelope = asked(
        messages=turns, system=[{"type": "text", "text": system}], tools=tools, tool_choice={"type": "any"}
    )

    chat = parse(CHAT, prepared("openai", envelope).body)
    back = orjson.loads(prepared("anthropic", chat).body)

    assert back["messages"] == turns
    assert back["system"] == [{"type": "text", "text": system}]
    assert (back["tools"], back["tool_choice"]) == (tools, {"type": "any"})


RICH = {
    "model": "m",
    "max_tokens": 5,
    "stream": True,
    "system": [{"type": "text", "text": "s"}],
    "temperature": 0.5,
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "tools": [{"name": "f", "input_schema": {}}, {"type": "web_search_20250305", "name": "web_search"}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}}
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "is_error": True,
                    "content": [{"type": "text", "text": "r"}],
                },
                {
                    "type": "document",
                    "source": {"type": "text", "data": "d"},
                    "citations": {"enabled": False},
                },
            ],
        },
    ],
}
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


@EVERY
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_malformed_request_is_the_callers_fault(name, data):
    """Whatever a client puts where, the answer is a request or a ClientFault."""
    variant = Variant("v", "k", "S", data.draw(st.sampled_from(["set", "prepend", "append"])), "Q {question}")

    try:
        envelope = parse(MESSAGES, orjson.dumps(with_junk(data.draw, RICH)))
        sent = prepared(name, envelope, variant)
    except ClientFault:
        return

    assert orjson.loads(sent.body)["model"] == "the-model"


@EVERY
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_malformed_reply_never_raises(name, data):
    """Whole or streamed, valid JSON in an unexpected shape is survived; junk as well."""
    envelope = asked(output_config=RICH["output_config"])

    body, facts = CODECS[name].unary(envelope, orjson.dumps(with_junk(data.draw, REPLIES[name])))
    docs = with_junk(data.draw, [*STREAMS[name], ERRORS[name]])
    play(name, [b"".join(b"data: " + orjson.dumps(doc) + b"\n\n" for doc in docs)])
    junk = data.draw(st.binary(max_size=60))
    play(name, [junk, b"\n\n", b"data: {}\n\n"])

    assert type(body) is bytes
    assert facts.error_type or facts.usage_source != "none"
    assert CODECS[name].unary(envelope, junk)[1].error_type
