"""What is known about every arm: additive sums under forward decay by event time.

Kept per (route, model key, variant key, signal, generation, epoch): sum w, sum wx, sum wxx and the plain
count n, where an observation's weight w is 2**(age of its event time - age of its epoch's landmark) on the
route's decay clock. A weight never depends on when the observation was read, so sums of any partition of
the log, folded in any order, add up to the same evidence. Reading at time ``now`` scales whole epochs.

A reset starts a new generation at a moment: observations from before it belong to older generations, which
nobody reads, also when they arrive later. Signals that depend on prices carry the price version in their
name.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import exp2, isfinite
from typing import TypeAlias

from optimizer import reward
from optimizer.decay import EPOCH_HALF_LIVES, HORIZON_HALF_LIVES, Bend, DecayClock, epoch_of
from optimizer.reward import ArmKeys, Lesson
from optimizer.routing import Arm
from policies.types import NOTHING, ArmEvidence, Moments

DEFAULT_HALF_LIFE_S = 7 * 86400.0
# An event from further ahead of the present than this can not delay a new half-life or a reset.
FUTURE_S = 300.0
_HORIZON = HORIZON_HALF_LIVES // EPOCH_HALF_LIVES  # in epochs

RouteArm: TypeAlias = tuple[str, str, str]  # route, model key, variant key
CellKey: TypeAlias = tuple[str, str, str, str, int, int]  # route arm, signal, generation, epoch
CellRow: TypeAlias = tuple[str, str, str, str, int, int, float, float, float, int]


class Cell:
    """The sums of one key. ``dirty`` is True while its stored copy is older."""

    __slots__ = ("dirty", "key", "n", "w", "wx", "wxx")

    def __init__(self, key: CellKey) -> None:
        self.key = key
        self.w = self.wx = self.wxx = 0.0
        self.n = 0
        self.dirty = False

    def row(self) -> CellRow:
        """Key and sums, flat."""
        return (*self.key, self.w, self.wx, self.wxx, self.n)


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget what happened before ``at`` on a route; empty keys mean all of its arms."""

    route: str
    model_key: str
    variant_key: str
    at: float


@dataclass(frozen=True, slots=True)
class StatisticsChanges:
    """What a store must write to catch up. ``clocks`` and ``resets`` are complete when present."""

    cells: tuple[CellRow, ...]
    dropped: tuple[CellKey, ...]
    clocks: Mapping[str, tuple[Bend, ...]] | None
    resets: tuple[Reset, ...] | None


class Statistics:
    """All sums of one node. Implements ``optimizer.evidence.EvidenceSource``."""

    def __init__(
        self, *, clocks: Mapping[str, Iterable[Bend]] | None = None, resets: Iterable[Reset] = ()
    ) -> None:
        self._clocks = {route: DecayClock(bends) for route, bends in (clocks or {}).items()}
        self._resets: list[Reset] = list(resets)
        self._generations: dict[RouteArm, tuple[float, ...]] = {}
        self._arms: dict[RouteArm, dict[tuple[int, int], dict[str, Cell]]] = {}
        self._price_versions: dict[RouteArm, str] = {}
        self._summed: frozenset[str] = frozenset()
        self._dirty: list[Cell] = []
        self._dropped: dict[CellKey, None] = {}
        self._clocks_dirty = self._resets_dirty = False
        self.latest = 0.0  # newest event time seen

    # --- adding -----------------------------------------------------------------------------------

    def add(self, arm: RouteArm, time: float, lessons: Iterable[Lesson]) -> None:
        """Count each (signal, value) once, as observed at event time ``time`` (Unix seconds).

        Raises:
            ValueError: If a value or the time is not finite; nothing was added then.
        """
        taught = tuple(lessons)
        for _, value in taught:
            if not isfinite(value):
                raise ValueError(f"observations must be finite numbers, got {taught!r}")
        if not isfinite(time):
            raise ValueError(f"an event time must be a finite number, got {time}")
        clock = self._clocks.get(arm[0]) or self._start_clock(arm[0], DEFAULT_HALF_LIFE_S)
        age = clock.age(time)
        epoch = int(age // EPOCH_HALF_LIVES)
        weight = exp2(age - epoch * EPOCH_HALF_LIVES)
        generation = self._generation(arm, time) if self._resets else 0
        cells = self._cells(arm, generation, epoch)
        for signal, value in taught:
            cell = cells.get(signal)
            if cell is None:
                cell = self._new_cell((*arm, signal, generation, epoch))
            weighted = weight * value
            cell.w += weight
            cell.wx += weighted
            cell.wxx += weighted * value
            cell.n += 1
            if not cell.dirty:
                cell.dirty = True
                self._dirty.append(cell)
        self.latest = max(self.latest, time)

    def add_row(self, row: CellRow, *, dirty: bool = True) -> None:
        """Add the sums of a stored or foreign cell, made under the same clocks and resets."""
        arm = (row[0], row[1], row[2])
        if arm[0] not in self._clocks:
            self._start_clock(arm[0], DEFAULT_HALF_LIFE_S)
        cell = self._cells(arm, row[4], row[5]).get(row[3]) or self._new_cell(row[:6])
        cell.w += row[6]
        cell.wx += row[7]
        cell.wxx += row[8]
        cell.n += row[9]
        if dirty and not cell.dirty:
            cell.dirty = True
            self._dirty.append(cell)

    def merge(self, other: "Statistics") -> None:
        """Add everything that ``other`` knows.

        Raises:
            ValueError: If a route's clock or the resets differ, so that the sums would not be comparable.
        """
        if other._resets != self._resets:
            raise ValueError("statistics with different resets can not be merged")
        for route, clock in other._clocks.items():
            own = self._clocks.setdefault(route, DecayClock(clock.bends))
            if own.bends != clock.bends:
                raise ValueError(f"the decay clocks of route {route!r} differ")
        for row in other.rows():
            self.add_row(row)
        self.latest = max(self.latest, other.latest)

    def sibling(self) -> "Statistics":
        """Empty statistics under the same clocks and resets, so that their rows can be added here."""
        return Statistics(
            clocks={route: clock.bends for route, clock in self._clocks.items()}, resets=self._resets
        )

    def rows(self) -> Iterator[CellRow]:
        """Every cell, flat."""
        for epochs in self._arms.values():
            for cells in epochs.values():
                for cell in cells.values():
                    yield cell.row()

    # --- being told ---------------------------------------------------------------------------------

    def set_half_life(self, route: str, half_life_s: float, *, at: float) -> None:
        """Forget at this half-life from ``at`` on (or from the newest event, so that no weight already
        given changes).

        Raises:
            ValueError: If the half-life is not positive.
        """
        clock = self._clocks.get(route)
        if clock is None:
            self._start_clock(route, half_life_s)
        elif clock.bend(half_life_s, self._not_before_events(at)):
            self._clocks_dirty = True

    def set_price_versions(self, versions: Mapping[RouteArm, str]) -> None:
        """Say under which price version each arm's cost is read; others use the one that weighs most."""
        self._price_versions = dict(versions)

    def set_summed(self, signals: Iterable[str]) -> None:
        """Name the custom signals that are counters: a completed request without a value counts as 0."""
        self._summed = frozenset(signals)

    def reset(self, route: str, *, at: float, model_key: str = "", variant_key: str = "") -> None:
        """Forget what an arm did before ``at``, or all arms of the route when no keys are given."""
        self._resets.append(Reset(route, model_key, variant_key, self._not_before_events(at)))
        self._resets.sort(key=lambda reset: reset.at)
        self._generations.clear()
        self._resets_dirty = True
        self.prune(at)

    def drop_signal(self, arm: RouteArm, signal: str) -> None:
        """Forget one signal of one arm, as if it had never been observed."""
        self._drop(
            cell for cells in self._arms.get(arm, {}).values() if (cell := cells.get(signal)) is not None
        )

    def prune(self, now: float) -> None:
        """Free what can no longer be read: older generations, and epochs beyond the horizon of ``now``."""
        for arm, epochs in self._arms.items():
            oldest = epoch_of(self._clocks[arm[0]].age(now) - HORIZON_HALF_LIVES)
            generation = self._generation(arm, None) if self._resets else 0
            gone = [key for key in epochs if key[0] < generation or key[1] < oldest]
            for key in gone:
                self._drop(list(epochs[key].values()))
                del epochs[key]
        for clock in self._clocks.values():
            self._clocks_dirty |= clock.forget_before(now)

    # --- reading ------------------------------------------------------------------------------------

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        """What is known about ``arm`` at ``now``; see ``optimizer.evidence.EvidenceSource``.

        The route's clock already knows the half-life (``set_half_life``), also which one held when; the
        argument only serves a route that was never configured.
        """
        key = (route, arm.model_key, arm.variant_key)
        if route not in self._clocks:
            self._start_clock(route, half_life_s)
        sums, counts = self._read(key, now)
        moments = {name: Moments.from_sums(*values) for name, values in sums.items()}
        for name in reward.SHARES & moments.keys():
            moments[name] = _as_share(moments[name])
        self._use_price_version(key, moments)
        success = moments.pop(reward.SUCCESS, NOTHING)
        completed = success.weight * success.mean
        for name in self._summed & moments.keys():
            if completed > 0.0:
                _, wx, wxx = sums[name]
                moments[name] = Moments.from_sums(completed, wx, wxx)
        quality = reward.quality_moments(
            moments.get(reward.VALID, NOTHING), moments.get(reward.QUALITY, NOTHING)
        )
        if quality.weight > 0.0:
            moments[reward.QUALITY] = quality
        return ArmEvidence(
            arm=arm.id, pulls=float(counts.get(reward.SUCCESS, 0)), success=success, signals=moments
        )

    def mean_cost_usd(self, arm: RouteArm, *, now: float) -> float | None:
        """Arithmetic mean cost of a completed request in dollars, None when no cost is known."""
        if arm not in self._arms:
            return None
        version = self._price_versions.get(arm)
        if version is None:
            return self._heaviest_cost(arm, now)
        # Asked for every request: straight through, and relative to the present epoch, which cancels out.
        signal, weight, total = reward.priced(reward.COST_USD, version), 0.0, 0.0
        present = epoch_of(self._clocks[arm[0]].age(now))
        generation = self._generation(arm, None) if self._resets else 0
        for (made_in, epoch), cells in self._arms[arm].items():
            cell = cells.get(signal)
            if cell is not None and made_in == generation and present - _HORIZON <= epoch <= present + 1:
                scale = exp2((epoch - present) * EPOCH_HALF_LIVES)
                weight += scale * cell.w
                total += scale * cell.wx
        return total / weight if weight > 0.0 else self._heaviest_cost(arm, now)

    # --- storing ------------------------------------------------------------------------------------

    def changes(self) -> StatisticsChanges:
        """What changed since ``stored``."""
        return StatisticsChanges(
            cells=tuple(cell.row() for cell in self._dirty if cell.dirty),
            dropped=tuple(self._dropped),
            clocks={route: clock.bends for route, clock in self._clocks.items()}
            if self._clocks_dirty
            else None,
            resets=tuple(self._resets) if self._resets_dirty else None,
        )

    def stored(self) -> None:
        """Take note that everything in ``changes`` is durable."""
        for cell in self._dirty:
            cell.dirty = False
        self._dirty.clear()
        self._dropped.clear()
        self._clocks_dirty = self._resets_dirty = False

    # --- inside -------------------------------------------------------------------------------------

    def _cells(self, arm: RouteArm, generation: int, epoch: int) -> dict[str, Cell]:
        epochs = self._arms.get(arm)
        if epochs is None:
            epochs = self._arms[arm] = {}
        cells = epochs.get((generation, epoch))
        if cells is None:
            cells = epochs[generation, epoch] = {}
        return cells

    def _new_cell(self, key: CellKey) -> Cell:
        cell = self._cells((key[0], key[1], key[2]), key[4], key[5])[key[3]] = Cell(key)
        self._dropped.pop(key, None)
        return cell

    def _drop(self, cells: Iterable[Cell]) -> None:
        for cell in list(cells):
            cell.dirty = False
            self._dropped[cell.key] = None
            epochs = self._arms[cell.key[0], cell.key[1], cell.key[2]]
            epochs[cell.key[4], cell.key[5]].pop(cell.key[3], None)

    def _start_clock(self, route: str, half_life_s: float) -> DecayClock:
        clock = self._clocks[route] = DecayClock.start(half_life_s)
        self._clocks_dirty = True
        return clock

    def _not_before_events(self, at: float) -> float:
        return max(at, min(self.latest, at + FUTURE_S))

    def _generation(self, arm: RouteArm, time: float | None) -> int:
        """Resets of an arm up to ``time``, or in all."""
        times = self._generations.get(arm)
        if times is None:
            keys: tuple[ArmKeys, ...] = (("", ""), (arm[1], arm[2]))
            times = self._generations[arm] = tuple(
                reset.at
                for reset in self._resets
                if reset.route == arm[0] and (reset.model_key, reset.variant_key) in keys
            )
        return len(times) if time is None else bisect_right(times, time)

    def _readable(self, arm: RouteArm, now: float) -> list[tuple[float, dict[str, Cell]]]:
        """Epochs of the current generation within the horizon, oldest first, with their scale at ``now``."""
        age = self._clocks[arm[0]].age(now)
        # One epoch ahead is a clock that is slightly off; anything further is no time to reckon with.
        oldest, newest = epoch_of(age - HORIZON_HALF_LIVES), epoch_of(age) + 1
        generation = self._generation(arm, None) if self._resets else 0
        return [
            (exp2(epoch * EPOCH_HALF_LIVES - age), cells)
            for (made_in, epoch), cells in sorted(self._arms.get(arm, {}).items(), key=lambda item: item[0])
            if made_in == generation and oldest <= epoch <= newest
        ]

    def _read(
        self, arm: RouteArm, now: float
    ) -> tuple[dict[str, tuple[float, float, float]], dict[str, int]]:
        """Sums (w, wx, wxx) per signal scaled to ``now``, and plain counts."""
        sums: dict[str, tuple[float, float, float]] = {}
        counts: dict[str, int] = {}
        if arm not in self._arms:
            return sums, counts
        for scale, cells in self._readable(arm, now):
            for signal, cell in cells.items():
                w, wx, wxx = sums.get(signal, (0.0, 0.0, 0.0))
                sums[signal] = (w + scale * cell.w, wx + scale * cell.wx, wxx + scale * cell.wxx)
                counts[signal] = counts.get(signal, 0) + cell.n
        return sums, counts

    def _use_price_version(self, arm: RouteArm, moments: dict[str, Moments]) -> None:
        """Rename ``cost@version`` to ``cost``: the configured version, else the one that weighs most."""
        wanted = self._price_versions.get(arm)
        for signal in (reward.COST, reward.COST_USD):
            prefix = reward.priced(signal, "")
            versions = {name: moments.pop(name) for name in sorted(moments) if name.startswith(prefix)}
            chosen = versions.get(prefix + wanted) if wanted is not None else None
            if chosen is None and versions:
                chosen = max(versions.values(), key=lambda found: found.weight)
            if chosen is not None:
                moments[signal] = chosen

    def _heaviest_cost(self, arm: RouteArm, now: float) -> float | None:
        sums, _ = self._read(arm, now)
        prefix = reward.priced(reward.COST_USD, "")
        known = [(w, wx) for name, (w, wx, _) in sorted(sums.items()) if name.startswith(prefix) and w > 0.0]
        return max(known)[1] / max(known)[0] if known else None


def _as_share(moments: Moments) -> Moments:
    """Rounding must not carry a mean of values within 0..1 out of it."""
    if 0.0 <= moments.mean <= 1.0:
        return moments
    return Moments(moments.weight, min(max(moments.mean, 0.0), 1.0), moments.variance)
