"""Prompt variants on the three endpoints that have prompts."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Variant
from proxy.prompt import apply_variant

ASK = {"role": "user", "content": "why?"}


def variant(system=None, mode="prepend", template=None):
    return Variant("v", "k", system, mode, template)


def chat(*messages):
    return {"model": "m", "messages": list(messages), "unknown": {"kept": 1}}


def test_the_identity_changes_nothing():
    """No copy is made for the default variant."""
    assert apply_variant(chat(ASK), "chat", variant()) is None


def test_a_missing_system_message_is_added():
    """Every mode puts the text first when there is none yet."""
    for mode in ("set", "prepend", "append"):
        doc = apply_variant(chat(ASK), "chat", variant("Be brief.", mode))
        assert doc["messages"] == [{"role": "system", "content": "Be brief."}, ASK]
        assert doc["unknown"] == {"kept": 1}


@pytest.mark.parametrize(
    ("mode", "contents"),
    [
        ("set", ["NEW", "why?"]),
        ("prepend", ["NEW\n\none", "two", "why?"]),
        ("append", ["one", "two\n\nNEW", "why?"]),
    ],
)
def test_existing_system_messages_are_joined(mode, contents):
    """The leading block of instructions is what changes, in its own role."""
    doc = chat({"role": "developer", "content": "one"}, {"role": "system", "content": "two"}, ASK)

    messages = apply_variant(doc, "chat", variant("NEW", mode))["messages"]

    assert [message["content"] for message in messages] == contents
    assert messages[0]["role"] == "developer"


def test_system_parts_keep_their_markers():
    """A cache marker on a part stays on that part."""
    part = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    doc = chat({"role": "system", "content": [part]}, ASK)

    before = apply_variant(doc, "chat", variant("NEW"))["messages"][0]["content"]
    after = apply_variant(doc, "chat", variant("NEW", "append"))["messages"][0]["content"]

    assert before == [{"type": "text", "text": "NEW\n\n"}, part]
    assert after == [part, {"type": "text", "text": "\n\nNEW"}]


def test_a_template_wraps_the_last_user_message():
    """Earlier turns and later tool results are not the question."""
    doc = chat(ASK, {"role": "assistant", "content": "because"}, ASK, {"role": "tool", "content": "t"})

    messages = apply_variant(doc, "chat", variant(template="Q: {question}!"))["messages"]

    assert [message["content"] for message in messages] == ["why?", "because", "Q: why?!", "t"]


def test_a_template_keeps_pictures_in_their_place():
    """Text parts are wrapped at their ends; other parts do not move."""
    picture = {"type": "image_url", "image_url": {"url": "https://x"}}
    parts = [{"type": "text", "text": "A"}, picture, {"type": "text", "text": "B"}]
    doc = chat({"role": "user", "content": parts})

    once = apply_variant(doc, "chat", variant(template="<{question}>"))["messages"][0]["content"]
    twice = apply_variant(doc, "chat", variant(template="{question}|{question}"))["messages"][0]["content"]

    assert once == [{"type": "text", "text": "<A"}, picture, {"type": "text", "text": "B>"}]
    assert twice == [{"type": "text", "text": "A\nB|A\nB"}, picture]


@pytest.mark.parametrize(
    "doc",
    [
        chat({"role": "assistant", "content": "x"}),
        chat({"role": "user", "content": None}),
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}),
    ],
)
def test_without_a_question_there_is_nothing_to_wrap(doc):
    """The request goes out as it came."""
    assert apply_variant(doc, "chat", variant(template="Q {question}")) is None


def test_a_template_without_a_place_is_not_applied():
    """It would lose the question."""
    assert apply_variant(chat(ASK), "chat", variant(template="no place")) is None


def test_substitution_is_plain():
    """Braces in question and template mean nothing."""
    doc = chat({"role": "user", "content": "{0} {question} %s"})

    wrapped = apply_variant(doc, "chat", variant(template="{a}{question}{}"))

    assert wrapped["messages"][0]["content"] == "{a}{0} {question} %s{}"


def test_responses_have_instructions_and_input():
    """Both forms of input are wrapped."""
    both = variant("SYS", "append", "Q {question}")

    text = apply_variant({"model": "m", "instructions": "old", "input": "why?"}, "responses", both)
    items = apply_variant(
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "why?"}]}]},
        "responses",
        both,
    )

    assert (text["instructions"], text["input"]) == ("old\n\nSYS", "Q why?")
    assert items["instructions"] == "SYS"
    assert items["input"][0]["content"] == [{"type": "input_text", "text": "Q why?"}]


def test_completions_prompts_are_text():
    """System text stands before the prompt; token ids cannot be changed."""
    both = variant("SYS", "set", "Q {question}")

    assert apply_variant({"prompt": "why?"}, "completions", both)["prompt"] == "SYS\n\nQ why?"
    assert apply_variant({"prompt": ["a", "b"]}, "completions", both)["prompt"] == [
        "SYS\n\nQ a",
        "SYS\n\nQ b",
    ]
    assert apply_variant({"prompt": [1, 2]}, "completions", both) is None
    assert apply_variant({"input": "x"}, "embeddings", both) is None


TEXT = st.text(max_size=8)
CONTENT = st.one_of(
    TEXT,
    st.none(),
    st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": TEXT})),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]), "content": CONTENT}
)
VARIANTS = st.builds(
    variant,
    st.one_of(st.none(), TEXT),
    st.sampled_from(["set", "prepend", "append"]),
    st.one_of(st.none(), st.sampled_from(["{question}", "a {question} b", "{question}{question}", "none"])),
)


@given(st.lists(MESSAGE, min_size=1, max_size=5), VARIANTS)
def test_the_input_is_never_mutated(messages, chosen):
    """The envelope's document is shared between attempts."""
    doc = {"model": "m", "messages": messages, "input": messages, "prompt": "p"}
    before = copy.deepcopy(doc)

    for endpoint in ("chat", "responses", "completions"):
        apply_variant(doc, endpoint, chosen)

    assert doc == before
