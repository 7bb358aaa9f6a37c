"""Samples as lines, and the texts in them."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.judging.sample import Sample, answer_of, decode, encode, question_of


def sample(endpoint: str = "chat", **body: Any) -> Sample:
    return Sample("req_1", "chat", "a", "mk", "vk", 1_795_000_000_000, 0.05, endpoint, body, "42", 1.0)


@given(st.text(), st.dictionaries(st.text(), st.recursive(st.none() | st.text(), st.lists, max_leaves=4)))
def test_a_sample_comes_back_as_it_went(answer: str, body: dict[str, Any]) -> None:
    """On one line, whatever is in it."""
    try:
        answer.encode()
        orjson.dumps(body)
    except (UnicodeError, TypeError):
        return
    before = Sample("req_1", "chat", "a", "mk", "vk", 1, 0.05, "chat", body, answer, None)

    line = encode(before)

    assert line.count(b"\n") == 1
    assert decode(line) == before


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{}", b'{"request_id": 1}', b"null", encode(sample())[:-9]]
)
def test_torn_and_foreign_lines_are_no_samples(line: bytes) -> None:
    """A worker that was killed leaves half a line."""
    assert decode(line) is None


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        (
            sample(messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]),
            "[system]\nS\n\n[user]\nQ",
        ),
        (
            sample(messages=[{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "image_url"}]}]),
            "[user]\nQ",
        ),
        (sample("completions", prompt="Say"), "Say"),
        (sample("responses", instructions="I", input="Q"), "[system]\nI\n\n[user]\nQ"),
        (
            sample("responses", input=[{"role": "user", "content": [{"type": "input_text", "text": "Q"}]}]),
            "[user]\nQ",
        ),
        (sample(messages="odd"), ""),
    ],
)  # fmt: skip
def test_the_question_is_all_that_was_said(given_: Sample, text: str) -> None:
    """Every turn under who spoke, of every endpoint."""
    assert question_of(given_) == text


@pytest.mark.parametrize(
    ("endpoint", "reply", "text"),
    [
        ("chat", {"choices": [{"message": {"content": "A"}}]}, "A"),
        ("chat", {"choices": [{"message": {"content": None, "refusal": "No."}}]}, "No."),
        ("chat", {"choices": [{"message": {"content": "A", "tool_calls": [{}]}}]}, None),
        ("chat", {"choices": [{"message": {"content": "A"}}, {"message": {"content": "B"}}]}, None),
        ("chat", {"choices": []}, None),
        ("chat", [], None),
        ("completions", {"choices": [{"text": "A"}]}, "A"),
        ("completions", {"choices": [{"text": None}]}, None),
        (
            "responses",
            {
                "output": [
                    {"type": "reasoning"},
                    {"type": "message", "content": [{"type": "output_text", "text": "A"}]},
                ]
            },
            "A",
        ),
        ("responses", {"output": [{"type": "function_call"}]}, None),
    ],
)
def test_an_answer_is_one_text_or_none(endpoint: str, reply: Any, text: str | None) -> None:
    """Several choices and calls of tools are nothing that can be rated."""
    assert answer_of(endpoint, orjson.dumps(reply)) == text


@given(st.binary(max_size=60))
def test_no_reply_breaks_the_reading(reply: bytes) -> None:
    """It came from somebody else."""
    assert answer_of("chat", reply) is None or True
    assert answer_of("responses", b'{"output": [' + reply + b"]}") is None or True
