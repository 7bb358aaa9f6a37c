"""Many requests to an upstream that is dying: what it gets on top of them, how often, and who gets its slots back."""

import asyncio
import time
from itertools import pairwise

import pytest

from loadtests.faults.scenario import Arm, Expected, Scenario, arms
from optimizer.routing import BreakerRules

NO_BREAKER = BreakerRules(consecutive=0)


def route(
    *faults: str | Arm, stream: bool = False, upstream: dict | None = None, **resilience: object
) -> Scenario:
    return Scenario(
        "storms",
        "",
        arms(*faults),
        Expected("complete"),
        stream=stream,
        upstream={"breaker": NO_BREAKER, **(upstream or {})},
        resilience={"backoff_s": 0.05, "max_backoff_s": 0.1, **resilience},
    )


def most_at_once(attempts, *, least_number: int) -> int:
    """How many repetitions were under way at the same time, as the upstream saw it."""
    moments = []
    for attempt in attempts:
        if attempt.number >= least_number:
            moments += [(attempt.at, 1), (attempt.done_at or attempt.gone_at or time.monotonic(), -1)]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


async def test_a_dying_upstream_gets_a_fifth_more_at_most(staged):
    """100 at a time fail; at no moment are more than 20 of them repetitions, and everybody is told soon."""
    async with staged(route("status:503,late=100", attempts=3, same_arm=2)) as stage:
        began = time.monotonic()
        replies = await asyncio.gather(*(stage.ask(tag=f"storm-{n}") for n in range(100)))
        attempts = stage.seen("a")

        # On a busy machine some of the upstream's answers come after the deadline.
        assert {reply.status for reply in replies} <= {503, 504}
        assert all("retry-after" in reply.headers for reply in replies if reply.status == 503)
        assert 1 <= most_at_once(attempts, least_number=2) <= 20
        assert len(attempts) <= 100 + 2 * 20
        assert time.monotonic() - began < 4


async def test_a_few_requests_are_always_repeated(staged):
    """The floor: of three requests all three are asked again, whatever a fifth of three may be."""
    async with staged(route("status:503,late=30*1")) as stage:
        replies = await asyncio.gather(*(stage.ask(tag=f"few-{n}") for n in range(3)))

        assert {reply.status for reply in replies} == {200}
        assert len(stage.seen("a")) == 6


async def test_what_the_budget_does_not_pay_for_goes_elsewhere(staged):
    """A request that may not be repeated still finds another arm."""
    async with staged(route("status:503,late=50", "answer")) as stage:
        replies = await asyncio.gather(*(stage.ask(tag=f"over-{n}") for n in range(60)))

        assert {reply.status for reply in replies} == {200}
        assert most_at_once(stage.seen("a"), least_number=2) <= 12


@pytest.mark.parametrize("fault", ["status:500", "reset", "close"])
async def test_never_a_tight_loop(staged, fault):
    """Ten attempts at an upstream that fails at once: every gap is a pause, growing to its bound."""
    async with staged(route(fault, attempts=10, same_arm=9)) as stage:
        reply = await stage.ask(tag="loop", patience_s=8)
        gaps = [after.at - before.at for before, after in pairwise(stage.seen("a"))]

        assert reply.status in (500, 502)
        assert len(gaps) == 9
        assert min(gaps) >= 0.024
        assert all(gap >= 0.049 for gap in gaps[2:])
        assert max(gaps) < 0.6


async def test_refused_connections_are_no_tight_loop_either(staged):
    """Nobody listens: the caller waits through the pauses, and is told then."""
    async with staged(route(Arm("answer", base="refused"), attempts=6, same_arm=5)) as stage:
        reply = await stage.ask()

        assert reply.status == 502
        assert reply.headers["x-llm-optimizer-attempts"] == "6"
        assert 0.2 <= reply.elapsed_s < 2


async def test_nothing_is_sent_twice_unless_it_failed(staged):
    """Off by default: a hundred slow requests reach the upstream a hundred times."""
    async with staged(route("slow:250", "answer", upstream={"first_byte_s": 10.0})) as stage:
        replies = await asyncio.gather(*(stage.ask(patience_s=20) for _ in range(100)))

        assert {stage.served(reply) for reply in replies} == {"a"}
        assert len(stage.upstream.attempts) == 100


async def test_hedges_are_within_the_budget(staged):
    """100 late requests on a route that hedges: second attempts are never more than a fifth at a time."""
    async with staged(route("slow:400", "slow:400", hedge_s=0.05)) as stage:
        replies = await asyncio.gather(*(stage.ask(tag=f"hedge-{n}") for n in range(100)))
        hedges = len(stage.upstream.attempts) - 100

        assert {reply.status for reply in replies} == {200}
        assert 1 <= hedges <= 20


LEAVING = {
    "connecting": (Arm("answer", base="silent"), {"leaves_s": 0.05}),
    "waiting": ("blackhole", {"leaves_s": 0.05}),
    "first token": ("before-token:role", {"leaves_s": 0.05}),
    "between tokens": ("infinite", {"leaves_after": 2}),
    "in a pause": ("status:500", {"leaves_s": 0.05}),
    "stalled": ("cut:2,stall", {"leaves_s": 0.1}),
}


@pytest.mark.parametrize("where", LEAVING)
async def test_callers_that_leave_give_their_connection_back(staged, settled, where):
    """Two connections in all, four callers that leave: the next ones are served at once."""
    fault, leaving = LEAVING[where]
    scenario = route(
        fault,
        stream=True,
        upstream={"max_connections": 2, "connect_s": 5.0, "first_byte_s": 5.0},
        backoff_s=2.0,
        max_backoff_s=2.0,
    )
    async with staged(scenario) as stage:
        for _ in range(2):
            await asyncio.gather(*(stage.ask(**leaving) for _ in range(2)))
        await settled(lambda: stage.upstream.busy == 0)
        worker = stage.product.worker
        assert worker is not None
        handle = worker.plane.table.handles[stage.arm_id("a")]
        await settled(lambda: handle.pool.busy == 0 and handle.pool.waiting == 0)
        # Before the pause is over: a caller that left is not waited for.
        await settled(lambda: worker.plane.in_flight == 0, 1.0)
        if where != "connecting":
            stage.turn("a", "answer")
            replies = await asyncio.gather(*(stage.ask(patience_s=2) for _ in range(3)))
            assert {reply.status for reply in replies} == {200}


async def test_callers_that_wait_for_a_connection_may_leave_too(staged, settled):
    """Both connections are taken, a third caller is in the queue and leaves: nothing is sent for it."""
    scenario = route("slow:600", upstream={"max_connections": 2, "first_byte_s": 5.0})
    async with staged(scenario) as stage:
        held = [asyncio.ensure_future(stage.ask()) for _ in range(2)]
        await settled(lambda: len(stage.seen("a")) == 2)
        await stage.ask(leaves_s=0.1)
        replies = await asyncio.gather(*held)
        await asyncio.sleep(0.1)

        assert {reply.status for reply in replies} == {200}
        assert len(stage.seen("a")) == 2


async def test_failures_leave_nothing_behind(staged, settled):
    """After a storm of every kind, no connection is busy, nobody waits, and the budget is whole again."""
    async with staged(route("status:500", "cut:2,reset", "reset", stream=True)) as stage:
        for fault in (
            "status:500",
            "cut:0,reset",
            "cut-head:close",
            "blackhole",
            "bad-chunk",
            "error-event:0",
        ):
            stage.turn("a", fault)
            await asyncio.gather(*(stage.ask() for _ in range(8)))
        worker = stage.product.worker
        assert worker is not None
        handles = list(worker.plane.table.handles.values())
        await settled(lambda: all(handle.pool.busy == 0 for handle in handles))
        assert all(handle.pool.waiting == 0 for handle in handles)
        assert all(handle.budget.retrying == 0 for handle in handles)
        assert worker.plane.in_flight == 0
