"""Questions with known answers, and how a reply to one is graded. Pure and seeded.

Invariant: the answer is known because of how the question was built, never by asking the simulator.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ANSWER = re.compile(r"Answer:\s*(.+?)\s*$", re.DOTALL)
_NAMES = ("ann.lee", "raj.patel", "mia.berg", "joe.santos", "li.wei", "eva.koch", "tom.osei", "zoe.roy")
_PLACES = ("example.org", "mail.example.com", "shop.example.net", "corp.example.io")
_PRAISE = (
    "I love this lamp, the light is wonderful.",
    "Great value and a friendly seller, I recommend it.",
    "Excellent coffee, and the staff were delighted to help.",
    "A perfect gift; my sister was so happy with it.",
)
_BLAME = (
    "The soup was cold and the waiter rude.",
    "It arrived broken and two weeks late.",
    "I am disappointed: slow, noisy, and no refund.",
    "The worst hotel of the trip, and the room was dirty.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the one right answer."""

    kind: str
    text: str
    answer: str


def questions(seed: int) -> Iterator[Question]:
    """An endless, seeded mix of arithmetic, code reading, extraction and classification."""
    rng = random.Random(seed)  # noqa: S311 - test questions, not a secret
    makers: tuple[Callable[[random.Random], Question], ...] = (_math, _code, _extraction, _classification)
    while True:
        yield rng.choices(makers, weights=(30, 25, 25, 20))[0](rng)


def grade(reply: str, question: Question) -> float:
    """1.0 if the text after the last ``Answer:`` is the right answer, else 0.0."""
    said = _ANSWER.search(reply.rpartition("Answer:")[1] + reply.rpartition("Answer:")[2])
    return float(said is not None and said.group(1).casefold() == question.answer.casefold())


def _math(rng: random.Random) -> Question:
    a, b, c = rng.randint(12, 99), rng.randint(3, 49), rng.randint(1, 500)
    return Question("math", f"What is {a} * {b} + {c}?", str(a * b + c))


def _code(rng: random.Random) -> Question:
    numbers = [rng.randint(1, 60) for _ in range(rng.randint(4, 7))]
    at = rng.randrange(3)
    expression, value = rng.choice(
        (
            (f"sum({numbers}[{at}:])", sum(numbers[at:])),
            (f"sorted({numbers})[{at}]", sorted(numbers)[at]),
            (f"max({numbers}) - min({numbers})", max(numbers) - min(numbers)),
        )
    )
    return Question("code", f"What does this Python expression evaluate to? `{expression}`", str(value))


def _extraction(rng: random.Random) -> Question:
    address = f"{rng.choice(_NAMES)}@{rng.choice(_PLACES)}"
    order = f"{rng.choice(('AB', 'INV', 'ORD'))}-{rng.randint(10_000, 99_999)}"
    date = f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    wanted, answer = rng.choice((("e-mail address", address), ("order number", order), ("date", date)))
    message = f"Hello, my parcel {order} should have come on {date}. Please write to {address}. Thanks!"
    return Question("extraction", f"Extract the {wanted} from this message:\n{message}", answer)


def _classification(rng: random.Random) -> Question:
    text, label = rng.choice(
        [(text, "positive") for text in _PRAISE] + [(text, "negative") for text in _BLAME]
    )
    order = rng.randint(100, 999)
    return Question("classification", f"Classify the sentiment of review {order}:\n{text}", label)
