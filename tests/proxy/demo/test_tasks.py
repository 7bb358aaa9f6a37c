"""The demo's questions: known answers, solvable from the text, graded without asking anybody."""

import random
from itertools import islice

import pytest

from proxy.demo.tasks import Question, grade, questions
from proxy.simulator.solver import guess_kind, solve, spoil


def test_the_simulator_can_solve_every_question_from_its_text() -> None:
    """What the demo knows by construction is what a good model would find."""
    for question in islice(questions(3), 400):
        assert guess_kind(question.text) == question.kind
        assert solve(guess_kind(question.text), question.text) == question.answer


def test_a_right_answer_is_worth_one_and_a_spoilt_one_nothing() -> None:
    """Grading looks at the text after the last ``Answer:`` only."""
    rng = random.Random(1)
    for question in islice(questions(4), 400):
        assert grade(f"Let me see.\nAnswer: {question.answer}", question) == 1.0
        assert grade(f"Let me see.\nAnswer: {spoil(question.answer, rng)}", question) == 0.0


@pytest.mark.parametrize("reply", ["", "42", "Answer:", "Answer: 42 or so", "Answer: 42\nAnswer: 41"])
def test_a_reply_without_a_clear_right_answer_is_worth_nothing(reply: str) -> None:
    """Nothing is guessed in favour of a model."""
    assert grade(reply, Question("math", "What is 6 * 7?", "42")) == 0.0


def test_a_seed_fixes_the_questions() -> None:
    """Two runs ask the same, another seed asks something else."""
    assert list(islice(questions(5), 20)) == list(islice(questions(5), 20))
    assert list(islice(questions(5), 20)) != list(islice(questions(6), 20))
