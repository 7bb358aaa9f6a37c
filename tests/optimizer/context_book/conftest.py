"""A book of steered routes with everything around it, and a clock that is set by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer import reward
from optimizer.condenser import Condenser
from optimizer.context.keeper import ProjectionKeeper
from optimizer.context_book import ContextBook
from optimizer.linear_statistics import DONE, RATED, LinearStatistics
from optimizer.publisher import Publisher
from optimizer.routing import Arm, RoutingTable, Selector
from optimizer.settings import (
    ContextSettings,
    Objective,
    RouteSettings,
    Settings,
)
from optimizer.statistics import Statistics
from optimizer.steering import Ledger

NOON = 1_795_000_000.0
CONTEXT = ContextSettings()
WORDS = ContextSettings(lexical=True, lexical_size=4)


def arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(f"{name}/default", name, "default", f"key-{name}", "key-default") for name in names)


def route(name: str = "auto", *names: str, **changes: Any) -> RouteSettings:
    made = arms(*(names or ("small", "large")))
    plain = RouteSettings(name, made, made[-1].id, (Objective("quality", 1.0, True),), context=CONTEXT)
    return replace(plain, **changes)


def settings(*routes: RouteSettings) -> Settings:
    return Settings("hash", (), (), (), routes)


@dataclass
class Bench:
    """A book with everything around it, and a clock that is set by hand."""

    directory: Path
    now: float = NOON
    pending: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock, self.rests = 0.0, list[float]()
        self.statistics = Statistics()
        self.linear = LinearStatistics(self.statistics)
        self.ledger = Ledger()
        self.keeper = ProjectionKeeper()
        self.condenser = Condenser(self.keeper, self.directory)
        self.book = ContextBook(
            statistics=self.statistics,
            linear=self.linear,
            ledger=self.ledger,
            condenser=self.condenser,
            relearning=lambda: self.pending,
            directory=self.directory,
            now=lambda: self.now,
            clock=self.tick,
            rest=self.rest,
        )
        self.publisher = Publisher(seed=1, steered=self.book)

    def tick(self) -> float:
        """Every look at the clock is a tenth of a second later."""
        self.clock += 0.1
        return self.clock

    async def rest(self, seconds: float) -> None:
        self.rests.append(seconds)

    def configure(self, *routes: RouteSettings) -> Settings:
        made = settings(*routes)
        self.condenser.configure(made)
        self.book.configure(made)
        return made

    def table(self, *routes: RouteSettings, dirty: set[str] | None = None) -> RoutingTable:
        return self.publisher.build(settings(*routes), self.statistics, version=1, now=self.now, dirty=dirty)

    def teach(self, better: str, name: str = "auto") -> None:
        """Sixty ratings of each arm of a route, by which one is better by 0.6, whatever the request."""
        rng = np.random.default_rng(3)
        features = self.book.features(route(name))
        for number in range(60):
            for other in ("small", "large"):
                x = np.zeros(features.size if features is not None else 1, np.float32)
                x[0] = 1.0
                if len(x) > 1:
                    x[1] = rng.normal()
                value = float(np.clip((0.9 if other == better else 0.3) + 0.02 * rng.normal(), 0.0, 1.0))
                key, at = (name, f"key-{other}", "key-default"), NOON + number
                taught = [*reward.costs(0.001 if other == "small" else 0.01, "")]
                self.statistics.add(key, at, [(reward.SUCCESS, 1.0), (reward.VALID, 1.0), *taught])
                self.statistics.add(key, at, [(reward.QUALITY, value)])
                if features is not None:
                    self.linear.note(name, features.version, at, x)
                    self.linear.add(key, features.version, DONE, at, x, taught)
                    self.linear.add(key, features.version, RATED, at, x, [(reward.QUALITY, value)])
        self.book.mark([name])

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if path.name.startswith("sel-")}


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[[], Bench]:
    return lambda: Bench(tmp_path)


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()


def favoured(selector: Selector) -> int:
    return int(np.argmax(selector.probabilities))
