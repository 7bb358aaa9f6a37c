"""Collecting one route's rows while the log goes by, then joining ratings and sorting by time.

A row's vector is looked at only as far as its own request: arms that could not serve it have probability 0 and are not
eligible. Vectors are shared by reference; contextual rows have one each.
"""

from array import array
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer import events
from optimizer.replaying.rows import COST, LATENCY, QUALITY, SUCCESS, Decisions
from optimizer.reward import is_certain_failure
from policies.offpolicy import IntArray
from policies.types import FloatArray

USERS = "users"
JUDGE_PREFIX = "judge:"
_NONE = float("nan")
_SUM_TOLERANCE = 1e-3
_PROPENSITY_TOLERANCE = 1e-6


class Ratings:
    """Ratings by request id and rater; the first of each source counts, several sources of users are averaged."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, float]] = defaultdict(dict)

    def add(self, data: Mapping[str, Any]) -> None:
        """Take one ``feedback.v1``; what is no rating of 0..1 is ignored, as in learning."""
        value, source, request_id = data.get("value"), str(data.get("source")), data.get("request_id")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            return
        if isinstance(request_id, str):
            self._of[request_id].setdefault(source, float(value))

    def judges(self, request_ids: Sequence[str]) -> Counter[str]:
        """How many of these requests each judge rated."""
        found: Counter[str] = Counter()
        for request_id in request_ids:
            for source in self._of.get(request_id, ()):
                if source.startswith(JUDGE_PREFIX):
                    found[source.removeprefix(JUDGE_PREFIX)] += 1
        return found

    def value(self, request_id: str, rater: str) -> float:
        """What ``rater`` said of a request; NaN if nothing."""
        given = self._of.get(request_id)
        if given is None:
            return _NONE
        if rater != USERS:
            return given.get(JUDGE_PREFIX + rater, _NONE)
        said = [value for source, value in given.items() if not source.startswith(JUDGE_PREFIX)]
        return sum(said) / len(said) if said else _NONE


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which arms a vector is of: arm index to place in the vector, and the arms that could not serve."""

    places: Mapping[int, int]
    filtered: frozenset[int]


def _outcomes(data: Mapping[str, Any], *, completed: bool) -> dict[str, float]:
    """What came of a request, before anybody rated it; NaN where nothing is known."""
    cost = data.get("cost_usd")
    if cost is None and not completed:
        cost = 0.0  # Nothing is charged for a reply that never came.
    charged = isinstance(cost, int | float) and isfinite(cost) and cost >= 0.0
    worthless = not completed or is_certain_failure(data)
    took = data.get("duration_ms")
    return {
        COST: float(cost) if charged and cost is not None else _NONE,
        QUALITY: 0.0 if worthless else _NONE,
        SUCCESS: 1.0 if completed else 0.0,
        LATENCY: float(took) * 1e-3 if isinstance(took, int | float) else _NONE,
    }


class Gathering:
    """The rows of one route as they are found."""

    def __init__(self, route: str) -> None:
        self._route = route
        self._ids: list[str] = []
        self._arms: dict[str, int] = {}
        self._at = array("d")
        self._chosen = array("q")
        self._propensity = array("d")
        self._baseline = array("q")
        self._outcomes = {name: array("d") for name in (COST, QUALITY, SUCCESS, LATENCY)}
        self._rateable = array("b")
        self._units = array("q")
        self._unit_of: dict[str, int] = {}
        self._vector_of = array("q")
        self._shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], _Shape] = {}
        self._vectors: list[tuple[_Shape, array[float]]] = []
        self._known: dict[Any, int] = {}
        self._x: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        self._contents: dict[tuple[str, str], int] = {}
        self._content = array("q")
        self._prices: dict[int, set[str]] = defaultdict(set)
        self._left_out: Counter[str] = Counter()
        self.cells = 0  # Numbers in all vectors.

    def take(
        self, request_id: str, data: Mapping[str, Any], selectors: Mapping[str, Mapping[str, Any]]
    ) -> int:
        """Add a ``request.v1``; returns 1 if it became a row, else 0, counted by reason."""
        try:
            reason = self._take(request_id, data, selectors)
        except (KeyError, TypeError, ValueError, AttributeError):
            reason = "malformed"
        if reason:
            self._left_out[reason] += 1
        return 0 if reason else 1

    def _take(
        self, request_id: str, data: Mapping[str, Any], selectors: Mapping[str, Mapping[str, Any]]
    ) -> str:
        if data.get("randomised") is not True:
            return f"not drawn at random ({data.get('reason') or 'undecided'})"
        outcome = data["outcome"]
        if outcome not in (events.COMPLETED, events.UPSTREAM_FAULT):
            return f"no outcome ({outcome})"
        vector = self._vector(data, selectors)
        if vector is None:
            return "its probabilities are no longer in the log"
        arm, propensity = self._index(data["arm"]), float(data["propensity"])
        shape, shares = self._vectors[vector]
        share = shares[shape.places[arm]]
        if share <= 0.0 or abs(share - propensity) > _PROPENSITY_TOLERANCE:
            return "malformed"
        x = data.get("context")
        encoded = b64decode(x["x"], validate=True) if x else b""
        version = str(x["version"]) if x else ""
        known = _outcomes(data, completed=outcome == events.COMPLETED)
        row = len(self._ids)
        # From here on nothing raises: a row is added to all columns or to none.
        self._ids.append(request_id)
        self._at.append(data["started_ms"] * 1e-3)
        self._chosen.append(arm)
        self._propensity.append(share)
        self._vector_of.append(vector)
        self._baseline.append(self._arms.get(str(data.get("baseline_arm")), -1))
        for metric, value in known.items():
            self._outcomes[metric].append(value)
        self._rateable.append(known[QUALITY] != 0.0)
        unit = data.get("unit_hash") or request_id
        self._units.append(self._unit_of.setdefault(str(unit), len(self._unit_of)))
        if encoded:
            self._x[version].append((row, encoded))
        if data.get("price_version"):
            self._prices[arm].add(str(data["price_version"]))
        content = (str(data.get("model_key")), str(data.get("variant_key")))
        self._content.append(self._contents.setdefault(content, len(self._contents)))
        return ""

    def _vector(self, data: Mapping[str, Any], selectors: Mapping[str, Mapping[str, Any]]) -> int | None:
        reference = data.get("vector")
        if reference is not None:
            known = self._known.get(reference)
            if known is None:
                event = selectors.get(reference)
                if event is None:
                    return None
                # The id ends with the eligible set: one bit per arm.
                mask = int(str(reference).rpartition("-")[2], 16)
                left = [arm for place, arm in enumerate(event["arms"]) if not mask >> place & 1]
                known = self._add(event["arms"], event["probabilities"], left)
                self._known[reference] = known
            return known
        arms, shares, filtered = data["arms"], data["probabilities"], data.get("filtered") or ()
        if data.get("context"):
            return self._add(arms, shares, filtered)
        key = (tuple(arms), tuple(shares), tuple(filtered))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._add(arms, shares, filtered)
        return found

    def _add(self, arms: Sequence[str], shares: Sequence[float], filtered: Iterable[str]) -> int:
        key = (tuple(arms), tuple(filtered))
        shape = self._shapes.get(key)
        if shape is None:
            places = {self._index(arm): place for place, arm in enumerate(arms)}
            shape = self._shapes[key] = _Shape(places, frozenset(self._index(arm) for arm in filtered))
        vector = array("d", shares)
        if len(vector) != len(shape.places) or min(vector) < 0.0 or abs(fsum(vector) - 1.0) > _SUM_TOLERANCE:
            raise ValueError("no probabilities")
        self._vectors.append((shape, vector))
        self.cells += len(vector)
        return len(self._vectors) - 1

    def _index(self, arm: str) -> int:
        if not isinstance(arm, str):
            raise TypeError("an arm is named by a text")
        return self._arms.setdefault(arm, len(self._arms))

    # --- at the end ---------------------------------------------------------------------------------

    def finish(self, ratings: Ratings, rater: str | None) -> Decisions:
        """All rows in the order of time, with what ``rater`` said as quality."""
        judges = ratings.judges(self._ids)
        if rater is None:
            rater = judges.most_common(1)[0][0] if judges else USERS
        quality = np.array(self._outcomes[QUALITY])
        rateable = np.array(self._rateable, dtype=np.bool_)
        for row in np.flatnonzero(rateable):
            quality[row] = ratings.value(self._ids[row], rater)
        at, chosen = np.array(self._at), np.array(self._chosen, dtype=np.int64)
        order = np.argsort(at, kind="stable")
        vectors, eligible, offered = self._matrices()
        x, version = self._features()
        outcomes = {name: np.array(column) for name, column in self._outcomes.items()} | {QUALITY: quality}
        units: IntArray = np.array(self._units, dtype=np.int64)
        return Decisions(
            route=self._route,
            arms=tuple(self._arms),
            at=at[order],
            chosen=chosen[order],
            propensity=np.array(self._propensity)[order],
            vectors=vectors,
            eligible=eligible,
            offered=offered,
            vector_of=np.array(self._vector_of, dtype=np.int64)[order],
            baseline=np.array(self._baseline, dtype=np.int64)[order],
            outcomes={name: column[order] for name, column in outcomes.items()},
            rateable=rateable[order],
            rater=rater,
            x=None if x is None else x[order],
            features=version,
            units=units[order] if len(self._unit_of) < len(self._ids) else None,
            left_out=dict(sorted(self._left_out.items())),
            notes=tuple(self._notes(judges, rater, heard=bool(np.isfinite(quality[rateable]).any()))),
            changed=self._changed(at, chosen, order),
        )

    def _changed(self, at: FloatArray, chosen: IntArray, order: IntArray) -> dict[str, float]:
        """When an arm got the content it has now: just after the last row in which it had another."""
        content = np.array(self._content, dtype=np.int64)
        moments = {}
        for name, arm in self._arms.items():
            mine = order[chosen[order] == arm]
            other = mine[content[mine] != content[mine[-1]]] if len(mine) else mine
            if len(other):
                moments[name] = float(np.nextafter(at[other].max(), np.inf))
        return moments

    def _notes(self, judges: Counter[str], rater: str, *, heard: bool) -> list[str]:
        notes = []
        if not heard:
            notes.append(f"No rating of these requests is by {rater}.")
        others = sorted(set(judges) - {rater})
        if others:
            notes.append(f"Quality is what {rater} said; ratings of {', '.join(others)} are not mixed in.")
        repriced = [name for name, arm in self._arms.items() if len(self._prices[arm]) > 1]
        if repriced:
            notes.append(f"Prices changed meanwhile ({', '.join(repriced)}); costs are those of their time.")
        return notes

    def _matrices(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        size = (len(self._vectors), len(self._arms))
        vectors, offered = np.zeros(size), np.zeros(size, dtype=np.bool_)
        eligible = np.zeros(size, dtype=np.bool_)
        alike: dict[int, list[int]] = defaultdict(list)
        for row, (shape, _) in enumerate(self._vectors):
            alike[id(shape)].append(row)
        for rows in alike.values():
            of = self._vectors[rows[0]][0]
            which, places = np.array(rows)[:, None], np.array(list(of.places))
            vectors[which, places] = [self._vectors[row][1] for row in rows]
            eligible[which, places] = offered[which, places] = True
            eligible[which, np.array(sorted(of.filtered), dtype=np.int64)] = False
        return vectors, eligible, offered

    def _features(self) -> tuple[NDArray[np.float32] | None, str | None]:
        """Vectors of the version that most rows have; of two versions only one can be used."""
        if not self._x:
            return None, None
        version, rows = max(self._x.items(), key=lambda item: (len(item[1]), item[0]))
        size = len(rows[0][1]) // 4
        x = np.zeros((len(self._ids), size), dtype=np.float32)
        for row, encoded in rows:
            if len(encoded) == 4 * size:
                found = np.frombuffer(encoded, dtype="<f4")
                x[row] = found if np.isfinite(found).all() else 0.0
        return x, version
