"""Limits over several nodes and a real Redis: exact, quick, and kept when Redis is frozen, killed or emptied."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from optimizer.cluster.redis_link import RedisLink
from optimizer.cluster.shared_limits import ANSWER_S, PATIENT_S, WAIT_S, SharedLimits
from optimizer.lease_store import LeaseStore
from optimizer.lease_terms import RATES, Claim, Grant, Report
from optimizer.leases import LeaseBook
from optimizer.routing import Quota
from proxy.admission.meter import Answer, Meters, RateLimited
from proxy.admission.reservation import Reservation

NOON = 1_700_049_600.0  # 2023-11-15T12:00:00Z
MICRO = 1000
SETTLE_S = 0.4


class Worker:
    """Asks a node's book as a worker does."""

    def __init__(self, node: "Node", number: int) -> None:
        self.node = node
        self.number = number
        self.sequence = 0
        self.held: dict[str, int] = {}

    async def ask(self, measure: str, need: int, *, limit: int, want: int = 0) -> Grant | None:
        self.sequence += 1
        start = int(NOON) if measure in RATES else int(NOON) - 43_200
        held = self.held.get(measure, 0)
        claim = Claim("key:k", measure, start, 1, limit, held, held, need, max(need, want))
        (grant,) = await self.node.book.answer(Report(self.number, self.sequence, [claim]))
        if grant is not None:
            self.held[measure] = grant.granted
        return grant


class Node:
    """What Core and Runtime build of one node."""

    def __init__(self, number: int, url: str, path: Path, *, rates_open: bool, budgets_open: bool) -> None:
        self.link = RedisLink(url, name="test")
        self.store = LeaseStore(path / f"node{number}.sqlite3")
        self.limits = SharedLimits(
            self.link,
            self.store,
            node=number,
            is_open=lambda measure: rates_open if measure in RATES else budgets_open,
            now=lambda: NOON,
            clock=time.monotonic,
            settle_s=SETTLE_S,
        )
        self.book = LeaseBook(
            self.store.rows, self.store, now=lambda: NOON, clock=time.monotonic, shares=self.limits
        )
        self.task = asyncio.create_task(self.limits.run())
        self.workers = [Worker(self, 2 * number), Worker(self, 2 * number + 1)]

    def granted(self, measure: str) -> int:
        return sum(tally.granted for meter, tally in self.book._tallies.items() if meter[1] == measure)

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.limits.close()
        await self.link.close()
        self.store.close()


Make = Callable[..., Node]


@asynccontextmanager
async def cluster(server: Any, path: Path) -> AsyncIterator[Make]:
    made: list[Node] = []

    def make(number: int, *, rates_open: bool = True, budgets_open: bool = False) -> Node:
        made.append(Node(number, server.url, path, rates_open=rates_open, budgets_open=budgets_open))
        return made[-1]

    try:
        yield make
    finally:
        for node in made:
            with suppress(sqlite3.ProgrammingError):
                await node.stop()


async def until(condition: Callable[[], Any], *, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        if met:
            return
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def served(worker: Worker, measure: str = "usd_day", limit: int = 10**12) -> bool:
    """Whether a little of a limit that nobody else uses is granted."""
    grant = await worker.ask(measure, MICRO, limit=limit)
    return grant is not None and grant.granted > 0


async def settled(node: Node) -> None:
    """Until Redis grants."""
    probe = Worker(node, 1000 + node.workers[0].number)
    await until(lambda: served(probe, "usd_month"))


async def test_the_sum_over_nodes_is_the_limit(redis_server: Any, tmp_path: Path) -> None:
    """Three nodes of two workers take one by one until all are told that it is used up."""
    async with cluster(redis_server, tmp_path) as make:
        nodes = [make(number) for number in (1, 2, 3)]
        await settled(nodes[0])

        async def take(worker: Worker) -> int:
            taken = refused = 0
            while refused < 3:
                grant = await worker.ask("usd_day", MICRO, limit=1000 * MICRO, want=8 * MICRO)
                if grant is None:
                    continue  # the test machine was too busy for an answer in time
                if grant.granted == taken:
                    refused += 1
                    await asyncio.sleep(0.3)  # as a worker does that was refused; others give back meanwhile
                taken = grant.granted
                await asyncio.sleep(0)
            return taken

        taken = await asyncio.gather(*(take(worker) for node in nodes for worker in node.workers))

        assert sum(taken) == sum(node.granted("usd_day") for node in nodes) == 1000 * MICRO
        assert min(taken) > 0


async def test_a_silent_redis_costs_a_request_little(redis_server: Any, tmp_path: Path) -> None:
    """A rate goes on within 20 ms, a closed budget is refused within what workers wait; then at once."""
    async with cluster(redis_server, tmp_path) as make:
        node = make(1)
        await settled(node)
        redis_server.freeze()

        began = time.perf_counter()
        rate = await node.workers[0].ask("requests", 1, limit=100)
        rate_s = time.perf_counter() - began
        budget = await node.workers[0].ask("usd_day", MICRO, limit=100 * MICRO)
        budget_s = time.perf_counter() - began - rate_s
        await until(lambda: node.limits.is_away)
        again = time.perf_counter()
        alone = await node.workers[1].ask("requests", 100, limit=100)
        closed = await node.workers[1].ask("usd_day", MICRO, limit=100 * MICRO)
        again_s = time.perf_counter() - again
        redis_server.thaw()

        assert rate is None
        assert rate_s < ANSWER_S / 2  # 12 ms, and what a busy test machine adds
        assert budget is None
        assert budget_s < PATIENT_S + 0.2
        assert alone == Grant(100, 0)
        assert closed is None
        assert again_s < PATIENT_S / 2
        await until(lambda: served(node.workers[1]))


async def test_what_was_granted_is_spent_while_redis_is_away(redis_server: Any, tmp_path: Path) -> None:
    """And after it came back empty the sum is right again."""
    async with cluster(redis_server, tmp_path) as make:
        one, two = make(1), make(2)
        await settled(one)
        await one.workers[0].ask("usd_day", 100 * MICRO, limit=1000 * MICRO, want=300 * MICRO)
        await two.workers[0].ask("usd_day", 600 * MICRO, limit=1000 * MICRO)
        redis_server.kill()
        await until(lambda: one.limits.is_away and two.limits.is_away)

        assert await two.workers[1].ask("usd_day", 500 * MICRO, limit=1000 * MICRO) is None
        redis_server.start()
        grants: list[Grant] = []

        async def greedy(node: Node) -> bool:
            grant = await node.workers[1].ask("usd_day", 1000 * MICRO, limit=1000 * MICRO)
            if grant is not None:
                grants.append(grant)
            assert one.granted("usd_day") + two.granted("usd_day") <= 1000 * MICRO
            return grant is not None

        await asyncio.gather(until(lambda: greedy(one)), until(lambda: greedy(two)))

        assert grants
        await until(lambda: full([one, two]))
        assert one.granted("usd_day") + two.granted("usd_day") == 1000 * MICRO


async def full(nodes: Sequence[Node]) -> bool:
    grants = [await node.workers[1].ask("usd_day", 1000 * MICRO, limit=1000 * MICRO) for node in nodes]
    return all(grant is not None and grant.unallocated == 0 for grant in grants) and (
        sum(node.granted("usd_day") for node in nodes) == 1000 * MICRO
    )


async def test_emptied_under_load_nothing_is_granted_twice(redis_server: Any, tmp_path: Path) -> None:
    """FLUSHALL, which no connection notices."""
    async with cluster(redis_server, tmp_path) as make:
        one, two = make(1), make(2)
        await settled(one)
        await one.workers[0].ask("usd_day", 700 * MICRO, limit=1000 * MICRO)
        for _ in range(3):
            redis_server.say("FLUSHALL")
            await two.workers[0].ask("usd_day", 1000 * MICRO, limit=1000 * MICRO)
            assert two.granted("usd_day") <= 300 * MICRO
            await settled(two)
        await until(lambda: full([one, two]))


async def test_a_killed_process_comes_back_as_the_same_node(redis_server: Any, tmp_path: Path) -> None:
    """Nobody closed anything; what its workers hold is its own, the rest is for others."""
    async with cluster(redis_server, tmp_path) as make:
        one, two = make(1), make(2)
        await settled(one)
        await one.workers[0].ask("usd_day", 300 * MICRO, limit=1000 * MICRO, want=500 * MICRO)
        one.task.cancel()
        again = make(1)
        await until(lambda: not again.limits.queued)

        grant = await two.workers[0].ask("usd_day", 1000 * MICRO, limit=1000 * MICRO)

        assert grant is not None
        assert grant.granted == 1000 * MICRO - again.granted("usd_day")
        assert again.granted("usd_day") >= 300 * MICRO


async def test_a_lost_file_leaves_what_was_granted_counted(redis_server: Any, tmp_path: Path) -> None:
    """The node is somebody else then."""
    async with cluster(redis_server, tmp_path) as make:
        one = make(1)
        await settled(one)
        await one.workers[0].ask("usd_day", 300 * MICRO, limit=1000 * MICRO)
        await one.stop()
        one.store.path.rename(tmp_path / "lost")
        again = make(1)

        grant = await again.workers[0].ask("usd_day", 1000 * MICRO, limit=1000 * MICRO)

        assert grant == Grant(700 * MICRO, 0)


async def test_all_keys_but_one_expire(redis_server: Any, tmp_path: Path) -> None:
    """A minute's after four minutes, a day's after four days; what says since when Redis can be trusted stays."""
    async with cluster(redis_server, tmp_path) as make:
        node = make(1)
        await settled(node)
        await node.workers[0].ask("requests", 1, limit=100)
        await node.workers[0].ask("usd_day", MICRO, limit=100 * MICRO)
        ttls = {}
        for key in await node.link.command("KEYS", "*"):
            ttls[key.decode().removeprefix("llm-optimizer:test:")] = await node.link.command("PTTL", key)

        day = int(NOON) - 43_200
        assert ttls.pop("limits:born") == -1
        assert 0 < ttls.pop("limits:live") <= 5000
        assert 230_000 < ttls.pop(f"limit:requests:{int(NOON)}:key:k") <= 240_000
        assert 0 < ttls.pop(f"limit:usd_day:{day}:key:k") <= 4 * 86_400_000
        assert set(ttls) == {"limit:usd_month:1698796800:key:k"} or len(ttls) == 1


class Direct:
    """Brings a worker's claims to a book in the same process."""

    wait_s = WAIT_S

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.number = number
        self.sequence = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def ask(self, claims: Sequence[Claim], answer: Answer) -> None:
        self.sequence += 1
        report = Report(self.number, self.sequence, list(claims))

        async def go() -> None:
            answer(await self.node.book.answer(report))

        task = asyncio.create_task(go())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def test_requests_of_many_workers_share_one_rate(redis_server: Any, tmp_path: Path) -> None:
    """As workers admit: exactly the limit over both nodes, and few requests wait at all.

    Closed without an answer, so that a busy test machine lets nobody through for want of one.
    """
    async with cluster(redis_server, tmp_path) as make:
        nodes = [make(1, rates_open=False), make(2, rates_open=False)]
        await settled(nodes[0])
        loop = asyncio.get_running_loop()
        all_meters = [
            Meters(ask=Direct(node, 50 + i), now=lambda: NOON, loop=loop) for node in nodes for i in range(2)
        ]
        for meters in all_meters:
            meters.rates_open = False
        quota = Quota(requests_per_minute=2000)
        waits: list[float] = []
        outcomes = {"admitted": 0, "refused": 0}

        async def request(meters: Meters) -> None:
            done: asyncio.Future[Reservation | RateLimited] = loop.create_future()
            began = time.perf_counter()
            outcome = meters.admit([("key:k", quota)], tokens=1, usd=None, resume=done.set_result)
            if outcome is None:
                outcome = await done
                waits.append(time.perf_counter() - began)
            if isinstance(outcome, Reservation):
                outcome.settle(tokens=1, usd=None)
                outcomes["admitted"] += 1
            else:
                outcomes["refused"] += 1

        for i in range(3000):
            await request(all_meters[i % 4])
            if i % 10 == 0:
                await asyncio.sleep(0.001)
        deadline = time.monotonic() + 10
        while outcomes["admitted"] < 2000 and time.monotonic() < deadline:
            await asyncio.gather(*(request(meters) for meters in all_meters))
            await asyncio.sleep(0.05)
        for _ in range(20):
            await asyncio.gather(*(request(meters) for meters in all_meters))

        assert outcomes["admitted"] == 2000
        assert len(waits) < 300
        for meters in all_meters:
            meters.close()


def test_a_book_knows_who_it_is(tmp_path: Path) -> None:
    """The same for as long as its file, and every process a later one; also in a file of an earlier version."""
    path = tmp_path / "limits.sqlite3"
    old = LeaseStore(path)
    old._connection.executescript("DROP TABLE identity; DROP TABLE others; PRAGMA user_version = 1")
    old.close()

    first, second = LeaseStore(path).identify(), LeaseStore(path).identify()
    store = LeaseStore(path)
    store.write_others({("key:k", "usd_day", 5): 7, ("key:l", "usd_day", 5): 8})
    store.write_others({}, [("key:l", "usd_day", 5)])

    assert second == (first.book, first.boot + 1)
    assert LeaseStore(path).others() == {("key:k", "usd_day", 5): 7}
    assert LeaseStore(tmp_path / "other.sqlite3").identify().book != first.book


@pytest.mark.parametrize("budgets_open", [False, True])
async def test_without_any_redis_the_settings_decide(tmp_path: Path, budgets_open: bool) -> None:
    """From the start: the node counts by itself what is open, and can't say anything of what is closed."""

    class Nowhere:
        url = f"unix://{tmp_path}/none.sock"

    async with cluster(Nowhere, tmp_path) as make:
        node = make(1, budgets_open=budgets_open)
        await until(lambda: node.limits.is_away)

        rate = await node.workers[0].ask("requests", 60, limit=100)
        budget = await node.workers[0].ask("usd_day", 60 * MICRO, limit=100 * MICRO)

        assert rate == Grant(60, 40)
        assert budget == (Grant(60 * MICRO, 40 * MICRO) if budgets_open else None)


async def test_one_late_answer_is_not_worth_a_word(
    redis_server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a start the first one often is late; Redis that stays away is told of once, and when it is back."""
    caplog.set_level("INFO", "optimizer.cluster.shared_limits")
    redis_server.kill()
    async with cluster(redis_server, tmp_path) as make:
        node = make(1)

        def told() -> list[str]:
            ours = (record for record in caplog.records if record.name == "optimizer.cluster.shared_limits")
            return [record.levelname for record in ours]

        await until(lambda: node.limits.is_away)
        first = told()
        await until(told)
        await asyncio.sleep(4 * SETTLE_S)  # Several calls more.
        assert (first, told()) == ([], ["WARNING"])
        redis_server.start()
        await until(lambda: told() == ["WARNING", "INFO"])
