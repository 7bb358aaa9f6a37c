"""The consumer that turns events into totals; an ``optimizer.ingest`` consumer like the learner.

Its snapshot is saved in the transaction that saves the log cursor, so a total counts every event exactly once,
whatever was killed. Gauges of workers are not saved: they speak for themselves every 250 ms.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from optimizer import events
from proxy.control.metrics.faults import AttemptTotals, BreakerTotals
from proxy.control.metrics.totals import (
    MAX_ARMS,
    OTHER,
    OVERHEAD_BUCKETS,
    ArmLabels,
    ArmTotals,
    Growth,
    Histogram,
    Vocabulary,
)

_VERSION: Final = 1
_REMEMBERED_WORKERS: Final = 256
_WORKER_COUNTS: Final = ("shed", "evicted")
_STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(slots=True)
class WorkerSeen:
    """The last report of a worker and when it was read (Unix seconds)."""

    at: float
    data: Mapping[str, Any]


class MetricsObserver:
    """Totals of one node.

    Args:
        vocabulary: Names that may become labels; replace it with ``use`` when the configuration changes.
        now: Unix seconds; stamps worker reports only.
    """

    name = "metrics"

    def __init__(self, vocabulary: Vocabulary, *, now: Callable[[], float]) -> None:
        self.arms: dict[ArmLabels, ArmTotals] = {}
        self.overhead: dict[str, Histogram] = {}
        self.custom_sums: defaultdict[str, float] = defaultdict(float)
        self.custom_counts: Counter[str] = Counter()
        self._losses = Growth()
        self._worker_counts = Growth()
        self._samples = Growth()
        self.cache: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[str] = Counter()
        self.dropped_series = 0
        self.attempts = AttemptTotals()
        self.breakers = BreakerTotals()
        self.workers: dict[int, WorkerSeen] = {}
        self._now = now
        self._vocabulary = vocabulary
        self._memo: dict[tuple[Any, Any, Any], tuple[ArmLabels, ArmTotals]] = {}
        # By route the arms that ever counted, encoded, None if they counted on since; and what is saved of all of them.
        self._encoded: dict[str, dict[ArmLabels, orjson.Fragment | None]] = {}
        self._saved: dict[str, bytes] = {}
        self._stale: set[str] = set()
        self._readers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            events.REQUEST: self._request,
            events.FEEDBACK: self._feedback,
            events.WORKER_STATS: self._worker,
            events.CONFIG_RELOADED: self._reloaded,
        }
        self.use(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names in use."""
        return self._vocabulary

    @property
    def lost(self) -> Counter[str]:
        """Lines that workers could not log, by reason."""
        return self._losses.totals

    @property
    def worker_counts(self) -> Counter[str]:
        """What workers counted besides events, all together: ``shed``, ``evicted``, ``diversions``."""
        return self._worker_counts.totals

    @property
    def samples(self) -> Counter[str]:
        """Requests that workers drew for a judge, by what became of their content."""
        return self._samples.totals

    def use(self, vocabulary: Vocabulary) -> None:
        """Fold names by another configuration from now on; totals that exist stay."""
        self._vocabulary = vocabulary
        self._memo.clear()
        self.attempts.use(vocabulary)
        self.breakers.use(vocabulary)
        for labels in vocabulary.combinations:
            self._at(labels)
            self._overhead(labels[0])

    def observe(self, event: Mapping[str, Any], where: object) -> None:
        """Count one event; types and fields that are not ours are ignored."""
        del where
        reader = self._readers.get(event.get("type", ""))
        data = event.get("data")
        if reader is not None and isinstance(data, dict):
            reader(data)

    def snapshot(self) -> bytes:
        """All totals, for ``restore``."""
        return self._snapshot(self.arms)

    def snapshot_parts(self) -> Mapping[str, bytes]:
        """See ``ingest.PartedConsumer``: the arms by route, since a step concerns few of thousands."""
        for route in self._stale:
            encoded = self._encoded[route]
            for labels in [labels for labels, row in encoded.items() if row is None]:
                encoded[labels] = orjson.Fragment(orjson.dumps([*labels, self.arms[labels].save()]))
            self._saved[route] = orjson.dumps(list(encoded.values()))
        self._stale.clear()
        return {"": self._snapshot(()), **self._saved}

    def _snapshot(self, arms: Iterable[ArmLabels]) -> bytes:
        return orjson.dumps(
            {
                "version": _VERSION,
                "arms": [[*labels, self.arms[labels].save()] for labels in arms],
                "overhead": {route: histogram.save() for route, histogram in self.overhead.items()},
                "custom_sums": self.custom_sums,
                "custom_counts": self.custom_counts,
                **self._losses.save("lost"),
                **self._worker_counts.save("worker_counts"),
                **self._samples.save("samples"),
                "cache": [[*key, count] for key, count in self.cache.items()],
                "reloads": self.reloads,
                "dropped_series": self.dropped_series,
                **self.attempts.save(),
                **self.breakers.save(),
            }
        )

    def restore(self, data: bytes) -> None:
        """Take over what ``snapshot`` saved; nothing (or another version) starts at zero."""
        saved = orjson.loads(data) if data else {}
        if saved.get("version") != _VERSION:
            return
        self.arms = {}
        for kept in (self._memo, self._encoded, self._saved, self._stale):
            kept.clear()
        self._restore_arms(saved["arms"])
        for route, histogram in saved["overhead"].items():
            self._overhead(route).restore(histogram)
        self.custom_sums = defaultdict(float, saved["custom_sums"])
        self.custom_counts = Counter(saved["custom_counts"])
        self._losses.restore("lost", saved)
        self._worker_counts.restore("worker_counts", saved)
        self._samples.restore("samples", saved)
        self.cache = Counter({(row[0], row[1]): row[2] for row in saved.get("cache", ())})
        self.reloads = Counter(saved["reloads"])
        self.dropped_series = saved["dropped_series"]
        self.attempts.restore(saved)
        self.breakers.restore(saved)
        self.use(self._vocabulary)

    def restore_part(self, data: bytes) -> None:
        """Take over one of ``snapshot_parts``, after the first one."""
        rows = orjson.loads(data)
        self._restore_arms(rows)
        for route in {row[0] for row in rows}:
            self._saved[route] = data
            self._stale.discard(route)

    def _restore_arms(self, rows: Iterable[Sequence[Any]]) -> None:
        for route, arm, model, totals in rows:
            labels = (route, arm, model)
            self._at(labels).restore(totals)
            self._counts_on(labels)

    def _counts_on(self, labels: ArmLabels) -> None:
        encoded = self._encoded.get(labels[0])
        if encoded is None:
            encoded = self._encoded[labels[0]] = {}
        encoded[labels] = None
        self._stale.add(labels[0])

    def _request(self, data: Mapping[str, Any]) -> None:
        attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or ()
        self.attempts.count(attempts, self._vocabulary)
        route = data.get("route")
        several = len(attempts) > 1
        # Who served the caller, and what that cost, is in the last attempt.
        serving = attempts[-1] if several else data
        totals = self._totals((route, serving.get("arm"), serving.get("model")))
        outcome = data.get("outcome")
        known = outcome if outcome in events.OUTCOMES else OTHER
        totals.requests[known, _status_class(data.get("status"))] += 1
        if data.get("cached"):
            return  # Nobody was asked: it says nothing about the arm, and cost nothing.
        cost = serving.get("cost_usd")
        if cost is not None:
            totals.cost_usd += cost
        elif known == events.COMPLETED and serving.get("arm") is not None:
            totals.cost_unknown += 1
        for attempt in attempts[:-1] if several else ():
            self._spent(self._totals((route, attempt.get("arm"), attempt.get("model"))), attempt)
        duration_ms = data.get("duration_ms", 0.0)
        if known in (events.COMPLETED, events.UPSTREAM_FAULT):
            ended_s = (data.get("started_ms", 0) + duration_ms) / 1000.0
            totals.errors.add(ended_s, failed=known != events.COMPLETED)
        if known == events.COMPLETED:
            totals.latency.observe(duration_ms / 1000.0)
            if data.get("stream") and data.get("ttft_ms") is not None:
                totals.ttft.observe(data["ttft_ms"] / 1000.0)
            if data.get("itl_ms") is not None:
                totals.inter_token.observe(data["itl_ms"] / 1000.0)
        _count_tokens(totals, data)
        overhead_ms = data.get("overhead_ms")
        if overhead_ms is not None:
            self._overhead(self._vocabulary.fold(route, None, None)[0]).observe(overhead_ms / 1000.0)

    def _spent(self, totals: ArmTotals, attempt: Mapping[str, Any]) -> None:
        """Count what an attempt used up that another one took over from."""
        totals.cost_usd += attempt.get("cost_usd") or 0.0
        for kind in ("input", "output"):
            count = attempt.get(f"{kind}_tokens")
            if count:
                totals.tokens[kind] += count

    def _feedback(self, data: Mapping[str, Any]) -> None:
        metric, value = data.get("metric"), data.get("value")
        known = metric if metric in self._vocabulary.metrics else None
        if known is not None and isinstance(value, int | float):
            self.custom_sums[known] += value
            self.custom_counts[known] += 1

    def _worker(self, data: Mapping[str, Any]) -> None:
        worker = data.get("worker")
        if not isinstance(worker, int):
            return
        self.workers[worker] = WorkerSeen(self._now(), data)
        self._losses.report(worker, data.get("lost", {}))
        counted = {name: data.get(name) for name in _WORKER_COUNTS}
        self._worker_counts.report(worker, counted | {"diversions": data.get("log", {}).get("diversions")})
        self._samples.report(worker, data.get("content", {}))
        for route, result, count in data.get("cache", {}).get("requests", ()):
            self.cache[self._vocabulary.fold(route, None, None)[0], result] += count
        for growth in (self._losses, self._worker_counts, self._samples):
            growth.forget_workers(_REMEMBERED_WORKERS)
        self.breakers.report(worker, data.get("breakers"))
        self.breakers.forget_workers(_REMEMBERED_WORKERS)
        while len(self.workers) > _REMEMBERED_WORKERS:
            del self.workers[next(iter(self.workers))]

    def _reloaded(self, data: Mapping[str, Any]) -> None:
        self.reloads["success" if data.get("result") == "applied" else "failure"] += 1

    def _totals(self, key: tuple[Any, Any, Any]) -> ArmTotals:
        labels, totals = self._memo.get(key) or self._find(key)
        self._counts_on(labels)
        return totals

    def _find(self, key: tuple[Any, Any, Any]) -> tuple[ArmLabels, ArmTotals]:
        labels = self._vocabulary.fold(*key)
        if labels not in self.arms and len(self.arms) >= MAX_ARMS:
            self.dropped_series += 1
            labels = (OTHER, OTHER, OTHER)
        found = labels, self._at(labels)
        if len(self._memo) < 2 * MAX_ARMS:
            self._memo[key] = found
        return found

    def _at(self, labels: ArmLabels) -> ArmTotals:
        totals = self.arms.get(labels)
        if totals is None:
            totals = self.arms[labels] = ArmTotals()
        return totals

    def _overhead(self, route: str) -> Histogram:
        histogram = self.overhead.get(route)
        if histogram is None:
            histogram = self.overhead[route] = Histogram(OVERHEAD_BUCKETS)
        return histogram


def _status_class(status: object) -> str:
    if isinstance(status, int) and 100 <= status < 600:
        return _STATUS_CLASSES[status // 100 - 1]
    return OTHER


def _count_tokens(totals: ArmTotals, data: Mapping[str, Any]) -> None:
    """Split usage into disjoint kinds; what a provider reports beyond its own total is cut, not negative."""
    tokens = totals.tokens
    received = data.get("gen_ai.usage.input_tokens")
    if received:
        cached = data.get("gen_ai.usage.cache_read.input_tokens") or 0
        written = data.get("gen_ai.usage.cache_creation.input_tokens") or 0
        tokens["cached_input"] += cached
        tokens["cache_write"] += written
        tokens["input"] += max(0, received - cached - written)
    produced = data.get("gen_ai.usage.output_tokens")
    if produced:
        reasoning = data.get("reasoning_tokens") or 0
        tokens["reasoning"] += reasoning
        tokens["output"] += max(0, produced - reasoning)
