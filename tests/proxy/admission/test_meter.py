"""Leases as a worker spends them: against a real book, on a clock and a network that the test moves."""

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.lease_store import LeaseStore
from optimizer.lease_terms import Claim, Grant, Report
from optimizer.leases import LeaseBook
from optimizer.routing import Quota
from proxy.admission.meter import AWAIT_S, GRACE_S, PATIENCE_S, Answer, Meters, RateLimited
from proxy.admission.reservation import Reservation

NOON = 1_700_049_600.0 + 5  # 12:00:05 UTC
KEY = "key:k"


class World:
    """Time that passes only when told to, in the loop's and the wall's sense."""

    def __init__(self) -> None:
        self.wall = NOON
        self._clock = 100.0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = 0

    def time(self) -> float:
        return self._clock

    def now(self) -> float:
        return self.wall

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self._clock + delay, self._order, callback))

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass and do what falls due."""
        until = self._clock + seconds
        while self._queue and self._queue[0][0] <= until:
            at, _, callback = heapq.heappop(self._queue)
            self._pass(at)
            callback()
        self._pass(until)

    def _pass(self, at: float) -> None:
        self.wall += max(0.0, at - self._clock)
        self._clock = max(self._clock, at)


class Network:
    """Between a worker's meters and the book: with delay, silence and refused connections."""

    def __init__(self, world: World, book: LeaseBook, worker: int) -> None:
        self.world = world
        self.book = book
        self.worker = worker
        self.delay_s = 0.0005
        self.wait_s = AWAIT_S
        self.mode = "up"  # up | refused | silent | deaf (the report arrives, the answer does not)
        self.sent = 0
        self.claims: list[Claim] = []

    def ask(self, claims: Sequence[Claim], answer: Answer) -> None:
        self.sent += 1
        self.claims += claims
        report = Report(self.worker, self.sent, list(claims))
        match self.mode:
            case "up":
                self.world.call_later(self.delay_s, lambda: answer(self.book.report(report)))
            case "refused":
                self.world.call_later(0.0002, lambda: answer(None))
            case "deaf":
                self.book.report(report)
                self.world.call_later(1.0, lambda: answer(None))
            case _:
                self.world.call_later(1.0, lambda: answer(None))


class Node:
    """A book and the meters of some workers."""

    def __init__(self, path: Path) -> None:
        self.world = World()
        self.path = path
        self.networks: list[Network] = []
        self.open()

    def open(self) -> None:
        store = LeaseStore(self.path)
        self.book = LeaseBook(store.rows, store, now=self.world.now, clock=self.world.time)
        for network in self.networks:
            network.book = self.book

    def worker(self) -> tuple[Meters, Network]:
        network = Network(self.world, self.book, len(self.networks) + 1)
        self.networks.append(network)
        return Meters(ask=network, now=self.world.now, loop=self.world), network


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "limits.sqlite3")


class Client:
    """Asks for admission and keeps what came of it."""

    def __init__(self, meters: Meters, world: World, quota: Quota, *more: tuple[str, Quota]) -> None:
        self.meters = meters
        self.world = world
        self.subjects = [(KEY, quota), *more]
        self.admitted: list[Reservation] = []
        self.refused: list[RateLimited] = []
        self.waits: list[float] = []

    def ask(self, tokens: int = 1, usd: float | None = None) -> None:
        began = self.world.time()

        def take(outcome: Reservation | RateLimited) -> None:
            self.waits.append(self.world.time() - began)
            (self.admitted if isinstance(outcome, Reservation) else self.refused).append(outcome)  # type: ignore[arg-type]

        outcome = self.meters.admit(self.subjects, tokens=tokens, usd=usd, resume=take)
        if outcome is not None:
            take(outcome)

    def times(self, count: int, **amounts: Any) -> "Client":
        for _ in range(count):
            self.ask(**amounts)
            self.world.run(0.002)
        return self


def test_the_first_request_waits_for_one_call_and_the_next_do_not(node: Node) -> None:
    """One round trip, then the lease is spent locally."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=600))

    client.ask()
    assert client.admitted == []
    node.world.run(0.001)
    client.times(5)

    assert len(client.admitted) == 6
    assert client.waits[1:] == [0.0] * 5
    assert network.sent == 1


def test_a_limit_is_exact(node: Node) -> None:
    """As many as the limit says, and then none, with the reason, the headers and when to come back."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=40)).times(60)

    assert len(client.admitted) == 40
    refusal = client.refused[-1]
    assert (refusal.status, refusal.code, refusal.kind) == (429, "rate_limit_exceeded", "requests")
    assert "client key 'k'" in str(refusal)
    assert "40 requests per minute" in str(refusal)
    assert 50 < refusal.retry_after_s <= 55
    assert b"retry-after: 55\r\n" in refusal.headers
    assert b"x-ratelimit-remaining-requests: 0\r\n" in refusal.headers


def test_the_next_minute_begins_anew(node: Node) -> None:
    """A window ends with its UTC minute."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=5)).times(8)
    assert len(client.admitted) == 5

    node.world.run(55)
    client.times(8)

    assert len(client.admitted) == 10


def test_what_was_not_used_comes_back(node: Node) -> None:
    """A settlement below the reservation refunds, one above charges, an unknown one keeps."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(tokens_per_minute=1000))
    client.times(3, tokens=300)
    client.times(1, tokens=300)
    assert (len(client.admitted), len(client.refused)) == (3, 1)

    client.admitted[0].settle(tokens=50, usd=None)
    client.admitted[1].settle(tokens=None, usd=None)
    client.admitted[2].settle(tokens=350, usd=0.1)
    node.world.run(1)

    client.times(2, tokens=300)
    assert (len(client.admitted), len(client.refused)) == (4, 2)
    assert [(m.limit, m.used) for m in node.book.meters()] == [(1000, 700)]


def test_cancel_gives_everything_back_and_only_the_first_ending_counts(node: Node) -> None:
    """Nothing was sent upstream: not even the request counts."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=3, usd_per_day=1.0))
    client.times(3, usd=0.3)

    for reservation in client.admitted:
        reservation.cancel()
        reservation.settle(tokens=5, usd=0.5)
    client.times(3, usd=0.3)

    assert len(client.admitted) == 6


def test_all_subjects_reserve_or_none(node: Node) -> None:
    """A refusal by the route leaves the key's limit untouched."""
    meters, _ = node.worker()
    both = Client(
        meters, node.world, Quota(requests_per_minute=100), ("route:r", Quota(requests_per_minute=4))
    )
    both.times(10)
    assert len(both.admitted) == 4
    assert "route 'r'" in str(both.refused[0])

    alone = Client(meters, node.world, Quota(requests_per_minute=100)).times(100)

    assert len(alone.admitted) == 96


def test_a_budget_is_refused_as_openai_clients_know_it(node: Node) -> None:
    """``insufficient_quota``, and no automatic repetition."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(usd_per_month=0.01)).times(4, usd=0.003)

    refusal = client.refused[0]
    assert len(client.admitted) == 3
    assert (refusal.status, refusal.code, refusal.kind) == (429, "budget_exceeded", "insufficient_quota")
    assert "$0.01 per month" in str(refusal)
    assert "2023-12-01 00:00:00 UTC" in str(refusal)
    assert b"x-should-retry: false" in refusal.headers
    assert client.admitted[0].headers == b""


def test_an_unknown_price_needs_a_budget_that_is_not_used_up(node: Node) -> None:
    """Nothing can be reserved, but an empty budget stays closed."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(usd_per_day=0.01)).times(1, usd=None)
    client.admitted[0].settle(tokens=None, usd=0.02)

    client.times(1, usd=None)

    assert (len(client.admitted), len(client.refused)) == (1, 1)


def test_a_request_larger_than_the_limit_is_told_so(node: Node) -> None:
    """Waiting would not help, so nobody is asked and the text says what would."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(tokens_per_minute=100)).times(1, tokens=500)

    assert "too large" in str(client.refused[0])
    assert b"x-should-retry: false" in client.refused[0].headers
    assert network.sent == 0


def test_headers_name_the_tightest(node: Node) -> None:
    """The one with the least left speaks, for each rate on its own."""
    meters, _ = node.worker()
    client = Client(
        meters,
        node.world,
        Quota(requests_per_minute=100, tokens_per_minute=500),
        ("route:r", Quota(requests_per_minute=50, tokens_per_minute=5000)),
    ).times(1, tokens=20)

    assert client.admitted[0].headers == (
        b"x-ratelimit-limit-requests: 50\r\nx-ratelimit-remaining-requests: 49\r\n"
        b"x-ratelimit-reset-requests: 55s\r\n"
        b"x-ratelimit-limit-tokens: 500\r\nx-ratelimit-remaining-tokens: 480\r\n"
        b"x-ratelimit-reset-tokens: 55s\r\n"
    )


def test_two_workers_share_and_the_idle_one_lets_go(node: Node) -> None:
    """Neither may spend what the other holds, and what one does not need the other gets within a second."""
    first, _ = node.worker()
    second, _ = node.worker()
    quota = Quota(requests_per_minute=50)
    one = Client(first, node.world, quota).times(3)
    other = Client(second, node.world, quota).times(60)
    assert len(one.admitted) + len(other.admitted) <= 50

    node.world.run(2)
    other.times(60)

    assert len(one.admitted) + len(other.admitted) == 50


def test_a_used_up_limit_costs_no_call_per_request(node: Node) -> None:
    """What the optimizer has denied is not asked for again at once."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=5)).times(5)
    before = network.sent

    for _ in range(200):
        client.ask()
        node.world.run(0.001)

    assert network.sent - before <= 4
    assert len(client.refused) == 200


def test_parked_requests_of_one_turn_share_one_call(node: Node) -> None:
    """Thirty-two requests at an empty lease ask once."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=20))
    for _ in range(32):
        client.ask()

    node.world.run(0.003)

    assert network.sent == 1
    assert (len(client.admitted), len(client.refused)) == (20, 12)


@pytest.mark.parametrize("mode", ["refused", "silent"])
def test_without_the_optimizer_rates_are_open_and_budgets_closed(node: Node, mode: str) -> None:
    """The lease is spent first; what comes then is a setting, and the refusal says so."""
    meters, network = node.worker()
    rate = Client(meters, node.world, Quota(requests_per_minute=4))
    budget = Client(meters, node.world, Quota(requests_per_minute=4, usd_per_day=1.0))
    budget.subjects[0] = ("key:b", budget.subjects[0][1])
    network.mode = mode
    rate.ask()
    node.world.run(2)

    rate.times(20)
    budget.times(5, usd=0.1)

    assert len(rate.admitted) == 21
    assert rate.refused == []
    assert (len(budget.admitted), len(budget.refused)) == (0, 5)
    assert (budget.refused[0].status, budget.refused[0].code) == (503, "limits_unavailable")
    assert "when_optimizer_away.budgets" in str(budget.refused[0])
    assert max(rate.waits + budget.waits) <= AWAIT_S + GRACE_S + 1e-6


def test_the_settings_turn_it_round(node: Node) -> None:
    """Rates closed, budgets open."""
    meters, network = node.worker()
    meters.rates_open, meters.budgets_open = False, True
    network.mode = "refused"

    rate = Client(meters, node.world, Quota(requests_per_minute=4)).times(3)
    budget = Client(meters, node.world, Quota(usd_per_day=1.0))
    budget.subjects[0] = ("key:b", budget.subjects[0][1])
    budget.times(3, usd=0.6)

    assert (len(rate.admitted), len(rate.refused)) == (0, 3)
    assert (len(budget.admitted), len(budget.refused)) == (3, 0)


def test_a_lease_in_hand_is_spent_without_the_optimizer(node: Node) -> None:
    """An outage is not noticed by who holds a lease, and what was spent meanwhile is reported after."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(usd_per_day=1.0)).times(3, usd=0.01)
    network.mode = "refused"

    client.times(3, usd=0.01)
    for reservation in client.admitted:
        reservation.settle(tokens=1, usd=0.01)
    node.world.run(5)
    network.mode = "up"
    node.world.run(5)

    assert len(client.admitted) == 6
    (meter,) = node.book.meters()
    assert meter.used == 0.06
    assert meter.granted <= 0.06 + 1.0 / 256


def test_a_late_answer_is_no_reason_to_refuse_what_can_be_paid(node: Node) -> None:
    """Closed budgets wait for an optimizer that is only busy; a burst is refused no more than a single request."""
    meters, network = node.worker()
    network.delay_s = 0.06
    client = Client(meters, node.world, Quota(usd_per_day=1.0))
    for _ in range(32):
        client.ask(usd=0.01)
    node.world.run(1)

    assert (len(client.admitted), client.refused) == (32, [])
    assert max(client.waits) <= PATIENCE_S


def test_a_silent_optimizer_costs_not_every_request(node: Node) -> None:
    """After one miss requests are not parked for a while: few of many wait, none longer than its due."""
    meters, network = node.worker()
    network.mode = "silent"
    client = Client(meters, node.world, Quota(requests_per_minute=10_000)).times(2000)

    waited = [wait for wait in client.waits if wait > 0]
    assert len(client.waits) == 2000
    assert len(waited) <= 12
    assert max(waited) <= AWAIT_S + GRACE_S + 1e-6


def test_where_nodes_share_limits_requests_wait_as_long_as_the_optimizer_says(node: Node) -> None:
    """20 ms in all: an answer after 15 ms is waited for, one that does not come is not."""
    meters, network = node.worker()
    network.wait_s = 0.019
    network.delay_s = 0.015
    client = Client(meters, node.world, Quota(requests_per_minute=10), ("route:r", Quota(usd_per_day=1.0)))
    client.ask(usd=0.01)
    node.world.run(0.1)
    network.mode = "silent"
    other = Client(node.worker()[0], node.world, Quota(requests_per_minute=10))
    node.networks[1].wait_s = 0.019
    node.networks[1].mode = "silent"
    other.ask()
    node.world.run(0.1)

    assert client.waits == [pytest.approx(0.015)]
    assert other.waits == [pytest.approx(0.020)]
    assert len(client.admitted) == len(other.admitted) == 1


def test_a_slow_optimizer_opens_no_rate_limit(node: Node) -> None:
    """As long as it answers at all, no more goes through than was left when it was last heard of."""
    meters, network = node.worker()
    network.delay_s = 0.03
    client = Client(meters, node.world, Quota(requests_per_minute=30)).times(100)

    assert len(client.admitted) == 30
    assert len(client.refused) == 70


def test_a_report_whose_answer_is_lost_costs_nothing_but_time(node: Node) -> None:
    """The book recorded a grant that the worker never heard of; the next report tells it what is really held."""
    meters, network = node.worker()
    network.mode = "deaf"
    client = Client(meters, node.world, Quota(usd_per_day=1.0)).times(1, usd=0.01)
    node.world.run(3)
    assert len(client.refused) == 1
    network.mode = "up"
    node.world.run(2)

    client.times(100, usd=0.01)

    assert len(client.admitted) == 100


def test_a_lower_quota_holds_at_once(node: Node) -> None:
    """What was granted under the old limit is not spent under the new one."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=1000)).times(100)
    client.subjects[0] = (KEY, Quota(requests_per_minute=110))
    node.world.run(0.01)

    client.times(100)

    assert len(client.admitted) == 110


def test_a_higher_quota_holds_at_once(node: Node) -> None:
    """More is asked for as soon as there is more."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(requests_per_minute=5)).times(10)
    client.subjects[0] = (KEY, Quota(requests_per_minute=20))

    client.times(30)

    assert len(client.admitted) == 20


def test_a_clock_set_back_gives_no_budget_twice(node: Node) -> None:
    """A day forward and back again: the first day remembers what was spent in it."""
    meters, _ = node.worker()
    quota = Quota(usd_per_day=1.0)
    client = Client(meters, node.world, quota).times(8, usd=0.1)
    for reservation in client.admitted:
        reservation.settle(tokens=1, usd=0.1)

    node.world.wall += 86_400
    client.times(12, usd=0.1)
    assert len(client.admitted) == 18
    node.world.wall -= 86_400
    node.world.run(2)
    client.times(12, usd=0.1)

    assert len(client.admitted) == 20


def test_a_late_settlement_belongs_to_the_window_of_its_reservation(node: Node) -> None:
    """A stream that runs over midnight is paid by the day it began in."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(usd_per_day=1.0)).times(1, usd=0.4)
    node.world.wall += 86_400
    client.times(1, usd=0.4)

    client.admitted[0].settle(tokens=1, usd=0.9)
    node.world.run(2)

    (today,) = node.book.meters()
    assert today.used == 0.0
    node.world.wall -= 86_400
    (yesterday,) = node.book.meters()
    assert yesterday.used == 0.9


def test_a_worker_that_ends_gives_back_what_it_does_not_need(node: Node) -> None:
    """An orderly end leaves the next worker everything that was not spent."""
    meters, _ = node.worker()
    quota = Quota(usd_per_day=1.0)
    client = Client(meters, node.world, quota).times(5, usd=0.1)
    for reservation in client.admitted:
        reservation.settle(tokens=1, usd=0.1)

    meters.close()
    node.world.run(0.01)

    (meter,) = node.book.meters()
    assert meter.granted == 0.5
    after, _ = node.worker()
    assert len(Client(after, node.world, quota).times(9, usd=0.1).admitted) == 5


def test_a_killed_worker_takes_little_with_it(node: Node) -> None:
    """A lease is as large as the next moments need, so a crash costs the budget of moments, not of a month."""
    meters, network = node.worker()
    client = Client(meters, node.world, Quota(usd_per_month=1000.0))
    for _ in range(200):
        client.ask(usd=0.01)
        if client.admitted:
            client.admitted.pop().settle(tokens=1, usd=0.01)
        node.world.run(0.05)
    network.mode = "silent"

    (meter,) = node.book.meters()
    assert meter.granted - meter.used < 1.0


def test_parked_requests_are_decided_when_the_worker_closes(node: Node) -> None:
    """Nobody is left hanging."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(usd_per_day=1.0))
    client.ask(usd=0.1)

    meters.close()
    node.world.run(1)

    assert len(client.refused) == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_happens_the_budget_holds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Two workers, any order of requests, settlements, pauses, outages and kill -9 of the optimizer.

    What is reserved and used together never passes the limit, every request gets one decision, and none waits
    longer than its due.
    """
    node = Node(tmp_path_factory.mktemp("limits") / "limits.sqlite3")
    workers = [node.worker(), node.worker()]
    quota = Quota(tokens_per_minute=10_000_000, usd_per_day=1.0)
    clients = [Client(meters, node.world, quota) for meters, _ in workers]
    under_way: list[tuple[Reservation, float]] = []
    spent = 0.0
    asked = [0, 0]
    steps = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(("ask", "ask", "ask", "burst", "settle", "cancel", "pause", "net", "kill")),
                st.integers(0, 1),
                st.integers(1, 120),
            ),
            max_size=60,
        )
    )
    for step, who, size in steps:
        client, (_, network) = clients[who], workers[who]
        usd = size / 1000
        if step in ("ask", "burst"):
            for _ in range(8 if step == "burst" else 1):
                client.ask(usd=usd)
                asked[who] += 1
        elif step == "settle" and under_way:
            reservation, reserved = under_way.pop()
            spent += reserved * size / 120
            reservation.settle(tokens=1, usd=reserved * size / 120)
        elif step == "cancel" and under_way:
            under_way.pop()[0].cancel()
        elif step == "pause":
            node.world.run(size / 40)
        elif step == "net":
            network.mode = ("up", "refused", "silent", "deaf")[size % 4]
        elif step == "kill":
            node.open()
        node.world.run(0.0007)
        for c in clients:
            while c.admitted:
                reservation = c.admitted.pop()
                (amount,) = (a for m, a in reservation._parts if m.measure == "usd_day")
                under_way.append((reservation, amount / 1e9))
        assert spent + sum(reserved for _, reserved in under_way) <= 1.0 + 1e-6
    node.world.run(PATIENCE_S + 0.01)
    assert [len(c.waits) for c in clients] == asked
    assert all(wait <= PATIENCE_S + GRACE_S + 1e-6 for c in clients for wait in c.waits)


def test_grants_of_wrong_length_are_no_answer(node: Node) -> None:
    """What can't be understood is treated like silence."""
    meters, network = node.worker()
    network.ask = lambda claims, answer: node.world.call_soon(lambda: answer([Grant(1, 1)] * 5))  # type: ignore[method-assign]
    client = Client(meters, node.world, Quota(usd_per_day=1.0)).times(1, usd=0.1)

    assert client.refused[0].status == 503


def test_a_prepared_limit_makes_nobody_wait(node: Node) -> None:
    """A worker that has read its table already holds a little of every route's limit."""
    meters, _ = node.worker()
    quota = Quota(requests_per_minute=10_000, usd_per_month=100.0)
    meters.prepare([("route:r", quota)])
    node.world.run(0.01)
    client = Client(meters, node.world, quota)
    client.subjects = [("route:r", quota)]

    client.times(10, usd=0.01)

    assert client.waits == [0.0] * 10


def test_a_quiet_weekend_counts_nothing_twice(node: Node) -> None:
    """The optimizer merges what silent workers left; one that is merely idle must not come back and add it again."""
    meters, _ = node.worker()
    client = Client(meters, node.world, Quota(usd_per_month=1.0)).times(1, usd=0.4)
    client.admitted[0].settle(tokens=None, usd=0.4)
    for _ in range(3 * 24):
        node.world.run(3600)
        node.book.sweep()

    client.times(1, usd=0.1)
    node.world.run(5)

    (month,) = node.book.meters()
    assert month.used == pytest.approx(0.4)
    assert month.granted <= 0.8
    assert len(client.admitted) == 2


def test_who_is_overtaken_is_not_refused_while_there_is_more(node: Node) -> None:
    """Small requests take what a large one counted on while it waits; the limit has room for all of them."""
    quota = Quota(tokens_per_minute=200)
    meters, network = node.worker()
    node.worker()
    node.book.report(Report(2, 1, []))  # somebody else is alive, so nobody is granted everything
    client = Client(meters, node.world, quota).times(1, tokens=1)
    account = meters._accounts[KEY]
    meter = account.meters[0][0]
    ahead = meter.free
    network.delay_s = 0.0015
    client.ask(tokens=ahead + 40)
    node.world.run(0.0005)
    client.times(1, tokens=ahead)

    node.world.run(0.01)

    assert client.refused == []
    assert len(client.admitted) == 3
