"""What a worker counts of a rollout for the guards, and when it stops the candidate by itself.

Invariants: a request is booked under the side and the stage that it was decided for, whatever happens to it later; and
a candidate that was stopped stays stopped in this worker for as long as the table names the same rollout, however
often the table changes. Routes without a rollout have no watch and pay nothing.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from optimizer.routing import CANDIDATE, CONTROL, Guarding, Route
from proxy.resilience.hard_stop import BASELINE_FAILING, HARD_STOP, HardStop

Place: TypeAlias = tuple[str, str, int, str]  # route, rollout, stage, side
Stop: TypeAlias = tuple[str, str, str]  # route, rollout, reason
_NO_GUARDING = Guarding()


class Watch:
    """One stage of one rollout. The counts' names are those of ``optimizer.rollouts.guards.SideCounts``."""

    __slots__ = ("_alone", "_places", "_reference_ms", "_rollout", "_stop", "_threshold_ms", "_watches")

    def __init__(self, watches: "Watches", route: Route, rollout: str, stop: HardStop) -> None:
        guarding = route.guarding or _NO_GUARDING
        self._watches = watches
        self._rollout = (route.name, rollout)
        self._alone = route.candidate_fraction >= 1.0
        self._places: dict[str, Place] = {
            side: (route.name, rollout, guarding.stage, side) for side in (CONTROL, CANDIDATE)
        }
        self._reference_ms = guarding.reference_ms
        self._threshold_ms = guarding.threshold_ms
        self._stop = stop

    @property
    def stopped(self) -> bool:
        """Whether the candidate gets nothing any more from this worker."""
        return self._stop.stopped

    def assigned(self, side: str) -> None:
        """A request was decided for ``side``."""
        row = self._row(side)
        row["assigned"] = row.get("assigned", 0) + 1

    def errored(self, side: str) -> None:
        """The first attempt failed upstream, or nobody there could be asked."""
        row = self._row(side)
        row["resolved"] = row.get("resolved", 0) + 1
        row["errors"] = row.get("errors", 0) + 1
        self._ended(side, failed=True)

    def rejected(self, side: str) -> None:
        """The request was refused as the caller's fault, by the upstream or because ``side`` has nobody for it."""
        row = self._row(side)
        row["rejected"] = row.get("rejected", 0) + 1

    def completed(self, side: str, *, ms: float | None, invalid: bool, cost_usd: float | None) -> None:
        """The request was answered after ``ms``: to the first token of a stream, else in all."""
        row = self._row(side)
        row["resolved"] = row.get("resolved", 0) + 1
        if invalid:
            row["invalid"] = row.get("invalid", 0) + 1
        if ms is not None:
            row["timed"] = row.get("timed", 0) + 1
            if self._reference_ms is not None and ms > self._reference_ms:
                row["slow"] = row.get("slow", 0) + 1
            if self._threshold_ms is not None and ms > self._threshold_ms:
                row["late"] = row.get("late", 0) + 1
        if cost_usd is not None:
            row["priced"] = row.get("priced", 0) + 1
            row["cost_usd"] = row.get("cost_usd", 0.0) + cost_usd
            row["cost_usd2"] = row.get("cost_usd2", 0.0) + cost_usd * cost_usd
        self._ended(side, failed=False)

    def _row(self, side: str) -> dict[str, float]:
        return self._watches.row(self._places[side])

    def _ended(self, side: str, *, failed: bool) -> None:
        if side == CONTROL:
            self._stop.control_ended(failed)
            return
        reason = self._stop.candidate_ended(failed, alone=self._alone)
        if reason is not None:
            self._watches.tell((*self._rollout, reason))


class Watches:
    """The rollouts that a worker watches. ``on_stop`` is called whenever there is something to tell at once."""

    def __init__(self) -> None:
        self.on_stop: Callable[[], None] | None = None
        self._rows: dict[Place, dict[str, float]] = {}
        self._stops: dict[tuple[str, str], HardStop] = {}
        self._failing: list[Stop] = []

    def watch(self, route: Route) -> Watch | None:
        """Who counts for ``route``; None without a rollout."""
        if route.candidate is None or route.rollout is None:
            return None
        stop = self._stops.setdefault((route.name, route.rollout), HardStop())
        return Watch(self, route, route.rollout, stop)

    def keep(self, routes: Iterable[Route]) -> None:
        """Forget the rollouts that are in none of ``routes``."""
        live = {(route.name, route.rollout) for route in routes}
        self._stops = {key: stop for key, stop in self._stops.items() if key in live}

    def row(self, place: Place) -> dict[str, float]:
        """The counts at ``place`` since they were last taken, to be added to."""
        row = self._rows.get(place)
        if row is None:
            row = self._rows[place] = {}
        return row

    def tell(self, stop: Stop) -> None:
        """Something must be known at once."""
        if stop[2] == BASELINE_FAILING:
            self._failing.append(stop)
        if self.on_stop is not None:
            self.on_stop()

    def take(self) -> list[list[object]]:
        """Rows [route, rollout, stage, side, {count}] of what was counted; afterwards all counts are zero."""
        rows: list[list[object]] = [[*place, row] for place, row in self._rows.items()]
        self._rows = {}
        return rows

    def take_stops(self) -> list[Stop]:
        """Rollouts that are stopped here, every time anew, and reports of a failing baseline, once."""
        stops = [(*key, HARD_STOP) for key, stop in self._stops.items() if stop.stopped]
        failing, self._failing = self._failing, []
        return [*stops, *failing]
