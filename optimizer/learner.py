"""Folding events into statistics, and joining feedback to the decision that it is about.

The learner only changes memory; ``changes`` hands what a store must write together with the log cursor, which
is what makes every event count exactly once. Feedback may come before its decision was read, twice, late or
never: it waits in a bounded set, counts once, is refused beyond the window, and what is missing is not zero.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, Protocol, TypeAlias

from optimizer import events, reward
from optimizer.counted import Counted
from optimizer.feedback import QUALITY, QUALITY_METRICS, judge_version
from optimizer.ids import RequestId
from optimizer.linear_statistics import DONE, RATED, LinearStatistics
from optimizer.reward import ArmKeys, Lesson
from optimizer.routing import Arm, Model
from optimizer.settings import CustomMetric, Settings
from optimizer.statistics import Statistics
from optimizer.store import Identity, Waiting
from optimizer.timeline import FUTURE_S, RouteArm
from optimizer.vectors import InvalidVector, Revision, Vector, vectors_of
from policies.types import Moments

_log = logging.getLogger(__name__)

# What a request costs at a model's present price, from the usage in its event's data; None when that can not
# be told.
Reprice: TypeAlias = Callable[[Model, Mapping[str, Any]], float | None]

# Told of every rating that was learned: the data of its decision with the request's id as ``request_id``, the
# signal (``quality`` is what the route's anchor says, see ``Learner.signal_of``) and the value. Called once per rating,
# before the step is saved.
Listener: TypeAlias = Callable[[Mapping[str, Any], str, float], None]

# Told of every rating that the owner of the route is to learn: id of the feedback, of the request, the signal as
# statistics name it, the value, and the data of the decision.
Joined: TypeAlias = Callable[[str, str, str, float, Mapping[str, Any]], None]

DAY_S = 86400
# Beyond this a value is no measurement, and its square would drown everything else.
LARGEST_VALUE = 1e15


@dataclass(frozen=True, slots=True)
class LearnerLimits:
    """How late feedback may be and how much of it may wait for its decision.

    ``late_window_s`` is counted from the decision; it should not exceed the log's retention. ``wait_s``
    bounds how long a decision may take to appear in the log (long streams), ``max_waiting`` how many items
    wait.
    """

    late_window_s: float = 30 * 86400.0
    wait_s: float = 3600.0
    max_waiting: int = 100_000


class Decisions(Protocol):
    """Finds what was decided, by request id."""

    def find(self, request_id: str, request: RequestId) -> Mapping[str, Any] | None:
        """``data`` of the ``request.v1`` event with this id; None when the log lacks it, yet or by now."""
        ...


@dataclass(frozen=True, slots=True)
class LearnerChanges:
    """What a store must write beside the statistics. ``seen_before`` is the first day to be remembered."""

    waiting_added: tuple[Waiting, ...]
    waiting_removed: tuple[str, ...]
    seen: tuple[Identity, ...]
    seen_before: int


class Learner:
    """The one place where events become knowledge. Not thread-safe."""

    def __init__(
        self,
        statistics: Statistics,
        linear: LinearStatistics | None = None,
        *,
        verify: Callable[[str], RequestId | None],
        decisions: Decisions,
        was_seen: Callable[[Identity], bool],
        waiting: Iterable[Waiting] = (),
        limits: LearnerLimits | None = None,
        node: int | None = None,
        joined: Joined | None = None,
    ) -> None:
        """Continue with what a store loaded.

        Args:
            statistics: Where lessons go.
            linear: Where they go together with the request's features.
            verify: Reads genuine request ids (``optimizer.ids.verify`` with the node's key).
            decisions: Finds decisions that were read before.
            was_seen: Whether committed feedback had this identity.
            waiting: Feedback that waited when the store was written.
            limits: Bounds on feedback.
            node: Of several; feedback to the requests of others is somebody else's.
            joined: Gets what this learner then does not learn itself: it only joins feedback to decisions.
        """
        self.statistics = statistics
        self.linear = linear if linear is not None else LinearStatistics(statistics)
        self.counts: Counter[str] = Counter()
        self.dirty_routes: set[str] = set()
        self.listeners: list[Listener] = []
        self._verify = verify
        self._decisions = decisions
        self._counted = Counted(was_seen)
        self._limits = limits or LearnerLimits()
        self._node = node
        self._joined = joined
        self._arms: dict[tuple[str, str], Arm] = {}
        self._models: dict[RouteArm, Model] = {}
        self._custom: dict[str, CustomMetric] = {}
        self._anchors: dict[str, str] = {}
        self._revisions: dict[str, Revision] = {}
        self._reprice: Reprice | None = None
        self._waiting: dict[str, list[Waiting]] = {}
        self._waiting_count = 0
        self._added: list[Waiting] = []
        self._removed: list[str] = []
        for item in waiting:
            self._keep(item)

    # --- being told ---------------------------------------------------------------------------------

    def configure(self, settings: Settings, *, now: float, reprice: Reprice | None = None) -> None:
        """Follow a configuration: half-lives, arms, prices and custom metrics. What was learned stays.

        Events that were logged under another price version than the present one are priced again by
        ``reprice``.
        """
        models = {model.name: model for model in settings.models}
        self._arms = {(route.name, arm.id): arm for route in settings.routes for arm in route.arms}
        self._models = {
            (route.name, arm.model_key, arm.variant_key): models[arm.model]
            for route in settings.routes
            for arm in route.arms
            if arm.model in models
        }
        self._custom = {
            metric.name: metric for metric in settings.custom_metrics if metric.name not in reward.BUILT_IN
        }
        self._reprice = reprice
        for route in settings.routes:
            self.statistics.set_half_life(route.name, route.policy.half_life_s, at=now)
        self._anchors = {
            route.name: route.judge.version for route in settings.routes if route.judge is not None
        }
        self.statistics.set_anchors(self._anchors)
        self.statistics.set_summed(
            metric.name for metric in self._custom.values() if metric.aggregation == "sum"
        )

    def apprentice(self, decisions: Decisions, *, was_seen: Callable[[Identity], bool]) -> "Learner":
        """A learner that knows nothing yet, under the same configuration, clocks and resets."""
        learner = Learner(
            self.statistics.sibling(),
            verify=self._verify,
            decisions=decisions,
            was_seen=was_seen,
            limits=self._limits,
        )
        learner._arms, learner._models, learner._custom = self._arms, self._models, self._custom
        learner._anchors, learner._reprice = self._anchors, self._reprice
        return learner

    def set_revision(self, route: str, revision: Revision | None) -> None:
        """Learn from vectors of other versions of the route's features, too, as ``revision`` makes them anew."""
        if revision is None:
            self._revisions.pop(route, None)
        else:
            self._revisions[route] = revision

    def signal_of(self, route: str, signal: str) -> str:
        """What a stored signal is called on a route now: only its anchor's ratings are ``quality``."""
        judge = self._anchors.get(route)
        if judge is None:
            return signal
        if signal == QUALITY:
            return reward.QUALITY_USER
        return QUALITY if signal == reward.judged(judge) else signal

    @property
    def price_versions(self) -> dict[RouteArm, str]:
        """Present price version of every configured arm, empty text for arms without a price."""
        return {
            arm: model.price.version if model.price is not None else "" for arm, model in self._models.items()
        }

    @property
    def can_reprice(self) -> bool:
        """Whether events of another price version can be priced again."""
        return self._reprice is not None

    def cost_usd(self, route: str, arm_id: str, *, at: float) -> Moments | None:
        """Cost of a completed request on a configured arm, None when it is unknown."""
        arm = self._arms.get((route, arm_id))
        if arm is None:
            return None
        return self.statistics.cost_usd((route, arm.model_key, arm.variant_key), now=at)

    # --- learning -----------------------------------------------------------------------------------

    def fold(self, event: Mapping[str, Any]) -> None:
        """Learn from one event of the log; types that teach nothing are ignored.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: If the event is not what its type promises.
        """
        kind = event["type"]
        if kind == events.REQUEST:
            self._fold_request(event["id"], event["data"])
        elif kind == events.FEEDBACK:
            self._fold_feedback(event)
        elif kind == events.FEEDBACK_JOINED:
            self._fold_joined(event)

    def lessons(self, data: Mapping[str, Any]) -> list[tuple[RouteArm, list[Lesson]]]:
        """What a ``request.v1`` event's data teaches under the present configuration, per arm.

        Raises:
            TypeError, ValueError, AttributeError: If the data are not what they should be.
        """
        route = data.get("route")
        if not route:
            return []
        taught = reward.lessons(
            data,
            keys_of=lambda arm_id: self._keys_of(route, arm_id),
            cost_of=lambda keys: self._cost_of(route, keys, data),
        )
        return [((route, *keys), lessons) for keys, lessons in taught]

    def stored_signal(self, route: str, signal: str) -> str:
        """The inverse of ``signal_of``: under what name a signal is stored on a route now."""
        judge = self._anchors.get(route)
        if judge is None:
            return signal
        if signal == QUALITY:
            return reward.judged(judge)
        return QUALITY if signal == reward.QUALITY_USER else signal

    def vectors(self, data: Mapping[str, Any]) -> list[Vector]:
        """The feature vectors of a ``request.v1`` event's data, one per version; empty if it has none."""
        route = data.get("route")
        if not route or data.get("context") is None:
            return []
        try:
            return vectors_of(data, self._revisions.get(route))
        except InvalidVector:
            self.counts["context_refused"] += 1
            return []

    def _fold_request(self, request_id: str, data: Mapping[str, Any]) -> None:
        if self._joined is None:
            taught = self.lessons(data)
            if taught:
                time = data["started_ms"] * 1e-3
                for arm, lessons in taught:
                    self.statistics.add(arm, time, lessons)
                self.dirty_routes.add(data["route"])
            if "context" in data:
                self._fold_context(data, taught)
        else:
            # The clock of what waits for its decision; a learner that learns has it from its statistics.
            self.statistics.timeline.saw(data["started_ms"] * 1e-3)
        if self._waiting and request_id in self._waiting:
            for item in self._release(request_id):
                self._give(item.event_id, request_id, data, item.metric, item.value)

    def _fold_context(self, data: Mapping[str, Any], taught: list[tuple[RouteArm, list[Lesson]]]) -> None:
        """Learn from a request's features: where requests lie, and what became of those that were answered."""
        route, time = data["route"], data["started_ms"] * 1e-3
        for version, x in self.vectors(data):
            try:
                self.linear.note(route, version, time, x)
                for arm, lessons in taught:
                    done = reward.contextual(lessons)
                    if done:
                        self.linear.add(arm, version, DONE, time, x, done)
            except ValueError:
                self.counts["context_refused"] += 1

    def _fold_feedback(self, event: Mapping[str, Any]) -> None:
        data = event["data"]
        request_id, metric, value = data["request_id"], data["metric"], data["value"]
        signal = QUALITY if metric in QUALITY_METRICS else metric
        judge = judge_version(data) if signal == QUALITY else None
        refused = self._refused(signal, value)
        request = self._verify(request_id) if not refused and isinstance(request_id, str) else None
        if request is None:
            self.counts[refused or "feedback_unknown_request"] += 1
            return
        if self._node is not None and request.node != self._node:
            self.counts["feedback_foreign"] += 1
            return
        if judge is not None:
            signal = reward.judged(judge)
        decided_at = request.now_ms * 1e-3
        if _unix_seconds(event["time"]) - decided_at > self._limits.late_window_s:
            self.counts["feedback_late"] += 1
            return
        unwelcome = self._unwelcome(event["id"], signal, data, int(decided_at // DAY_S))
        if unwelcome is not None:
            self.counts[unwelcome] += 1
            return
        self.counts["feedback_accepted"] += 1
        decision = self._decisions.find(request_id, request)
        if decision is not None:
            self._give(event["id"], request_id, decision, signal, float(value))
            return
        item = Waiting(event["id"], request_id, signal, float(value), decided_at)
        self._added.append(item)
        self._keep(item)

    def _fold_joined(self, event: Mapping[str, Any]) -> None:
        """Learn a rating that the deciding node has joined; nodes may say the same again, and owners change."""
        data = event["data"]
        signal, value, decision = data["signal"], data["value"], data["decision"]
        decided_at = decision["started_ms"] * 1e-3
        refused = self._refused(QUALITY if reward.is_quality(signal) else signal, value)
        if refused is None and _unix_seconds(event["time"]) - decided_at > self._limits.late_window_s:
            refused = "feedback_late"
        if refused is None and not self._counted.once(int(decided_at // DAY_S), "joined", event["id"]):
            refused = "feedback_repeated"
        if refused is not None:
            self.counts[refused] += 1
            return
        self.counts["feedback_accepted"] += 1
        self._teach(data["request_id"], decision, signal, value)

    def _give(
        self, event_id: str, request_id: str, decision: Mapping[str, Any], signal: str, value: float
    ) -> None:
        """Teach a rating, or leave that to whoever does."""
        if self._joined is None:
            self._teach(request_id, decision, signal, value)
        elif decision.get("route"):
            self._joined(event_id, request_id, signal, value, decision)
            self.counts["feedback_joined"] += 1
        else:
            self.counts["feedback_not_optimized"] += 1

    def _teach(self, request_id: str, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """Add a rating to the arm that answered, at the time of the decision."""
        route = decision.get("route")
        keys = self._served_by(route, decision) if route else None
        if not route or keys is None:
            self.counts["feedback_not_optimized"] += 1
        elif decision.get("outcome") != events.COMPLETED:
            self.counts["feedback_not_completed"] += 1
        elif reward.is_cached(decision):
            self.counts["feedback_cached"] += 1
        elif reward.is_continued(decision):
            self.counts["feedback_continued"] += 1
        elif reward.is_quality(signal) and reward.is_certain_failure(decision):
            # It counts as quality 0 already, through the rate ``valid``.
            self.counts["feedback_on_failure"] += 1
        else:
            time = decision["started_ms"] * 1e-3
            self.statistics.add((route, *keys), time, ((signal, float(value)),))
            if reward.is_quality(signal) and "context" in decision:
                self._rate_context((route, *keys), decision, time, (signal, float(value)))
            self.dirty_routes.add(route)
            self.counts["feedback_learned"] += 1
            self._tell(request_id, decision, self.signal_of(route, signal), float(value))

    def _rate_context(self, arm: RouteArm, decision: Mapping[str, Any], time: float, lesson: Lesson) -> None:
        for version, x in self.vectors(decision):
            try:
                self.linear.add(arm, version, RATED, time, x, (lesson,))
            except ValueError:
                self.counts["context_refused"] += 1

    def _tell(self, request_id: str, decision: Mapping[str, Any], signal: str, value: float) -> None:
        for listener in self.listeners:
            try:
                listener({**decision, "request_id": request_id}, signal, value)
            except Exception:  # noqa: BLE001  # a listener's fault must not stop learning, nor the other listeners
                self.counts["listener_errors"] += 1
                if self.counts["listener_errors"] % 1000 == 1:
                    _log.exception("a listener failed on the rating of %s", request_id)

    # --- storing ------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Items of feedback whose decision was not read yet."""
        return self._waiting_count

    def changes(self, now: float) -> LearnerChanges:
        """What changed since ``stored``, after letting go of what waited too long."""
        # The log's own time, so that a replay decides alike; but a lying event must not outrun the clock.
        if refused := self.linear.take_refused():
            self.counts["context_refused"] += refused
        present = min(self.statistics.latest, now + FUTURE_S)
        self._expire(present - self._limits.wait_s)
        return LearnerChanges(
            waiting_added=tuple(self._added),
            waiting_removed=tuple(self._removed),
            seen=self._counted.fresh,
            seen_before=int((present - self._limits.late_window_s) // DAY_S) - 1,
        )

    def stored(self) -> None:
        """Take note that everything in ``changes`` is durable."""
        self._added.clear()
        self._removed.clear()
        self._counted.committed()

    # --- inside -------------------------------------------------------------------------------------

    def _keys_of(self, route: str, arm_id: str) -> ArmKeys | None:
        arm = self._arms.get((route, arm_id))
        return (arm.model_key, arm.variant_key) if arm is not None else None

    def _served_by(self, route: str, data: Mapping[str, Any]) -> ArmKeys | None:
        return reward.serving_arm(data, lambda arm_id: self._keys_of(route, arm_id))

    def _cost_of(self, route: str, keys: ArmKeys, data: Mapping[str, Any]) -> list[Lesson]:
        """Cost at the present price, so that one posterior never mixes prices."""
        model = self._models.get((route, *keys))
        if model is None or model.price is None or self._reprice is None:
            return reward.cost_lessons(data)
        if reward.serving_cost(data)[1] == model.price.version:
            return reward.cost_lessons(data)
        usd = self._reprice(model, data)
        return reward.costs(usd, model.price.version) if usd is not None else []

    def _refused(self, signal: str, value: object) -> str | None:
        """Why a value can not be learned, None if it can."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return "feedback_out_of_range"
        if signal == QUALITY:
            return None if 0.0 <= value <= 1.0 else "feedback_out_of_range"
        metric = self._custom.get(signal)
        if metric is None:
            return "feedback_unknown_metric"
        low = -LARGEST_VALUE if metric.low is None else metric.low
        high = LARGEST_VALUE if metric.high is None else metric.high
        return None if low <= value <= high else "feedback_out_of_range"

    def _unwelcome(self, event_id: str, signal: str, data: Mapping[str, Any], day: int) -> str | None:
        """Why feedback does not count. Counters may be raised more than once by one source, under different keys."""
        keyed = data.get("key") is not None
        metric = self._custom.get(signal)
        summed = keyed and metric is not None and metric.aggregation == "sum"
        return self._counted.rating(
            day,
            data["request_id"],
            signal,
            source=None if summed else str(data.get("source")),
            key=event_id if keyed else None,
        )

    def _keep(self, item: Waiting) -> None:
        self._waiting.setdefault(item.request_id, []).append(item)
        self._waiting_count += 1
        while self._waiting_count > self._limits.max_waiting:
            self.counts["feedback_dropped"] += len(self._release(next(iter(self._waiting))))

    def _release(self, request_id: str) -> list[Waiting]:
        items = self._waiting.pop(request_id)
        self._waiting_count -= len(items)
        self._removed.extend(item.event_id for item in items)
        return items

    def _expire(self, oldest: float) -> None:
        while self._waiting:
            first = next(iter(self._waiting))
            if self._waiting[first][0].decided_at >= oldest:
                return
            self.counts["feedback_expired"] += len(self._release(first))


def _unix_seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
