"""Watching every arm for sudden changes, and forgetting the right part of it when one is found.

A consumer of the log: outcomes come as ``request.v1`` events, ratings from the learner, both in the log's order. Per
arm and signal there is one detector (``policies.drift``). Its alarm lets what is known about that signal from before
count only ``DriftSettings.keep`` times at most, is written to the log as ``drift.v1`` and counted. Invariant: reset,
count and detector of an alarm are saved in the transaction of the step that raised it, so an alarm happens once;
between alarms the detectors are saved every few seconds only, and a crash costs them what they saw since, which delays
an alarm and never makes one.

What is known to vary with the request is taken out first, because another mix of requests is no change of the arm, and
routing itself makes one when it learns who is good at what: on contextual routes what the slopes of the arm's fit say
about the request, everywhere the number of tokens (costs depend on those that came in, durations on those that went
out). Costs are watched under one price version, so a new price is no change.
"""

import base64
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import exp, inf, log
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import orjson

from optimizer import events, reward
from optimizer.log.segment import Position
from optimizer.reward import ArmKeys, Lesson
from optimizer.settings import DriftSettings, Settings
from optimizer.timeline import RouteArm
from policies.drift import Change, PageHinkley, Rules
from policies.types import FloatArray

SHARES: Final = (reward.QUALITY, reward.SUCCESS, reward.VALID)
LOGARITHMS: Final = (reward.COST, reward.LATENCY, reward.TTFT)
SIGNALS: Final = (*SHARES, *LOGARITHMS)
"""What is watched; each needs feedback, outcomes, known costs or streams to say anything."""

LOG_TOLERANCE: Final = 4.0
"""Costs and durations scatter more than ratings do: 0.05 becomes 0.2, a change by less than 22 % is none."""
_LOG_OUTLIER: Final = 4.0

SAVE_S: Final = 5.0
SAVED_AT_ONCE: Final = 8
"""Routes whose detectors one step saves, beside those with an alarm."""
MOST_WATCHED: Final = 20_000
ALARMS_SHOWN: Final = 5
MOST_SEEN: Final = 128
OUTVOTED: Final = 0.02
"""Old evidence counts at most this share of the observations since the change, whatever ``keep`` allows."""
_VERSION: Final = 2

_INPUT: Final = "gen_ai.usage.input_tokens"
_OUTPUT: Final = "gen_ai.usage.output_tokens"
_SLOPED: Final = frozenset((reward.QUALITY, reward.VALID, reward.COST))
"""What a fit may know to depend on features. Durations follow the number of tokens."""
_COVARIATES: Final = {reward.COST: _INPUT, reward.TTFT: _INPUT, reward.LATENCY: _OUTPUT}

_log = logging.getLogger(__name__)


Seen: TypeAlias = tuple[float, Mapping[str, Any] | None]
"""A value as it was learned, and the event's data when they have features."""


class Slopes(Protocol):
    """What the fits of contextual routes know, usually ``ContextBook.slopes``."""

    def __call__(self, arm: RouteArm, version: str) -> Mapping[str, FloatArray]:
        """By signal how it depends on the features of ``version``, (d,) each; empty without a fit."""
        ...


class Forget(Protocol):
    """``optimizer.forgetting.Forgetting``: makes evidence from before a change count less."""

    def __call__(self, arm: RouteArm, signal: str, *, keep: float, at: float, seen: Sequence[Seen]) -> None:
        """Evidence from before ``at`` counts ``keep`` times; what was ``seen`` since the change counts whole."""
        ...


class Lessons(Protocol):
    """``Learner.lessons``: what a ``request.v1`` event's data teaches, per arm."""

    def __call__(self, data: Mapping[str, Any], /) -> Sequence[tuple[RouteArm, Sequence[Lesson]]]: ...


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change that was found. ``before`` and ``after`` are shares, or geometric means in USD or seconds.

    ``at`` is the event time (Unix seconds) of the request that told, ``since`` of the first suspicious one;
    ``evidence`` what the detector had added up over ``observations``; ``keep`` what the evidence before counts now.
    """

    route: str
    arm: str
    model_key: str
    variant_key: str
    signal: str
    before: float
    after: float
    evidence: float
    observations: int
    keep: float
    at: float
    since: float

    @property
    def id(self) -> str:
        """The same whenever the same log is read."""
        content = orjson.dumps([self.route, self.model_key, self.variant_key, self.signal, self.at])
        return "drift-" + blake2b(content, digest_size=12, person=b"drift").hexdigest()


def rules_of(settings: DriftSettings, signal: str) -> Rules:
    """How a route's settings are meant for one signal."""
    if signal in SHARES:
        return Rules(settings.tolerance, settings.threshold)
    return Rules(
        settings.tolerance * LOG_TOLERANCE, settings.threshold, outlier=_LOG_OUTLIER, correlated=True
    )


_NOTHING: Final[Mapping[str, FloatArray]] = {}


class _Moment(NamedTuple):
    """What all signals of one request share: when, the event, its features, and what the arm's fit makes of them."""

    at: float
    data: Mapping[str, Any]
    features: Mapping[str, Any] | None = None
    version: str = ""
    x: FloatArray | None = None
    slopes: Mapping[str, FloatArray] = _NOTHING


class _Watched:
    """A detector, and what was seen while it is suspicious, each with its event time."""

    __slots__ = ("detector", "seen")

    def __init__(self, detector: PageHinkley) -> None:
        self.detector = detector
        self.seen: deque[tuple[float, Seen]] = deque(maxlen=MOST_SEEN)


class DriftWatch:
    """The detectors of one node.

    Args:
        lessons: What an event teaches.
        forget: Forgets.
        journal: Appends an event of a type under an id; False when it is lost.
        now: Unix seconds; only says when to save.
        slopes: What contextual fits know; None while there are none.
    """

    name = "drift"

    def __init__(
        self,
        *,
        lessons: Lessons,
        forget: Forget,
        journal: Callable[[str, Mapping[str, Any], str], bool],
        now: Callable[[], float],
        slopes: Slopes | None = None,
    ) -> None:
        self.slopes = slopes
        self.counts: Counter[tuple[str, str, str]] = Counter()  # alarms by route, arm id and signal
        self._lessons = lessons
        self._forget = forget
        self._journal = journal
        self._now = now
        self._rules: dict[str, dict[str, Rules]] = {}
        self._keep: dict[str, float] = {}
        self._ids: dict[RouteArm, str] = {}
        self._keys: dict[tuple[str, str], ArmKeys] = {}
        self._bases: dict[str, str | None] = {}
        # arm -> (signal with its price version, features version or empty) -> detector
        self._watched: dict[RouteArm, dict[tuple[str, str], _Watched]] = {}
        self._size = 0
        # Ratings of requests from before a change that was found say nothing about the arm as it is.
        self._since: dict[tuple[RouteArm, str], float] = {}
        self._alarms: dict[RouteArm, deque[Alarm]] = {}
        # What is saved: all but the detectors, None if it is out of date; and the detectors by route, oldest first.
        self._saved: bytes | None = None
        self._parts: dict[str, tuple[float, bytes]] = {}
        self._fed: dict[str, None] = {}  # routes whose detectors saw something since
        self._at_once: set[str] = set()  # and those that may not wait

    def configure(self, settings: Settings) -> None:
        """Follow a configuration. Arms that it no longer has keep their detectors, in case they come back."""
        watched = [route for route in settings.routes if route.drift.enabled]
        self._rules = {
            route.name: {signal: rules_of(route.drift, signal) for signal in SIGNALS} for route in watched
        }
        self._keep = {route.name: route.drift.keep for route in watched}
        self._ids = {
            (route.name, arm.model_key, arm.variant_key): arm.id for route in watched for arm in route.arms
        }
        self._bases.clear()
        self._keys = {(arm[0], arm_id): (arm[1], arm[2]) for arm, arm_id in self._ids.items()}
        known = {route.name for route in settings.routes}
        for arm in [arm for arm in self._watched if arm[0] not in known or arm[0] not in self._rules]:
            self._size -= len(self._watched.pop(arm))
            self._at_once.add(arm[0])
        for arm, detectors in self._watched.items():
            for (signal, _), watched_signal in detectors.items():
                watched_signal.detector.rules = self._rules[arm[0]][_base(signal)]
        self._saved = None

    def alarms(self, route: str, model_key: str, variant_key: str) -> tuple[Alarm, ...]:
        """The newest alarms about an arm, the newest first."""
        return tuple(reversed(self._alarms.get((route, model_key, variant_key), ())))

    def alarms_of(self, route: str, arm_id: str) -> tuple[Alarm, ...]:
        """The newest alarms about an arm of the configuration, the newest first."""
        keys = self._keys.get((route, arm_id))
        return self.alarms(route, *keys) if keys is not None else ()

    def series(self) -> Iterator[tuple[str, str, str, int]]:
        """Route, arm id, signal and number of alarms: of every watched arm, also 0, and of what had one earlier."""
        now_watched = {(arm[0], arm_id, signal) for arm, arm_id in self._ids.items() for signal in SIGNALS}
        for key in sorted(now_watched | self.counts.keys()):
            yield (*key, self.counts[key])

    # --- following the log --------------------------------------------------------------------------

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        if event["type"] != events.REQUEST:
            return
        data = event["data"]
        if data.get("route") not in self._rules:
            return
        at = data["started_ms"] * 1e-3
        for arm, lessons in self._lessons(data):
            if arm not in self._ids:
                continue
            moment = self._moment(arm, data, at)
            for signal, value in lessons:
                base = self._base_of(signal)
                if base is not None:
                    self._see(arm, signal, base, value, moment)

    def rated(self, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """A ``learner.Listener``: the anchor signal only, since proxies and other judges have levels of their own."""
        route = decision.get("route")
        if signal != reward.QUALITY or route not in self._rules:
            return
        keys = reward.serving_arm(decision, lambda arm_id: self._keys.get((str(route), arm_id)))
        if keys is None or (arm := (str(route), *keys)) not in self._ids:
            return
        self._see(arm, signal, signal, value, self._moment(arm, decision, decision["started_ms"] * 1e-3))

    def _moment(self, arm: RouteArm, data: Mapping[str, Any], at: float) -> _Moment:
        context = data.get("context")
        if not context:
            return _Moment(at, data)
        features = {name: data[name] for name in ("route", "context", "sketch") if name in data}
        version = context["version"]
        x = np.frombuffer(base64.b64decode(context["x"]), dtype="<f4").astype(np.float64)
        if not np.isfinite(x).all():
            return _Moment(at, data)
        slopes = self.slopes(arm, version) if self.slopes is not None else _NOTHING
        return _Moment(at, data, features, version, x, slopes)

    def _base_of(self, signal: str) -> str | None:
        """The name of a watched signal without its price version, None of any other."""
        found = self._bases.get(signal, "")
        if found == "":
            base = _base(signal)
            found = self._bases[signal] = base if base in SIGNALS else None
        return found

    def _see(self, arm: RouteArm, signal: str, base: str, value: float, moment: _Moment) -> None:
        at = moment.at
        if self._since and at < self._since.get((arm, base), -inf):
            return
        looks = base in _SLOPED and moment.x is not None
        # The mean request of a reference is one of the same features.
        key = (signal, moment.version if looks else "")
        detectors = self._watched.get(arm)
        watched = (detectors.get(key) if detectors is not None else None) or self._begin(arm, key)
        covariate = _COVARIATES.get(base)
        tokens = moment.data.get(covariate) if covariate is not None else None
        detector, seen = watched.detector, watched.seen
        self._fed[arm[0]] = None
        seen.append((at, (value, moment.features)))
        change = detector.observe(
            value,
            given=log(1.0 + tokens) if isinstance(tokens, int | float) and tokens > 0 else 0.0,
            x=moment.x if looks else None,
            slope=moment.slopes.get(base),
        )
        if change is not None:
            self._found(arm, signal, change, at, watched)
            return
        run = detector.run
        while len(seen) > run:
            seen.popleft()

    def _begin(self, arm: RouteArm, key: tuple[str, str]) -> _Watched:
        while self._size >= MOST_WATCHED:
            self._size -= len(self._watched.pop(next(iter(self._watched))))
        detectors = self._watched.setdefault(arm, {})
        base = _base(key[0])
        # Of another price version or of other features nobody will see anything any more.
        for other in [other for other in detectors if _base(other[0]) == base and _replaces(key, other)]:
            del detectors[other]
            self._size -= 1
        watched = detectors[key] = _Watched(PageHinkley(self._rules[arm[0]][base]))
        self._size += 1
        return watched

    def _found(self, arm: RouteArm, stored: str, change: Change, at: float, watched: _Watched) -> None:
        route, model_key, variant_key = arm
        signal = _base(stored)
        # Only the newest are from after the change for sure.
        newest = list(watched.seen)[-change.observations :]
        since = newest[0][0]
        shown = exp if signal in LOGARITHMS else float
        alarm = Alarm(
            route=route,
            arm=self._ids[arm],
            model_key=model_key,
            variant_key=variant_key,
            signal=signal,
            before=shown(change.before),
            after=shown(change.after),
            evidence=change.evidence,
            observations=change.observations,
            # What is known to be over must not outvote what was seen since, however much of it there was.
            keep=min(self._keep[route], OUTVOTED * change.observations / change.reference),
            at=at,
            since=since,
        )
        self._forget(arm, stored, keep=alarm.keep, at=at, seen=[seen for _, seen in newest])
        self._since[arm, signal] = since
        for key in [key for key in self._watched[arm] if _base(key[0]) == signal]:
            fresh = PageHinkley(self._rules[route][signal])
            fresh.inherit(self._watched[arm][key].detector)
            self._watched[arm][key] = _Watched(fresh)
        self.counts[route, alarm.arm, signal] += 1
        self._alarms.setdefault(arm, deque(maxlen=ALARMS_SHOWN)).append(alarm)
        self._saved = None
        self._at_once.add(route)
        _log.warning(
            "route %s: the %s of arm %s changed from %.4g to %.4g; %.2g of what was known about it counts on",
            *(route, signal, alarm.arm, alarm.before, alarm.after, alarm.keep),
        )
        self._journal(events.DRIFT, asdict(alarm), alarm.id)

    # --- storing ------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return self._encode(self._watched)

    def snapshot_parts(self) -> Mapping[str, bytes]:
        """See ``ingest.PartedConsumer``: the detectors by route, up to some ``SAVE_S`` old, but never older than the
        route's last alarm.
        """
        now = self._now()
        waiting = sorted(self._fed, key=lambda route: self._parts[route][0] if route in self._parts else -inf)
        due = [route for route in waiting if route not in self._parts or self._is_old(route, now)]
        for route in {*due[:SAVED_AT_ONCE], *self._at_once}:
            arms = [arm for arm in self._watched if arm[0] == route]
            self._parts[route] = (now, orjson.dumps(self._rows(arms)))
            self._fed.pop(route, None)
        self._at_once.clear()
        if self._saved is None:
            self._saved = self._encode(())
        return {"": self._saved, **{route: data for route, (_, data) in self._parts.items()}}

    def _is_old(self, route: str, now: float) -> bool:
        return not 0.0 <= now - self._parts[route][0] < SAVE_S

    def _rows(self, arms: Iterable[RouteArm]) -> list[list[Any]]:
        return [
            [*arm, *key, watched.detector.save()]
            for arm in arms
            for key, watched in self._watched[arm].items()
        ]

    def _encode(self, arms: Iterable[RouteArm]) -> bytes:
        return orjson.dumps(
            {
                "version": _VERSION,
                "counts": [[*key, count] for key, count in self.counts.items()],
                "alarms": [asdict(alarm) for alarms in self._alarms.values() for alarm in alarms],
                "since": [[*arm, signal, since] for (arm, signal), since in self._since.items()],
                "watched": self._rows(arms),
            }
        )

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours; nothing was taken over then.
        """
        saved = orjson.loads(data)
        if saved["version"] != _VERSION:
            return
        counts = Counter({(route, arm, signal): count for route, arm, signal, count in saved["counts"]})
        alarms: dict[RouteArm, deque[Alarm]] = {}
        for fields in saved["alarms"]:
            alarm = Alarm(**fields)
            key = (alarm.route, alarm.model_key, alarm.variant_key)
            alarms.setdefault(key, deque(maxlen=ALARMS_SHOWN)).append(alarm)
        detectors = self._load(saved["watched"])
        self.counts, self._alarms, self._watched = counts, alarms, detectors
        self._since = {((a, b, c), signal): since for a, b, c, signal, since in saved["since"]}
        self._size = sum(len(found) for found in detectors.values())
        self._fed = dict.fromkeys(arm[0] for arm in detectors)
        self._parts.clear()
        self._saved = None

    def restore_part(self, data: bytes) -> None:
        """See ``ingest.PartedConsumer``. Errors as ``restore``."""
        for arm, detectors in self._load(orjson.loads(data)).items():
            self._size += len(detectors) - len(self._watched.get(arm, ()))
            self._watched[arm] = detectors
            self._parts[arm[0]] = (-inf, data)

    def _load(self, rows: Iterable[Sequence[Any]]) -> dict[RouteArm, dict[tuple[str, str], _Watched]]:
        detectors: dict[RouteArm, dict[tuple[str, str], _Watched]] = {}
        for route, model_key, variant_key, signal, version, numbers in rows:
            default = rules_of(DriftSettings(), _base(signal))
            watched = _Watched(PageHinkley(self._rules.get(route, {}).get(_base(signal), default)))
            watched.detector.load(numbers)
            detectors.setdefault((route, model_key, variant_key), {})[signal, version] = watched
        return detectors


def _base(signal: str) -> str:
    """The name of a signal without its price version."""
    return signal.partition("@")[0]


def _replaces(new: tuple[str, str], old: tuple[str, str]) -> bool:
    """Whether a detector of ``new`` makes one of ``old`` useless: another price, or other features."""
    return new[0] != old[0] or (bool(new[1]) and bool(old[1]) and new[1] != old[1])
