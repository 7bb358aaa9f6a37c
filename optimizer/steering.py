"""Where a route's constraints stand: what was asked, what requests really cost, how good and how late they were.

The ledger follows the log and keeps sums that forget by request, so that an old excess is not paid back for ever; they
do not depend on the targets, which may be relative and move. ``aims_of`` corrects the targets by what was really spent,
because a model that is a little wrong would miss them a little for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from optimizer import events
from optimizer.log.segment import Position
from optimizer.reward import QUALITY as QUALITY_SIGNAL
from optimizer.reward import is_cached, is_certain_failure
from optimizer.routing import CANDIDATE
from optimizer.settings import Constraints
from policies.beliefs import Beliefs
from policies.steering import COST, LATE, QUALITY, Aims, Course, Multipliers, missed
from policies.types import FloatArray

# Requests after which what happened has faded to 1/e; of costs, those of so many seconds where they are more.
MEMORY = 1000.0
_MEMORY_S = 40.0
# An excess of cost is paid back within about so many requests, at most at half or one and a half times the target.
_PAY_BACK = 150.0
# But not faster than what is done about it can be seen: selectors are frozen once a second, workers take them up and
# the log tells what came of them. A correction that is repeated meanwhile overshoots, and swings for ever.
_PAY_BACK_S = 6.0
_LARGEST_CORRECTION = 0.5
# Ratings scatter far more than their mean moves, so quality is corrected slowly and little.
_PAY_BACK_RATED = 1000.0
_LARGEST_QUALITY_CORRECTION = 0.005
LATE_SHARE = 0.05
_DAY_S = 86400.0
# The pace of requests is the mean over about so long. A shorter look than the least counts as if it had been that long.
_PACE_S = 3600.0
_LEAST_LOOK = 10.0 / _PACE_S
# After a pause, or a clock that was set, the pace before counts like a look of a minute.
_LOOK_BEFORE = 60.0 / _PACE_S
_SOONEST_FORECAST_S = 60.0
# Days whose spending is kept: requests end after midnight, and clocks jump.
_DAYS = 3
_KEEP = 1.0 - 1.0 / MEMORY


@dataclass(slots=True)
class Account:
    """Fading sums of one route.

    ``days`` are UTC days with what was spent on them, the last one booked on last. ``arrivals`` over ``looked`` is the
    number of requests in ``_PACE_S`` seconds: both fade, and ``looked`` 0..1 says how much of that time was seen.
    """

    priced: float = 0.0
    cost_usd: float = 0.0
    rated: float = 0.0
    quality: float = 0.0
    timed: float = 0.0
    late: float = 0.0
    days: tuple[tuple[int, float], ...] = ()
    arrivals: float = 0.0
    looked: float = 0.0
    last_at: float = 0.0

    def pay(self, cost_usd: float, at: float) -> None:
        """Book the cost of a completed request that began at ``at`` (Unix seconds)."""
        # In proportion to the time that an excess is paid back in, or little of it would ever be.
        keep = 1.0 - 1.0 / max(MEMORY, _MEMORY_S * self.pace)
        self.priced = self.priced * keep + 1.0
        self.cost_usd = self.cost_usd * keep + cost_usd
        self.spend(cost_usd, at)

    def spend(self, cost_usd: float, at: float) -> None:
        """Book only what it takes from the money of the day."""
        day = int(at // _DAY_S)
        others = tuple([booked for booked in self.days if booked[0] != day])
        self.days = (*others[1 - _DAYS :], (day, self.spent_on(day) + cost_usd))
        if self.last_at <= 0.0:
            self.last_at = at  # One request alone tells no pace.
            return
        passed = at - self.last_at
        if abs(passed) > _PACE_S:
            # Neither a quiet night nor a clock that was set says that there will be one request a night.
            pace = self.pace
            seldom = _PACE_S / abs(passed)
            before = pace * _PACE_S if passed < 0.0 else (0.5 * (pace * _PACE_S + seldom) if pace else seldom)
            self.arrivals, self.looked, self.last_at = before * _LOOK_BEFORE, _LOOK_BEFORE, at
            return
        if passed > 0.0:
            share = passed / _PACE_S
            self.arrivals *= 1.0 - share
            self.looked += share * (1.0 - self.looked)
            self.last_at = at
        self.arrivals += 1.0

    def spent_on(self, day: int) -> float:
        """USD spent on a UTC day, counted from 1970."""
        return dict(self.days).get(day, 0.0)

    @property
    def spent_usd(self) -> float:
        """USD spent on the day that was booked on last."""
        return self.days[-1][1] if self.days else 0.0

    @property
    def pace(self) -> float:
        """Requests per second, 0 while nobody knows."""
        return self.arrivals / max(self.looked, _LEAST_LOOK) / _PACE_S

    def without_errors(self) -> "Account":
        """Only the money of the day: for a side whose own requests this account knows nothing of."""
        return Account(days=self.days, arrivals=self.arrivals, looked=self.looked, last_at=self.last_at)

    def rate_quality(self, value: float) -> None:
        """Book a rating, or a certain failure as 0."""
        self.rated = self.rated * _KEEP + 1.0
        self.quality = self.quality * _KEEP + value

    def time(self, *, late: bool) -> None:
        """Book whether a reply was late."""
        self.timed = self.timed * _KEEP + 1.0
        self.late = self.late * _KEEP + late

    def actual(self, name: str) -> float | None:
        """Mean of recent requests, None without any."""
        count, total = {
            COST: (self.priced, self.cost_usd),
            QUALITY: (self.rated, self.quality),
            LATE: (self.timed, self.late),
        }[name]
        return total / count if count > 0.0 else None


@dataclass(frozen=True, slots=True)
class Kept:
    """One constraint: what was asked, what is expected of the policy in force, what recent requests did.

    ``target`` is in USD per request, quality 0..1 or a share of replies; ``multiplier`` what a unit of it weighs beside
    the objectives; ``feasible`` False when it can't be kept together with the others, ``expected`` being the nearest.
    """

    name: str
    target: float
    expected: float
    actual: float | None
    multiplier: float
    feasible: bool


@dataclass(frozen=True, slots=True)
class Steering:
    """All constraints of one side of a route, and how sure it is that the features tell the arms apart (0..1)."""

    kept: tuple[Kept, ...] = ()
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What constraints come to, in absolute numbers, and the same corrected by what really happened."""

    asked: Aims
    aims: Aims


def targets_of(
    constraints: Constraints,
    beliefs: Beliefs,
    requests: FloatArray,
    baseline: int,
    account: Account,
    *,
    now: float,
) -> Targets:
    """Resolve relative constraints against what the baseline would do for ``requests``, and correct by ``account``."""
    costs: list[float] = []
    daily = None
    if constraints.cost_per_request_usd is not None:
        costs.append(constraints.cost_per_request_usd)
    if constraints.cost_ratio is not None and beliefs.priced[baseline]:
        costs.append(constraints.cost_ratio * float(beliefs.cost_usd(requests)[:, baseline].mean()))
    if constraints.cost_per_day_usd is not None:
        daily = _of_the_day(constraints.cost_per_day_usd, account, now)
        if daily is not None:
            costs.append(daily)
    floors: list[float] = []
    if constraints.quality_floor is not None:
        floors.append(constraints.quality_floor)
    if constraints.quality_ratio is not None:
        # As good as it may well be: a baseline that was unlucky at first would lower its own floor, and nobody would
        # ever ask it again.
        level = requests @ beliefs.quality.weights[baseline] + float(np.sqrt(beliefs.quality.level[baseline]))
        floors.append(constraints.quality_ratio * float(level.clip(0.0, 1.0).mean()))
    asked = Aims(
        cost_usd=min(costs) if costs else None,
        quality=max(floors) if floors else None,
        late=LATE_SHARE if constraints.latency_p95_ms is not None else None,
    )
    return Targets(asked, _corrected(asked, account, is_daily=asked.cost_usd == daily))


def _corrected(asked: Aims, account: Account, *, is_daily: bool) -> Aims:
    cost, quality = asked.cost_usd, asked.quality
    # What is left of a day's money is corrected by what was spent already.
    if cost is not None and not is_daily:
        saved = (account.priced * cost - account.cost_usd) / max(_PAY_BACK, _PAY_BACK_S * account.pace)
        cost += min(max(saved, -_LARGEST_CORRECTION * cost), _LARGEST_CORRECTION * cost)
    if quality is not None:
        missing = (account.rated * quality - account.quality) / _PAY_BACK_RATED
        quality += min(max(missing, -_LARGEST_QUALITY_CORRECTION), _LARGEST_QUALITY_CORRECTION)
        quality = min(quality, 1.0)
    return Aims(cost_usd=cost, quality=quality, late=asked.late)


def _of_the_day(usd: float, account: Account, now: float) -> float | None:
    """What is left of the day's money per request that is still to come; None while their pace is unknown."""
    if account.pace <= 0.0:
        return None
    left_s = max(_DAY_S - now % _DAY_S, _SOONEST_FORECAST_S)
    return max(usd - account.spent_on(int(now // _DAY_S)), 1e-3 * usd) / (account.pace * left_s)


def status_of(targets: Targets, course: Course, account: Account, gain: float) -> Steering:
    """What to tell people: a constraint is kept when what was asked for is, or what it was corrected to.

    An aim may be out of reach because too much was spent before, and more than the target may be spent on purpose.
    """
    multipliers: Multipliers = course.multipliers
    not_kept = set(course.missed) & set(missed(targets.asked, course.expected))
    rows = (
        (COST, targets.asked.cost_usd, course.expected.cost_usd, multipliers.cost),
        (QUALITY, targets.asked.quality, course.expected.quality, multipliers.quality),
        (LATE, targets.asked.late, course.expected.late, multipliers.late),
    )
    return Steering(
        tuple(
            Kept(name, target, expected, account.actual(name), multiplier, name not in not_kept)
            for name, target, expected, multiplier in rows
            if target is not None
        ),
        gain,
    )


class Ledger:
    """Accounts of all routes; follows the log as an ``ingest.Consumer``.

    They are of the control sides. What a candidate's requests cost and are worth is no error of those; only the money
    of the day is one for both.

    ``bounds_ms``, by route, is when a reply counts as late; whoever resolves the constraints sets it.
    """

    name = "steering"

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.bounds_ms: dict[str, float] = {}

    def account(self, route: str) -> Account:
        """The account of a route, empty at first."""
        return self.accounts.get(route) or Account()

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        if event["type"] != events.REQUEST:
            return
        data = event["data"]
        route = data.get("route")
        if not route or data.get("outcome") != events.COMPLETED or is_cached(data):
            return
        account = self._account(route)
        cost = data.get("cost_usd")
        at = data["started_ms"] * 1e-3
        if data.get("side") == CANDIDATE:
            if cost is not None:
                account.spend(float(cost), at)
            return
        if cost is not None:
            account.pay(float(cost), at)
        if is_certain_failure(data):
            account.rate_quality(0.0)
        bound = self.bounds_ms.get(route)
        took = data.get("ttft_ms") if data.get("stream") else data.get("duration_ms")
        if bound is not None and took is not None:
            account.time(late=took > bound)

    def rated(self, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """See ``learner.Listener``."""
        if signal == QUALITY_SIGNAL and decision.get("side") != CANDIDATE:
            self._account(decision["route"]).rate_quality(value)

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        return orjson.dumps(self.accounts)

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, AttributeError: If the snapshot is none of ours.
        """
        self.accounts = {
            name: Account(**{**fields, "days": tuple([(day, usd) for day, usd in fields.get("days", ())])})
            for name, fields in orjson.loads(data).items()
        }

    def _account(self, route: str) -> Account:
        found = self.accounts.get(route)
        if found is None:
            found = self.accounts[route] = Account()
        return found
