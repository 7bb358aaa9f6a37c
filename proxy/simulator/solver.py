"""Guesses what kind of task a prompt is and works out the true answer from its text, as a good model would.

Invariant: nothing but the prompt goes in. Expressions are walked as syntax trees over a short list of
operations with bounded sizes; nothing is ever evaluated as code.
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Mapping
from typing import Final

from proxy.simulator.profiles import Kind

Value = int | str | list[int]

MAX_EXPRESSION: Final = 200
MAX_SIZE: Final = 10**15

_KEYWORDS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    ("code", re.compile(r"```|`[^`]+`|\b(python|code|function|javascript|sql|def)\b", re.IGNORECASE)),
    ("classification", re.compile(r"\b(classify|classification|sentiment|label|category)\b", re.IGNORECASE)),
    ("extraction", re.compile(r"\b(extract|extraction|find the|order number|invoice)\b", re.IGNORECASE)),
    ("math", re.compile(r"\d\s*[-+*/%]\s*\d|\b(calculate|compute|how many|sum of)\b", re.IGNORECASE)),
)
_ARITHMETIC: Final = re.compile(r"\(*\s*-?\d+(?:[\s()]*[-+*/%]+[\s()]*\d+)+\s*\)*")
_BACKTICKS: Final = re.compile(r"`{1,3}(?:python\n)?([^`]+)`{1,3}")
_TARGETS: Final[tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]] = (
    (re.compile(r"e-?mail", re.IGNORECASE), re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    (re.compile(r"\bdate\b", re.IGNORECASE), re.compile(r"\b\d{4}-\d{2}-\d{2}\b")),
    (re.compile(r"\b(order|invoice|ticket)\b", re.IGNORECASE), re.compile(r"\b[A-Z]{2,4}-\d{3,8}\b")),
    (re.compile(r"\b(phone|telephone)\b", re.IGNORECASE), re.compile(r"\+\d[\d ]{6,16}\d")),
)
_GOOD: Final = re.compile(
    r"\b(love|loved|great|excellent|perfect|happy|wonderful|delighted|superb|friendly|delicious|recommend)\b",
    re.IGNORECASE,
)
_BAD: Final = re.compile(
    r"\b(hate|hated|awful|terrible|broken|cold|rude|slow|refund|disappointed|worst|dirty|late)\b",
    re.IGNORECASE,
)


def guess_kind(prompt: str) -> Kind:
    """The kind of task that a prompt looks like; ``chat`` when nothing gives it away."""
    for kind, pattern in _KEYWORDS:
        if pattern.search(prompt):
            return kind
    return "chat"


def solve(kind: Kind, prompt: str) -> str | None:
    """The true answer, or None when the prompt asks nothing that has one (small talk, unknown forms)."""
    match kind:
        case "math":
            found = _ARITHMETIC.search(prompt)
            return _evaluate(found.group().strip()) if found else None
        case "code":
            quoted = _BACKTICKS.search(prompt)
            return _evaluate(quoted.group(1).strip()) if quoted else None
        case "extraction":
            return _extract(prompt)
        case "classification":
            balance = len(_GOOD.findall(prompt)) - len(_BAD.findall(prompt))
            return "positive" if balance > 0 else "negative" if balance < 0 else None
        case "chat":
            return None


def spoil(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same form, as a weak model would give it. Never equal to ``answer``."""
    if answer in ("positive", "negative"):
        return "negative" if answer == "positive" else "positive"
    digits = [index for index, letter in enumerate(answer) if letter.isdecimal()]
    if digits:
        index = digits[-1] if len(digits) == 1 else rng.choice(digits[1:])
        digit = str((int(answer[index]) + rng.randint(1, 8)) % 10)
        return answer[:index] + digit + answer[index + 1 :]
    turned = answer[1:] + answer[:1]
    return turned if turned != answer else answer + "?"


def _extract(prompt: str) -> str | None:
    request, _, text = prompt.partition("\n")
    for wanted, shape in _TARGETS:
        if wanted.search(request):
            found = shape.search(text or request)
            return found.group() if found else None
    return None


_BINARY: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _NotUnderstood(Exception):
    """The expression uses something outside the short list."""


def _evaluate(expression: str) -> str | None:
    if len(expression) > MAX_EXPRESSION:
        return None
    try:
        return str(_value(ast.parse(expression, mode="eval").body))
    except (_NotUnderstood, SyntaxError, ZeroDivisionError, IndexError, ValueError, RecursionError):
        return None


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=bool()):
            raise _NotUnderstood
        case ast.Constant(value=int() | str() as constant):
            return constant
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_integer(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            result = _BINARY[type(op)](_integer(left), _integer(right))
            if abs(result) > MAX_SIZE:
                raise _NotUnderstood
            return result
        case ast.List(elts=elements):
            return [_integer(element) for element in elements]
        case ast.Subscript(value=sequence, slice=index):
            return _subscript(_value(sequence), index)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return _call(name, _value(argument))
        case _:
            raise _NotUnderstood


def _integer(node: ast.expr) -> int:
    value = _value(node)
    if not isinstance(value, int):
        raise _NotUnderstood
    return value


def _subscript(sequence: Value, index: ast.expr) -> Value:
    if isinstance(sequence, int):
        raise _NotUnderstood
    if isinstance(index, ast.Slice):
        ends = [_integer(end) if end is not None else None for end in (index.lower, index.upper, index.step)]
        return sequence[slice(*ends)]
    return sequence[_integer(index)]


def _call(name: str, argument: Value) -> Value:
    if name == "len" and not isinstance(argument, int):
        return len(argument)
    if isinstance(argument, list):
        match name:
            case "sum":
                return sum(argument)
            case "max":
                return max(argument)
            case "min":
                return min(argument)
            case "sorted":
                return sorted(argument)
            case _:
                raise _NotUnderstood
    raise _NotUnderstood
