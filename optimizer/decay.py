"""Forgetting as a clock: event time measured in half-lives, piecewise linear, never rewritten in its past.

A lesson's weight depends only on when it happened, so lessons may be added in any order and on any machine.
When a route's half-life changes, the clock bends at that moment: what was forgotten before stays forgotten,
and from there on forgetting follows the new half-life. Sums that are already stored need no correction.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan

# Weights inside one epoch span 2**0 .. 2**EPOCH_HALF_LIVES, far from overflow and from rounding to nothing.
EPOCH_HALF_LIVES = 8
# 2**-40 of a pull is nothing: older epochs are neither read nor kept.
HORIZON_HALF_LIVES = 40


@dataclass(frozen=True, slots=True)
class Bend:
    """From ``at`` (Unix seconds) on, when the clock reads ``age`` half-lives, one lasts ``half_life_s``."""

    at: float
    age: float
    half_life_s: float


class DecayClock:
    """Reads event times (Unix seconds) as ages in half-lives, increasing with time."""

    __slots__ = ("_age", "_at", "_bends", "_rate")

    def __init__(self, bends: Iterable[Bend]) -> None:
        """Continue a clock from its stored bends.

        Raises:
            ValueError: If there is none, or they are not in order of time.
        """
        self._bends = list(bends)
        if not self._bends:
            raise ValueError("a decay clock needs at least one bend")
        for earlier, later in zip(self._bends, self._bends[1:], strict=False):
            if later.at < earlier.at or later.age < earlier.age:
                raise ValueError("the bends of a decay clock must be in order of time")
        self._use_last()

    @classmethod
    def start(cls, half_life_s: float) -> "DecayClock":
        """A clock that always ran with ``half_life_s`` (infinity = never forget)."""
        return cls([Bend(0.0, 0.0, _checked(half_life_s))])

    @property
    def bends(self) -> tuple[Bend, ...]:
        """Everything needed to continue this clock, oldest first."""
        return tuple(self._bends)

    @property
    def half_life_s(self) -> float:
        """The half-life in force now."""
        return self._bends[-1].half_life_s

    def age(self, time: float) -> float:
        """Half-lives that the clock shows at ``time``; differences of ages are what was forgotten between."""
        if time >= self._at:
            return self._age + (time - self._at) * self._rate
        index = max(bisect_right(self._bends, time, key=lambda bend: bend.at) - 1, 0)
        bend = self._bends[index]
        return bend.age + (time - bend.at) / bend.half_life_s

    def bend(self, half_life_s: float, at: float) -> bool:
        """Use ``half_life_s`` from ``at`` on, or from the last bend if later. False if nothing changes."""
        if _checked(half_life_s) == self.half_life_s:
            return False
        at = max(at, self._at)
        self._bends.append(Bend(at, self.age(at), half_life_s))
        self._use_last()
        return True

    def forget_before(self, time: float) -> bool:
        """Drop bends that no age within the horizon of ``time`` depends on. False if all are needed."""
        oldest = self.age(time) - HORIZON_HALF_LIVES - EPOCH_HALF_LIVES
        kept = max(bisect_right(self._bends, oldest, key=lambda bend: bend.age) - 1, 0)
        del self._bends[:kept]
        return kept > 0

    def _use_last(self) -> None:
        last = self._bends[-1]
        self._at, self._age, self._rate = last.at, last.age, 1.0 / _checked(last.half_life_s)


def epoch_of(age: float) -> int:
    """The landmark epoch that an age belongs to."""
    return int(age // EPOCH_HALF_LIVES)


def _checked(half_life_s: float) -> float:
    if isnan(half_life_s) or half_life_s <= 0.0:
        raise ValueError(f"half_life_s must be positive, got {half_life_s}")
    return half_life_s
