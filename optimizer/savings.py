"""What the optimizer saved, in dollars: the sum over completed requests of (baseline's mean cost - actual
cost).

The baseline's cost is the mean of what completed requests on the route's baseline arm cost, as known when
the event is read. A request's own cost is that of all its attempts: failed ones were paid for too. Requests
that the baseline served count too, so that dear and cheap prompts even out. This estimate is additive and
needs no second call; it does not correct for prompts that only some arms can serve.
A request whose own cost or whose baseline's cost is unknown is counted as unknown, never as 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import orjson

from optimizer import events
from optimizer.log.segment import Position
from optimizer.reward import serving_cost


class MeanCost(Protocol):
    """``Learner.mean_cost_usd``: mean cost on an arm of a route as known at a time, None when unknown."""

    def __call__(self, route: str, arm_id: str, *, at: float) -> float | None: ...


@dataclass(slots=True)
class RouteSavings:
    """Totals of one route: ``saved_usd`` = baseline - actual over ``requests``; ``unknown`` are left out."""

    saved_usd: float = 0.0
    actual_usd: float = 0.0
    requests: int = 0
    unknown: int = 0

    @property
    def baseline_usd(self) -> float:
        """What the counted requests would have cost on the baseline."""
        return self.saved_usd + self.actual_usd


class Savings:
    """Follows the log as an ``ingest.Consumer``. ``routes`` holds totals by route name."""

    name = "savings"

    def __init__(self, mean_cost: MeanCost) -> None:
        self._mean_cost = mean_cost
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
        # The sum is of what is known; without the serving attempt's part it says nothing.
        cost = None if serving_cost(data)[0] is None else data.get("cost_usd")
        mean = None if cost is None else self._mean_cost(name, baseline, at=data["started_ms"] * 1e-3)
        if cost is None or mean is None:
            route.unknown += 1
            return
        route.requests += 1
        route.actual_usd += cost
        route.saved_usd += mean - cost

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return orjson.dumps({name: asdict(route) for name, route in self.routes.items()})

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError: If the snapshot is none of ours.
        """
        self.routes = {name: RouteSavings(**fields) for name, fields in orjson.loads(data).items()}
