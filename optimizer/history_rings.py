"""Figures over time for every route and arm, in three resolutions, kept on disk beside what is learned.

Steps that are under way are in memory; every commit writes what of them has changed, in the transaction that saves the
log's cursor, so each event is in them exactly once whatever was killed. Only the finest ring is written that often:
its steps are folded into the others when they are over, and whoever reads the others adds those that are not folded
yet. Older steps are only on disk and go when they leave their ring: memory depends on how many arms had traffic
lately, disk on the rings' lengths.

What counts is event time, so a log that is read again gives the same figures.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log2
from struct import Struct
from typing import Final, NamedTuple

OTHER: Final = "other"
"""What is beyond ``MOST_SERIES``."""
MOST_SERIES: Final = 4096
"""Routes and arms that have figures of their own at once; those without any left make room."""

FUTURE_S: Final = 60.0
"""An event that is further ahead of the clock is not counted."""


class Ring(NamedTuple):
    """One resolution: so many steps of so many seconds."""

    step_s: int
    steps: int


RINGS: Final = (Ring(10, 360), Ring(60, 1440), Ring(900, 1344))
"""An hour, a day, two weeks. Each step is a whole number of those before."""
ROUTES: Final = len(RINGS)
"""Added to a ring's number: the figures of whole routes, which are in rows of their own."""

ARM_BITS: Final = 12
"""Of a series' number; the rest is its route, so that the arms of a route lie together."""
_ARMS: Final = (1 << ARM_BITS) - 1

# Times are counted in buckets that grow by an eighth: 6 for every doubling, from 1 ms to 40 min.
TIME_CODES: Final = 128
_PER_DOUBLING: Final = 6
_PAIR: Final = Struct("<BH")
_MOST_COUNT: Final = 0xFFFF

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS history (level INTEGER, slot INTEGER, series INTEGER,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL, cost_usd REAL NOT NULL, saved_usd REAL NOT NULL,
    split INTEGER NOT NULL, candidate INTEGER NOT NULL, rated INTEGER NOT NULL, quality REAL NOT NULL, times BLOB,
    PRIMARY KEY (level, slot, series)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history_series (series INTEGER PRIMARY KEY, route TEXT NOT NULL, arm TEXT NOT NULL,
    model TEXT, variant TEXT, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS history_folded (one INTEGER PRIMARY KEY CHECK (one = 1), slot INTEGER NOT NULL)
"""
_FIELDS: Final = "requests, failed, cost_usd, saved_usd, split, candidate, rated, quality, times"

# A step of the finest ring is folded when this many newer ones have begun; what comes later is added to all rings.
_LATE_STEPS: Final = 2

# So many steps that are over are open at most, beside those of the last commit.
_MOST_LATE: Final = 4096

Place = tuple[int, int, int]  # level, slot, series


def time_code(ms: float) -> int:
    """The bucket of a time in milliseconds, 0..127."""
    return min(int(log2(ms) * _PER_DOUBLING), TIME_CODES - 1) if ms > 1.0 else 0


def time_of(code: int) -> float:
    """The middle of a bucket in seconds; what is in it is at most 6 % away."""
    return 1e-3 * float(2.0 ** ((code + 0.5) / _PER_DOUBLING))


class Figures:
    """What was counted in one step. ``quality`` is the sum of ``rated`` ratings, ``split`` requests during a rollout.

    ``times`` counts durations by ``time_code``, and first tokens by that plus ``TIME_CODES``.
    """

    __slots__ = (
        "candidate",
        "cost_usd",
        "failed",
        "quality",
        "rated",
        "requests",
        "saved_usd",
        "split",
        "times",
    )

    def __init__(self) -> None:
        self.requests = self.failed = self.split = self.candidate = self.rated = 0
        self.cost_usd = self.saved_usd = self.quality = 0.0
        self.times: dict[int, int] = {}

    def add(self, more: "Figures") -> None:
        """Count what another one has."""
        self.requests += more.requests
        self.failed += more.failed
        self.split += more.split
        self.candidate += more.candidate
        self.rated += more.rated
        self.cost_usd += more.cost_usd
        self.saved_usd += more.saved_usd
        self.quality += more.quality
        own = self.times
        for code, count in more.times.items():
            own[code] = own.get(code, 0) + count

    def row(self) -> tuple[int, int, float, float, int, int, int, float, bytes | None]:
        """As it is stored."""
        return (
            self.requests,
            self.failed,
            self.cost_usd,
            self.saved_usd,
            self.split,
            self.candidate,
            self.rated,
            self.quality,
            _packed(self.times) if self.times else None,
        )

    @classmethod
    def of(cls, row: Iterable[object]) -> "Figures":
        """From what ``row`` gave."""
        found = cls()
        *plain, times = row
        (
            found.requests,
            found.failed,
            found.cost_usd,
            found.saved_usd,
            found.split,
            found.candidate,
            found.rated,
            found.quality,
        ) = plain  # type: ignore[assignment]
        for code, count in _PAIR.iter_unpack(times if isinstance(times, bytes) else b""):
            found.times[code] = found.times.get(code, 0) + count
        return found


@dataclass(slots=True)
class Series:
    """A route (``arm`` empty) or one of its arms. ``until``: the last step of the coarsest ring that counts it."""

    number: int
    route: str
    arm: str
    model: str | None
    variant: str | None
    until: int


class HistoryRings:
    """Lives in the learner's database; a ``store.Participant``.

    Args:
        connection: The database.
        now: Unix seconds; says what has left the rings.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, now: Callable[[], float], most_series: int = MOST_SERIES
    ) -> None:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        self._connection = connection
        self._now = now
        self._most_series = most_series
        self._series: dict[tuple[str, str], Series] = {}
        # By route the numbers of its arms, with 0 for itself; their common part is in ``_routes``.
        self._taken: dict[str, set[int]] = {}
        self._routes: dict[str, int] = {}
        for row in connection.execute("SELECT * FROM history_series"):
            series = Series(*row)
            self._series[series.route, series.arm] = series
            self._took(series)
        self._changed: dict[int, Series] = {}
        self._forgotten: list[int] = []
        # What was counted since the last commit, by step of the finest ring.
        self._fresh: dict[tuple[int, str, str], Figures] = {}
        self._open: dict[Place, Figures] = {}
        self._dirty: set[Place] = set()
        levels = range(2 * len(RINGS))
        # What is at or before these may be on disk only.
        stored = dict(connection.execute("SELECT level, max(slot) FROM history GROUP BY level").fetchall())
        self._stored = [stored.get(level, -1) for level in levels]
        self._folded: int = connection.execute("SELECT max(slot) FROM history_folded").fetchone()[0] or -1
        self._newest = [self._stored[ring] for ring in range(len(RINGS))]
        # Whether a new step was begun since those that are over were let go, and how many old ones were opened.
        self._moved = False
        self._late = 0
        self._pruned = [-1] * len(RINGS)
        self._is_fold_stored = True

    # --- counting -----------------------------------------------------------------------------------

    def at(self, time_s: float, route: str, arm: str = "") -> Figures | None:
        """Where to count what happened at an event time (Unix seconds); None when no ring has room for it.

        Without an arm it is about the route as a whole.
        """
        slot = int(time_s // RINGS[0].step_s)
        key = (slot, route, arm)
        found = self._fresh.get(key)
        if found is None:
            now = self._now()
            coarsest = RINGS[-1]
            if not now - coarsest.step_s * coarsest.steps < time_s < now + FUTURE_S:
                return None
            found = self._fresh[key] = Figures()
        return found

    def describe(self, route: str, arm: str, model: str | None, variant: str | None) -> None:
        """Say what an arm is made of, as far as that is known."""
        series = self._series.get((route, arm))
        if series is None:
            series = self._add(route, arm)
        if series.route != route:
            return
        if (model or series.model) != series.model or (variant or series.variant) != series.variant:
            series.model, series.variant = model or series.model, variant or series.variant
            self._changed[series.number] = series

    # --- as store.Participant -------------------------------------------------------------------------

    def write(self, connection: sqlite3.Connection) -> None:
        """See ``store.Participant``."""
        self._spread()
        if self._forgotten:
            connection.executemany(
                "DELETE FROM history_series WHERE series = ?", [(number,) for number in self._forgotten]
            )
        if self._changed:
            rows = [(s.number, s.route, s.arm, s.model, s.variant, s.until) for s in self._changed.values()]
            connection.executemany("INSERT OR REPLACE INTO history_series VALUES (?, ?, ?, ?, ?, ?)", rows)
        finest = set(self._dirty)
        self._write_cells(connection, finest)
        self._fold(connection)
        self._write_cells(connection, self._dirty - finest)
        if not self._is_fold_stored:
            connection.execute("INSERT OR REPLACE INTO history_folded VALUES (1, ?)", (self._folded,))
        self._prune(connection)

    def written(self) -> None:
        """See ``store.Participant``."""
        self._forgotten.clear()
        self._changed.clear()
        self._dirty.clear()
        self._is_fold_stored = True
        if not self._moved and self._late < _MOST_LATE:
            return
        self._moved, self._late = False, 0
        # A clock that was ahead for a while has left steps that are still to come.
        now = self._now()
        newest = [min(slot, int(now // ring.step_s)) for slot, ring in zip(self._newest, RINGS, strict=True)]
        for place in [place for place in self._open if place[1] < newest[place[0] % ROUTES] - 1]:
            self._stored[place[0]] = max(self._stored[place[0]], place[1])
            del self._open[place]

    # --- inside -------------------------------------------------------------------------------------

    def _spread(self) -> None:
        """Add what is fresh to the finest ring, and to the others what comes too late to be folded."""
        now = self._now()
        for (slot, route, arm), fresh in self._fresh.items():
            series = self._series.get((route, arm)) or self._add(route, arm)
            waits = slot > self._folded and slot > now // RINGS[0].step_s - RINGS[0].steps
            rings = range(1) if waits else range(len(RINGS))
            self._count(series.number, slot, fresh, rings, whole=not arm)
            until = slot * RINGS[0].step_s // RINGS[-1].step_s
            if until > series.until:
                series.until = until
                self._changed[series.number] = series
        self._fresh.clear()

    def _count(self, series: int, slot: int, fresh: Figures, rings: range, *, whole: bool) -> None:
        """Add the figures of a step of the finest ring to those ``rings`` that have room for it."""
        now = self._now()
        for number in rings:
            ring = RINGS[number]
            at = slot * RINGS[0].step_s // ring.step_s
            if at > now // ring.step_s - ring.steps:
                place = (number + ROUTES if whole else number, at, series)
                self._cell(place).add(fresh)
                self._dirty.add(place)

    def _fold(self, connection: sqlite3.Connection) -> None:
        """Add steps of the finest ring that are over to the others, once."""
        until = self._newest[0] - _LATE_STEPS
        if until <= self._folded:
            return
        rings = range(1, len(RINGS))
        for level in (0, ROUTES):
            rows = connection.execute(
                f"SELECT slot, series, {_FIELDS} FROM history WHERE level = ? AND slot > ? AND slot <= ?",  # noqa: S608
                (level, self._folded, until),
            ).fetchall()
            for slot, series, *row in rows:
                self._count(series, slot, Figures.of(row), rings, whole=level == ROUTES)
        self._folded, self._is_fold_stored = until, False

    def _write_cells(self, connection: sqlite3.Connection, places: Iterable[Place]) -> None:
        cells = self._open
        connection.executemany(
            "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*place, *cells[place].row()) for place in sorted(places)],
        )

    def _cell(self, place: Place) -> Figures:
        found = self._open.get(place)
        if found is None:
            row = None
            if place[1] <= self._stored[place[0]]:
                row = self._connection.execute(
                    f"SELECT {_FIELDS} FROM history WHERE level = ? AND slot = ? AND series = ?",  # noqa: S608
                    place,
                ).fetchone()
            found = self._open[place] = Figures.of(row) if row is not None else Figures()
            ring = place[0] % ROUTES
            if place[1] > self._newest[ring]:
                self._newest[ring] = place[1]
                self._moved = True
            elif place[1] < self._newest[ring] - 1:
                self._late += 1
        return found

    def _add(self, route: str, arm: str) -> Series:
        """The series of a name that is new, or the one for all that there is no room for; a route before its arms."""
        if arm and (route, "") not in self._series:
            self._add(route, "")
        number = self._free_number(route, arm) if len(self._series) < self._most_series else None
        if number is None:
            route, arm = OTHER, OTHER if arm else ""
            known = self._series.get((route, arm))
            if known is not None:
                return known
            number = self._free_number(route, arm)
            assert number is not None
        series = Series(number, route, arm, None, None, int(self._now() // RINGS[-1].step_s))
        self._series[route, arm] = self._changed[number] = series
        self._took(series)
        return series

    def _took(self, series: Series) -> None:
        self._routes[series.route] = series.number >> ARM_BITS
        self._taken.setdefault(series.route, {0}).add(series.number & _ARMS)

    def _free_number(self, route: str, arm: str) -> int | None:
        """A number that no series has; None when the route has too many arms."""
        base = self._routes.get(route)
        if base is None:
            base = _least_free(set(self._routes.values()))
        own = _least_free(self._taken.get(route, {0})) if arm else 0
        return base << ARM_BITS | own if own <= _ARMS else None

    def _prune(self, connection: sqlite3.Connection) -> None:
        """Let go of what has left its ring, and of names that nothing is left of."""
        now = self._now()
        for number, ring in enumerate(RINGS):
            oldest = int(now // ring.step_s) - ring.steps
            if number == 0:
                oldest = min(oldest, self._folded)
            # It may be less than before: clocks are set back.
            if oldest == self._pruned[number]:
                continue
            self._pruned[number] = oldest
            for level in (number, number + ROUTES):
                connection.execute("DELETE FROM history WHERE level = ? AND slot <= ?", (level, oldest))
            if number == len(RINGS) - 1:
                self._forget(connection, oldest)

    def _forget(self, connection: sqlite3.Connection, oldest: int) -> None:
        """Let go of names that no ring counts any more, so that others may have their numbers."""
        gone = [key for key, series in self._series.items() if series.until <= oldest]
        numbers = [self._series.pop(key).number for key in gone]
        connection.executemany("DELETE FROM history_series WHERE series = ?", [(one,) for one in numbers])
        self._forgotten += numbers
        self._routes.clear()
        self._taken.clear()
        for series in self._series.values():
            self._took(series)


def _least_free(taken: set[int]) -> int:
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _packed(times: Mapping[int, int]) -> bytes:
    """Pairs of bucket and count; a count that is too large for one stands in several."""
    pack = _PAIR.pack
    parts = []
    for code, count in times.items():
        left = count
        while left > _MOST_COUNT:
            parts.append(pack(code, _MOST_COUNT))
            left -= _MOST_COUNT
        parts.append(pack(code, left))
    return b"".join(parts)
