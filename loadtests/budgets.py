"""The figures to reach (section 6 of the first issue), as data.

Invariant: a figure that a scenario reports under a name listed here is judged by this list alone; every
other figure is information.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on one figure: ``at_least`` or ``at_most``, in the figure's unit."""

    text: str
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a measured value keeps the bound."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


BUDGETS: Mapping[str, Budget] = {
    "unary: throughput / aiohttp": Budget(">= 2.5", at_least=2.5),
    "unary: throughput / nginx": Budget(">= 0.25", at_least=0.25),
    "tls: throughput / aiohttp": Budget(">= 2", at_least=2.0),
    "prompts of 100 KB: throughput / aiohttp": Budget(">= 1.3", at_least=1.3),
    "added latency p50 / aiohttp": Budget("<= 0.7", at_most=0.7),
    "p99 at 500 requests/s": Budget("<= 2 ms", at_most=2.0),
    "relay CPU per chunk / nginx": Budget("<= 1.5", at_most=1.5),
    "decision p50, 10 arms": Budget("<= 5 us", at_most=5.0),
    "decision p50, 1000 arms": Budget("<= 60 us", at_most=60.0),
    "contextual decision p50, 10 arms, d = 32": Budget("<= 60 us", at_most=60.0),
    "contextual features p50, 2 KB": Budget("<= 60 us", at_most=60.0),
    "contextual table: parse": Budget("<= 2 ms", at_most=2.0),
    "contextual table: longest stall": Budget("<= 5 ms", at_most=5.0),
    "event: serialize + append p50": Budget("<= 8 us", at_most=8.0),
    "learner": Budget(">= 20,000 events/s", at_least=20_000.0),
    "learner, contextual": Budget(">= 10,000 events/s", at_least=10_000.0),
    "goodput at 2x / peak": Budget(">= 0.9", at_least=0.9),
    "shed reply p99 at 2x": Budget("<= 10 ms", at_most=10.0),
    "healthy p99, attacked / calm": Budget("<= 1.2", at_most=1.2),
    "worker RSS, idle": Budget("<= 70 MB", at_most=70.0),
    "worker RSS per open stream": Budget("<= 30 KB", at_most=30.0),
    "serve: start to ready": Budget("<= 1.5 s", at_most=1.5),
    "faults, all: met": Budget("100 %", at_least=100.0),
}
