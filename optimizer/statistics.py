"""What is known about every arm: additive sums under forward decay by event time.

Kept per (route, model key, variant key, signal, generation, epoch): sum w, sum wx, sum wxx and the plain
count n, where an observation's weight w is 2**(age of its event time - age of its epoch's landmark) on the
route's decay clock. A weight never depends on when the observation was read, so sums of any partition of
the log, folded in any order, add up to the same evidence. Reading at time ``now`` scales whole epochs.

A reset starts a new generation at a moment: observations from before it belong to older generations, which
nobody reads, also when they arrive later. Signals that depend on prices carry the price version in their
name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import exp2, isfinite
from typing import TypeAlias

from optimizer import reward
from optimizer.decay import EPOCH_HALF_LIVES, HORIZON_HALF_LIVES, Bend, epoch_of
from optimizer.reward import Lesson
from optimizer.routing import Arm
from optimizer.timeline import Reset, RouteArm, Timeline
from policies.types import NOTHING, ArmEvidence, Moments

_HORIZON = HORIZON_HALF_LIVES // EPOCH_HALF_LIVES  # in epochs

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
class StatisticsChanges:
    """What a store must write to catch up. ``clocks`` are complete when present, ``resets`` the new ones."""

    cells: tuple[CellRow, ...]
    dropped: tuple[CellKey, ...]
    clocks: Mapping[str, tuple[Bend, ...]] | None
    resets: tuple[Reset, ...]


class Statistics:
    """All sums of one node. Implements ``optimizer.evidence.EvidenceSource``."""

    def __init__(
        self, *, clocks: Mapping[str, Iterable[Bend]] | None = None, resets: Iterable[Reset] = ()
    ) -> None:
        self.timeline = Timeline(clocks=clocks, resets=resets)
        self._arms: dict[RouteArm, dict[tuple[int, int], dict[str, Cell]]] = {}
        self._price_versions: dict[RouteArm, str] = {}
        self._anchors: dict[str, str] = {}
        self._summed: frozenset[str] = frozenset()
        self._dirty: list[Cell] = []
        self._dropped: dict[CellKey, None] = {}

    @property
    def latest(self) -> float:
        """Newest event time seen."""
        return self.timeline.latest

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
        generation, epoch, weight = self.timeline.place(arm, time)
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
        self.timeline.saw(time)

    def add_row(self, row: CellRow, *, dirty: bool = True) -> None:
        """Add the sums of a stored or foreign cell, made under the same clocks and resets."""
        arm = (row[0], row[1], row[2])
        self.timeline.clock(arm[0])
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
        self.timeline.join(other.timeline)
        for row in other.rows():
            self.add_row(row)

    def sibling(self) -> "Statistics":
        """Empty statistics under the same clocks and resets, so that their rows can be added here."""
        return Statistics(clocks=self.timeline.clocks, resets=self.timeline.resets)

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
        self.timeline.set_half_life(route, half_life_s, at=at)

    def set_price_versions(self, versions: Mapping[RouteArm, str]) -> None:
        """Say under which price version each arm's cost is read; others use the one that weighs most."""
        self._price_versions = dict(versions)

    def set_summed(self, signals: Iterable[str]) -> None:
        """Name the custom signals that are counters: a completed request without a value counts as 0."""
        self._summed = frozenset(signals)

    def set_anchors(self, anchors: Mapping[str, str]) -> None:
        """Say for which routes quality is what a judge says: route -> version of that judge.

        Ratings of callers are then the signal ``quality_user``, beside it.
        """
        self._anchors = dict(anchors)

    def reset(
        self,
        route: str,
        *,
        at: float,
        model_key: str = "",
        variant_key: str = "",
        keep: float = 0.0,
        signals: tuple[str, ...] = (),
    ) -> None:
        """Let what an arm did before ``at`` count ``keep`` times, all arms of the route when no keys are given.

        With ``signals`` only what is known about those counts less.

        How often an arm was tried is kept whole unless everything is forgotten: it does not become new.

        Raises:
            ValueError: If ``keep`` is not within 0..1.
        """
        self.timeline.reset(Reset(route, model_key, variant_key, at, keep, signals))
        self.prune(at)

    def drop_signal(self, arm: RouteArm, signal: str) -> None:
        """Forget one signal of one arm, as if it had never been observed."""
        self._drop(
            cell for cells in self._arms.get(arm, {}).values() if (cell := cells.get(signal)) is not None
        )

    def prune(self, now: float) -> None:
        """Free what can no longer be read: older generations, and epochs beyond the horizon of ``now``."""
        for arm, epochs in self._arms.items():
            for key in [key for key in epochs if self.timeline.is_past(arm, *key, now)]:
                self._drop(list(epochs[key].values()))
                del epochs[key]
        self.timeline.forget_before(now)

    # --- reading ------------------------------------------------------------------------------------

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        """What is known about ``arm`` at ``now``; see ``optimizer.evidence.EvidenceSource``.

        The route's clock already knows the half-life (``set_half_life``), also which one held when; the
        argument only serves a route that was never configured.
        """
        key = (route, arm.model_key, arm.variant_key)
        if not self.timeline.knows(route):
            self.timeline.start(route, half_life_s)
        sums, counts = self._read(key, now)
        moments = {name: Moments.from_sums(*values) for name, values in sums.items()}
        for name in reward.SHARES & moments.keys():
            moments[name] = _as_share(moments[name])
        self._use_price_version(key, moments)
        self._use_anchor(route, moments)
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

    def name_of(self, arm: RouteArm, signal: str, *, now: float) -> str:
        """Under which name ``cost``, ``cost_usd``, ``quality`` or ``quality_user`` is kept for an arm at present."""
        if signal in (reward.COST, reward.COST_USD):
            version = self._price_versions.get(arm)
            sums = self._read(arm, now)[0]
            if version is not None and reward.priced(signal, version) in sums:
                return reward.priced(signal, version)
            prefix = reward.priced(signal, "")
            known = [(found[0], name) for name, found in sorted(sums.items()) if name.startswith(prefix)]
            return max(known)[1] if known else reward.priced(signal, version or "")
        judge = self._anchors.get(arm[0])
        if signal == reward.QUALITY and judge is not None:
            return reward.judged(judge)
        return reward.QUALITY if signal == reward.QUALITY_USER else signal

    def rated_share(self, route: str, arm: Arm, *, now: float) -> float | None:
        """Share of an arm's completed, not worthless replies that were rated by the route's anchor, 0..1.

        None while none of them is known. It differs between arms (unhappy users rate more), which is what weights
        of ratings have to make up for.
        """
        key = (route, arm.model_key, arm.variant_key)
        sums, _ = self._read(key, now)
        replies = sums.get(reward.VALID, (0.0, 0.0, 0.0))[1]
        rated = sums.get(self.name_of(key, reward.QUALITY, now=now), (0.0, 0.0, 0.0))[0]
        return min(rated / replies, 1.0) if replies > 0.0 else None

    def cost_usd(self, arm: RouteArm, *, now: float) -> Moments | None:
        """Cost of a completed request in dollars, None when no cost is known."""
        if arm not in self._arms:
            return None
        version = self._price_versions.get(arm)
        if version is None:
            return self._heaviest_cost(arm, now)
        # Asked for every request, so it goes straight through and reads this signal only.
        signal, weight, total, squares = reward.priced(reward.COST_USD, version), 0.0, 0.0, 0.0
        age = self.timeline.clock(arm[0]).age(now)
        present = epoch_of(age)
        for (generation, epoch), cells in self._arms[arm].items():
            cell = cells.get(signal)
            if cell is not None and present - _HORIZON <= epoch <= present + 1:
                scale = self.timeline.kept(arm, generation) * exp2(epoch * EPOCH_HALF_LIVES - age)
                scale *= self.timeline.share(arm, generation, signal)
                weight += scale * cell.w
                total += scale * cell.wx
                squares += scale * cell.wxx
        return Moments.from_sums(weight, total, squares) if weight > 0.0 else self._heaviest_cost(arm, now)

    # --- storing ------------------------------------------------------------------------------------

    def changes(self) -> StatisticsChanges:
        """What changed since ``stored``."""
        return StatisticsChanges(
            cells=tuple(cell.row() for cell in self._dirty if cell.dirty),
            dropped=tuple(self._dropped),
            clocks=self.timeline.changed_clocks(),
            resets=self.timeline.new_resets(),
        )

    def stored(self) -> None:
        """Take note that everything in ``changes`` is durable."""
        for cell in self._dirty:
            cell.dirty = False
        self._dirty.clear()
        self._dropped.clear()
        self.timeline.stored()

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

    def _readable(self, arm: RouteArm, now: float) -> list[tuple[float, int, dict[str, Cell]]]:
        """Epochs that still count, oldest first, with what their sums are to be multiplied by at ``now``.

        Each with its generation, for the resets of single signals.
        """
        age = self.timeline.clock(arm[0]).age(now)
        scaled = (
            (self.timeline.scale(arm, *place, age), place[0], cells)
            for place, cells in sorted(self._arms.get(arm, {}).items(), key=lambda item: item[0])
        )
        return [found for found in scaled if found[0] > 0.0]

    def _read(
        self, arm: RouteArm, now: float
    ) -> tuple[dict[str, tuple[float, float, float]], dict[str, int]]:
        """Sums (w, wx, wxx) per signal scaled to ``now``, and plain counts."""
        sums: dict[str, tuple[float, float, float]] = {}
        counts: dict[str, int] = {}
        if arm not in self._arms:
            return sums, counts
        for whole, generation, cells in self._readable(arm, now):
            for signal, cell in cells.items():
                scale = whole * self.timeline.share(arm, generation, signal)
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

    def _use_anchor(self, route: str, moments: dict[str, Moments]) -> None:
        """Rename ``quality@judge`` to ``quality`` where that judge is the anchor, and what callers say beside it."""
        judge = self._anchors.get(route)
        if judge is None:
            return
        said = {
            reward.QUALITY_USER: moments.pop(reward.QUALITY, None),
            reward.QUALITY: moments.pop(reward.judged(judge), None),
        }
        moments.update({name: _as_share(found) for name, found in said.items() if found is not None})

    def _heaviest_cost(self, arm: RouteArm, now: float) -> Moments | None:
        sums, _ = self._read(arm, now)
        prefix = reward.priced(reward.COST_USD, "")
        known = [found for name, found in sorted(sums.items()) if name.startswith(prefix) and found[0] > 0.0]
        return Moments.from_sums(*max(known)) if known else None


def _as_share(moments: Moments) -> Moments:
    """Rounding must not carry a mean of values within 0..1 out of it."""
    if 0.0 <= moments.mean <= 1.0:
        return moments
    return Moments(moments.weight, min(max(moments.mean, 0.0), 1.0), moments.variance)
