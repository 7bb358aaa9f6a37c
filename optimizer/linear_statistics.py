"""What is known about every arm given a request's features: additive sums, decayed like ``optimizer.statistics``.

Kept per (route arm, features version, group, signals, generation, epoch): gram = sum w x x', and of each signal y the
sums w x y and w y y. Rows that teach different signals are kept apart (a stream also has a time to first token), so
that the gram of a signal is of exactly the rows that have it. Vectors of different versions never meet.

Rows are collected and folded by one matrix product per key, when somebody reads; everything here is as additive as the
rest: any order, any partition, the same sums. What a store must write is either the rows themselves (cheap, with every
commit) or whole keys (now and then, instead of their rows).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizer.reward import Lesson
from optimizer.routing import Arm
from optimizer.statistics import Statistics
from optimizer.timeline import RouteArm
from policies.linear import LinearSums
from policies.types import FloatArray

DONE = "done"
RATED = "rated"
RECENT = 256
# A feature is about 1; anything like this is no feature, and its square would drown everything else.
LARGEST_FEATURE = 1e6
# How long rows may be all that is stored of a key, and how many keys a commit writes at most.
REWRITE_S = 2.0
REWRITE_KEYS = 24
# Versions of one route that are kept: the present one, and the one before while tables still name it.
KEPT_VERSIONS = 3

Vector: TypeAlias = "bytes | NDArray[np.float32]"
X: TypeAlias = "NDArray[np.float32]"


class LinearKey(NamedTuple):
    """What one set of sums is about; ``signals`` is sorted."""

    route: str
    model_key: str
    variant_key: str
    version: str
    group: str
    signals: tuple[str, ...]
    generation: int
    epoch: int

    @property
    def arm(self) -> RouteArm:
        return self.route, self.model_key, self.variant_key


@dataclass(slots=True)
class LinearCell:
    """The sums of one key. ``number`` names it in the store."""

    key: LinearKey
    number: int
    gram: FloatArray
    moments: FloatArray  # (signals, d)
    squares: FloatArray  # (signals,)
    n: int = 0

    @classmethod
    def empty(cls, key: LinearKey, number: int, size: int) -> "LinearCell":
        m = len(key.signals)
        return cls(key, number, np.zeros((size, size)), np.zeros((m, size)), np.zeros(m))

    @property
    def size(self) -> int:
        return int(self.gram.shape[0])


@dataclass(slots=True)
class Rows:
    """Observations of one key as they came, raw and flat: x (n, d), weights (n,), values (n, signals)."""

    x: list[bytes] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def append(self, x: bytes, weights: Iterable[float], values: Iterable[float]) -> None:
        """Add one or more rows."""
        self.x.append(x)
        self.weights += weights
        self.values += values


@dataclass(slots=True)
class Recent:
    """The newest vectors of a route in one version, raw, oldest first; ``latest`` is the newest event time."""

    x: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT))
    latest: float = 0.0


@dataclass(frozen=True, slots=True)
class LinearChanges:
    """What a store must write to catch up.

    ``cells`` replace what is stored of their numbers, the rows included; ``rows`` are added to a number's;
    ``dropped`` numbers leave with their rows. ``recent`` is (route, version, vectors), None when they leave.
    """

    cells: tuple[LinearCell, ...] = ()
    rows: tuple[tuple[int, Rows], ...] = ()
    dropped: tuple[int, ...] = ()
    recent: tuple[tuple[str, str, Recent | None], ...] = ()


class LinearStatistics:
    """All linear sums of one node, under the clocks, resets and names of its ``Statistics``."""

    def __init__(self, statistics: Statistics) -> None:
        self._refused = 0  # vectors that were no features
        self._names = statistics
        self._timeline = statistics.timeline
        self._cells: dict[LinearKey, LinearCell] = {}
        self._by_arm: dict[tuple[RouteArm, str, str], dict[LinearKey, LinearCell]] = {}
        self._pending: dict[LinearKey, Rows] = {}  # not in the sums yet
        self._sizes: dict[tuple[str, str], int] = {}
        self._recent: dict[tuple[str, str], Recent] = {}
        self._next = 0
        self._unsaved: dict[LinearKey, Rows] = {}
        # Keys whose stored sums are older than memory, since when only their rows are stored; and those of which no
        # rows say what changed.
        self._behind: dict[LinearKey, float] = {}
        self._whole: dict[LinearKey, None] = {}
        self._recent_behind: dict[tuple[str, str], float] = {}
        self._dropped: dict[int, None] = {}
        self._handed = LinearChanges()

    # --- adding -----------------------------------------------------------------------------------

    def add(
        self,
        arm: RouteArm,
        version: str,
        group: str,
        time: float,
        x: Vector,
        values: Iterable[Lesson],
    ) -> None:
        """Count one observation of one or several signals, made of features ``x`` at event time ``time``.

        ``x``: d features, little-endian float32 if bytes. A vector that is not finite or has no leading 1 is left out
        and counted when it is folded, see ``take_refused``.

        Raises:
            ValueError: If a value or the time is not finite, or the version has another number of features.
        """
        taught = sorted(values)
        if not taught:
            return
        raw = x if isinstance(x, bytes) else np.asarray(x, "<f4").tobytes()
        self._check(arm[0], version, raw)
        for _, value in taught:
            if not isfinite(value):
                raise ValueError(f"observations must be finite numbers, got {taught!r}")
        generation, epoch, weight = self._timeline.place(arm, time)
        key = LinearKey(*arm, version, group, tuple([signal for signal, _ in taught]), generation, epoch)
        pending, unsaved = self._pending.get(key), self._unsaved.get(key)
        if pending is None:
            pending = self._pending[key] = Rows()
            self._cell(key, len(raw) // 4)
        if unsaved is None:
            unsaved = self._unsaved[key] = Rows()
        row = [value for _, value in taught]
        pending.append(raw, (weight,), row)
        unsaved.append(raw, (weight,), row)

    def note(self, route: str, version: str, time: float, x: Vector) -> None:
        """Keep ``x`` among the newest vectors of the route.

        Raises:
            ValueError: If the version has another number of features.
        """
        raw = x if isinstance(x, bytes) else np.asarray(x, "<f4").tobytes()
        self._check(route, version, raw)
        recent = self._recent.get((route, version))
        if recent is None:
            recent = self._recent[route, version] = Recent()
        recent.x.append(raw)
        recent.latest = max(recent.latest, time)
        self._recent_behind.setdefault((route, version), -1.0)

    def merge(self, other: "LinearStatistics", *, only: tuple[str, str] | None = None) -> None:
        """Add what ``other`` knows, made under the same clocks and resets; ``only`` of one (route, version)."""
        for found in other.cells():
            if only not in (None, (found.key.route, found.key.version)):
                continue
            cell = self._cell(found.key, found.size)
            cell.gram += found.gram
            cell.moments += found.moments
            cell.squares += found.squares
            cell.n += found.n
            self._sizes.setdefault((cell.key.route, cell.key.version), cell.size)
            self._whole[cell.key] = None
        for key, older in other._recent.items():
            if only not in (None, key):
                continue
            recent = self._recent.setdefault(key, Recent())
            recent.x = deque([*older.x, *recent.x], maxlen=RECENT)
            recent.latest = max(recent.latest, older.latest)
            self._recent_behind.setdefault(key, -1.0)

    def drop_signal(self, arm: RouteArm, signal: str) -> None:
        """Forget one signal of one arm, as if it had never been observed."""
        self.fold()
        for cell in [c for c in self._cells.values() if c.key.arm == arm and signal in c.key.signals]:
            self._drop(cell)
            left = [at for at, name in enumerate(cell.key.signals) if name != signal]
            if left:
                key = cell.key._replace(signals=tuple(cell.key.signals[at] for at in left))
                rest = self._cell(key, cell.size)
                rest.gram += cell.gram
                rest.moments += cell.moments[left]
                rest.squares += cell.squares[left]
                rest.n += cell.n
                self._whole[key] = None

    def drop_version(self, route: str, version: str) -> None:
        """Forget one version of a route's features."""
        for cell in [c for c in self._cells.values() if (c.key.route, c.key.version) == (route, version)]:
            self._drop(cell)
        if self._recent.pop((route, version), None) is not None:
            self._recent_behind[route, version] = -1.0

    def prune(self, now: float) -> None:
        """Free what can no longer be read, and all but the newest versions of a route."""
        old = self._old_versions()
        for cell in list(self._cells.values()):
            key = cell.key
            if (key.route, key.version) in old or self._timeline.is_past(
                key.arm, key.generation, key.epoch, now
            ):
                self._drop(cell)
        for version in old:
            del self._recent[version]
            self._sizes.pop(version, None)
            self._recent_behind[version] = -1.0

    def _old_versions(self) -> set[tuple[str, str]]:
        by_route: dict[str, list[tuple[float, str]]] = {}
        for (route, version), recent in self._recent.items():
            by_route.setdefault(route, []).append((recent.latest, version))
        return {
            (route, version)
            for route, found in by_route.items()
            for _, version in sorted(found, reverse=True)[KEPT_VERSIONS:]
        }

    def _check(self, route: str, version: str, raw: bytes) -> None:
        size, rest = divmod(len(raw), 4)
        known = self._sizes.setdefault((route, version), size)
        if rest or not size or size != known:
            raise ValueError(
                f"features {version} of route {route!r} are {known} numbers, not {len(raw)} bytes"
            )

    # --- reading ------------------------------------------------------------------------------------

    def sums(
        self, route: str, arm: Arm, version: str, group: str, signal: str, *, now: float
    ) -> LinearSums | None:
        """Sums of one signal at ``now``, None if it was never observed.

        ``cost``, ``cost_usd`` and ``quality`` are read under the present price version and anchor of ratings, see
        ``Statistics.name_of``.
        """
        key = (route, arm.model_key, arm.variant_key)
        name = self._names.name_of(key, signal, now=now)
        age = self._timeline.clock(route).age(now)
        gram = moment = None
        square = 0.0
        for cell in self._by_arm.get((key, version, group), {}).values():
            if name not in cell.key.signals:
                continue
            self._fold(cell)
            if not cell.n:
                continue
            scale = self._timeline.scale(key, cell.key.generation, cell.key.epoch, age)
            scale *= self._timeline.share(key, cell.key.generation, name)
            if scale <= 0.0:
                continue
            at = cell.key.signals.index(name)
            square += scale * float(cell.squares[at])
            if gram is None or moment is None:
                gram, moment = scale * cell.gram, scale * cell.moments[at]
            else:
                gram += scale * cell.gram
                moment += scale * cell.moments[at]
        if gram is None or moment is None:
            return None
        return LinearSums(gram, moment, square)

    def recent(self, route: str, version: str) -> X:
        """The newest vectors of a route, shape (n, d), n <= ``RECENT``, oldest first."""
        recent = self._recent.get((route, version))
        if recent is None or not recent.x:
            return np.zeros((0, self._sizes.get((route, version), 1)), np.float32)
        x = np.frombuffer(b"".join(recent.x), "<f4").reshape(len(recent.x), -1)
        return x[_is_sound(x)]

    def take_refused(self) -> int:
        """How many vectors were none, since the last call."""
        refused, self._refused = self._refused, 0
        return refused

    def cells(self) -> Iterator[LinearCell]:
        """All sums."""
        self.fold()
        yield from self._cells.values()

    # --- storing ------------------------------------------------------------------------------------

    def changes(self, now: float) -> LinearChanges:
        """What changed since ``stored``: rows, and whole keys in place of rows that are some seconds old."""
        for key in self._unsaved:
            self._behind.setdefault(key, now)
        due = dict(self._whole)
        for key, since in self._behind.items():
            if 0.0 <= now - since < REWRITE_S or len(due) >= REWRITE_KEYS:
                break
            due[key] = None
        for key in due:
            self._fold(self._cells[key])
        for version, since in self._recent_behind.items():
            if since < 0.0:
                self._recent_behind[version] = now
        self._handed = LinearChanges(
            cells=tuple(self._cells[key] for key in due),
            rows=tuple(
                (self._cells[key].number, rows) for key, rows in self._unsaved.items() if key not in due
            ),
            dropped=tuple(self._dropped),
            recent=tuple(
                (*version, self._recent.get(version))
                for version, since in self._recent_behind.items()
                if not 0.0 <= now - since < REWRITE_S or version not in self._recent
            ),
        )
        return self._handed

    def stored(self) -> None:
        """Take note that the last ``changes`` are durable."""
        for cell in self._handed.cells:
            self._behind.pop(cell.key, None)
            self._whole.pop(cell.key, None)
        for route, version, _ in self._handed.recent:
            self._recent_behind.pop((route, version), None)
        self._unsaved.clear()
        self._dropped.clear()
        self._handed = LinearChanges()

    def restore_cell(self, cell: LinearCell) -> None:
        """Take over a stored key; its rows follow.

        Raises:
            ValueError: If its size is not that of its version.
        """
        if self._sizes.setdefault((cell.key.route, cell.key.version), cell.size) != cell.size:
            raise ValueError(f"stored sums of {cell.key} have {cell.size} features")
        self._cells[cell.key] = cell
        self._by_arm.setdefault((cell.key.arm, cell.key.version, cell.key.group), {})[cell.key] = cell
        self._next = max(self._next, cell.number + 1)

    def restore_rows(self, cell: LinearCell, rows: Rows) -> None:
        """Add stored rows to their key."""
        self._pending.setdefault(cell.key, Rows()).append(b"".join(rows.x), rows.weights, rows.values)
        self._behind[cell.key] = 0.0

    def restore_recent(self, route: str, version: str, recent: Recent) -> None:
        """Take over stored vectors."""
        self._recent[route, version] = recent

    # --- inside -------------------------------------------------------------------------------------

    def fold(self) -> None:
        """Fold all collected rows into their sums."""
        for key in list(self._pending):
            self._fold(self._cells[key])

    def _fold(self, cell: LinearCell) -> None:
        pending = self._pending.pop(cell.key, None)
        if pending is None:
            return
        x = np.frombuffer(b"".join(pending.x), "<f4").reshape(-1, cell.size)
        weights = np.array(pending.weights)
        values = np.array(pending.values).reshape(len(weights), -1)
        sound = _is_sound(x)
        if not sound.all():
            self._refused += int(len(sound) - sound.sum())
            x, weights, values = x[sound], weights[sound], values[sound]
        # By square roots, so that the product is symmetric to the last bit: a store keeps half of it.
        roots = np.sqrt(weights)[:, None]
        scaled = x * roots
        cell.gram += scaled.T @ scaled
        cell.moments += (values * roots).T @ scaled
        cell.squares += weights @ (values * values)
        cell.n += len(x)

    def _cell(self, key: LinearKey, size: int) -> LinearCell:
        cell = self._cells.get(key)
        if cell is None:
            cell = LinearCell.empty(key, self._next, size)
            self.restore_cell(cell)
            self._whole[key] = None
        return cell

    def _drop(self, cell: LinearCell) -> None:
        key = cell.key
        del self._cells[key], self._by_arm[key.arm, key.version, key.group][key]
        self._behind.pop(key, None)
        self._whole.pop(key, None)
        self._pending.pop(key, None)
        self._unsaved.pop(key, None)
        self._dropped[cell.number] = None


def _is_sound(x: X) -> NDArray[np.bool_]:
    """Which rows can be features; not-a-number compares False."""
    sound: NDArray[np.bool_] = (np.abs(x) <= LARGEST_FEATURE).all(axis=1) & (x[:, 0] == 1.0)
    return sound
