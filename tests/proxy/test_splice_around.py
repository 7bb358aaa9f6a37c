"""Parsing a large body in two pieces proves where the model stands, or declines."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.splice import parse_around, rewrite

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "a", 'q"', "m"]), inner, max_size=3)
    ),
    max_leaves=12,
)
spaces = st.sampled_from(["", " ", "\n  ", "\t"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Objects with `model` anywhere, also twice, deeper, escaped, or missing, with odd spacing."""
    keys = draw(st.lists(st.sampled_from(["model", "messages", "a", "tools", "mod\\u0065l"]), max_size=5))
    parts = []
    for key in keys:
        value = orjson.dumps(draw(st.text(max_size=8) if "mod" in key else json_values)).decode()
        parts.append(f'{draw(spaces)}"{key}"{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}')
    return f"{draw(spaces)}{{{','.join(parts)}}}{draw(spaces)}".encode()


@given(bodies())
@example(b'{"model":"a","model":"a"}')
@example(b'{"x":"\\"model\\":","model":"b"}')
@example(b'{"x":{"model":"a"},"model":"b"}')
@example(b'{"x":{"model":"a"}}')
@example(b'{"x":"model","model":"b"}')
def test_what_is_found_is_exact(raw: bytes) -> None:
    """When it applies, document and place are those of a full parse, and replacing touches nothing else."""
    doc: dict[str, Any] = orjson.loads(raw)
    found = parse_around(raw, "model")
    if found is None:
        return
    parsed, start, end = found

    assert parsed == doc
    assert orjson.loads(raw[start:end]) == doc["model"]
    changed = rewrite(raw, doc, {"model": "new"}, known=("model", start, end))
    assert changed == raw[:start] + b'"new"' + raw[end:]
    assert orjson.loads(changed) == {**doc, "model": "new"}
    assert rewrite(raw, doc, {"model": "new"}) == changed


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a",}',
        b'{,"model":"a"}',
        b'{"x":1,,"model":"a"}',
        b'{"x":1,"model":"a"}}',
        b'{"x":1 "model":"a"}',
        b'[{"x":1,"model":"a"}]',
        b'{"x":[1,"model":"a"]}',
        b'{"model":"a","x":}',
        b'{"model":5,"x":1}',
        b"",
    ],
)
def test_invalid_json_is_never_made_valid(raw: bytes) -> None:
    """Pieces that would repair a broken body are declined; the full parse then names the error."""
    assert parse_around(raw, "model") is None


@pytest.mark.parametrize("raw", [b'{"model":"a","messages":[1]}', b'{"messages":[1], "model" : "a" }'])
def test_the_usual_orders_are_found(raw: bytes) -> None:
    """Clients put the model first or last, and both are found."""
    found = parse_around(raw, "model")

    assert found is not None
    assert raw[found[1] : found[2]] == b'"a"'
