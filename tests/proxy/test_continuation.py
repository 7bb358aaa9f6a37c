"""One coherent answer out of two streams."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import CHAT, Arm, Model
from proxy.continuation import Seam, continued, is_continuable
from proxy.envelope import parse
from proxy.providers.base import ReplyFacts


class _Arm:
    """What ``continued`` looks at of a compiled arm."""

    def __init__(self, *capabilities):
        self.model = Model("m", "u", "m-id", "k", capabilities=frozenset(capabilities))
        self.arm = Arm("m", "m", "default", "k", "")


def _chat(**fields):
    body = {"model": "r", "stream": True, "messages": [{"role": "user", "content": "Tell me."}]} | fields
    return parse(CHAT, orjson.dumps(body))


def _facts(**fields):
    facts = ReplyFacts()
    facts.response_id = "first"
    for name, value in fields.items():
        setattr(facts, name, value)
    return facts


def _events(*docs):
    return b"".join(b"data: " + orjson.dumps(doc) + b"\n\n" for doc in docs)


def _docs(block):
    lines = [line.removeprefix(b"data: ") for line in block.split(b"\n\n") if line]
    return [orjson.loads(line) for line in lines if line != b"[DONE]"]


def _delta(text, **more):
    return {
        "id": "second",
        "choices": [{"index": 0, "delta": {"content": text} | more, "finish_reason": None}],
    }


TEXT = st.text(st.sampled_from("ab \n\té"), max_size=12)


@given(TEXT, TEXT, st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_blanks_at_the_cut_appear_once(said, rest, cuts, repeats):
    """Prefills are sent without their last blanks; a model that writes them again must not double them."""
    blanks = said[len(said.rstrip()) :] if repeats else ""
    if not repeats and rest[:1].isspace():
        rest = "x" + rest
    whole = blanks + rest
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    seam = Seam(said, _facts(), "first")

    out = b"".join(seam.feed(_events(_delta(piece))) for piece in pieces)

    seen = "".join(doc["choices"][0]["delta"].get("content", "") for doc in _docs(out))
    assert said + seen == said + rest
    assert seam.used == bool(seen)
    assert Seam(said, _facts(), "first").joined(whole) == rest


def test_one_id_one_role_and_the_usage_of_both():
    """The second stream's own beginning is not shown, and its usage is added to what was used before."""
    seam = Seam("Once", _facts(input_tokens=10, output_tokens=3), "first")
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    out = seam.feed(
        _events(
            _delta("", role="assistant", refusal=None),
            _delta(" upon"),
            {"id": "second", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"id": "second", "choices": [], "usage": usage},
        )
        + b": comment\n\ndata: [DONE]\n\n"
    )

    docs = _docs(out.replace(b": comment\n\n", b""))
    assert [doc["id"] for doc in docs] == ["first"] * 3
    assert docs[0]["choices"][0]["delta"] == {"content": " upon"}
    assert docs[1]["choices"][0]["finish_reason"] == "stop"
    assert docs[2]["usage"] == {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}
    assert out.endswith(b": comment\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("capability", "message", "fields"),
    [
        ("prefill", {}, {}),
        ("prefill_prefix", {"prefix": True}, {}),
        ("prefill_continue", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_the_request_carries_what_was_said(capability, message, fields):
    """As a last assistant message in the arm's own dialect, and the answer may get no longer than was asked."""
    envelope = continued(_chat(max_tokens=100), "Once upon \n", 30, _Arm(capability))

    assert envelope.doc["messages"][-1] == {"role": "assistant", "content": "Once upon"} | message
    assert envelope.doc["max_tokens"] == 70
    assert fields.items() <= envelope.doc.items()
    assert continued(_chat(max_tokens=10), "Once", 30, _Arm(capability)).doc["max_tokens"] == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"n": 1}, True),
        ({"n": 2}, False),
        ({"stream": False}, False),
        ({"logprobs": True}, False),
        ({"reasoning_effort": "low"}, False),
        ({"response_format": {"type": "json_object"}}, False),
    ],
)
def test_only_plain_text_answers_are_continued(fields, expected):
    """Whatever a second model could not add to without a visible seam is left alone."""
    assert is_continuable(_chat(**fields)) is expected
