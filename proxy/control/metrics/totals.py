"""Counters and histograms as plain numbers, saved and restored whole.

The invariant is that the number of series is bounded by the configuration: label values come from a
``Vocabulary``, everything else is folded into ``other``, and beyond ``MAX_ARMS`` combinations new ones are counted
as dropped and folded too. Nothing here reads a clock.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from optimizer.settings import Settings

NONE: Final = "none"
OTHER: Final = "other"

MAX_ARMS: Final = 2000
"""Most (route, arm, model) combinations that get series of their own."""

LATENCY_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BUCKETS: Final = (
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5),
    *(2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0),
)
INTER_TOKEN_BUCKETS: Final = (
    *(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
OVERHEAD_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1)

TOKEN_KINDS: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
"""Disjoint, so that their sum is the number of tokens."""

WINDOW_S: Final = 300
"""Length of the window that ``error_rate`` looks at."""
_SLOT_S: Final = 10

ArmLabels = tuple[str, str, str]


class Histogram:
    """Counts per bucket (the last one is +Inf) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, observations at or below it), as Prometheus wants them."""
        rows, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, running))
        return rows

    def quantile(self, share: float) -> float | None:
        """Upper bound of the bucket that holds this share; None without data; the last bound beyond the scale."""
        wanted = share * sum(self.counts)
        running = 0
        for bound, count in zip((*self.bounds, self.bounds[-1]), self.counts, strict=True):
            running += count
            if count and running >= wanted:
                return bound
        return None

    def save(self) -> list[Any]:
        """JSON-ready state."""
        return [list(self.bounds), self.counts, self.total]

    def restore(self, saved: Sequence[Any]) -> None:
        """Take over saved state; buckets of another version start at zero."""
        bounds, counts, total = saved
        if list(self.bounds) == list(bounds):
            self.counts, self.total = list(counts), float(total)


class ErrorWindow:
    """Requests and failures of the last ``WINDOW_S`` seconds of event time."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque(maxlen=WINDOW_S // _SLOT_S + 1)

    def add(self, at_s: float, *, failed: bool) -> None:
        """Count one request that ended at ``at_s`` (Unix seconds)."""
        slot = int(at_s) // _SLOT_S
        # Events of several workers arrive nearly in order; a straggler is counted in the newest slot.
        if not self._slots or slot > self._slots[-1][0]:
            self._slots.append([slot, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed

    def counts(self, now_s: float) -> tuple[int, int]:
        """(requests, failures) in the window that ends at ``now_s``."""
        oldest = (int(now_s) - WINDOW_S) // _SLOT_S
        recent = [slot for slot in self._slots if slot[0] > oldest]
        return sum(slot[1] for slot in recent), sum(slot[2] for slot in recent)

    def save(self) -> list[list[int]]:
        """JSON-ready state."""
        return list(self._slots)

    def restore(self, saved: Iterable[Sequence[int]]) -> None:
        """Take over saved state."""
        self._slots.clear()
        self._slots.extend(list(slot) for slot in saved)


class Growth:
    """Totals over all workers of what each of them counts from 0, which is since its own start."""

    __slots__ = ("_seen", "totals")

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._seen: dict[str, dict[str, int]] = {}

    def report(self, worker: int, counts: Mapping[str, object]) -> None:
        """Read the counts of a worker's report; only the growth since its last one is new."""
        seen = self._seen.setdefault(str(worker), {})
        for name, count in counts.items():
            if isinstance(count, int):
                self.totals[name] += max(0, count - seen.get(name, 0))
                seen[name] = count

    def forget_workers(self, kept: int) -> None:
        """Keep what the newest ``kept`` workers reported."""
        while len(self._seen) > kept:
            del self._seen[next(iter(self._seen))]

    def save(self, name: str) -> dict[str, Any]:
        """JSON-ready state, under keys that begin with ``name``."""
        return {name: self.totals, f"{name}_by_worker": self._seen}

    def restore(self, name: str, saved: Mapping[str, Any]) -> None:
        """Take over saved state; what an older version did not save starts at zero."""
        self.totals = Counter(saved.get(name, {}))
        self._seen = saved.get(f"{name}_by_worker", {})


@dataclass(slots=True)
class ArmTotals:
    """Everything counted for one (route, arm, model)."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    cost_usd: float = 0.0
    cost_unknown: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BUCKETS))
    inter_token: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_BUCKETS))
    errors: ErrorWindow = field(default_factory=ErrorWindow)

    def save(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "requests": [[*key, count] for key, count in self.requests.items()],
            "cost_usd": self.cost_usd,
            "cost_unknown": self.cost_unknown,
            "tokens": dict(self.tokens),
            "latency": self.latency.save(),
            "ttft": self.ttft.save(),
            "inter_token": self.inter_token.save(),
            "errors": self.errors.save(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over saved state."""
        self.requests = Counter({(row[0], row[1]): row[2] for row in saved["requests"]})
        self.cost_usd = saved["cost_usd"]
        self.cost_unknown = saved["cost_unknown"]
        self.tokens = Counter(saved["tokens"])
        self.latency.restore(saved["latency"])
        self.ttft.restore(saved["ttft"])
        self.inter_token.restore(saved["inter_token"])
        self.errors.restore(saved["errors"])


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The label values that the configuration allows."""

    routes: frozenset[str] = frozenset()
    arms: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    combinations: tuple[ArmLabels, ...] = ()
    upstreams: frozenset[str] = frozenset()
    breakers: tuple[tuple[str, str], ...] = ()
    """(upstream, model id) of every model."""
    caching: tuple[str, ...] = ()
    """Routes that keep answers."""

    @classmethod
    def of(cls, settings: Settings) -> "Vocabulary":
        """Every name in ``settings`` that may become a label."""
        models = frozenset(model.name for model in settings.models)
        return cls(
            routes=frozenset(route.name for route in settings.routes),
            # A model that is asked for by its own name is its own arm.
            arms=frozenset(arm.id for route in settings.routes for arm in (*route.arms, *route.fallbacks))
            | models,
            models=models,
            metrics=frozenset(metric.name for metric in settings.custom_metrics),
            combinations=tuple(
                (route.name, arm.id, arm.model) for route in settings.routes for arm in route.arms
            ),
            upstreams=frozenset(upstream.name for upstream in settings.upstreams),
            breakers=tuple(dict.fromkeys((model.upstream, model.model_id) for model in settings.models)),
            caching=tuple(route.name for route in settings.routes if route.caching is not None),
        )

    def fold(self, route: str | None, arm: str | None, model: str | None) -> ArmLabels:
        """Labels for what an event says; null becomes ``none``, an unknown name ``other``."""
        return _fold(route, self.routes), _fold(arm, self.arms), _fold(model, self.models)


def _fold(name: str | None, known: frozenset[str]) -> str:
    if name is None:
        return NONE
    return name if name in known else OTHER
