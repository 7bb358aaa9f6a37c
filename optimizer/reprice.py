"""Rebuilding what is known about costs when prices change, from the usage that the log kept.

Costs are learned under the price version they were computed with. When an arm's price changes, everything
the log still has is priced again under the new version, beside the ordinary reading and in slices; until
that is done the old posterior is read. The events up to the cursor at the moment of the change are the
rebuild's, all later ones are the learner's, so each counts once. A rebuild that was cut off begins again with what is
the log then, wherever that is; which arms are still to be done is saved.
"""

from collections.abc import Mapping

import orjson

from optimizer import events, reward
from optimizer.learner import Learner
from optimizer.linear_statistics import DONE, LinearStatistics
from optimizer.log.reader import Entry, LogReader
from optimizer.log.walk import Earlier, Walk
from optimizer.statistics import Statistics
from optimizer.store import Cursor
from optimizer.timeline import RouteArm

_REQUEST_MARK = events.REQUEST.encode()


class CostRebuild:
    """One rebuild at a time, for all arms whose price changed. ``rebuilt`` counts finished ones."""

    name = "cost_rebuild"

    def __init__(self, learner: Learner, reader: LogReader, earlier: Earlier | None = None) -> None:
        """Work on ``learner``'s statistics with a ``reader`` of its own, and with what the log had before it begins."""
        self.rebuilt = 0
        self._learner = learner
        self._reader = reader
        self._earlier = earlier
        self._known: dict[RouteArm, str] = {}
        self._pending: set[RouteArm] = set()
        self._until: dict[str, tuple[int, int]] = {}
        self._walk: Walk | None = None
        self._scratch: tuple[Statistics, LinearStatistics] | None = None
        self._encoded: bytes | None = None

    @property
    def pending(self) -> frozenset[RouteArm]:
        """Arms whose costs are still to be priced again."""
        return frozenset(self._pending)

    def configure(self, cursor: Cursor) -> None:
        """Take over the learner's present price versions; ``cursor`` is where it has read up to.

        Without a way to price events again, old costs stay under their old version, and new ones start from
        nothing.
        """
        self._encoded = None
        versions = self._learner.price_versions
        changed = {arm for arm, version in versions.items() if self._known.get(arm, version) != version}
        self._known.update(versions)
        if (changed or self._pending) and self._learner.can_reprice:
            self._pending |= changed
            # The cursor of when it was begun may be a place in another owner's log.
            self._until = dict(cursor)
            # What was learned under the price meanwhile, or earlier, is among what is counted again.
            for arm in self._pending & versions.keys():
                for signal in _signals(versions[arm]):
                    self._learner.statistics.drop_signal(arm, signal)
                    self._learner.linear.drop_signal(arm, signal)
        self._pending &= versions.keys()
        self._walk = self._scratch = None
        self._read_versions()

    def step(self, max_bytes: int) -> bool:
        """Price some more events again; False when there was nothing to do, or what the log had earlier is awaited.

        Raises:
            OSError: If the log can not be read now; call again.
        """
        if not self._pending:
            return False
        if self._walk is None or self._scratch is None:
            if self._earlier is not None and not self._earlier.fetched():
                return False
            scratch = self._learner.statistics.sibling()
            self._scratch = scratch, LinearStatistics(scratch)
            earlier = self._earlier.reader() if self._earlier is not None else None
            self._walk = Walk(self._reader, self._until, earlier)
        for entry in self._walk.poll(max_bytes):
            self._take(entry, *self._scratch)
        if self._walk.is_over:
            self._finish(*self._scratch)
        return True

    def snapshot(self) -> bytes:
        """What must survive: known versions, and the rebuild that is under way."""
        if self._encoded is None:
            # Asked for with every step, and thousands of arms are the same for days.
            self._encoded = orjson.dumps(
                {
                    "known": [[*arm, version] for arm, version in self._known.items()],
                    "pending": sorted(self._pending),
                    "until": self._until,
                }
            )
        return self._encoded

    def restore(self, data: bytes) -> None:
        """Continue from a snapshot; a rebuild that was under way starts over.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours.
        """
        stored = orjson.loads(data)
        self._encoded = None
        self._known = {(route, model, variant): version for route, model, variant, version in stored["known"]}
        self._pending = {(route, model, variant) for route, model, variant in stored["pending"]}
        self._until = {source: (segment, offset) for source, (segment, offset) in stored["until"].items()}

    def _take(self, entry: Entry, scratch: Statistics, linear: LinearStatistics) -> None:
        if _REQUEST_MARK not in entry.line:
            return
        try:
            event = orjson.loads(entry.line)
            if event["type"] != events.REQUEST:
                return
            data = event["data"]
            for arm, lessons in self._learner.lessons(data):
                if arm in self._pending:
                    signals, time = _signals(self._known[arm]), data["started_ms"] * 1e-3
                    priced = [lesson for lesson in lessons if lesson[0] in signals]
                    scratch.add(arm, time, priced)
                    for version, x in self._learner.vectors(data):
                        linear.add(arm, version, DONE, time, x, priced)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return  # It was counted as malformed when it was read first.

    def _finish(self, scratch: Statistics, linear: LinearStatistics) -> None:
        for row in scratch.rows():
            self._learner.statistics.add_row(row)
        self._learner.linear.merge(linear)
        self._learner.dirty_routes.update(arm[0] for arm in self._pending)
        self._pending.clear()
        self._until = {}
        self._encoded = None
        self._walk = self._scratch = None
        if self._earlier is not None:
            self._earlier.forget()
        self.rebuilt += 1
        self._read_versions()

    def _read_versions(self) -> None:
        """Read present prices, but the old ones of arms that are still to be done."""
        versions: Mapping[RouteArm, str] = self._learner.price_versions
        self._learner.statistics.set_price_versions(
            {arm: version for arm, version in versions.items() if version and arm not in self._pending}
        )


def _signals(version: str) -> tuple[str, str]:
    return reward.priced(reward.COST, version), reward.priced(reward.COST_USD, version)
