"""Circuit breakers with real sockets: who is left alone, for how long, and how the traffic comes back."""

import asyncio
import time
from itertools import pairwise

import pytest

from loadtests.faults.scenario import Arm, Expected, Scenario, arms
from optimizer.routing import BreakerRules

OPEN_S = 0.3
QUICK = BreakerRules(consecutive=5, min_volume=1000, open_s=OPEN_S, max_open_s=0.9)
NOTHING = Expected("complete")


def route(*faults: str | Arm, rules: BreakerRules = QUICK, **resilience: object) -> Scenario:
    return Scenario(
        "breakers",
        "",
        arms(*faults),
        NOTHING,
        upstream={"breaker": rules},
        resilience={"backoff_s": 0.02, **resilience},
    )


async def trip(stage) -> None:
    """Ask until the decided arm is left alone."""
    stage.turn("a", "status:500")
    deadline = time.monotonic() + 5
    while True:
        before = len(stage.seen("a"))
        assert (await stage.ask()).status == 200
        if len(stage.seen("a")) == before:
            return
        assert time.monotonic() < deadline, "the breaker never opened"


async def test_it_opens_after_failures_in_a_row_and_the_bandit_is_told_unavailable(staged):
    """Five failures and no more reach it; then it is filtered, which teaches nothing, and the choice is certain."""
    async with staged(route("answer", "answer")) as stage:
        await trip(stage)
        assert len(stage.seen("a")) == 5
        reply = await stage.ask()
        event = await stage.event(reply)

        assert len(stage.seen("a")) == 5
        assert stage.served(reply) == "b"
        assert reply.headers["x-llm-optimizer-attempts"] == "1"
        assert event["filtered"] == {stage.arm_id("a"): "breaker open"}
        assert event["arm"] == stage.arm_id("b")
        assert event["propensity"] == 1.0
        assert stage.taught(event) == "b1"


async def test_success_in_between_starts_the_count_anew(staged):
    """Failures that are not in a row do not open it."""
    async with staged(route("answer", "answer", same_arm=0)) as stage:
        for _ in range(4):
            stage.turn("a", "status:500")
            for _ in range(4):
                assert stage.served(await stage.ask()) == "b"
            stage.turn("a", "answer")
            assert stage.served(await stage.ask()) == "a"
        assert len(stage.seen("a")) == 20


async def test_an_error_rate_opens_it_too(staged):
    """Every second request fails: never two in a row, and still half of what is asked is lost."""
    rules = BreakerRules(
        consecutive=100, error_rate=0.5, min_volume=10, window_s=60, open_s=20, max_open_s=20
    )
    async with staged(route("answer", "answer", rules=rules, same_arm=0)) as stage:
        for number in range(30):
            stage.turn("a", "status:500" if number % 2 else "answer")
            await stage.ask()
        assert 10 <= len(stage.seen("a")) <= 12


@pytest.mark.parametrize("fault", ["status:400", "policy", "status:422"])
async def test_what_the_caller_did_wrong_opens_nothing(staged, fault):
    """A hundred bad requests say nothing about the upstream."""
    async with staged(route(fault, "answer")) as stage:
        replies = [await stage.ask() for _ in range(12)]
        assert {reply.status for reply in replies} <= {400, 422}
        stage.turn("a", "answer")
        assert stage.served(await stage.ask()) == "a"


async def test_one_probe_at_a_time(staged, settled):
    """When the pause is over one request tries; the others do not wait for it and do not follow it."""
    async with staged(route("answer", "answer")) as stage:
        await trip(stage)
        stage.turn("a", "status:500,late=200")
        before = len(stage.seen("a"))
        deadline = time.monotonic() + 3
        waves = []
        # The pause ends somewhere in here; whichever wave finds it open again holds the one probe.
        while len(stage.seen("a")) == before:
            assert time.monotonic() < deadline
            waves.append(asyncio.gather(*(stage.ask() for _ in range(10))))
            await asyncio.sleep(0.05)
        replies = [reply for wave in waves for reply in await wave]

        assert {reply.status for reply in replies} == {200}
        probes = stage.seen("a")[before:]
        assert len([probe for probe in probes if probe.at - probes[0].at < 0.2]) == 1


@pytest.mark.slow
async def test_a_failed_probe_opens_it_again_for_longer(staged):
    """An upstream that stays down is asked less and less, and never more than once per pause."""
    async with staged(route("answer", "answer", same_arm=0)) as stage:
        await trip(stage)
        before = len(stage.seen("a"))
        ends = time.monotonic() + 2.2
        while time.monotonic() < ends:
            assert (await stage.ask()).status == 200
            await asyncio.sleep(0.01)
        times = [probe.at for probe in stage.seen("a")[before - 1 :]]
        gaps = [after - first for first, after in pairwise(times)]

        assert 1 <= len(gaps) <= 5
        assert gaps[0] >= OPEN_S * 0.75
        assert all(gap >= OPEN_S * 1.2 for gap in gaps[1:])


async def test_a_recovered_upstream_gets_its_traffic_back(staged):
    """However long the outage was, after the longest pause the arm serves again."""
    async with staged(route("answer", "answer", same_arm=0)) as stage:
        await trip(stage)
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            await stage.ask()
            await asyncio.sleep(0.02)
        stage.turn("a", "answer")
        began = time.monotonic()
        while stage.served(await stage.ask()) != "a":
            assert time.monotonic() - began < QUICK.max_open_s + 0.5
            await asyncio.sleep(0.02)
        replies = await asyncio.gather(*(stage.ask() for _ in range(20)))

        assert {stage.served(reply) for reply in replies} == {"a"}


async def test_the_defaults_bring_traffic_back_within_thirty_seconds(staged):
    """What is asked for with no configuration at all; the longest pause is what bounds it."""
    rules = BreakerRules()
    assert rules.max_open_s <= 25
    assert (rules.consecutive, rules.error_rate) == (5, 0.5)


async def test_the_last_arm_is_never_left_alone(staged):
    """With nowhere else to go, a dead upstream is still asked, and its own error is told."""
    async with staged(route("status:500", same_arm=0, attempts=1)) as stage:
        replies = [await stage.ask() for _ in range(20)]

        assert {reply.status for reply in replies} == {500}
        assert len(stage.seen("a")) == 20
        stage.turn("a", "answer")
        assert (await stage.ask()).status == 200


async def test_when_all_arms_are_down_one_is_asked_all_the_same(staged):
    """Every breaker open is no reason to refuse; and whichever comes back first serves at once."""
    async with staged(route("status:500", "status:500", same_arm=0)) as stage:
        for _ in range(15):
            assert (await stage.ask()).status == 500
        asked = len(stage.upstream.attempts)
        assert (await stage.ask()).status == 500
        assert len(stage.upstream.attempts) > asked
        stage.turn("a", "answer")
        stage.turn("b", "answer")
        assert (await stage.ask()).status == 200


async def test_fallbacks_do_not_go_where_a_breaker_is_open(staged):
    """A second failure of the same outage is not waited for."""
    async with staged(route("answer", "status:500", "answer", attempts=2, same_arm=0)) as stage:
        for _ in range(2):
            await stage.ask(model="b")
        before = len(stage.seen("b"))
        stage.turn("a", "status:500")
        reply = await stage.ask()

        assert reply.status == 200
        assert stage.served(reply) == "c"
        assert len(stage.seen("b")) == before


async def test_a_breaker_belongs_to_one_model_at_one_upstream(staged):
    """Two routes to the same model know of its outage together; another model there is not concerned."""
    async with staged(route("answer", "answer", "answer")) as stage:
        await trip(stage)
        assert (await stage.ask(model="c")).status == 200
        reply = await stage.ask(model="a")

        # Its own name is the last arm there is: it is asked, and its error told.
        assert reply.status == 500


async def test_a_quota_with_a_time_is_left_alone_until_then(staged):
    """After a 429 that names a time, the next requests do not go there; and it teaches nothing."""
    rules = BreakerRules(open_s=0.2, max_open_s=0.8)
    async with staged(route("answer", "answer", rules=rules)) as stage:
        stage.turn("a", "status:429,after=30")
        assert stage.served(await stage.ask()) == "b"
        asked = len(stage.seen("a"))
        stage.turn("a", "answer")
        reply = await stage.ask()

        assert stage.served(reply) == "b"
        assert len(stage.seen("a")) == asked
        assert stage.taught(await stage.event(reply)) == "b1"
        await asyncio.sleep(rules.max_open_s + 0.2)
        assert stage.served(await stage.ask()) == "a"


async def test_a_breaker_can_be_switched_off(staged):
    """``breaker: false``: every request asks, for ever."""
    rules = BreakerRules(consecutive=0)
    async with staged(route("status:500", "answer", rules=rules, same_arm=0)) as stage:
        for _ in range(12):
            assert stage.served(await stage.ask()) == "b"
        assert len(stage.seen("a")) == 12


async def test_callers_that_leave_open_nothing(staged):
    """A verdict needs an answer or a failure; impatience is neither."""
    async with staged(route("answer", "answer")) as stage:
        stage.turn("a", "blackhole")
        for _ in range(8):
            await stage.ask(leaves_s=0.03)
        stage.turn("a", "answer")
        assert stage.served(await stage.ask()) == "a"
