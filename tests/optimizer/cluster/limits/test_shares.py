"""Shares of limits among nodes: never more believed in than there is, whatever is lost, repeated, killed or wiped."""

import asyncio
import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optimizer.cluster.limit_script import TEXT, arguments, key_parts, read
from optimizer.cluster.redis_link import RedisLink, Script
from optimizer.cluster.shares import NodeClaim, Shares
from optimizer.lease_terms import Claim, Grant, Report
from optimizer.leases import Holding, LeaseBook, Meter

DAY = 1_700_006_400  # 2023-11-15T00:00:00Z
HOUR = DAY + 3600.0
MICRO = 1000
LIMIT = 1000 * MICRO
HOUR_START = DAY + 3600
METER: Meter = ("key:k", "usd_day", DAY)
KEY = f"limit:usd_day:{DAY}:key:k"
SETTLE_S = 2.0
LIVE_S = 5.0


class Twin:
    """What the script says, in Python and on a clock that the test moves: the script's reference."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.run = "first"
        self.born: tuple[str, int, str] | None = None
        self.lost: dict[str, int] = {}
        self.rows: dict[str, dict[str, tuple[int, int, int, str]]] = {}
        self.live: dict[str, int] = {}

    def wipe(self, *, run: str | None = None, back_to: "Twin | None" = None) -> None:
        old = copy.deepcopy(back_to) or Twin()
        self.born, self.lost, self.rows, self.live = old.born, old.lost, old.rows, old.live
        self.run = run or self.run

    def total(self, key: str) -> int:
        return sum(row[0] for row in self.rows.get(key, {}).values()) + self.lost.get(key, 0)

    def call(self, keys: Sequence[str], words: Sequence[str | int]) -> list[Any]:
        holder, (sequence, settle, live_ms) = str(words[0]), map(int, words[1:4])
        if self.born is None or self.born[0] != self.run:
            self.born = self.run, self.now_ms + settle, f"{self.run}{self.now_ms}"
        _, settled_at, epoch = self.born
        is_settling = 0 < settled_at - self.now_ms <= settle
        self.live[holder] = self.now_ms
        self.live = {node: at for node, at in self.live.items() if abs(self.now_ms - at) <= live_ms}
        answers = []
        for i, key in enumerate(keys[2:]):
            _, limit, heard, used, hold, need, want = map(int, words[4 + 7 * i : 11 + 7 * i])
            rows = self.rows.setdefault(key, {})
            _, spent, last, said = rows.get(holder, (0, 0, 0, ""))
            others = [row for node, row in rows.items() if node != holder]
            if last < sequence:
                if said != epoch:
                    found = self.lost.get(key, 0) - max(0, used - spent)
                    self.lost[key] = max(0, found, heard - sum(row[1] for row in others))
                missing = limit - sum(row[0] for row in others) - self.lost.get(key, 0) - hold
                room = 0 if is_settling else max(0, missing)
                granted = hold + min(room, max(need, min(want, room // (2 * len(self.live)))))
                rows[holder] = granted, used, sequence, epoch
            all_used = sum(row[1] for row in rows.values()) + self.lost.get(key, 0)
            granted, _, last, _ = rows.get(holder, (0, 0, 0, ""))
            answers.append([b"%d" % number for number in (granted, self.total(key), all_used, last)])
        return [epoch.encode(), int(is_settling), answers]


class Ledger:
    """A node's file."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], Holding] = {}

    def write(self, saved: Sequence[Holding], removed: Sequence[Holding] = ()) -> None:
        for row in removed:
            self.rows.pop(row[:5], None)
        self.rows |= {row[:5]: row for row in saved}


class NodeShares(Shares):
    """Shares whose question is asked at once."""

    wait_s = 0.019
    ask: Callable[[], bool]

    async def more(self, short: Collection[str]) -> bool:
        return self.can_ask and self.ask()


class Worker:
    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.belief = 0
        self.spent = 0


Call = tuple[list[str], list[str | int]]


class Node:
    """A book with its shares, on a file that survives the process, and workers that survive it too."""

    def __init__(self, name: str, twin: Twin, *, is_open: bool = False) -> None:
        self.name = name
        self.twin = twin
        self.is_open = is_open
        self.ledger = Ledger()
        self.others: dict[Meter, int] = {}
        self.boot = 0
        self.workers = [Worker(1), Worker(2)]
        self.outcome = "answered"
        self.delayed: list[Call] = []
        self.has_spoken = True
        self.start()

    def start(self) -> None:
        self.boot += 1
        self.sequence = self.boot << 32
        self.shares = NodeShares(self.others, is_open=lambda _: self.is_open, wake=lambda: None)
        self.shares.ask = self.call
        self.book = LeaseBook(
            self.ledger.rows.values(),
            self.ledger,
            now=lambda: HOUR,
            clock=lambda: self.twin.now_ms / 1000,
            shares=self.shares,
        )

    @property
    def held(self) -> int:
        share = self.shares._shares.get(METER)
        return share.held if share is not None else 0

    @property
    def out(self) -> int:
        tally = self.book._tallies.get(METER)
        return tally.granted if tally is not None else 0

    def call(self) -> bool:
        """Say what is queued, as the task does."""
        if (self.shares.is_away or not self.shares.queued) and not self.say([]):
            return False
        return not self.shares.queued or self.say(self.shares.claims(100))

    def say(self, claims: list[NodeClaim]) -> bool:
        self.sequence += 1
        keys = ["born", "live", *(":".join(map(str, key_parts(claim))) for claim in claims)]
        words = arguments(self.name, self.sequence, claims, settle_s=SETTLE_S, live_s=LIVE_S)
        if self.outcome in ("answered", "unheard"):
            reply = self.twin.call(keys, words)
        elif self.outcome == "delayed":
            self.delayed.append((keys, words))
        if self.outcome != "answered":
            self.shares.failed(claims)
            return False
        self.shares.take(claims, read(reply, claims), sequence=self.sequence)
        self.others |= self.shares.heard(claims)
        self.has_spoken |= bool(claims)
        return True

    def tick(self) -> None:
        self.shares.tick(HOUR)
        self.call()

    def report(self, worker: Worker, *, need: int = 0, want: int = 0, heard: bool = True) -> Grant | None:
        worker.sequence += 1
        row = Claim(*METER, 1, LIMIT, used=worker.spent, hold=worker.belief, need=need, want=max(need, want))
        answer = self.book.answer(Report(worker.number, worker.sequence, [row]))
        try:
            answer.send(None)
        except StopIteration as done:
            (grant,) = done.value
        if heard and grant is not None:
            worker.belief = grant.granted
        return grant


def nodes(count: int, **options: Any) -> tuple[Twin, list[Node]]:
    """A cluster that has settled."""
    twin = Twin()
    found = [Node(f"n{i}", twin, **options) for i in range(count)]
    settle(twin, found)
    return twin, found


def settle(twin: Twin, found: Sequence[Node]) -> None:
    for _ in range(8):
        twin.now_ms += 400
        for node in found:
            node.outcome = "answered"
            node.tick()


def test_a_request_that_waits_is_served_from_another_nodes_leavings() -> None:
    """Need is granted if there is room, wishes only up to a fair share, and what is not needed comes back."""
    _, (one, two) = nodes(2)

    first = one.report(one.workers[0], need=100 * MICRO, want=900 * MICRO)
    second = two.report(two.workers[0], need=700 * MICRO)
    third = one.report(one.workers[1], need=400 * MICRO)
    assert first is not None
    assert first.granted >= 100 * MICRO
    assert second is not None
    assert third is not None
    assert one.held + two.held <= LIMIT
    for worker in (*one.workers, *two.workers):
        worker.belief = worker.spent
    for _ in range(3):
        for node in (one, two):
            for worker in node.workers:
                node.report(worker)
            node.tick()

    assert two.report(two.workers[0], need=LIMIT) == Grant(LIMIT, 0)


def test_a_limit_that_is_used_up_is_known_to_be() -> None:
    """The second node is told that nothing is left, which is not the same as that nobody can say."""
    _, (one, two) = nodes(2)
    one.report(one.workers[0], need=LIMIT)

    assert two.report(two.workers[0], need=MICRO) == Grant(0, 0)


@pytest.mark.parametrize("outcome", ["unheard", "lost", "delayed"])
def test_without_redis_what_was_granted_is_spent_and_then_nobody_can_say(outcome: str) -> None:
    """A closed budget: None, and not that it is used up."""
    _, (one, _) = nodes(2)
    first = one.report(one.workers[0], need=10 * MICRO, want=200 * MICRO)
    assert first is not None
    one.outcome = outcome
    one.call()
    left = one.held - one.out

    assert one.report(one.workers[1], need=left) == Grant(left, LIMIT - one.held)
    assert one.report(one.workers[1], need=MICRO) is None


def test_without_redis_an_open_measure_is_counted_by_the_node_alone() -> None:
    """Up to the limit of this node, and it is said afterwards; nobody gets anything of what is missing."""
    _, (one, two) = nodes(2, is_open=True)
    two.report(two.workers[0], need=600 * MICRO)
    one.outcome = "lost"
    one.call()

    assert one.report(one.workers[0], need=LIMIT) == Grant(LIMIT, 0)
    assert one.report(one.workers[1], need=1) == Grant(0, 0)
    one.outcome = "answered"
    one.tick()

    assert two.report(two.workers[1], need=MICRO) == Grant(0, 0)
    assert one.held == LIMIT


def test_a_dead_nodes_grant_counts_as_spent() -> None:
    """Nobody has reported it free, and nobody will."""
    twin, (one, two) = nodes(2)
    one.report(one.workers[0], need=400 * MICRO)
    settle(twin, [two])

    assert two.report(two.workers[0], need=LIMIT) == Grant(600 * MICRO, 0)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_wiped_redis_learns_of_the_dead_from_the_living(order: tuple[int, int]) -> None:
    """A month of replaced nodes must not be forgotten with Redis; and what came back is not counted for ever."""
    twin, found = nodes(3)
    for node, spent in zip(found, (400, 100, 0), strict=True):
        node.report(node.workers[0], need=spent * MICRO)
        node.workers[0].spent = spent * MICRO
        node.workers[0].belief = spent * MICRO
        node.report(node.workers[0])
    settle(twin, found)
    two, three = found[1], found[2]
    three.report(three.workers[1], need=10 * MICRO)
    three.workers[1].belief = 0
    three.report(three.workers[1])
    twin.wipe(run="second")
    settle(twin, [found[i] for i in order])

    grant = three.report(three.workers[0], need=LIMIT)

    assert grant == Grant(LIMIT - 400 * MICRO - two.held, 0)
    assert two.held - two.out < 5 * MICRO
    assert two.out == 100 * MICRO


def test_a_wiped_redis_grants_nothing_until_all_have_spoken() -> None:
    """Who comes first is not given what another holds, though Redis can't know it yet."""
    twin, (one, two) = nodes(2)
    one.report(one.workers[0], need=LIMIT)
    for wiped in (None, "second"):
        twin.wipe(run=wiped)

        assert two.report(two.workers[0], need=MICRO) is None
        settle(twin, [one, two])
        assert two.report(two.workers[0], need=MICRO) == Grant(0, 0)


def test_a_process_that_starts_again_has_what_its_workers_hold() -> None:
    """The rest goes back, and a report of the process before it changes nothing any more."""
    twin, (one, two) = nodes(2)
    one.report(one.workers[0], need=300 * MICRO, want=700 * MICRO)
    one.outcome = "delayed"
    one.report(one.workers[1], need=200 * MICRO)
    one.outcome = "answered"
    one.start()
    one.tick()
    for call in one.delayed:
        twin.call(*call)

    grant = two.report(two.workers[0], need=LIMIT)

    assert grant == Grant(LIMIT - one.out, 0)
    assert one.held == one.out


class Cluster(RuleBasedStateMachine):
    """Nodes and workers that come and die, calls that are lost, late and repeated, a Redis that forgets."""

    @initialize()
    def begin(self) -> None:
        self.twin = Twin()
        self.count = 0
        self.runs = 0
        self.nodes: list[Node] = []
        self.dead = 0
        self.dead_used = 0
        self.overspent = 0
        self.sent: list[Call] = []
        self.kept: Twin | None = None
        self.arrive()
        self.arrive()

    @rule()
    def arrive(self) -> None:
        if len(self.nodes) < 4:
            self.count += 1
            self.nodes.append(Node(f"n{self.count}", self.twin))

    def some(self, data: st.DataObject) -> Node:
        return data.draw(st.sampled_from(self.nodes))

    def go(self, node: Node, outcome: str) -> None:
        node.outcome = outcome
        self.sent += node.delayed
        node.delayed.clear()

    @rule(
        data=st.data(),
        outcome=st.sampled_from(("answered", "answered", "unheard", "lost", "delayed")),
        need=st.sampled_from((0, 1, 7, 100, 400, 1000)),
        want=st.sampled_from((0, 30, 500)),
        heard=st.booleans(),
        beyond=st.sampled_from((0, 0, 0, 0, 30)),
    )
    def report(
        self, data: st.DataObject, outcome: str, need: int, want: int, heard: bool, beyond: int
    ) -> None:
        node = self.some(data)
        self.go(node, outcome)
        worker = data.draw(st.sampled_from(node.workers))
        worker.spent = data.draw(st.integers(worker.spent, max(worker.spent, worker.belief)))
        worker.belief = data.draw(st.integers(worker.spent, max(worker.spent, worker.belief)))
        worker.spent += beyond * MICRO
        if worker.spent > worker.belief:
            self.overspent += worker.spent - worker.belief
            worker.belief = worker.spent
        node.report(worker, need=need * MICRO, want=want * MICRO, heard=heard)

    @rule(data=st.data(), outcome=st.sampled_from(("answered", "unheard", "lost", "delayed")))
    def tick(self, data: st.DataObject, outcome: str) -> None:
        node = self.some(data)
        self.go(node, outcome)
        node.tick()

    @rule(data=st.data())
    def arrive_late_or_twice(self, data: st.DataObject) -> None:
        for node in self.nodes:
            self.go(node, node.outcome)
        if self.sent:
            self.twin.call(*data.draw(st.sampled_from(self.sent)))

    @rule(data=st.data())
    def restart_a_process(self, data: st.DataObject) -> None:
        self.some(data).start()

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def lose_a_node(self, data: st.DataObject) -> None:
        node = self.some(data)
        self.nodes.remove(node)
        self.dead_used += sum(worker.spent for worker in node.workers)
        if node.has_spoken:
            self.dead += max(node.held, node.out)

    @rule()
    def remember(self) -> None:
        self.kept = copy.deepcopy(self.twin)

    @rule(kind=st.sampled_from(("emptied", "restarted", "failed over")))
    def forget(self, kind: str) -> None:
        # What the living can tell of those that don't speak any more is tested for itself; it may be a little old.
        self.dead = 0
        for node in self.nodes:
            node.has_spoken = False
        if kind == "emptied":
            self.twin.wipe()
            return
        # Nothing that was sent to the old server reaches the new one.
        for node in self.nodes:
            node.delayed.clear()
        self.sent.clear()
        self.runs += 1
        self.twin.wipe(run=f"run{self.runs}", back_to=self.kept if kind == "failed over" else None)

    @rule()
    def time_goes(self) -> None:
        """Whoever lives is heard of twice in a second."""
        self.twin.now_ms += 400
        for node in self.nodes:
            self.go(node, "answered")
            node.tick()

    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        """After whatever happened, there is something to be had where there is room."""
        settle(self.twin, self.nodes)
        node = self.some(data)
        room = LIMIT // MICRO - self.twin.total(KEY)
        worker = node.workers[0]
        before = worker.belief
        grant = node.report(worker, need=max(0, room) * MICRO)
        assert grant is not None
        assert grant.granted >= before + max(0, room) * MICRO
        assert self.twin.lost.get(KEY, 0) * MICRO <= self.dead_used

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert sum(node.held for node in self.nodes) + self.dead <= LIMIT + self.overspent

    @invariant()
    def no_node_believes_in_more_than_is_recorded(self) -> None:
        rows = self.twin.rows.get(KEY, {})
        for node in self.nodes:
            if node.has_spoken:
                assert node.held <= rows.get(node.name, (0,))[0] * MICRO + self.overspent

    @invariant()
    def no_node_hands_out_more_than_it_has(self) -> None:
        for node in self.nodes:
            assert node.out <= node.held + self.overspent
            assert sum(worker.belief for worker in node.workers) <= node.out + self.overspent


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

amounts = st.integers(0, 2000)
claims_of = st.lists(
    st.tuples(st.sampled_from("ab"), amounts, amounts, amounts, amounts, amounts, amounts),
    min_size=1,
    max_size=3,
)


calls_of = st.tuples(
    st.sampled_from(("n1", "n2", "n3")), st.integers(1, 40), st.booleans(), claims_of, st.integers(0, 5)
)


@given(calls=st.lists(calls_of, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_says_what_its_twin_says(redis_server: Any, calls: list[Any]) -> None:
    """In Lua and on real Redis: the same answers to whatever claims, in whatever order, over several epochs."""
    redis_server.say("FLUSHALL")
    twin = Twin()

    async def begin_an_epoch(link: RedisLink) -> None:
        """Nobody knows any more since when Redis can be trusted; epochs are told apart by the millisecond."""
        before = await link.command("TIME")
        while int((await link.command("TIME"))[1]) // 1000 == int(before[1]) // 1000:
            pass
        await link.command("DEL", link.key("born"))
        twin.born = None
        twin.now_ms += 1

    async def both() -> None:
        link = RedisLink(redis_server.url, name="test")
        try:
            for holder, sequence, is_settling, rows, last in calls:
                if last == 0:
                    await begin_an_epoch(link)
                named = {row[0]: row for row in rows}
                claims = [NodeClaim((name, "tokens", HOUR_START), *rest) for name, *rest in named.values()]
                keys = [link.key("born"), link.key("live"), *(link.key(*key_parts(c)) for c in claims)]
                settle_s = 86_400.0 if is_settling else 0.0
                words = arguments(holder, sequence, claims, settle_s=settle_s, live_s=86_400.0)
                theirs = read(await link.script(Script(TEXT), keys, words), claims)
                ours = read(twin.call(keys, words), claims)
                assert theirs._replace(epoch=b"") == ours._replace(epoch=b"")
        finally:
            await link.close()

    asyncio.run(both())
