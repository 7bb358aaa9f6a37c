"""Reading request bodies, and changing them without touching the rest."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.envelope import DELETE, IMAGE_TOKENS, parse, rewrite
from proxy.errors import ClientFault
from proxy.splice import members

USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return orjson.dumps({"model": "gpt-4", "messages": USER, **fields})


def test_a_chat_request_is_read_in_one_go():
    """Everything that dispatch needs is on the envelope; the body stays the same object."""
    raw = chat(
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=50,
        max_tokens=9,
        user="u-1",
    )

    envelope = parse("chat", raw)

    assert envelope.raw is raw
    assert (envelope.model, envelope.stream, envelope.wants_usage) == ("gpt-4", True, True)
    assert (envelope.max_output_tokens, envelope.user) == (50, "u-1")
    assert envelope.needs == frozenset()
    assert not envelope.stateful
    assert envelope.input_tokens_estimate == len(raw) // 4


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("chat", {"messages": USER}, "model"),
        ("chat", {"model": "", "messages": USER}, "model"),
        ("chat", {"model": 4, "messages": USER}, "model"),
        ("chat", {"model": "m"}, "messages"),
        ("chat", {"model": "m", "messages": []}, "messages"),
        ("chat", {"model": "m", "messages": "hi"}, "messages"),
        ("chat", {"model": "m", "messages": ["hi"]}, "messages[0]"),
        ("chat", {"model": "m", "messages": USER, "stream": "yes"}, "stream"),
        ("chat", {"model": "m", "messages": USER, "stream_options": 1}, "stream_options"),
        ("completions", {"model": "m"}, "prompt"),
        ("completions", {"model": "m", "prompt": 5}, "prompt"),
        ("embeddings", {"model": "m", "input": None}, "input"),
        ("embeddings", {"model": "m", "input": []}, "input"),
        ("responses", {"model": "m"}, "input"),
        ("responses", {"model": "m", "input": {}}, "input"),
    ],
)
def test_a_wrong_field_is_named(endpoint, body, param):
    """The caller learns which field is wrong."""
    with pytest.raises(ClientFault) as caught:
        parse(endpoint, orjson.dumps(body))

    assert caught.value.param == param
    assert orjson.loads(caught.value.body())["error"]["param"] == param


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'{"model":', b"\xff\xfe", b'"text"'])
def test_what_is_not_an_object_is_refused(raw):
    """No body that is not a JSON object gets further."""
    with pytest.raises(ClientFault) as caught:
        parse("chat", raw)

    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"


def test_needs_follow_the_body():
    """Tools, pictures, sound and structured output are recognised in both dialects."""
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    tool = {"type": "function", "function": {"name": "f"}}

    asked = parse(
        "chat",
        orjson.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": parts}],
                "tools": [tool],
                "response_format": {"type": "json_schema", "json_schema": {}},
            }
        ),
    )
    response = parse(
        "responses",
        orjson.dumps(
            {
                "model": "m",
                "store": False,
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}],
                "text": {"format": {"type": "json_object"}},
            }
        ),
    )

    assert asked.needs == {"tools", "vision", "audio", "json_schema"}
    assert response.needs == {"vision", "json_object"}
    assert parse("chat", chat(functions=[{"name": "f"}])).needs == {"tools"}
    assert parse("chat", chat(tools=[], response_format={"type": "text"})).needs == frozenset()


def test_pictures_count_as_pictures_not_as_base64():
    """A megabyte of base64 is not 250,000 tokens."""
    url = "data:image/png;base64," + "A" * 1_000_000
    raw = orjson.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
        }
    )

    assert IMAGE_TOKENS <= parse("chat", raw).input_tokens_estimate < IMAGE_TOKENS + 100


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"web_search_options": {}, "tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"messages": [*USER, {"role": "assistant", "audio": {"id": "audio_1"}}]},
    ],
)
def test_chat_requests_that_name_provider_state_are_stateful(fields):
    """What only one provider holds must not be moved to another."""
    assert parse("chat", chat(**fields)).stateful


@pytest.mark.parametrize(
    ("fields", "stateful"),
    [
        ({}, True),
        ({"store": True}, True),
        ({"store": False}, False),
        ({"store": False, "previous_response_id": "resp_1"}, True),
        ({"store": False, "conversation": "conv_1"}, True),
        ({"store": False, "background": True}, True),
        ({"store": False, "prompt": {"id": "pmpt_1"}}, True),
        ({"store": False, "tools": [{"type": "function", "name": "f"}]}, False),
        ({"store": False, "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, True),
        ({"store": False, "input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ({"store": False, "input": [{"type": "reasoning", "encrypted_content": "x"}]}, True),
        (
            {
                "store": False,
                "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
            },
            True,
        ),
    ],
)
def test_responses_are_stateful_unless_told_otherwise(fields, stateful):
    """`store: false` is needed, and nothing that points into a provider."""
    raw = orjson.dumps({"model": "m", "input": "hi", **fields})

    assert parse("responses", raw).stateful is stateful


def test_an_envelope_never_shows_its_prompt():
    """repr is what ends up in logs."""
    envelope = parse("chat", chat(messages=[{"role": "user", "content": "planted secret"}]))

    assert "planted secret" not in repr(envelope)


BLANKS = st.sampled_from([b"", b"", b" ", b"\n  ", b"\t", b"\r\n"])
KEYS = ["model", "stream", "messages", "a", "mo", "x y", 'q"', "é", "stream_options", "back\\slash"]
TRICKY = [
    "model",
    '"model"',
    '{"model":"x"}',
    'ends with "model',
    "\\",
    '\\"',
    "é中😀",
    ',"model":',
    "[{",
    "}]",
    "",
]


@st.composite
def spelled(draw, text):
    """A JSON string for ``text``, with some characters escaped that need not be."""
    out = bytearray(b'"')
    for character in text:
        plain = orjson.dumps(character)[1:-1]
        if ord(character) < 0x10000 and draw(st.integers(0, 9)) == 0:
            out += b"\\u%04x" % ord(character)
        else:
            out += plain
    return bytes(out + b'"')


@st.composite
def values(draw, depth=3):
    """A JSON value as bytes."""
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind <= 1:
        return draw(spelled(draw(st.sampled_from([*TRICKY, *KEYS]))))
    if kind == 2:
        return draw(st.sampled_from([b"1", b"-2.50", b"1e5", b"0"]))
    if kind == 3:
        return draw(st.sampled_from([b"true", b"false", b"null"]))
    items = draw(st.lists(values(depth=depth - 1), max_size=3))
    if kind == 4:
        return b"[" + draw(BLANKS) + (draw(BLANKS) + b"," + draw(BLANKS)).join(items) + draw(BLANKS) + b"]"
    return draw(objects(items))


@st.composite
def objects(draw, items):
    """A JSON object as bytes, holding ``items`` under drawn keys; duplicates happen."""
    parts = []
    for item in items:
        key = draw(spelled(draw(st.sampled_from(KEYS))))
        parts.append(draw(BLANKS) + key + draw(BLANKS) + b":" + draw(BLANKS) + item + draw(BLANKS))
    return b"{" + (b",".join(parts) or draw(BLANKS)) + b"}"


@st.composite
def bodies(draw):
    """A whole request body."""
    return draw(BLANKS) + draw(objects(draw(st.lists(values(), max_size=6)))) + draw(BLANKS)


CHANGES = st.dictionaries(
    st.sampled_from([*KEYS, "new"]),
    st.one_of(
        st.just(DELETE),
        st.sampled_from(["gpt", 'say "hi"', 1, None, True, {"include_usage": True}, [1, "x"]]),
    ),
    max_size=4,
)


@settings(max_examples=250, deadline=None)
@given(bodies(), CHANGES)
def test_rewriting_changes_what_was_asked_and_nothing_else(raw, changes):
    """The result parses to the changed document, and every other member keeps its bytes."""
    doc = orjson.loads(raw)
    expected = {**doc, **changes}
    for key in [key for key, value in expected.items() if value is DELETE]:
        del expected[key]

    changed = rewrite(raw, doc, changes)

    assert orjson.loads(changed) == expected
    kept_before = [raw[key:end] for name, key, _, end in members(raw) if name not in changes]
    kept_after = [changed[key:end] for name, key, _, end in members(changed) if name not in changes]
    assert kept_after == kept_before
    assert not [name for name, *_ in members(changed) if changes.get(name) is DELETE]


def test_everything_around_a_replaced_value_is_identical():
    """White space, number spellings, unknown fields and escapes survive."""
    raw = b' {"n" : 1.50e+3,\n "model"\t: "gpt-4" , "x":{"model":"y"},"t":"\\u00e9 \\"model\\" \\/" }\n'

    changed = rewrite(raw, orjson.loads(raw), {"model": "claude"})

    assert changed == raw.replace(b'"gpt-4"', b'"claude"')


def test_the_word_in_prompts_and_tool_schemas_is_left_alone():
    """Only the top-level member is the model."""
    doc = {
        "messages": [{"role": "user", "content": 'set "model" to "gpt-4", ends in "model'}],
        "tools": [{"function": {"parameters": {"properties": {"model": {}}, "required": ["model"]}}}],
        "metadata": {"model": "gpt-4"},
        "model": "gpt-4",
    }
    raw = orjson.dumps(doc)

    assert orjson.loads(rewrite(raw, doc, {"model": "m2"})) == {**doc, "model": "m2"}


def test_duplicates_and_escaped_keys_are_all_replaced():
    """A second spelling of the key cannot smuggle another model to the upstream."""
    raw = b'{"model":"a","m\\u006fdel":"b","messages":[],"model":"c"}'

    changed = rewrite(raw, orjson.loads(raw), {"model": "z"})

    assert changed == b'{"model":"z","m\\u006fdel":"z","messages":[],"model":"z"}'


@pytest.mark.parametrize(
    ("raw", "gone"),
    [
        (b'{"a":1,"b":2,"c":3}', b'{"b":2}'),
        (b'{"a": 1, "b": 2, "c": 3}', b'{"b": 2}'),
        (b'{"a":1}', b"{}"),
        (b'{ "c" : [1,{"a":2}] , "b":2 }', b'{ "b":2 }'),
    ],
)
def test_deleting_takes_the_comma_along(raw, gone):
    """What is left is what a serializer of the same style would have written."""
    assert rewrite(raw, orjson.loads(raw), {"a": DELETE, "c": DELETE}) == gone


def test_deeply_nested_values_are_skipped():
    """Nesting beyond the skipping pattern falls back to counting brackets."""
    deep = b'{"x":' * 40 + b'"model"' + b"}" * 40
    raw = b'{"model":"a","deep":' + deep + b',"model":"b"}'

    changed = rewrite(raw, orjson.loads(raw), {"model": "z"})

    assert changed == b'{"model":"z","deep":' + deep + b',"model":"z"}'
