"""What the optimizer saved, in dollars: the sum over completed requests of (baseline's mean cost - actual
cost), and how sure that is.

The baseline's cost is the mean of what completed requests on the route's baseline arm cost, as known when
the event is read. A request's own cost is that of all its attempts: failed ones were paid for too. Requests
that the baseline served count too, so that dear and cheap prompts even out. This estimate is additive and
needs no second call; it does not correct for prompts that only some arms can serve.
A request whose own cost or whose baseline's cost is unknown is counted as unknown, never as 0.

The 95 % interval covers two things. The baseline's mean is of few requests, and all that are compared with it share
its error, as far as it is still of the same requests: with each that is compared the variance of the sum grows by the
mean's own and twice its covariance with the means before. Old requests count less in it, but forgetting alone, with
nothing new, makes a mean no worse. And requests differ by chance: the scatter of the differences. It holds both for
what these very requests would have cost on the baseline and for what such traffic saves on average, and is a little
too wide for either. It does not cover that arms may get other kinds of prompts (contextual routes, arms that can not
serve some), that the baseline's cost drifts faster than the route forgets, or prices that are wrong. While the
baseline has served fewer than about twenty requests it is too narrow, because costs are skewed: with eight it holds
the truth in 91 of 100 cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final, Protocol

import orjson

from optimizer import events
from optimizer.history_rings import HistoryRings
from optimizer.log.segment import Position
from optimizer.reward import is_cached, is_continued, serving_cost
from policies.types import Moments

# Two-sided 95 % of a Gaussian.
_WIDTH: Final = 1.959964
_TOTALS: Final = ("saved_usd", "actual_usd", "requests", "unknown")
_OF_INTERVAL: Final = ("measured", "differences", "squares", "uncertainty", "spread", "carried", "fresh")
_INTERVAL: Final = "interval"


class Cost(Protocol):
    """``Learner.cost_usd``: cost on an arm of a route as known at a time, None when unknown."""

    def __call__(self, route: str, arm_id: str, *, at: float) -> Moments | None: ...


@dataclass(slots=True)
class RouteSavings:
    """Totals of one route: ``saved_usd`` = baseline - actual over ``requests``; ``unknown`` are left out.

    Of the newest ``measured`` requests the uncertainty is known (older programs kept none): sum and sum of squares of
    their differences, and the variance of the sum of the baseline's means. ``spread`` is the variance of the newest of
    these means and ``carried`` the sum of its covariances with those before, both for costs of variance 1; ``fresh``
    requests that the baseline served came into it since it was looked at.
    """

    saved_usd: float = 0.0
    actual_usd: float = 0.0
    requests: int = 0
    unknown: int = 0
    measured: int = 0
    differences: float = 0.0
    squares: float = 0.0
    uncertainty: float = 0.0
    spread: float = 0.0
    carried: float = 0.0
    fresh: int = 0

    @property
    def baseline_usd(self) -> float:
        """What the counted requests would have cost on the baseline."""
        return self.saved_usd + self.actual_usd

    @property
    def variance(self) -> float | None:
        """Of ``saved_usd``; None when too little was measured."""
        if self.measured < 2:
            return None
        scatter = max(self.squares - self.differences * self.differences / self.measured, 0.0)
        # Nobody knows how far off the older ones are; here it is as far as the newer ones, and to the same side.
        before = self.requests / self.measured
        return (scatter + self.uncertainty) * before * before

    def compare(self, cost: float, baseline: Moments) -> float:
        """Count a request by its cost and what is known of the baseline's; what it saved."""
        saved = baseline.mean - cost
        self.requests += 1
        self.actual_usd += cost
        self.saved_usd += saved
        self.measured += 1
        self.differences += saved
        self.squares += saved * saved
        self._share_error(baseline.weight)
        known = 1.0 / self.spread
        # As if one more request had been seen whose cost is off by all of the mean: one alone shows no scatter.
        scatter = (known * baseline.variance + baseline.mean * baseline.mean) / (known + 1.0)
        # The last factor is for what few of them say about their scatter.
        self.uncertainty += scatter * (self.spread + 2.0 * self.carried) * (known + 2.0) / known
        return saved

    def _share_error(self, weight: float) -> None:
        """Bring ``spread`` and ``carried`` to the baseline's present mean, of observations of that (decayed) weight."""
        if self.spread > 0.0:
            kept = max(1.0 - self.fresh / weight, 0.0)
            self.carried = (self.carried + self.spread) * kept
            self.spread = kept * kept * self.spread + self.fresh / (weight * weight)
        # No observation weighs more than 1, so a mean of this weight is no worse; and there is one at least.
        self.spread = min(self.spread or 1.0, 1.0 / weight, 1.0)
        self.fresh = 0


@dataclass(frozen=True, slots=True)
class Saving:
    """Savings as they are shown, of one route or of several, with a 95 % interval; None where nothing is known.

    ``share`` is of what the baseline would have cost.
    """

    requests: int
    unknown: int
    actual_usd: float | None
    baseline_usd: float | None
    saved_usd: float | None
    low_usd: float | None
    high_usd: float | None
    share: float | None
    low_share: float | None
    high_share: float | None


def saving_of(routes: list[RouteSavings]) -> Saving:
    """All of ``routes`` together; their errors are independent, since each has its own baseline."""
    counted = [route for route in routes if route.requests]
    requests, unknown = sum(route.requests for route in routes), sum(route.unknown for route in routes)
    if not counted:
        return Saving(requests, unknown, *(None,) * 8)
    actual = sum(route.actual_usd for route in counted)
    saved = sum(route.saved_usd for route in counted)
    low = high = None
    variances = [route.variance for route in counted]
    known = [variance for variance in variances if variance is not None]
    if len(known) == len(variances):
        reach = _WIDTH * sqrt(sum(known))
        low, high = saved - reach, saved + reach
    shares = (_share(usd, actual) for usd in (saved, low, high))
    return Saving(requests, unknown, actual, saved + actual, saved, low, high, *shares)


class Savings:
    """Follows the log as an ``ingest.PartedConsumer``. ``routes`` holds totals by route name.

    Args:
        cost: What an arm's requests cost.
        history: Where it is counted by time, too.
    """

    name = "savings"

    def __init__(self, cost: Cost, history: HistoryRings) -> None:
        self._cost = cost
        self._history = history
        self.routes: dict[str, RouteSavings] = {}

    @property
    def total_usd(self) -> float:
        """Saved on all routes; negative when optimizing cost more than the baselines would have."""
        return sum(route.saved_usd for route in self.routes.values())

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        if event["type"] != events.REQUEST:
            return
        data = event["data"]
        name, baseline = data.get("route"), data.get("baseline_arm")
        if not name or not baseline or data.get("outcome") != events.COMPLETED:
            return
        route = self.routes.get(name)
        if route is None:
            route = self.routes[name] = RouteSavings()
        route.fresh += _teaches(data, baseline)
        # The sum is of what is known; without the serving attempt's part it says nothing.
        cost = None if serving_cost(data)[0] is None else data.get("cost_usd")
        started_s = data["started_ms"] * 1e-3
        known = None if cost is None else self._cost(name, baseline, at=started_s)
        if cost is None or known is None:
            route.unknown += 1
            return
        saved = route.compare(cost, known)
        figures = self._history.at(started_s + 1e-3 * data.get("duration_ms", 0.0), name)
        if figures is not None:
            figures.saved_usd += saved

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``: the totals, as older programs read them, too."""
        return self._encoded(_TOTALS)

    def snapshot_parts(self) -> Mapping[str, bytes]:
        """See ``ingest.PartedConsumer``: what older programs do not know is in a part that they leave alone."""
        return {"": self.snapshot(), _INTERVAL: self._encoded(_OF_INTERVAL)}

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``; also reads what older programs saved.

        Raises:
            ValueError, TypeError: If the snapshot is none of ours.
        """
        self.routes = {name: RouteSavings(**fields) for name, fields in orjson.loads(data).items()}

    def restore_part(self, data: bytes) -> None:
        """See ``ingest.PartedConsumer``."""
        for name, fields in orjson.loads(data).items():
            route = self.routes.get(name)
            if route is not None:
                for field in _OF_INTERVAL:
                    setattr(route, field, fields[field])

    def _encoded(self, fields: tuple[str, ...]) -> bytes:
        rows = self.routes.items()
        return orjson.dumps(
            {name: {field: getattr(route, field) for field in fields} for name, route in rows}
        )


def _teaches(data: Mapping[str, Any], baseline: str) -> bool:
    """Whether a completed request taught what the baseline costs."""
    attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or ()
    served = attempts[-1].get("arm") if len(attempts) > 1 else data.get("arm")
    return served == baseline and not is_cached(data) and not is_continued(data)


def _share(saved: float | None, actual: float) -> float | None:
    """Of what the baseline would have cost; None when that is nothing, or less."""
    if saved is None or saved + actual <= 0.0:
        return None
    return saved / (saved + actual)
