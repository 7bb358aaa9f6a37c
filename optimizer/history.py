"""The consumer that turns events into figures over time, per route and per arm; see ``history_rings`` for where.

It counts what the node's own log says, each request in the step in which it ended, and by the arm that served it, as
the metrics do. What is only known where a route is learned (what was saved, and which ratings are its quality) is
counted there, into rings of the same kind; figures of several nodes add up.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from optimizer import events, reward
from optimizer.history_rings import TIME_CODES, Figures, HistoryRings, time_code
from optimizer.log.segment import Position

NONE: Final = "none"
"""The route of requests that have none."""
_CANDIDATE: Final = "candidate"
_MOST_DESCRIBED: Final = 8192


class History:
    """Follows a node's log as an ``ingest.Consumer``; its figures are saved by the rings themselves."""

    name = "history"

    def __init__(self, rings: HistoryRings) -> None:
        self._rings = rings
        self._described: set[tuple[str, str, Any]] = set()

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        if event["type"] == events.REQUEST:
            data = event["data"]
            self._request(data, _ended_s(data))

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return b""

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``."""

    def _request(self, data: Mapping[str, Any], ended_s: float) -> None:
        route = data.get("route") or NONE
        whole = self._rings.at(ended_s, route)
        if whole is None:
            return
        attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or ()
        several = len(attempts) > 1
        # Who served the caller, and what that cost, is in the last attempt.
        serving = attempts[-1] if several else data
        outcome = data.get("outcome")
        failed = outcome == events.UPSTREAM_FAULT
        whole.requests += 1
        whole.failed += failed
        whole.cost_usd += data.get("cost_usd") or 0.0
        if data.get("rollout") is not None:
            whole.split += 1
            whole.candidate += data.get("side") == _CANDIDATE
        for attempt in attempts[:-1] if several else ():
            spent = self._arm(ended_s, route, attempt)
            if spent is not None:
                spent.cost_usd += attempt.get("cost_usd") or 0.0
        own = self._arm(ended_s, route, serving)
        if own is None:
            return
        own.requests += 1
        own.failed += failed
        own.cost_usd += serving.get("cost_usd") or 0.0
        if outcome == events.COMPLETED and not data.get("cached"):
            _time(own, data, serving if several else None)

    def _arm(self, ended_s: float, route: str, source: Mapping[str, Any]) -> Figures | None:
        arm = source.get("arm")
        if not arm:
            return None
        variant = source.get("variant")
        if (route, arm, variant) not in self._described:
            if len(self._described) >= _MOST_DESCRIBED:
                self._described.clear()
            self._described.add((route, arm, variant))
            self._rings.describe(route, arm, source.get("model"), variant)
        return self._rings.at(ended_s, route, arm)


class Ratings:
    """Counts ratings where they are learned, because only there is it known whose are the quality of a route.

    Follows the log that is learned as an ``ingest.Consumer``.
    """

    name = "history_ratings"

    def __init__(self, rings: HistoryRings) -> None:
        self._rings = rings
        self._ratings: list[tuple[str, str, float]] = []

    def rated(self, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """See ``learner.Listener``; counted with the event that brought it, which the consumers get next."""
        if signal != reward.QUALITY:
            return
        served = decision.get("served_by") or decision.get("arm")
        if served:
            self._ratings.append((decision["route"], served, value))

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        if not self._ratings:
            return
        if event["type"] == events.REQUEST:
            # It was rated before it ended.
            at_s = _ended_s(event["data"])
        else:
            at_s = datetime.fromisoformat(event["time"]).timestamp()
        for route, arm, value in self._ratings:
            figures = self._rings.at(at_s, route, arm)
            if figures is not None:
                figures.rated += 1
                figures.quality += value
        self._ratings.clear()

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return b""

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``."""


def _ended_s(data: Mapping[str, Any]) -> float:
    return float(1e-3 * (data["started_ms"] + data.get("duration_ms", 0.0)))


def _time(figures: Figures, data: Mapping[str, Any], serving: Mapping[str, Any] | None) -> None:
    """Count how long an arm took: its own attempt's time where there were several, and then no first token."""
    times = figures.times
    took_ms = data.get("duration_ms") if serving is None else serving.get("ms")
    if took_ms is not None:
        code = time_code(took_ms)
        times[code] = times.get(code, 0) + 1
    first_ms = data.get("ttft_ms") if serving is None and data.get("stream") else None
    if first_ms is not None:
        code = TIME_CODES + time_code(first_ms)
        times[code] = times.get(code, 0) + 1
