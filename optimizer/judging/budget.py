"""What judging may cost per UTC day, so that no crash and no clock makes it cost more.

Invariant: what was reserved and what was spent on a day never exceed the day's limit, and the part of the limit that is
available grows with the day: a busy morning can not leave the evening unjudged, which would judge arms by the hours
in which they are used. A snapshot counts what is reserved as spent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DAY_S: Final = 86400.0
AHEAD: Final = 0.25
"""The share of the day's limit that is available from its first second on."""


@dataclass(slots=True)
class _Day:
    number: int
    spent: float = 0.0
    reserved: float = 0.0


class BudgetBook:
    """Spending by judge, in USD. Times are Unix seconds."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}

    def reserve(self, judge: str, usd: float, *, limit_usd: float, now: float) -> bool:
        """Set ``usd`` aside for a call; False when the limit does not allow it yet."""
        day = self._day(judge, now)
        open_share = min(1.0, (now % DAY_S) / DAY_S + AHEAD)
        if day.spent + day.reserved + usd > limit_usd * open_share:
            return False
        day.reserved += usd
        return True

    def settle(self, judge: str, reserved_usd: float, spent_usd: float, *, now: float) -> None:
        """Replace what was set aside by what the call cost."""
        day = self._day(judge, now)
        # A call over midnight was set aside on a day that is gone.
        day.reserved = max(0.0, day.reserved - reserved_usd)
        day.spent += spent_usd

    def spent_usd(self, judge: str, *, now: float) -> float:
        """What was spent today."""
        return self._day(judge, now).spent

    def snapshot(self) -> dict[str, Any]:
        """For ``restore``; who restores it can not tell what became of calls under way."""
        return {judge: [day.number, day.spent + day.reserved] for judge, day in self._days.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue.

        Raises:
            ValueError, TypeError: If it is no snapshot.
        """
        days = {}
        for judge, row in saved.items():
            number, spent = row
            days[str(judge)] = _Day(int(number), float(spent))
        self._days = days

    def _day(self, judge: str, now: float) -> _Day:
        number = int(now // DAY_S)
        day = self._days.get(judge)
        # A clock that is set back gets no second budget for a day that was spent.
        if day is None or day.number < number:
            day = self._days[judge] = _Day(number)
        return day
