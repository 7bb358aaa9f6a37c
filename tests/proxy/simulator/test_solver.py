"""The simulated models find true answers from the prompt's text alone, and spoil them visibly."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.solver import guess_kind, solve, spoil


@pytest.mark.parametrize(
    ("prompt", "kind", "answer"),
    [
        ("What is 37 * 12 + 5?", "math", "449"),
        ("Calculate (4 + 5) * 3 please.", "math", "27"),
        ("What does this Python expression give? `sorted([3, 1, 2])[0]`", "code", "1"),
        ("What does this Python code give? `'abcd'[::-1]`", "code", "dcba"),
        (
            "Extract the e-mail address.\nWrite to ann.lee@example.org by 2024-05-01.",
            "extraction",
            "ann.lee@example.org",
        ),
        ("Extract the date.\nWrite to ann.lee@example.org by 2024-05-01.", "extraction", "2024-05-01"),
        ("Extract the order number.\nYour AB-4711 ships soon.", "extraction", "AB-4711"),
        ("Classify the sentiment.\nThe soup was cold and the waiter rude.", "classification", "negative"),
        ("Tell me something nice.", "chat", None),
    ],
)
def test_known_tasks_have_their_true_answer(prompt: str, kind: str, answer: str | None) -> None:
    """Each kind is recognised and solved from the text."""
    assert guess_kind(prompt) == kind
    assert solve(guess_kind(prompt), prompt) == answer


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "9**9**9", "1/0 * 2", "[1][5]", "len(3)", "(lambda: 1)()", "sum('ab')", "True", "x"],
)
def test_expressions_outside_the_short_list_have_no_answer(expression: str) -> None:
    """Nothing is ever run as code: what is not understood is not answered."""
    assert solve("code", f"python `{expression}`") is None


@given(
    st.one_of(st.integers().map(str), st.text(min_size=1), st.sampled_from(["positive", "negative"])),
    st.integers(),
)
def test_a_spoilt_answer_is_never_the_true_one(answer: str, seed: int) -> None:
    """A wrong answer is wrong for a grader that compares texts."""
    assert spoil(answer, random.Random(seed)) != answer


@given(st.text(max_size=400))
def test_any_prompt_is_survived(prompt: str) -> None:
    """No prompt makes the solver raise."""
    for kind in ("math", "code", "extraction", "classification", "chat"):
        solve(kind, prompt)
