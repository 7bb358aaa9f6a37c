"""What the demo has seen so far: counts, costs, quality and latency per arm, and the saving. Pure.

Invariant: only replies that arrived are counted, with the cost their own usage and the listed price give;
the saving compares the cost per request with that of the model whose answers were graded best.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

RECENT = 150
ENOUGH = 15
KEPT_LATENCIES = 2000


@dataclass(frozen=True, slots=True)
class Seen:
    """One reply: the arm that gave it, its cost (USD), latency (seconds) and grade (0..1)."""

    arm: str
    model: str
    cost_usd: float
    latency_s: float
    quality: float
    streamed: bool


@dataclass(slots=True)
class Totals:
    """Sums over some replies."""

    count: int = 0
    cost_usd: float = 0.0
    quality: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))

    def add(self, seen: Seen) -> None:
        self.count += 1
        self.cost_usd += seen.cost_usd
        self.quality += seen.quality
        self.latencies_s.append(seen.latency_s)

    @property
    def mean_cost_usd(self) -> float:
        return self.cost_usd / self.count if self.count else 0.0

    @property
    def mean_quality(self) -> float:
        return self.quality / self.count if self.count else 0.0

    @property
    def p50_s(self) -> float:
        return median(self.latencies_s) if self.latencies_s else 0.0


@dataclass(frozen=True, slots=True)
class Saving:
    """Against always using ``model``: what a request costs there and here (USD), and both qualities."""

    model: str
    there_usd: float
    here_usd: float
    there_quality: float
    here_quality: float

    @property
    def fraction(self) -> float:
        return 1.0 - self.here_usd / self.there_usd if self.there_usd else 0.0


@dataclass(slots=True)
class Tally:
    """Everything seen, whole, per arm, per model, and lately."""

    total: Totals = field(default_factory=Totals)
    arms: dict[str, Totals] = field(default_factory=dict)
    models: dict[str, Totals] = field(default_factory=dict)
    recent: deque[Seen] = field(default_factory=lambda: deque(maxlen=RECENT))
    errors: Counter[str] = field(default_factory=Counter)
    streamed: int = 0
    feedback: int = 0

    def add(self, seen: Seen) -> None:
        """Count one reply."""
        self.total.add(seen)
        self.arms.setdefault(seen.arm, Totals()).add(seen)
        self.models.setdefault(seen.model, Totals()).add(seen)
        self.recent.append(seen)
        self.streamed += seen.streamed

    def shares(self) -> Mapping[str, float]:
        """Share of each arm among the newest replies."""
        counts = Counter(seen.arm for seen in self.recent)
        return {arm: count / len(self.recent) for arm, count in counts.most_common()}

    def best_model(self) -> str | None:
        """The model with the best graded answers, once each model seen has had enough of them."""
        if not self.models or any(totals.count < ENOUGH for totals in self.models.values()):
            return None
        return max(self.models, key=lambda model: self.models[model].mean_quality)

    def saving(self, *, lately: bool = False) -> Saving | None:
        """The whole run's (or the newest replies') cost beside that of the best model's own replies."""
        best = self.best_model()
        if best is None:
            return None
        here = self.total
        if lately:
            here = Totals()
            for seen in self.recent:
                here.add(seen)
        there = self.models[best]
        return Saving(best, there.mean_cost_usd, here.mean_cost_usd, there.mean_quality, here.mean_quality)
