"""Learning a route's log again under a new version of its features, after their projection was fitted anew.

Vectors of two versions never meet, so a new version would begin with no knowledge at all. Instead the log is walked in
idle moments, each request's vector made again from what its event has (the old vector, and the sketch of its words),
and what the log still says about outcomes and ratings is folded under the new version. The events up to the cursor at
the beginning are the walk's, all later ones the learner's own, also those of workers that still use the old version;
so each counts once. A walk that is interrupted begins again from nothing; only that one was finished is saved.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from optimizer import events
from optimizer.ids import RequestId
from optimizer.learner import Learner
from optimizer.linear_statistics import LinearStatistics
from optimizer.log.reader import Entry, LogReader
from optimizer.log.segment import Position
from optimizer.store import Cursor, Identity
from optimizer.vectors import Revision

# Ratings whose repetition is recognised within one walk; those that are further apart count again.
MOST_SEEN = 500_000
_FEEDBACK_MARK = events.FEEDBACK.encode()


class FoundDecisions(Protocol):
    """Decisions in the log, and where they stand."""

    def locate(self, request: RequestId) -> Position | None:
        """Where the decision stands; None when it is unknown."""
        ...

    def find(self, request_id: str, request: RequestId) -> Mapping[str, Any] | None:
        """See ``learner.Decisions``."""
        ...


class _Earlier:
    """The decisions that stand before a cursor. Implements ``learner.Decisions``."""

    def __init__(self, found: FoundDecisions, until: Cursor) -> None:
        self._found = found
        self._until = until

    def find(self, request_id: str, request: RequestId) -> Mapping[str, Any] | None:
        """None also for decisions that are the learner's own: their ratings are, too."""
        at = self._found.locate(request)
        if at is None or (at.segment, at.offset) >= self._until.get(at.source, (0, 0)):
            return None
        return self._found.find(request_id, request)


class _Walk:
    """One walk over the log before ``until``, into a learner of its own."""

    def __init__(
        self, route: str, revision: Revision, learner: Learner, found: FoundDecisions, until: Cursor
    ) -> None:
        self.route = route
        self.revision = revision
        self.until = dict(until)
        self.at: Cursor = {}
        self._seen: dict[Identity, None] = {}
        self._mark = b'"route":' + orjson.dumps(route)
        self._learner = learner.apprentice(_Earlier(found, self.until), was_seen=self._seen.__contains__)
        self._learner.set_revision(route, revision)

    def take(self, entry: Entry) -> None:
        if (entry.segment, entry.offset) >= self.until.get(entry.source, (0, 0)):
            return
        if self._mark not in entry.line and _FEEDBACK_MARK not in entry.line:
            return
        try:
            self._learner.fold(orjson.loads(entry.line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return  # It was counted as malformed when it was read first.

    def rest(self) -> None:
        """Between two portions: remember which ratings were counted, let go of what can not come any more."""
        changes = self._learner.changes(self._learner.statistics.latest)
        self._seen.update(dict.fromkeys(changes.seen))
        while len(self._seen) > MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        self._learner.stored()

    def is_done(self) -> bool:
        return all(self.at.get(source, until) >= until for source, until in self.until.items())

    def learned(self) -> LinearStatistics:
        return self._learner.linear


class Relearn:
    """One walk at a time; ``finished`` counts them."""

    name = "relearn"

    def __init__(self, learner: Learner, reader: LogReader, found: FoundDecisions) -> None:
        """Work on ``learner``'s linear statistics with a ``reader`` of its own."""
        self.finished = 0
        self._learner = learner
        self._reader = reader
        self._found = found
        self._waiting: dict[str, Revision] = {}
        self._done: dict[str, str] = {}
        self._walk: _Walk | None = None

    @property
    def pending(self) -> dict[str, str]:
        """Route -> version that is still being learned."""
        return {route: revision.version for route, revision in self._waiting.items()}

    def start(self, route: str, revision: Revision) -> None:
        """Bring a route to a version of its features; nothing new if that was finished before.

        At every start of the process, before the first event is read, and whenever the version changes.
        """
        if self._done.get(route) == revision.version:
            self._learner.set_revision(route, revision)
            return
        waiting = self._waiting.get(route)
        if waiting is not None and waiting.version == revision.version:
            return
        self._done.pop(route, None)
        self._waiting[route] = revision
        if self._walk is not None and self._walk.route == route:
            self.postpone()

    def postpone(self) -> None:
        """Begin the present walk again later: prices have changed, and with them what the log says."""
        if self._walk is not None:
            self._learner.set_revision(self._walk.route, None)
            self._walk = None

    def step(self, max_bytes: int, cursor: Cursor) -> bool:
        """Walk a portion further, ``cursor`` is where the learner has read up to; False when there was nothing to do.

        Raises:
            OSError: If the log can not be read now; call again.
        """
        if not self._waiting:
            return False
        walk = self._walk = self._walk or self._begin(cursor)
        batch = self._reader.poll(walk.at, max_bytes)
        for entry in batch.entries:
            walk.take(entry)
        walk.at = batch.cursor
        walk.rest()
        if not batch.more or walk.is_done():
            self._finish(walk)
        return True

    def snapshot(self) -> bytes:
        """What must survive: which routes are at which version."""
        return orjson.dumps(self._done)

    def restore(self, data: bytes) -> None:
        """Continue from a snapshot.

        Raises:
            ValueError: If the snapshot is none of ours.
        """
        done = orjson.loads(data)
        if not isinstance(done, dict) or not all(isinstance(version, str) for version in done.values()):
            raise ValueError(f"no versions by route: {done!r}")
        self._done = done

    def _begin(self, cursor: Cursor) -> _Walk:
        route, revision = next(iter(self._waiting.items()))
        # Whatever the version has is in the log before the cursor, too.
        self._learner.linear.drop_version(route, revision.version)
        walk = _Walk(route, revision, self._learner, self._found, cursor)
        self._learner.set_revision(route, revision)
        return walk

    def _finish(self, walk: _Walk) -> None:
        self._learner.linear.merge(walk.learned(), only=(walk.route, walk.revision.version))
        self._learner.dirty_routes.add(walk.route)
        self._done[walk.route] = walk.revision.version
        del self._waiting[walk.route]
        self._walk = None
        self.finished += 1
