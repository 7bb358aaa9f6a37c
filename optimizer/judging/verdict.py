"""Reading what a judge said. Whatever can't be read without guessing is None, never a middle score."""

import re
from enum import StrEnum
from typing import Final

from optimizer.judging.rubric import SCALE

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_SCORE: Final = re.compile(rf'["\']?score["\']?\s*[:=]\s*["\']?{_NUMBER}(?:\s*/\s*(\d+))?', re.IGNORECASE)
_WINNER: Final = re.compile(r'["\']?winner["\']?\s*[:=]\s*["\']?\s*(A|B|tie)\b', re.IGNORECASE)
_BARE: Final = re.compile(rf"^\W*{_NUMBER}(?:\s*/\s*(\d+))?\W*$")
# A judge ends with its verdict; what it quotes of the material comes before.
_TAIL_CHARS: Final = 400


class Winner(StrEnum):
    """Which of two answers a judge prefers."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


_WINNERS: Final = {"a": Winner.FIRST, "b": Winner.SECOND, "tie": Winner.TIE}


def read_score(text: str) -> float | None:
    """The last score in what a judge said, as a share of the scale, 0..1; None when there is none or it is off it."""
    tail = text[-_TAIL_CHARS:]
    found = list(_SCORE.finditer(tail))
    match = found[-1] if found else _BARE.match(tail)
    if match is None:
        return None
    score, scale = float(match[1]), match[2]
    if scale is not None and int(scale) != SCALE:
        return None
    return score / SCALE if 0.0 <= score <= SCALE else None


def read_winner(text: str) -> Winner | None:
    """The last verdict in what a judge said of a pair; None when there is none."""
    found = _WINNER.findall(text[-_TAIL_CHARS:])
    return _WINNERS[found[-1].lower()] if found else None


def preference(forward: Winner, backward: Winner) -> float:
    """What both orders say of the first answer of ``forward``: 1 better, 0 worse, 0.5 a tie.

    ``backward`` was asked with the answers swapped. Judges favour a place; a judge whose verdict moves with the order
    has none, which is a tie.
    """
    if forward is Winner.FIRST and backward is Winner.SECOND:
        return 1.0
    if forward is Winner.SECOND and backward is Winner.FIRST:
        return 0.0
    return 0.5


def is_consistent(forward: Winner, backward: Winner) -> bool:
    """Whether the verdict is the same in both orders."""
    swapped = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST, Winner.TIE: Winner.TIE}
    return backward is swapped[forward]
