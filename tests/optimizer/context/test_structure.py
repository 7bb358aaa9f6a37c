"""The built-in features: what each looks at, their bounds, and that they mean what the documentation says."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.context.prompt import HEAD_CHARACTERS, TAIL_CHARACTERS, read_prompt
from optimizer.context.structure import BUILT_IN, REVISION, structural
from optimizer.context.task import KINDS, read_task

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "features.md"

TASKS = {
    "Calculate 15 percent of 240.": "math",
    "A train covers 60 miles in each hour. How many miles does it cover in 3 hours?": "math",
    "Write a Python function to reverse a list.": "code",
    "What does this do?\n```\nfor x in y: print(x)\n```": "code",
    "Which is a planet?\n(A) Mars\n(B) Basalt\n(C) Moss": "choice",
    "Pick one.\n1. red\n2. green\n3. blue": "choice",
    "Please translate this letter into French: Dear Anna": "translate",
    "Summarize the following article in three points. The council met.": "summarise",
    "Extract all email addresses from the text below.": "extract",
    "Rewrite this so that it sounds friendlier: Send it now.": "rewrite",
    "Write a short poem about rain.": "create",
    "Sort the following words alphabetically: pear apple fig": "order",
    "Complete the sentence: The cat sat on the": "complete",
    "Is the moon larger than Mercury?": "yes_no",
    "Who painted the ceiling of the Sistine Chapel?": "question",
    "Thanks, that helps.": None,
    "": None,
}


def chat(*messages, **fields):
    return {"messages": [{"role": role, "content": content} for role, content in messages], **fields}


def features(doc, endpoint="chat", limit=None):
    return dict(zip(BUILT_IN, structural(read_prompt(doc, endpoint, limit)), strict=True))


@pytest.mark.parametrize(("text", "kind"), TASKS.items())
def test_the_kind_of_a_task(text, kind):
    """A text has the kind that its words name, and exactly that one."""
    found = features(chat(("user", text)))

    assert read_task(text, sum(letter.isdigit() for letter in text)).kind == kind
    assert [name for name in KINDS if found[f"task_{name}"]] == ([kind] if kind else [])


def test_every_kind_has_an_example():
    """The table above leaves out no kind."""
    assert set(TASKS.values()) - {None} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Options:\n(A) one\n(B) two\n(C) three", 3),
        ("Choices: A) one B) two", 2),
        ("a) one b) two c) three d) four", 4),
        ("1. one\n2. two\n3. three", 3),
        ("In the USA) one thing", 0),
        ("B) comes before A) here", 0),
        ("See section 1. Then go on.", 0),
    ],
)
def test_options_are_a_series(text, count):
    """Marks count when they stand in order; a single one is none."""
    assert read_task(text, 0).options == count


def test_what_is_asked_for_besides():
    """Explanation, brevity and deduction are told by words."""
    assert features(chat(("user", "Say why, and explain your reasoning.")))["explain"] == 1.0
    assert features(chat(("user", "Answer briefly.")))["brief"] == 1.0
    assert features(chat(("user", "Is the argument valid, given the premises?")))["steps"] == 1.0
    assert features(chat(("user", "Good morning")))["explain"] == 0.0


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("Bitte fasse den folgenden Bericht in drei kurzen Punkten zusammen.", 1.0),
        ("Please put the following report into three short points.", 0.0),
        ("Merci beaucoup", 0.0),
        ("Zoë said hi", pytest.approx(1.5 / 11)),
        ("今日はいい天気ですね", 1.0),
    ],
)
def test_other_languages(text, foreign):
    """Told by missing English words in a longer text, by characters in a short one."""
    assert features(chat(("user", text)))["foreign"] == foreign


def test_the_shape_of_a_conversation():
    """History, turns and system prompt are told apart; the text is the last user message."""
    found = features(
        chat(
            ("system", "s" * 100),
            ("user", "u" * 50),
            ("assistant", "a" * 70),
            ("user", "7?"),
            ("tool", "t" * 30),
        )
    )

    assert found["length"] == pytest.approx((np.log(3) - 6) / 3)
    assert found["history_length"] == pytest.approx(np.log(151) / 9)
    assert found["system_length"] == pytest.approx(np.log(101) / 9)
    assert found["turns"] == pytest.approx(np.log(3) / 3)
    assert found["question_mark"] == 1.0
    assert found["digit_share"] == 1.0


def test_what_a_request_asks_of_a_model():
    """Tools, structure, pictures and the output limit, in both dialects."""
    schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    doc = chat(
        ("user", parts),
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
        response_format={"type": "json_schema"},
    )
    other = {
        "instructions": "be kind",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image"}]}
        ],
        "tools": [{"type": "function", "name": "f", "parameters": schema}],
        "text": {"format": {"type": "json_object"}},
    }

    for found in (features(doc, limit=64), features(other, "responses", 64)):
        assert found["tools"] == pytest.approx(np.log(2) / 3)
        assert found["tool_parameters"] == pytest.approx(np.log(3) / 4)
        assert found["structured_output"] == found["images"] == 1.0
        assert found["output_limit"] == pytest.approx(0.5)
        assert found["length"] == pytest.approx((np.log(5) - 6) / 3)
    assert features(other, "responses")["system_length"] == pytest.approx(np.log(8) / 9)
    assert features(chat(("user", "x")))["output_limit"] == 0.0


def test_plain_texts_are_one_message():
    """Completions, embeddings and an input that is a string."""
    expected = features(chat(("user", "How are you?")))

    assert features({"prompt": "How are you?"}, "completions") == expected
    assert features({"prompt": ["How are you?", "And you?"]}, "completions") == expected
    assert features({"input": "How are you?"}, "embeddings") == expected
    assert features({"input": "How are you?"}, "responses") == expected
    assert features({"prompt": [1, 2, 3]}, "completions")["length"] == -2.0


def test_a_long_text_is_read_at_both_ends():
    """What stands in between changes its length alone."""
    prompt = read_prompt(chat(("user", "Translate: " + "x" * 100_000 + " briefly")), "chat")
    found = structural(prompt)

    assert len(prompt.text) == HEAD_CHARACTERS + TAIL_CHARACTERS + 1
    assert found[BUILT_IN.index("task_translate")] == found[BUILT_IN.index("brief")] == 1.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=6,
)
FIELDS = ("messages", "input", "prompt", "tools", "functions", "response_format", "text", "instructions")
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "system", "assistant"]) | json_values,
            "content": json_values,
        },
    )
    | st.fixed_dictionaries(
        {
            "role": st.just("user"),
            "content": st.lists(
                st.fixed_dictionaries(
                    {"type": st.just("text") | json_values, "text": st.text() | json_values}
                )
            ),
        }
    )
    | json_values,
    max_size=4,
)


@settings(max_examples=120)
@given(
    st.dictionaries(st.sampled_from(FIELDS), json_values | messages),
    st.sampled_from(["chat", "completions", "embeddings", "responses"]),
    st.none() | st.integers(),
)
def test_nothing_that_is_sent_makes_it_raise(doc, endpoint, limit):
    """Whatever the body is, there is a bounded vector of the right size."""
    values = structural(read_prompt(doc, endpoint, limit))

    assert len(values) == len(BUILT_IN)
    assert values[0] == 1.0
    assert all(-2.0 <= value <= 4.0 for value in values)


def test_every_feature_is_documented():
    """The page lists the features of this revision, all of them, in the vector's order."""
    page = DOCUMENT.read_text()
    section = page.split("## Built-in features, revision ")[1].split("\n## ")[0]

    assert section.startswith(f"{REVISION}\n")
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == BUILT_IN


def test_a_changed_meaning_needs_a_new_revision():
    """The values of a fixed set of requests belong to the revision: whoever changes one changes both."""
    docs = [chat(("user", text)) for text in TASKS]
    docs.append(chat(("system", "Be brief."), ("user", "Déjà vu, 今日は — 42% of {x}!"), ("assistant", "ok")))
    docs.append(chat(("user", "Wie viele Einwohner hat die Hauptstadt von Frankreich und wie heißt sie?")))
    rows = [[f"{value:.6f}" for value in structural(read_prompt(doc, "chat", 100))] for doc in docs]

    assert (REVISION, hashlib.sha256(repr(rows).encode()).hexdigest()[:16]) == GOLDEN


GOLDEN = (1, "e48b46e0ba8c2312")
