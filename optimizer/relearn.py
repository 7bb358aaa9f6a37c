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
from optimizer.log.walk import Earlier, Walk
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


class _Before:
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


class _Lessons:
    """One walk over the log before ``until``, into a learner of its own."""

    def __init__(
        self,
        route: str,
        revision: Revision,
        learner: Learner,
        found: FoundDecisions,
        *,
        until: Cursor,
        walk: Walk,
    ) -> None:
        self.route = route
        self.revision = revision
        self.walk = walk
        self._seen: dict[Identity, None] = {}
        self._mark = b'"route":' + orjson.dumps(route)
        self._learner = learner.apprentice(_Before(found, until), was_seen=self._seen.__contains__)
        self._learner.set_revision(route, revision)

    def take(self, entry: Entry) -> None:
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

    def learned(self) -> LinearStatistics:
        return self._learner.linear


class Relearn:
    """One walk at a time; ``finished`` counts them."""

    name = "relearn"

    def __init__(
        self, learner: Learner, reader: LogReader, found: FoundDecisions, earlier: Earlier | None = None
    ) -> None:
        """Work on ``learner``'s linear statistics with a ``reader`` of its own, and what the log had before that."""
        self.finished = 0
        self._learner = learner
        self._reader = reader
        self._found = found
        self._earlier = earlier
        self._waiting: dict[str, Revision] = {}
        self._done: dict[str, str] = {}
        self._lessons: _Lessons | None = None

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
        if self._lessons is not None and self._lessons.route == route:
            self.postpone()

    def postpone(self) -> None:
        """Begin the present walk again later: prices have changed, and with them what the log says."""
        if self._lessons is not None:
            self._learner.set_revision(self._lessons.route, None)
            self._lessons = None

    def step(self, max_bytes: int, cursor: Cursor) -> bool:
        """Walk a portion further, ``cursor`` is where the learner has read up to.

        False when there was nothing to do, or what the log had earlier is awaited.

        Raises:
            OSError: If the log can not be read now; call again.
        """
        if not self._waiting:
            return False
        if self._lessons is None:
            if self._earlier is not None and not self._earlier.fetched():
                return False
            self._lessons = self._begin(cursor)
        lessons = self._lessons
        for entry in lessons.walk.poll(max_bytes):
            lessons.take(entry)
        lessons.rest()
        if lessons.walk.is_over:
            self._finish(lessons)
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

    def _begin(self, cursor: Cursor) -> _Lessons:
        route, revision = next(iter(self._waiting.items()))
        # Whatever the version has is in the log before the cursor, too.
        self._learner.linear.drop_version(route, revision.version)
        earlier = self._earlier.reader() if self._earlier is not None else None
        walk = Walk(self._reader, cursor, earlier)
        lessons = _Lessons(route, revision, self._learner, self._found, until=cursor, walk=walk)
        self._learner.set_revision(route, revision)
        return lessons

    def _finish(self, lessons: _Lessons) -> None:
        self._learner.linear.merge(lessons.learned(), only=(lessons.route, lessons.revision.version))
        self._learner.dirty_routes.add(lessons.route)
        self._done[lessons.route] = lessons.revision.version
        del self._waiting[lessons.route]
        self._lessons = None
        if self._earlier is not None and not self._waiting:
            self._earlier.forget()
        self.finished += 1
