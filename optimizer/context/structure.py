"""The built-in features of a request: their names, what each means, and their values. Standard library only.

The list is closed: whoever changes a feature, a scale or the order changes ``REVISION``, and with it the
version of every route's features, because vectors of different meaning must never be learned from together.
``docs/features.md`` explains each; a test holds both together.
"""

import math
from typing import Final

from optimizer.context.prompt import Prompt
from optimizer.context.task import KINDS, read_task

REVISION: Final = 1

BIAS: Final = "bias"
SHAPE: Final = (
    "length",
    "history_length",
    "turns",
    "system_length",
    "output_limit",
    "code_share",
    "digit_share",
    "capital_share",
    "line_density",
    "foreign",
    "question_mark",
    "tools",
    "tool_parameters",
    "structured_output",
    "images",
    "options",
    "explain",
    "brief",
    "steps",
)
BUILT_IN: Final = (BIAS, *SHAPE, *(f"task_{kind}" for kind in KINDS))

_SLOT: Final = {kind: 1 + len(SHAPE) + number for number, kind in enumerate(KINDS)}
_NO_TASK: Final = (0.0,) * len(KINDS)

# Beyond the end of a text its last question mark is not what is asked.
_END_BYTES: Final = 400
_LONGEST_OUTPUT: Final = math.log(4096.0)


def _classes() -> bytes:
    table = bytearray(b"a" * 256)
    for code in b"0123456789":
        table[code] = ord("0")
    for code in range(0x41, 0x5B):
        table[code] = ord("A")
    for code in b"{}[]<>=;_|\\#$&^~@`+*/":
        table[code] = ord("{")
    table[0x0A] = 0x0A
    return bytes(table)


_CLASSES: Final = _classes()


def structural(prompt: Prompt) -> list[float]:
    """Values of ``BUILT_IN``, in their order, each within -2..2 and most within 0..1."""
    text = prompt.text
    data = text.encode("utf-8", "replace")
    count = len(data) or 1
    classes = data.translate(_CLASSES)
    digits = classes.count(b"0")
    task = read_task(text, digits)
    values = [
        1.0,
        min(2.0, max(-2.0, (math.log1p(prompt.length) - 6.0) / 3.0)),
        math.log1p(max(prompt.total - prompt.length - prompt.system, 0)) / 9.0,
        math.log(max(prompt.turns, 1)) / 3.0,
        math.log1p(prompt.system) / 9.0,
        _shortness(prompt.output_limit),
        min(1.0, 6.0 * classes.count(b"{") / count),
        min(1.0, 6.0 * digits / count),
        min(1.0, 8.0 * classes.count(b"A") / count),
        min(1.0, 20.0 * classes.count(b"\n") / count),
        1.0 if task.foreign else 0.0 if text.isascii() else min(1.0, 1.5 * _beyond_ascii(text)),
        1.0 if b"?" in data[-_END_BYTES:] else 0.0,
        min(1.0, math.log1p(prompt.tools) / 3.0),
        min(1.0, math.log1p(prompt.tool_parameters) / 4.0),
        1.0 if prompt.structured else 0.0,
        1.0 if prompt.images else 0.0,
        min(1.0, task.options / 6.0),
        1.0 if task.explain else 0.0,
        1.0 if task.brief else 0.0,
        1.0 if task.steps else 0.0,
        *_NO_TASK,
    ]
    if task.kind is not None:
        values[_SLOT[task.kind]] = 1.0
    return values


def _shortness(limit: int) -> float:
    if limit <= 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - math.log(limit) / _LONGEST_OUTPUT))


def _beyond_ascii(text: str) -> float:
    return (len(text) - len(text.encode("ascii", "ignore"))) / len(text)
