"""The randomised slice of the traffic that prompt tests are judged on, kept beside the learner.

A test compares arms of one model with different prompts. Policies that learn give an arm more traffic at times when it
looks better, so their requests are no fair sample; of those the slice takes a request with probability ``least /
propensity``, where ``least`` is the smallest probability among the compared arms in that very decision. Every
compared arm then enters at the same rate, whatever the policy thinks, also where every request has probabilities of its
own: a request enters with the same probability whichever arm it drew, so all arms meet the same kinds of requests; one
that an arm could not have served at all (a cap on what a request may cost) says nothing. Whether a request enters is a
hash of its id, so its ratings, which come later, find the same answer. Fixed shares are taken whole.

Counted are drawn decisions of the control side, for the arm that was drawn, however the request ended (intention to
treat). Compared counts have one origin: another set of prompts, an edited prompt, or other fixed shares begin anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import orjson

from optimizer import events
from optimizer.ids import node_of
from optimizer.log.segment import Position
from optimizer.reward import SUCCESS, VALID, is_certain_failure
from optimizer.routing import Arm
from optimizer.settings import RouteSettings, Settings
from optimizer.strategies.base import TrialResults, VariantCounts
from policies.sequential.confidence import Sample

COST: Final = "cost"
LATENCY: Final = "latency"
BUCKETS: Final = 64
"""Groups that sticky units are hashed to; the scatter between them is what counts as noise."""
MOST_NODES: Final = 64
"""Whose versions of the table a trial remembers."""

_FIXED: Final = "fixed"
_HASHES: Final = float(2**64)


class Tally:
    """Sums of one metric of one arm; ``buckets`` holds (count, total) per group of sticky units."""

    __slots__ = ("buckets", "count", "squares", "total")

    def __init__(self) -> None:
        self.count = self.total = self.squares = 0.0
        self.buckets: dict[int, list[float]] = {}

    def add(self, value: float, bucket: int | None) -> None:
        self.count += 1.0
        self.total += value
        self.squares += value * value
        if bucket is not None:
            group = self.buckets.setdefault(bucket, [0.0, 0.0])
            group[0] += 1.0
            group[1] += value

    def sample(self) -> Sample:
        """The sums, as small as they have to be for requests of one unit that resemble each other."""
        noise = self._noise()
        return Sample(self.count / noise, self.total / noise, self.squares / noise)

    def plain(self) -> list[Any]:
        return [
            self.count,
            self.total,
            self.squares,
            [[b, *sums] for b, sums in sorted(self.buckets.items())],
        ]

    @classmethod
    def of(cls, raw: Sequence[Any]) -> "Tally":
        """What ``plain`` returned."""
        tally = cls()
        tally.count, tally.total, tally.squares = map(float, raw[:3])
        tally.buckets = {int(bucket): [float(count), float(total)] for bucket, count, total in raw[3]}
        return tally

    def _noise(self) -> float:
        """Variance of the mean between groups, over what independent requests would have; at least 1."""
        groups = len(self.buckets)
        if groups == 0:
            return 1.0
        mean = self.total / self.count
        # With few groups each is about one unit, and that is all the independence there is.
        least = self.count / groups if 2 * groups <= BUCKETS else 1.0
        alone = self.squares / self.count - mean * mean
        if groups < 2 or alone <= 0.0:
            return max(1.0, least)
        between = sum((total - mean * count) ** 2 for count, total in self.buckets.values())
        between *= groups / (groups - 1.0) / self.count
        return max(1.0, least, between / alone)


@dataclass(slots=True)
class Counts:
    """One arm of a trial."""

    assigned: int = 0
    expected: float = 0.0
    metrics: dict[str, Tally] = field(default_factory=dict)

    def add(self, metric: str, value: float, bucket: int | None) -> None:
        self.metrics.setdefault(metric, Tally()).add(value, bucket)


@dataclass(slots=True)
class Trial:
    """One comparison. ``key`` says what is compared under which split, ``since`` from which table version on.

    ``seen`` has by node, which count their tables each for itself, the newest version that was seen and its key.
    """

    key: str
    since: int
    started_at: float
    arms: dict[str, Counts] = field(default_factory=dict)
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    def moves(self, node: str, version: int, key: str) -> bool:
        """Whether a node compares something else from this version on than it did, and than the trial does."""
        before = self.seen.get(node)
        if before is not None and version <= before[0]:
            return False
        if before is None and len(self.seen) >= MOST_NODES:
            del self.seen[next(iter(self.seen))]
        is_known = before is not None or bool(self.seen)
        self.seen[node] = version, key
        if key == self.key or (before is not None and before[1] == key):
            return False
        # Older programs saved nothing of it; on one node versions can be compared.
        return is_known or version > self.since


@dataclass(frozen=True, slots=True)
class _Family:
    """Arms of a route that differ only in their prompt. ``prompts`` maps arm id to variant key."""

    model_key: str
    prompts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A decision that belongs to a trial. ``shares`` are what each compared arm is to get of the slice."""

    trial: Trial
    arm: str
    shares: Mapping[str, float]
    bucket: int | None


class PromptTrials:
    """Follows the log as an ``ingest.Consumer`` and ratings as a ``learner.Listener`` (``rated``).

    Routes without several prompts on one model cost a look-up per event. Memory is bounded by the configuration: arms
    that are compared, times metrics. Routes with more arms than an event lists probabilities of are not followed.
    """

    name = "prompt_trials"

    def __init__(self) -> None:
        self._families: dict[str, dict[str, _Family]] = {}
        self._trials: dict[tuple[str, str], Trial] = {}
        self._encoded: bytes | None = None

    def configure(self, settings: Settings) -> None:
        """Follow a configuration; trials of arms that are no longer compared are forgotten."""
        self._families = {}
        for route in settings.routes:
            families = _families(route)
            if families:
                self._families[route.name] = families
        kept = {(name, f.model_key) for name, families in self._families.items() for f in families.values()}
        self._trials = {key: trial for key, trial in self._trials.items() if key in kept}
        self._encoded = None

    def results(self, route: RouteSettings) -> TrialResults | None:
        """What is known of the prompts of the baseline's model, None before the first request."""
        baseline = next((arm for arm in route.arms if arm.id == route.baseline), None)
        family = self._families.get(route.name, {}).get(route.baseline)
        if baseline is None or family is None:
            return None
        trial = self._trials.get((route.name, family.model_key))
        if trial is None:
            return None
        return TrialResults(
            started_at=trial.started_at,
            arms={
                arm: VariantCounts(
                    assigned=counts.assigned,
                    expected=counts.expected,
                    metrics={metric: tally.sample() for metric, tally in counts.metrics.items()},
                )
                for arm, counts in trial.arms.items()
            },
        )

    # --- following ----------------------------------------------------------------------------------

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        if event["type"] != events.REQUEST:
            return
        data = event["data"]
        families = self._families.get(data.get("route"))
        if families is None:
            return
        entry = self._enter(families, data, event["id"])
        if entry is None:
            return
        for arm, share in entry.shares.items():
            entry.trial.arms.setdefault(arm, Counts()).expected += share
        counts = entry.trial.arms[entry.arm]
        counts.assigned += 1
        for metric, value in _outcome(data):
            counts.add(metric, value, entry.bucket)
        self._encoded = None

    def rated(self, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """See ``learner.Listener``."""
        families = self._families.get(decision.get("route") or "")
        if families is None:
            return
        entry = self._enter(families, decision, decision["request_id"])
        if entry is not None:
            entry.trial.arms.setdefault(entry.arm, Counts()).add(signal, value, entry.bucket)
            self._encoded = None

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        if self._encoded is None:
            self._encoded = orjson.dumps([_plain(key, trial) for key, trial in sorted(self._trials.items())])
        return self._encoded

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, KeyError, IndexError: If the snapshot is none of ours.
        """
        trials = {}
        for row in orjson.loads(data):
            trials[row["route"], row["model_key"]] = Trial(
                row["key"],
                int(row["since"]),
                float(row["started_at"]),
                {
                    arm: Counts(
                        int(raw["assigned"]),
                        float(raw["expected"]),
                        {metric: Tally.of(sums) for metric, sums in raw["metrics"].items()},
                    )
                    for arm, raw in row["arms"].items()
                },
                {str(node): (int(version), str(key)) for node, version, key in row.get("seen", ())},
            )
        self._trials = trials
        self._encoded = None

    # --- inside -------------------------------------------------------------------------------------

    def _enter(
        self, families: Mapping[str, _Family], data: Mapping[str, Any], request_id: str
    ) -> _Entry | None:
        """Where a decision is to be counted, None if it is not part of the slice."""
        arm = data.get("arm")
        family = families.get(arm) if isinstance(arm, str) else None
        if family is None or not isinstance(arm, str) or not _is_drawn(data, arm, family):
            return None
        compared = _compared(data, family)
        propensity = compared.get(arm, 0.0)
        if len(compared) < 2 or propensity <= 0.0:
            return None
        least = min(compared.values())
        fixed = data.get("policy") == _FIXED
        if not fixed and _uniform(request_id) * propensity >= least:
            return None
        total = sum(compared.values())
        shares = {name: p / total if fixed else 1.0 / len(compared) for name, p in compared.items()}
        split = str(data.get("selector")) if fixed else "even"
        trial = self._trial(data, family, sorted(compared), split, node_of(request_id))
        return None if trial is None else _Entry(trial, arm, shares, _bucket(data))

    def _trial(
        self, data: Mapping[str, Any], family: _Family, arms: Sequence[str], split: str, node: str
    ) -> Trial | None:
        """The trial that these arms under this split belong to; None for what an older table decided.

        A node that still has the table before says so with every newer version of it, and begins nothing anew.
        """
        place = (data["route"], family.model_key)
        key = _digest(split, *(part for arm in arms for part in (arm, family.prompts[arm])))
        version = int(data.get("table_version") or 0)
        trial = self._trials.get(place)
        if trial is not None and "context" in data and _lacks(trial, arms, family):
            return None  # This request could not have drawn one of them; others can.
        if trial is None:
            trial = self._trials[place] = Trial(key, version, data["started_ms"] * 1e-3)
            trial.moves(node, version, key)
        elif trial.moves(node, version, key):
            trial = self._trials[place] = Trial(key, version, data["started_ms"] * 1e-3, seen=trial.seen)
            self._encoded = None
        return trial if trial.key == key else None


def _families(route: RouteSettings) -> dict[str, _Family]:
    """Per arm id, the arms of a route that it may be compared with; only where there are several prompts."""
    models: dict[str, list[Arm]] = {}
    for arm in route.arms:
        models.setdefault(arm.model_key, []).append(arm)
    found: dict[str, _Family] = {}
    for model_key, arms in models.items():
        if len({arm.variant_key for arm in arms}) > 1:
            family = _Family(model_key, {arm.id: arm.variant_key for arm in arms})
            found.update(dict.fromkeys(family.prompts, family))
    return found


def _lacks(trial: Trial, arms: Sequence[str], family: _Family) -> bool:
    """Whether ``arms`` are only some of those that the trial compares, all of which are still there."""
    return set(arms) < trial.arms.keys() <= family.prompts.keys()


def _is_drawn(data: Mapping[str, Any], arm: str, family: _Family) -> bool:
    """Whether chance chose among all the compared arms, as they are configured now, on the control side."""
    return (
        bool(data.get("randomised"))
        and data.get("side") in (None, "control")
        and data.get("variant_key") == family.prompts[arm]
        and not any(name in family.prompts for name in data.get("filtered") or ())
    )


def _compared(data: Mapping[str, Any], family: _Family) -> dict[str, float]:
    """Probabilities of the compared arms in a decision; empty when the event does not list them."""
    pairs = zip(data.get("arms") or (), data.get("probabilities") or (), strict=False)
    return {arm: float(p) for arm, p in pairs if arm in family.prompts and p > 0.0}


def _outcome(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the end of a request says of the arm that was drawn for it."""
    outcome = data.get("outcome")
    if outcome == events.UPSTREAM_FAULT:
        return [(SUCCESS, 0.0)]
    if outcome != events.COMPLETED:
        return []
    served = not data.get("served_by") and not data.get("continued")
    found = [(SUCCESS, 1.0 if served else 0.0), (VALID, 0.0 if is_certain_failure(data) else 1.0)]
    if isinstance(data.get("cost_usd"), int | float):
        found.append((COST, float(data["cost_usd"])))
    if data.get("duration_ms"):
        found.append((LATENCY, float(data["duration_ms"]) * 1e-3))
    return found


def _bucket(data: Mapping[str, Any]) -> int | None:
    unit = data.get("unit_hash")
    return int(_uniform(str(unit)) * BUCKETS) if unit and data.get("unit") != "request" else None


def _uniform(text: str) -> float:
    """A number in [0, 1) that looks random and depends on the text alone."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"prompt-trials").digest()
    return int.from_bytes(digest, "big") / _HASHES


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _plain(key: tuple[str, str], trial: Trial) -> dict[str, Any]:
    return {
        "route": key[0],
        "model_key": key[1],
        "key": trial.key,
        "since": trial.since,
        "started_at": trial.started_at,
        "seen": [[node, *newest] for node, newest in trial.seen.items()],
        "arms": {
            arm: {
                "assigned": counts.assigned,
                "expected": counts.expected,
                "metrics": {metric: tally.plain() for metric, tally in counts.metrics.items()},
            }
            for arm, counts in trial.arms.items()
        },
    }
