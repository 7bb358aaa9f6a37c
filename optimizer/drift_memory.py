"""A drift watch over knowledge that is in memory only, as simulations, replays and trials of one route have it.

It is the product's own watch and the product's own forgetting; what it is told comes without a log.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from optimizer import events, reward
from optimizer.drift import Alarm, DriftWatch, Slopes
from optimizer.forgetting import Forgetting
from optimizer.ids import RequestId
from optimizer.learner import Learner
from optimizer.linear_statistics import LinearStatistics
from optimizer.log.segment import Position
from optimizer.reward import Lesson
from optimizer.routing import Arm
from optimizer.settings import RouteSettings, Settings
from optimizer.statistics import Statistics
from policies.quadrature import Floats

_NOWHERE = Position("", 0, 0)


class MemoryWatch:
    """Watches one route.

    Args:
        route: Its arms and how it is watched.
        statistics: What is forgotten in part after a change.
        linear: The same given requests.
        slopes: What fits know, see ``optimizer.drift.Slopes``.
        found: Told of every alarm.
    """

    def __init__(
        self,
        route: RouteSettings,
        statistics: Statistics,
        linear: LinearStatistics | None = None,
        *,
        slopes: Slopes | None = None,
        found: Callable[[Alarm], None] | None = None,
    ) -> None:
        self._route = route
        self._found = found
        learner = Learner(
            statistics, linear, verify=lambda _: None, decisions=_NoDecisions(), was_seen=lambda _: False
        )
        self._watch = DriftWatch(
            lessons=lambda data: [((route.name, data["model_key"], data["variant_key"]), data["lessons"])],
            forget=Forgetting(learner, statistics.reset),
            journal=self._alarm,
            now=lambda: 0.0,
            slopes=slopes,
        )
        self._watch.configure(Settings("memory", (), (), (), (route,)))

    @property
    def alarms(self) -> int:
        """How many there were."""
        return self._watch.counts.total()

    def outcome(
        self, arm: Arm, lessons: Sequence[Lesson], *, at: float, version: str = "", x: Floats | None = None
    ) -> None:
        """A reply taught ``lessons``; the request had the features ``x`` of ``version``."""
        data = {**self._decision(arm, at, version, x), "lessons": lessons}
        self._watch.observe({"type": events.REQUEST, "data": data}, _NOWHERE)

    def rating(
        self, arm: Arm, value: float, *, at: float, version: str = "", x: Floats | None = None
    ) -> None:
        """A reply to a request of the time ``at`` was rated."""
        self._watch.rated(self._decision(arm, at, version, x), reward.QUALITY, value)

    def _decision(self, arm: Arm, at: float, version: str, x: Floats | None) -> dict[str, Any]:
        decision = {
            "route": self._route.name,
            "arm": arm.id,
            "model_key": arm.model_key,
            "variant_key": arm.variant_key,
            "started_ms": at * 1e3,
        }
        if x is not None:
            encoded = base64.b64encode(np.asarray(x, dtype="<f4").tobytes()).decode()
            decision["context"] = {"version": version, "x": encoded}
        return decision

    def _alarm(self, type_: str, data: Mapping[str, Any], event_id: str) -> bool:
        del type_, event_id
        if self._found is not None:
            self._found(Alarm(**data))
        return True


class _NoDecisions:
    """Feedback comes with its decision here."""

    def find(self, request_id: str, request: RequestId) -> Mapping[str, Any] | None:
        """See ``learner.Decisions``."""
        del request_id, request
        return None
