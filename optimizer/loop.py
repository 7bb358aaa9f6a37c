"""One route's whole learning in memory, without IO: for simulations and replays, made of the product's own parts.

Decide, tell the outcome, tell ratings as they arrive; the index is frozen anew every so many outcomes, as the optimizer
process does about once a second, and arms that suddenly change are forgotten in part, as the route's ``drift`` says.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from optimizer import reward
from optimizer.drift_memory import MemoryWatch
from optimizer.indexing import Frozen, Material, freeze, gather_linear
from optimizer.linear_statistics import DONE, RATED, LinearStatistics
from optimizer.publisher import gather, goals_of, params_of
from optimizer.settings import RouteSettings
from optimizer.statistics import Statistics
from optimizer.steering import Account, Steering
from optimizer.timeline import RouteArm
from policies.contextual import ContextualSelector
from policies.linear import LinearSums
from policies.quadrature import Floats
from policies.types import FloatArray

_VERSION: Final = "loop"
_PRICE: Final = ""


class RouteLoop:
    """Learns one route. ``size`` features, of which x[0] is 1; 1 = the requests are not looked at.

    Args:
        route: Arms, objectives, constraints and policy. ``thompson`` is played, whatever ``policy.name`` says.
        size: Number of features.
        start: Event time to start at, Unix seconds.
        every: Outcomes after which the index is frozen anew.
    """

    def __init__(self, route: RouteSettings, *, size: int, start: float = 0.0, every: int = 25) -> None:
        self.route = route
        self.account = Account()
        self.statistics = Statistics()
        self.linear = LinearStatistics(self.statistics)
        self.statistics.set_half_life(route.name, route.policy.half_life_s, at=start)
        self._size, self._every, self._now = size, every, start
        self._since = 0
        self._watch = MemoryWatch(route, self.statistics, self.linear, slopes=self._slopes)
        self.frozen: Frozen = self._freeze()
        self._selector = ContextualSelector("loop", self.frozen.index)

    @property
    def status(self) -> Steering:
        """Where the constraints stand."""
        return self.frozen.steering

    @property
    def alarms(self) -> int:
        """How many sudden changes of arms were found."""
        return self._watch.alarms

    def decide(self, x: Floats, u: float, eligible: int | None = None) -> tuple[int, Sequence[float]]:
        """The arm's index for the uniform draw ``u``, and the probability of every arm."""
        mask = self._selector.full_mask if eligible is None else eligible
        return self._selector.choose(u, mask, np.asarray(x, dtype=np.float32))

    def outcome(
        self,
        arm: int,
        x: Floats,
        *,
        at: float,
        completed: bool = True,
        cost_usd: float | None = None,
        latency_s: float | None = None,
    ) -> None:
        """Learn what a request cost and how long it took; freeze anew when it is time."""
        lessons = [(reward.SUCCESS, 1.0 if completed else 0.0)]
        if completed:
            lessons.append((reward.VALID, 1.0))
            if cost_usd is not None:
                lessons += reward.costs(cost_usd, _PRICE)
                self.account.pay(cost_usd, at)
            if latency_s is not None:
                lessons.append((reward.LATENCY, float(np.log(max(latency_s, reward.LEAST_SECONDS)))))
                bound = self.route.constraints.latency_p95_ms
                if bound is not None:
                    self.account.time(late=latency_s * 1e3 > bound)
        key, vector = self._key(arm), np.asarray(x, dtype=np.float32)
        self.statistics.add(key, at, lessons)
        if self._size > 1:
            self.linear.note(self.route.name, _VERSION, at, vector)
            if completed:
                taught = [lesson for lesson in lessons if lesson[0] != reward.SUCCESS]
                self.linear.add(key, _VERSION, DONE, at, vector, taught)
        self._watch.outcome(self.route.arms[arm], lessons, at=at, version=_VERSION, x=self._looked_at(vector))
        self._now = max(self._now, at)
        self._since += 1
        if self._since >= self._every:
            self.refresh()

    def rating(self, arm: int, x: Floats, *, at: float, value: float) -> None:
        """Learn a rating (0..1) of a request that was decided at ``at``."""
        key, vector = self._key(arm), np.asarray(x, dtype=np.float32)
        self.statistics.add(key, at, [(reward.QUALITY, value)])
        if self._size > 1:
            self.linear.add(key, _VERSION, RATED, at, vector, [(reward.QUALITY, value)])
        self._watch.rating(self.route.arms[arm], value, at=at, version=_VERSION, x=self._looked_at(vector))
        self.account.rate_quality(value)

    def open_account(self) -> None:
        """Forget what was spent, not what was learned: budgets and floors are kept from here on."""
        self.account = Account()
        self.refresh()

    def refresh(self) -> None:
        """Freeze what was learned."""
        self._since = 0
        self.frozen = self._freeze()
        self._selector = ContextualSelector("loop", self.frozen.index)

    def _looked_at(self, vector: Floats) -> Floats | None:
        return vector if self._size > 1 else None

    def _slopes(self, arm: RouteArm, version: str) -> Mapping[str, FloatArray]:
        del version
        number = [self._key(number) for number in range(len(self.route.arms))].index(arm)
        return {metric: slope[number] for metric, slope in self.frozen.slopes.items()}

    def _key(self, arm: int) -> tuple[str, str, str]:
        found = self.route.arms[arm]
        return self.route.name, found.model_key, found.variant_key

    def _freeze(self) -> Frozen:
        route, goals = self.route, goals_of(self.route)
        evidence = gather(route, self.statistics, now=self._now)
        linear: dict[str, list[LinearSums | None]] = {}
        recent = None
        if self._size > 1:
            linear = gather_linear(self.linear, route, evidence, goals, _VERSION, now=self._now)
            recent = self.linear.recent(route.name, _VERSION)
        material = Material(
            route=route,
            goals=goals,
            params=params_of(route),
            evidence=evidence,
            account=self.account,
            size=self._size,
            linear=linear,
            recent=recent,
        )
        return freeze(material, now=self._now)
