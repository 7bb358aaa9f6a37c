"""One change of arms in a made-up stream of requests, through the product's own classes, to measure how it is followed.

Answers are drawn from recorded ones: before the change from one snapshot of every arm, after it from another.
Statistics, policy and detectors are those of the optimizer, selectors are frozen anew every few requests as the
publisher does.
Nothing here reads a clock or a file, and one seed gives one run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from optimizer import reward
from optimizer.drift import Alarm
from optimizer.drift_memory import MemoryWatch
from optimizer.publisher import build_side, gather
from optimizer.routing import Arm
from optimizer.settings import DriftSettings, Objective, PolicySettings, RouteSettings
from optimizer.statistics import Statistics
from policies.types import FloatArray

ROUTE: Final = "trial"
SHARE: Final = 0.8
"""An arm with this share of the selector counts as taken up."""

_NEVER: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class DriftRun:
    """What one run showed.

    ``requests_to_share``: requests from the change until the selector gives the arm that is best after it the share
    ``SHARE`` for the first time; None if it never does. ``false_alarms`` are those before
    the change, ``alarms`` all. ``reward`` is the mean over all requests.
    """

    requests_to_share: int | None
    false_alarms: int
    alarms: tuple[Alarm, ...]
    reward: float


def run(
    before: FloatArray,
    after: FloatArray,
    *,
    seed: int,
    change_at: int = 1500,
    requests: int = 4000,
    drift: DriftSettings | None = None,
    policy: PolicySettings | None = None,
    every: int = 5,
    per_s: float = 10.0,
) -> DriftRun:
    """Serve ``requests`` requests of which those from ``change_at`` on are answered by ``after``.

    Args:
        before: Quality of every arm on every query, 0..1, shape (n_queries, n_arms).
        after: The same of the later snapshot; the same arms.
        seed: Of queries and draws.
        change_at: The first request of the later snapshot.
        requests: All of them.
        drift: How changes are looked for; ``enabled`` False measures what happens without.
        policy: How the route learns.
        every: Requests between two selectors.
        per_s: Requests per second of event time, for forgetting.
    """
    rng = np.random.default_rng(seed)
    route = _route(before.shape[1], drift or DriftSettings(), policy or PolicySettings())
    statistics, found = Statistics(), list[Alarm]()
    statistics.set_half_life(ROUTE, route.policy.half_life_s, at=0.0)
    watch = MemoryWatch(route, statistics, found=found.append)
    best, taken_up, rewards, false_alarms = int(after.mean(axis=0).argmax()), None, 0.0, 0
    shares: Sequence[float] = ()
    for number in range(requests):
        at = 1.0 + number / per_s
        if number % every == 0:
            side = build_side(route, gather(route, statistics, now=at), seed=seed)
            shares = side.selector.probabilities
        if number == change_at:
            false_alarms = len(found)
        if taken_up is None and number >= change_at and shares[best] >= SHARE:
            taken_up = number
        answers = before if number < change_at else after
        arm = int(np.searchsorted(np.cumsum(shares), rng.random() * sum(shares), side="right"))
        value = float(answers[rng.integers(len(answers)), min(arm, len(shares) - 1)])
        rewards += value
        _learn(statistics, watch, route.arms[min(arm, len(shares) - 1)], value, at)
    reached = None if taken_up is None else taken_up - change_at
    return DriftRun(reached, false_alarms, tuple(found), rewards / requests)


def runs(before: FloatArray, after: FloatArray, *, seeds: int = 40, **options: Any) -> list[DriftRun]:
    """``run`` with the seeds 0..seeds-1."""
    return [run(before, after, seed=seed, **options) for seed in range(seeds)]


def median_to_share(found: Sequence[DriftRun], *, never: float = _NEVER) -> float:
    """Median of ``requests_to_share``; runs that never got there count as ``never``."""
    return float(
        np.median([never if run.requests_to_share is None else run.requests_to_share for run in found])
    )


def _route(n_arms: int, drift: DriftSettings, policy: PolicySettings) -> RouteSettings:
    arms = tuple(
        Arm(id=f"arm{k}", model=f"arm{k}", variant="default", model_key=f"model-{k}", variant_key="default")
        for k in range(n_arms)
    )
    return RouteSettings(
        name=ROUTE,
        arms=arms,
        baseline="arm0",
        objectives=(Objective("quality", 1.0, maximize=True),),
        policy=policy,
        drift=drift,
    )


def _learn(statistics: Statistics, watch: MemoryWatch, arm: Arm, value: float, at: float) -> None:
    lessons = ((reward.SUCCESS, 1.0), (reward.VALID, 1.0), (reward.QUALITY, value))
    statistics.add((ROUTE, arm.model_key, arm.variant_key), at, lessons)
    watch.rating(arm, value, at=at)
