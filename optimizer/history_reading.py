"""Reading figures over time: from the rings on disk to steps of any length, of one node or of several together.

A ``Part`` is what one node has, as sums, so that parts of one ``Window`` add up; what is shown is made of the sum.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import ceil, floor
from pathlib import Path
from threading import Lock
from time import monotonic, thread_time
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizer.history_rings import ARM_BITS, RINGS, ROUTES, TIME_CODES, time_of

_BUSY_S: Final = 0.2
READING_SHARE: Final = 0.01
_MOST_KEPT: Final = 16
_CHEAP_S: Final = 0.01
_CODES: Final = 2 * TIME_CODES
Names: TypeAlias = Mapping[int, tuple[str, str, str | None, str | None]]  # route, arm, model, variant
_ROUTE_COLUMNS: Final = ("requests", "failed", "cost_usd", "saved_usd", "split", "candidate")
_ARM_COLUMNS: Final = ("requests", "failed", "cost_usd", "rated", "quality")


class HistoryUnreadable(Exception):
    """A database could not be read just now; the message says why."""


@dataclass(frozen=True, slots=True)
class Window:
    """``points`` steps of ``step_s`` from ``start`` (Unix seconds) on, out of the ring of that number."""

    ring: int
    start: int
    step_s: int
    points: int

    @property
    def end(self) -> int:
        """The first moment after it."""
        return self.start + self.step_s * self.points

    @property
    def at(self) -> list[int]:
        """The beginnings of all steps."""
        return list(range(self.start, self.end, self.step_s))


def window_of(minutes: int, points: int, *, until: float) -> Window:
    """The finest ring that goes back so far, in at most ``points`` steps; the last one has ``until`` in it."""
    length_s = 60 * minutes
    ring = next(number for number, ring in enumerate(RINGS) if ring.step_s * ring.steps >= length_s)
    finest = RINGS[ring].step_s
    step_s = finest * ceil(length_s / points / finest)
    count = max(length_s // step_s, 1)
    return Window(ring, (floor(until / step_s) + 1 - count) * step_s, step_s, count)


@dataclass(slots=True)
class ArmPart:
    """Sums of one arm by step; ``keys`` are step x 256 + bucket of a time, each with its count."""

    model: str | None
    variant: str | None
    figures: dict[str, list[float]]
    keys: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Part:
    """What one place knows of a window: figures by route, and of one route by arm."""

    routes: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    arms: dict[str, ArmPart] = field(default_factory=dict)

    def add(self, other: "Part") -> None:
        """Take in what another place knows of the same window."""
        for route, figures in other.routes.items():
            self.routes[route] = _added(self.routes.get(route), figures)
        for arm, theirs in other.arms.items():
            own = self.arms.get(arm)
            if own is None:
                self.arms[arm] = theirs
                continue
            own.figures = _added(own.figures, theirs.figures)
            own.model, own.variant = own.model or theirs.model, own.variant or theirs.variant
            own.keys, own.counts = own.keys + theirs.keys, own.counts + theirs.counts

    def forget_learned(self) -> None:
        """Leave out what was saved, and ratings: another place is to say it."""
        for figures in self.routes.values():
            figures["saved_usd"] = [0.0] * len(figures["saved_usd"])
        for arm in self.arms.values():
            arm.figures |= {name: [0] * len(arm.figures[name]) for name in ("rated", "quality")}

    def copy(self) -> "Part":
        """One that can be added to, and this one stays as it is."""
        return Part(
            {route: dict(figures) for route, figures in self.routes.items()},
            {arm: replace(own, figures=dict(own.figures)) for arm, own in self.arms.items()},
        )


class PartReader:
    """Reads parts, and gives one that was dear to read again for a while: pages ask every other second.

    However many do, reading the same window takes about ``share`` of a core. For threads.
    """

    def __init__(
        self,
        *,
        share: float = READING_SHARE,
        clock: Callable[[], float] = monotonic,
        used: Callable[[], float] = thread_time,
    ) -> None:
        self._share = share
        self._clock = clock
        self._used = used
        self._lock = Lock()
        self._kept: dict[tuple[Path, Window, str | None], tuple[float, Part]] = {}

    def read(self, path: Path, window: Window, route: str | None) -> Part:
        """As ``read``, but perhaps of a moment ago."""
        key = path, window, route
        with self._lock:
            until, kept = self._kept.get(key, (0.0, None))
            if kept is not None and self._clock() < until:
                return kept.copy()
        begun = self._used()
        part = read(path, window, route)
        took_s = self._used() - begun
        if took_s < _CHEAP_S:
            return part
        until = self._clock() + took_s / self._share
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = until, part
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return part.copy()


def empty_route(points: int) -> dict[str, list[float]]:
    """A route that nothing happened on."""
    return {name: [0] * points for name in _ROUTE_COLUMNS}


def empty_arm(points: int, model: str | None, variant: str | None) -> ArmPart:
    """An arm that nothing happened on."""
    return ArmPart(model, variant, {name: [0] * points for name in _ARM_COLUMNS})


def read(path: Path, window: Window, route: str | None = None) -> Part:
    """What a learner's database has of a window: all routes, or one and its arms. For a thread.

    Raises:
        HistoryUnreadable: Not now.
    """
    try:
        return _read(path, window, route)
    except sqlite3.Error as error:
        raise HistoryUnreadable(str(error)) from error


def _read(path: Path, window: Window, route: str | None) -> Part:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
        connection.execute("BEGIN")
        names = {
            number: (name, arm, model, variant)
            for number, name, arm, model, variant in connection.execute(
                "SELECT series, route, arm, model, variant FROM history_series"
            )
        }
        part = Part()
        if route is None:
            _read_routes(connection, window, names, part)
            return part
        number = next((one for one, (name, arm, *_) in names.items() if name == route), None)
        if number is not None:
            base = number >> ARM_BITS << ARM_BITS
            _read_routes(connection, window, names, part, base)
            _read_arms(connection, window, names, part, base)
        return part


def valid(part: Mapping[str, Any], points: int) -> Part:
    """Another node's part.

    Raises:
        KeyError, TypeError, ValueError: It is none, or of another window.
    """
    found = Part(
        {route: {name: list(row[name]) for name in _ROUTE_COLUMNS} for route, row in part["routes"].items()},
        {
            arm: ArmPart(
                row["model"],
                row["variant"],
                {name: list(row["figures"][name]) for name in _ARM_COLUMNS},
                list(row["keys"]),
                list(row["counts"]),
            )
            for arm, row in part["arms"].items()
        },
    )
    columns = [column for row in found.routes.values() for column in row.values()]
    columns += [column for arm in found.arms.values() for column in arm.figures.values()]
    if any(len(column) != points for column in columns):
        raise ValueError("it is of another window")
    if any(len(arm.keys) != len(arm.counts) for arm in found.arms.values()):
        raise ValueError("its times have no counts")
    return found


def percentiles(part: ArmPart, points: int, shares: Sequence[float], *, first_token: bool) -> list[list[Any]]:
    """By share of the requests, in each step the time (s) that so many did not exceed; None without any."""
    found: list[list[Any]] = [[None] * points for _ in shares]
    keys = np.asarray(part.keys, dtype=np.int64)
    chosen = (keys % _CODES >= TIME_CODES) == first_token
    if not chosen.any():
        return found
    keys, inverse = np.unique(keys[chosen], return_inverse=True)
    counts = np.bincount(inverse, weights=np.asarray(part.counts, dtype=float)[chosen])
    running = np.cumsum(counts)
    steps, begins = np.unique(keys // _CODES, return_index=True)
    ends = np.append(begins[1:], len(keys)) - 1
    before = running[begins] - counts[begins]
    for row, share in zip(found, shares, strict=True):
        wanted = before + share * (running[ends] - before)
        # A hair less, so that what is exactly reached counts as reached.
        places = np.searchsorted(running, wanted - 1e-6)
        for step, code in zip(steps.tolist(), (keys[places] % TIME_CODES).tolist(), strict=True):
            row[step] = time_of(code)
    return found


def _stretches(connection: sqlite3.Connection, window: Window) -> Iterator[tuple[int, int, int]]:
    """Which rings to read, from which step to which: the window's own, and what is not folded into it yet."""
    ring = RINGS[window.ring]
    yield window.ring, window.start // ring.step_s, window.end // ring.step_s - 1
    if window.ring > 0:
        folded = connection.execute("SELECT max(slot) FROM history_folded").fetchone()[0]
        finest = RINGS[0].step_s
        first = max(window.start // finest, -1 if folded is None else folded + 1)
        yield 0, first, window.end // finest - 1


def _read_routes(
    connection: sqlite3.Connection, window: Window, names: Names, part: Part, number: int | None = None
) -> None:
    sums = ", ".join(f"sum({name})" for name in _ROUTE_COLUMNS)
    narrowed, places = ("", ()) if number is None else (" AND series = ?", (number,))
    for ring, first, last in _stretches(connection, window):
        rows = connection.execute(
            f"SELECT series, (slot * ? - ?) / ?, {sums} FROM history"  # noqa: S608
            f" WHERE level = ? AND slot BETWEEN ? AND ?{narrowed} GROUP BY 1, 2",
            (RINGS[ring].step_s, window.start, window.step_s, ring + ROUTES, first, last, *places),
        )
        for series, point, *values in rows:
            if series not in names:
                continue
            figures = part.routes.setdefault(names[series][0], empty_route(window.points))
            for name, value in zip(_ROUTE_COLUMNS, values, strict=True):
                figures[name][point] += value


def _read_arms(connection: sqlite3.Connection, window: Window, names: Names, part: Part, base: int) -> None:
    packed: dict[str, tuple[list[int], list[bytes]]] = {}
    for ring, first, last in _stretches(connection, window):
        for series, slot, times, *values in _arm_rows(connection, ring, first, last, base):
            if series not in names:
                continue
            _, arm, model, variant = names[series]
            own = part.arms.get(arm)
            if own is None:
                own = part.arms[arm] = empty_arm(window.points, model, variant)
            point = (slot * RINGS[ring].step_s - window.start) // window.step_s
            for name, value in zip(_ARM_COLUMNS, values, strict=True):
                own.figures[name][point] += value
            if times:
                points, blobs = packed.setdefault(arm, ([], []))
                points.append(point)
                blobs.append(times)
    for arm, (points, blobs) in packed.items():
        part.arms[arm].keys, part.arms[arm].counts = _unpacked(points, blobs)


def _arm_rows(
    connection: sqlite3.Connection, ring: int, first: int, last: int, base: int
) -> Iterable[tuple[Any, ...]]:
    """Step by step, because a route's arms lie together in each."""
    if last < first:
        return ()
    columns = ", ".join(f"h.{name}" for name in ("series", "slot", "times", *_ARM_COLUMNS))
    return connection.execute(
        "WITH RECURSIVE steps(slot) AS (SELECT ? UNION ALL SELECT slot + 1 FROM steps WHERE slot < ?)"  # noqa: S608
        f" SELECT {columns} FROM steps CROSS JOIN history AS h"
        " ON h.level = ? AND h.slot = steps.slot AND h.series BETWEEN ? AND ?",
        (first, last, ring, base, base + (1 << ARM_BITS) - 1),
    )


_PAIRS: Final = np.dtype([("code", "u1"), ("count", "<u2")])


def _unpacked(points: Sequence[int], blobs: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """The times of one arm: each bucket of each step once."""
    pairs: NDArray[Any] = np.frombuffer(b"".join(blobs), dtype=_PAIRS)
    sizes = [len(blob) // _PAIRS.itemsize for blob in blobs]
    keys = np.repeat(np.asarray(points, dtype=np.int64) * _CODES, sizes) + pairs["code"]
    once, inverse = np.unique(keys, return_inverse=True)
    counts = np.bincount(inverse, weights=pairs["count"])
    return once.tolist(), counts.astype(np.int64).tolist()


def _added(
    own: Mapping[str, Sequence[float]] | None, more: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    if own is None:
        return dict(more)
    return {name: [a + b for a, b in zip(own[name], row, strict=True)] for name, row in more.items()}
