"""A route that learns in memory and is watched: its own routing is no drift, and drift is followed."""

import numpy as np
import pytest

from optimizer.drift import Alarm
from optimizer.drift_memory import MemoryWatch
from optimizer.loop import RouteLoop
from optimizer.routing import Arm
from optimizer.settings import Constraints, ContextSettings, DriftSettings, Objective, RouteSettings


def route(**changes) -> RouteSettings:
    arms = tuple(Arm(f"{name}/default", name, "default", f"key-{name}", "v") for name in ("small", "large"))
    given = {"context": ContextSettings(), "constraints": Constraints(cost_ratio=0.5), **changes}
    return RouteSettings("auto", arms, arms[-1].id, (Objective("quality", 1.0, maximize=True),), **given)


def serve(loop: RouteLoop, seed: int, *, worse_at: int = 10_000) -> None:
    """`large` is rated well 9 times in 10, `small` 3 times in 10 on hard requests, which are dearer, too.

    After 300 requests easy ones go to `small` and hard ones to `large`, as a policy that has learned this does.
    """
    rng = np.random.default_rng(seed)
    for number in range(1000):
        hard = float(rng.random() < 0.5)
        x = np.r_[1.0, hard, rng.normal(size=2)]
        arm = int(hard) if number >= 300 and rng.random() < 0.95 else int(rng.integers(2))
        rate = 0.9 - (0.6 * hard if arm == 0 else 0.0)
        if number >= worse_at and arm == 0:
            rate = 0.2
        cost = (0.0001 if arm == 0 else 0.003) * float(np.exp(0.8 * hard + 0.2 * rng.normal()))
        loop.outcome(arm, x, at=float(number), cost_usd=cost, latency_s=1.0)
        loop.rating(arm, x, at=float(number), value=float(rng.random() < rate))


def watched(*, informed: bool = True) -> tuple[RouteLoop, list[Alarm]]:
    """A loop whose watch may not know what fits know, and its alarms."""
    found: list[Alarm] = []
    loop = RouteLoop(route(), size=4)
    slopes = loop._slopes if informed else None
    loop._watch = MemoryWatch(route(), loop.statistics, loop.linear, slopes=slopes, found=found.append)
    return loop, found


@pytest.mark.slow
def test_another_mix_of_requests_made_by_routing_is_no_change():
    """`small` seems to get better and cheaper, `large` dearer."""
    (one, blind), (other, found) = watched(informed=False), watched()

    serve(one, 1)
    serve(other, 1)

    seemed = {(alarm.arm, alarm.signal) for alarm in blind}
    assert {("small/default", "quality"), ("large/default", "cost")} <= seemed
    assert found == []


@pytest.mark.slow
def test_an_arm_that_became_worse_is_found_beside_all_that():
    """Only quality; costs are what they were."""
    loop, found = watched()

    serve(loop, 2, worse_at=700)

    assert {(alarm.arm, alarm.signal) for alarm in found} == {("small/default", "quality")}
    assert 700 < found[0].at < 800
    assert found[0].after < found[0].before - 0.2


@pytest.mark.parametrize("enabled", [True, False])
def test_a_route_recovers_from_swapped_arms(enabled):
    """After 600 requests with the ratings of the other arm, the really good one has most of the traffic soon."""
    loop = RouteLoop(
        route(context=None, constraints=Constraints(), drift=DriftSettings(enabled=enabled)), size=1
    )
    rng, x = np.random.default_rng(4), np.ones(1)
    took = []
    for number in range(1100):
        arm, _ = loop.decide(x, rng.random())
        good = (arm == 0) == (number < 600)
        loop.outcome(arm, x, at=float(number))
        loop.rating(arm, x, at=float(number), value=float(rng.random() < (0.9 if good else 0.4)))
        took.append(arm)

    late = np.mean(took[800:])
    assert loop.alarms == (2 if enabled else 0)  # of either arm
    assert late > 0.9 if enabled else late < 0.5
