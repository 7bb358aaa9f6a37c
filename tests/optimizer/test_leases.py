"""The book of leases: never more granted than there is, whatever is repeated, lost, overtaken or killed."""

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optimizer.lease_store import LeaseStore
from optimizer.lease_terms import (
    MAX_CLAIMS,
    Claim,
    Grant,
    Grants,
    Report,
    decode_grants,
    decode_report,
    encode_grants,
    encode_report,
    nano,
    windows,
)
from optimizer.leases import GONE_S, Holding, LeaseBook

DAY = 1_700_006_400  # 2023-11-15T00:00:00Z
HOUR = DAY + 3600.0


class Clock:
    """Wall and monotonic time that a test moves."""

    def __init__(self, at: float = HOUR) -> None:
        self.wall = at
        self.steady = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def open_book(path: Path, clock: Clock) -> tuple[LeaseBook, LeaseStore]:
    store = LeaseStore(path)
    return LeaseBook(store.rows, store, now=lambda: clock.wall, clock=lambda: clock.steady), store


def claim(limit: int = 100, **changes: int | str) -> Claim:
    base = Claim("key:k", "usd_day", DAY, 1, limit, used=0, hold=0, need=0, want=0)
    return base._replace(**changes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> LeaseBook:
    return open_book(tmp_path / "limits.sqlite3", clock)[0]


def ask(book: LeaseBook, worker: int, sequence: int, *claims: Claim) -> list[Grant | None]:
    return book.report(Report(worker, sequence, claims))


def test_what_waits_is_served_before_what_would_be_nice(book: LeaseBook) -> None:
    """``need`` is granted if there is room at all, ``want`` only up to a fair share."""
    (greedy,) = ask(book, 1, 1, claim(need=1, want=100))
    (second,) = ask(book, 2, 1, claim(need=45, want=100))
    (third,) = ask(book, 3, 1, claim(need=20, want=100))

    assert greedy == Grant(50, 50)
    assert second == Grant(45, 5)
    assert third == Grant(5, 0)


def test_what_is_given_back_can_be_had_by_others(book: LeaseBook) -> None:
    """A lower ``hold`` frees the difference."""
    ask(book, 1, 1, claim(need=100, want=100))
    assert ask(book, 2, 1, claim(need=10, want=10)) == [Grant(0, 0)]

    ask(book, 1, 2, claim(used=30, hold=40))

    assert ask(book, 2, 2, claim(need=10, want=10)) == [Grant(10, 50)]


def test_overspending_is_recorded_and_makes_room_smaller(book: LeaseBook) -> None:
    """A reply that cost more than was reserved counts in full, and nothing is granted beyond."""
    ask(book, 1, 1, claim(need=90, want=90))

    overspent = ask(book, 1, 2, claim(used=130, hold=130, need=1, want=1))
    other = ask(book, 2, 1, claim(need=1, want=1))

    assert overspent == [Grant(130, 0)]
    assert other == [Grant(0, 0)]


def test_a_lower_limit_grants_nothing_until_enough_came_back(book: LeaseBook) -> None:
    """After the operator lowers a limit, what is granted shrinks only by what is reported free."""
    ask(book, 1, 1, claim(need=80, want=80))

    assert ask(book, 2, 1, claim(limit=50, need=10, want=10)) == [Grant(0, 0)]
    ask(book, 1, 2, claim(limit=50, used=20, hold=20))
    assert ask(book, 2, 2, claim(limit=50, need=10, want=10)) == [Grant(10, 20)]


def test_a_repetition_changes_nothing(book: LeaseBook) -> None:
    """The same report again is answered by what is recorded; an overtaken one too."""
    first = ask(book, 1, 1, claim(need=10, want=10))
    again = ask(book, 1, 1, claim(need=10, want=10))
    ask(book, 1, 2, claim(used=10, hold=10, need=20, want=20))
    overtaken = ask(book, 1, 1, claim(need=10, want=10))

    assert first == again
    assert overtaken == [Grant(30, 70)]


def test_kill_9_forgets_no_grant(tmp_path: Path, clock: Clock) -> None:
    """A new process reads what the old one granted, though nobody closed the file."""
    book, _left_open = open_book(tmp_path / "limits.sqlite3", clock)
    ask(book, 1, 1, claim(need=70, want=70))

    after, _ = open_book(tmp_path / "limits.sqlite3", clock)

    assert ask(after, 2, 1, claim(need=100, want=100)) == [Grant(30, 0)]


def test_a_refusing_disk_stops_budgets_and_not_rates(tmp_path: Path, clock: Clock) -> None:
    """Nothing may be spent of a budget that was not stored; it goes on, and is stored, once the disk takes it."""
    path = tmp_path / "limits.sqlite3"
    book, _ = open_book(path, clock)
    rate = claim(measure="requests", need=5, want=5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    during = ask(book, 1, 1, claim(need=5, want=5), rate)
    other.execute("ROLLBACK")
    other.close()
    after = ask(book, 1, 2, claim(need=5, want=5), rate._replace(hold=5, need=0, want=0))

    assert during == [None, Grant(5, 95)]
    assert after == [Grant(5, 95), Grant(5, 95)]
    assert book.unstored == 1
    reopened, _ = open_book(path, clock)
    assert sorted((m.measure, m.granted) for m in reopened.meters() if m.measure == "usd") == [("usd", 5e-9)]


def test_a_damaged_file_is_moved_aside(tmp_path: Path, clock: Clock) -> None:
    """The optimizer starts all the same; workers tell what they have spent."""
    path = tmp_path / "limits.sqlite3"
    path.write_bytes(b"this is no database" * 400)

    book, _ = open_book(path, clock)

    assert (tmp_path / "limits.sqlite3.corrupt-1").exists()
    assert ask(book, 1, 1, claim(used=60, hold=60, need=50, want=50)) == [Grant(100, 0)]


def test_old_windows_go_and_the_last_ones_stay(tmp_path: Path, clock: Clock) -> None:
    """Clocks are set back by minutes or days, so the last windows of a limit outlive their end."""
    path = tmp_path / "limits.sqlite3"
    book, _ = open_book(path, clock)
    for day in range(6):
        ask(book, 1, day + 1, claim(start=DAY + 86_400 * day, used=day + 1, hold=day + 1))
        clock.pass_by(86_400)

    book.sweep()
    clock.wall = HOUR + 86_400 * 4
    (found,) = book.meters()

    assert found.used == 5e-9
    assert len(LeaseStore(path).rows) == 3


def test_holders_that_are_gone_are_merged_and_still_count(tmp_path: Path, clock: Clock) -> None:
    """Months of restarts leave one row, and not a cent more to spend."""
    path = tmp_path / "limits.sqlite3"
    book, _ = open_book(path, clock)
    month = windows(clock.wall).month
    monthly = claim(measure="usd_month", start=month, need=10, want=10)
    for worker in range(1, 6):
        ask(book, worker, 1, monthly)
    clock.pass_by(GONE_S + 1)
    ask(book, 9, 1, monthly)

    book.sweep()

    assert ask(book, 10, 1, monthly._replace(need=100, want=100)) == [Grant(40, 0)]
    rows = LeaseStore(path).rows
    assert sorted((row.worker, row.granted) for row in rows) == [(0, 50), (9, 10), (10, 40)]


def test_windows_are_those_of_utc() -> None:
    """Minute, day and month around a leap day and a year's end."""
    leap = windows(1_709_210_096.7)  # 2024-02-29T12:34:56.7Z
    end = windows(1_704_067_199)  # 2023-12-31T23:59:59Z

    assert leap.minute_end - leap.minute == 60
    assert leap.minute <= 1_709_210_096 < leap.minute_end
    assert (leap.month, leap.month_end) == (1_706_745_600, 1_709_251_200)
    assert end.month_end == end.day_end == end.minute_end == 1_704_067_200


def test_reports_survive_the_wire() -> None:
    """What a worker encodes is what the optimizer reads, and back."""
    report = Report(7, 3, [claim(need=1, want=2)])
    grants: list[Grant | None] = [Grant(3, 4), None]

    assert decode_report(encode_report(report)) == report
    assert decode_grants(encode_grants(Grants(grants))) == Grants(grants)
    assert decode_grants(encode_grants(Grants(grants, 0.019))) == Grants(grants, 0.019)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"worker":1,"sequence":1,"claims":[[]]}',
        b'{"worker":1,"sequence":-1,"claims":[]}',
        b'{"worker":1,"sequence":1,"claims":[["key:a","usd_day",0,1,1,1,1,1,1.5]]}',
        b'{"worker":1,"sequence":1,"claims":[["key:a","parsecs",0,1,1,1,1,1,1]]}',
        b'{"worker":1,"sequence":1,"claims":[[5,"tokens",0,1,1,1,1,1,1]]}',
        b'{"worker":1,"sequence":1,"claims":[["key:a","tokens",0,1,1,1,1,1,true]]}',
    ],
)
def test_what_is_no_report_is_refused(data: bytes) -> None:
    """Nothing half understood gets into the book."""
    with pytest.raises(ValueError):
        decode_report(data)


def test_a_report_has_a_bound() -> None:
    """One message can't keep the optimizer busy for long."""
    with pytest.raises(ValueError):
        decode_report(encode_report(Report(1, 1, [claim()] * (MAX_CLAIMS + 1))))


def test_dollars_become_exact_integers() -> None:
    """Nano-dollars; what is no amount is nothing."""
    assert nano(0.0000015) == 1500
    assert nano(12.34) == 12_340_000_000
    assert [nano(x) for x in (-1.0, float("nan"), float("inf"))] == [0, 0, 0]


class _Flaky:
    """A ledger whose disk can be full: the real store, or its error."""

    def __init__(self, store: LeaseStore) -> None:
        self.store = store
        self.is_full = False

    def write(self, saved: Sequence[Holding], removed: Sequence[Holding] = ()) -> None:
        if self.is_full:
            raise OSError("disk full")
        self.store.write(saved, removed)


class _Worker:
    """What one incarnation believes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.belief = 0
        self.spent = 0
        self.sent: list[Report] = []


class Leases(RuleBasedStateMachine):
    """Workers that spend no more than they believe in, a network that loses and repeats, a process that is killed."""

    limit = 1000

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.full = False
        self.number = 0
        self.workers: list[_Worker] = []
        self.dead_spent = 0
        self.forgotten = False
        self.open()
        self.arrive()
        self.arrive()

    def open(self) -> None:
        self.ledger = _Flaky(LeaseStore(Path(self.directory.name) / "limits.sqlite3"))
        self.ledger.is_full = self.full
        rows = self.ledger.store.rows
        self.book = LeaseBook(rows, self.ledger, now=lambda: self.clock.wall, clock=lambda: self.clock.steady)

    def recorded(self, worker: _Worker) -> int:
        for tally in self.book._tallies.values():
            row = tally.holders.get((worker.number, 1))
            if row is not None:
                return row.granted
        return 0

    def total(self) -> int:
        return sum(tally.granted for tally in self.book._tallies.values())

    @rule()
    def arrive(self) -> None:
        if len(self.workers) < 4:
            self.number += 1
            self.workers.append(_Worker(self.number))

    @precondition(lambda self: not self.forgotten)
    @rule(data=st.data())
    def spend(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        worker.spent += data.draw(st.integers(0, worker.belief - worker.spent))

    @precondition(lambda self: not self.forgotten)
    @rule(data=st.data(), heard=st.booleans(), arrives=st.booleans())
    def report(self, data: st.DataObject, heard: bool, arrives: bool) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        worker.belief = data.draw(st.integers(worker.spent, worker.belief))
        need = data.draw(st.integers(0, 400))
        want = need + data.draw(st.integers(0, 400))
        worker.sequence += 1
        row = claim(self.limit, used=worker.spent, hold=worker.belief, need=need, want=want)
        report = Report(worker.number, worker.sequence, [row])
        worker.sent.append(report)
        if arrives:
            (grant,) = self.book.report(report)
            if heard and grant is not None:
                worker.belief = grant.granted

    @precondition(lambda self: not self.forgotten)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The transport sends something again, or late; nobody hears the answer but for the newest."""
        worker = data.draw(st.sampled_from(self.workers))
        known = self.book._sequence.get(worker.number)
        # A process that was just started can get nothing that was sent to the one before it.
        early = [r for r in worker.sent if known is not None and r.sequence <= known]
        if early:
            before = self.total()
            (grant,) = self.book.report(data.draw(st.sampled_from(early)))
            assert self.total() == before
            if grant is not None and data.draw(st.booleans()):
                assert grant.granted >= worker.belief

    @rule()
    def kill_the_optimizer(self) -> None:
        before = self.total()
        self.open()
        assert self.total() == before

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data())
    def kill_a_worker(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        self.workers.remove(worker)
        self.dead_spent += worker.spent

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.full = self.ledger.is_full = full

    @rule(seconds=st.sampled_from((0.1, 10.0, 3600.0)), jump=st.sampled_from((0, 0, -7200, 100 * 86_400)))
    def time_goes(self, seconds: float, jump: int) -> None:
        self.clock.pass_by(seconds)
        self.clock.wall += jump

    @rule()
    def sweep(self) -> None:
        if not self.full and self.clock.steady < 1000 + GONE_S:
            self.book.sweep()
            self.forgotten |= not self.book._tallies

    def allowed(self) -> int:
        return self.dead_spent + sum(worker.belief for worker in self.workers)

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert self.total() <= self.limit
        assert self.allowed() <= self.limit

    @invariant()
    def nobody_believes_in_more_than_is_recorded(self) -> None:
        if self.forgotten or not self.book._tallies:
            return  # The window is so long over that it was forgotten; nobody spends of it or reports it any more.
        for worker in self.workers:
            assert worker.belief <= self.recorded(worker)

    def teardown(self) -> None:
        self.ledger.store.close()
        self.directory.cleanup()


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
