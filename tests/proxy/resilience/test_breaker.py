"""When a model counts as down, and how it comes back."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from optimizer.routing import BreakerRules
from proxy.resilience import breaker as breakers
from proxy.resilience.breaker import CLOSED, HALF_OPEN, OPEN, Board, Breaker

RULES = BreakerRules(consecutive=3, error_rate=0.5, min_volume=10, window_s=10.0, open_s=1.0, max_open_s=8.0)


def half() -> float:
    return 0.5


def make(rules: BreakerRules = RULES) -> Breaker:
    """A closed breaker without jitter."""
    return Breaker(rules, uniform=half)


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(now, breaker.started())


def opened(at: float = 0.0) -> Breaker:
    breaker = make()
    fail(breaker, at, RULES.consecutive)
    return breaker


def half_opened() -> Breaker:
    breaker = opened()
    breaker.tick(1.0)
    return breaker


def test_failures_in_a_row_open_it():
    """Not one before."""
    breaker = make()

    fail(breaker, 0.0, 2)
    assert (breaker.state, breaker.down) == (CLOSED, False)
    fail(breaker, 0.0)

    assert (breaker.state, breaker.down, breaker.opens) == (OPEN, True, 1)


def test_a_success_ends_the_row():
    """Two failures, a success and two failures are no three in a row."""
    breaker = make()
    for _ in range(3):
        fail(breaker, 0.0, 2)
        breaker.succeeded(0.0, breaker.started())

    assert breaker.state == CLOSED


@pytest.mark.parametrize(("successes", "state"), [(5, OPEN), (6, CLOSED)])
def test_the_share_of_failures_opens_it_from_the_least_volume_on(successes, state):
    """Five of ten is the share of the rules, five of eleven is less."""
    breaker = make(replace(RULES, consecutive=100))
    for _ in range(successes):
        breaker.succeeded(0.0, breaker.started())

    fail(breaker, 0.0, 5)

    assert breaker.state == state


def test_few_failures_among_few_attempts_say_nothing():
    """Below the least volume only a row counts."""
    breaker = make()
    for _ in range(4):
        fail(breaker, 0.0)
        breaker.succeeded(0.0, breaker.started())

    assert breaker.state == CLOSED


def test_old_failures_are_forgotten():
    """What is older than the window no longer counts."""
    breaker = make()
    for _ in range(4):
        fail(breaker, 0.0)
        breaker.succeeded(0.0, breaker.started())
    for _ in range(9):
        breaker.succeeded(20.0, breaker.started())
    fail(breaker, 20.0, 2)

    assert breaker.state == CLOSED


def test_a_pause_ends_in_half_open_and_a_probe_goes_out():
    """While it is under way nobody else is let through."""
    breaker = opened()

    breaker.tick(0.8)
    assert breaker.down
    breaker.tick(1.0)
    assert (breaker.state, breaker.down) == (HALF_OPEN, False)
    breaker.started()

    assert (breaker.state, breaker.down) == (HALF_OPEN, True)


def test_the_probe_decides():
    """Its success closes, its failure opens for twice as long."""
    good, bad = half_opened(), half_opened()

    good.succeeded(2.0, good.started())
    bad.failed(2.0, bad.started())

    assert (good.state, good.down, good.opens) == (CLOSED, False, 1)
    assert (bad.state, bad.down, bad.opens) == (OPEN, True, 2)
    bad.tick(3.9)
    assert bad.state == OPEN
    bad.tick(4.0)
    assert bad.state == HALF_OPEN


def test_pauses_grow_to_their_bound_and_start_small_again():
    """1, 2, 4, then bounded; after a success 1 again."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        before = now
        while breaker.state == OPEN:
            now += 0.01
            breaker.tick(now)
        pauses.append(now - before)
        breaker.failed(now, breaker.started())
    while breaker.state == OPEN:
        now += 0.01
        breaker.tick(now)
    breaker.succeeded(now, breaker.started())
    fail(breaker, now, 3)
    breaker.tick(now + 1.01)

    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8 / 1.2, 8 / 1.2, 8 / 1.2], abs=0.02)
    assert breaker.state == HALF_OPEN


@pytest.mark.parametrize(("u", "pause"), [(0.0, 0.8), (0.999999, 1.2)])
def test_pauses_are_jittered(u, pause):
    """A fifth either way."""
    breaker = Breaker(RULES, uniform=lambda: u)
    fail(breaker, 0.0, 3)

    breaker.tick(pause - 0.01)
    assert breaker.state == OPEN
    breaker.tick(pause + 0.01)
    assert breaker.state == HALF_OPEN


def test_an_abandoned_probe_makes_room_for_another():
    """A client that left says nothing about the upstream."""
    breaker = half_opened()

    breaker.abandoned(1.1, breaker.started())

    assert (breaker.state, breaker.down) == (HALF_OPEN, False)


def test_a_probe_that_never_reports_is_given_up():
    """Otherwise the model would be down for ever."""
    breaker = half_opened()
    probe = breaker.started()

    breaker.tick(1.1)
    breaker.tick(9.0)
    assert breaker.down
    breaker.tick(9.1)
    assert (breaker.state, breaker.down) == (HALF_OPEN, False)
    breaker.failed(9.2, probe)
    assert breaker.state == HALF_OPEN
    breaker.succeeded(9.3, probe)
    assert breaker.state == CLOSED


def test_requests_from_before_the_opening_neither_close_nor_extend_it():
    """They speak of a time that is past."""
    breaker = make()
    old = [breaker.started() for _ in range(20)]
    fail(breaker, 0.0, 3)

    breaker.succeeded(0.5, old.pop())
    for attempt in old[:9]:
        breaker.failed(0.6, attempt)
    assert (breaker.state, breaker.opens) == (OPEN, 1)
    breaker.tick(1.0)
    probe = breaker.started()
    for attempt in old[9:15]:
        breaker.failed(1.1, attempt)
    breaker.succeeded(1.1, old[15])
    breaker.abandoned(1.1, old[16])
    assert (breaker.state, breaker.down) == (HALF_OPEN, True)
    breaker.succeeded(1.2, probe)
    for attempt in old:
        breaker.failed(1.3, attempt)

    assert (breaker.state, breaker.opens) == (CLOSED, 1)


def test_an_attempt_on_the_last_arm_left_may_close_an_open_breaker():
    """It went out although the model was down, and the model answered."""
    good, bad = opened(), opened()

    good.succeeded(0.5, good.started())
    bad.failed(0.5, bad.started())
    bad.tick(1.0)

    assert (good.state, good.down) == (CLOSED, False)
    assert (bad.state, bad.opens) == (HALF_OPEN, 1)


def test_a_second_attempt_beside_the_probe_can_close_but_not_open():
    """The probe alone stands for the failing upstream; anybody's success is one."""
    good, bad = half_opened(), half_opened()
    for breaker in (good, bad):
        breaker.started()

    good.succeeded(1.1, good.started())
    other = bad.started()
    bad.failed(1.1, other)
    bad.abandoned(1.1, other)

    assert good.state == CLOSED
    assert (bad.state, bad.down) == (HALF_OPEN, True)


def test_it_is_left_alone_when_it_asks():
    """For as long as it asks, up to the longest pause, and then with a probe."""
    asked, long, failing = make(), make(), opened()

    asked.cool(0.0, 5.0)
    long.cool(0.0, 600.0)
    failing.cool(0.5, 0.1)
    for breaker in (asked, long, failing):
        assert (breaker.state, breaker.down, breaker.opens) == (OPEN, True, 1)
        breaker.tick(0.7)
        assert breaker.state == OPEN
    asked.tick(5.0)
    long.tick(7.9)

    assert asked.state == HALF_OPEN
    assert long.state == OPEN
    long.tick(8.0)
    assert long.state == HALF_OPEN


def test_being_asked_does_not_lengthen_later_pauses():
    """Only failures do."""
    breaker = make()
    breaker.cool(0.0, 1.0)
    breaker.tick(1.0)
    breaker.failed(1.0, breaker.started())

    breaker.tick(2.0)

    assert breaker.state == HALF_OPEN


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_no_pause(seconds):
    """ "Come back at once" changes nothing."""
    breaker = make()

    breaker.cool(0.0, seconds)

    assert breaker.state == CLOSED


def test_switched_off_it_is_never_down():
    """And switching off an open one closes it."""
    off = BreakerRules(consecutive=0)
    breaker, was_open, was_half_open = make(off), opened(), half_opened()

    fail(breaker, 0.0, 100)
    breaker.cool(0.0, 10.0)
    was_open.rules = off
    was_half_open.started()
    was_half_open.rules = off

    for each in (breaker, was_open, was_half_open):
        assert (each.state, each.down) == (CLOSED, False)


def test_the_watcher_hears_of_every_change_and_of_nothing_else():
    """Masks are made from it."""
    breaker, seen = make(), []
    breaker.watcher = lambda: seen.append(breaker.down)

    fail(breaker, 0.0, 5)
    breaker.tick(1.0)
    probe = breaker.started()
    breaker.started()
    breaker.failed(1.1, probe)
    breaker.tick(5.0)
    breaker.succeeded(5.1, breaker.started())
    breaker.succeeded(5.2, breaker.started())

    assert seen == [True, False, True, False, True, False]


def test_every_move_leads_to_a_state_that_time_or_success_can_leave():
    """No state is a dead end, and only the named moves exist."""
    for state in (OPEN, HALF_OPEN):
        assert breakers.MOVES[state, breakers.PASSED] == CLOSED
        assert breakers.MOVES[state, breakers.SWITCHED_OFF] == CLOSED
    assert breakers.MOVES[OPEN, breakers.DUE] == HALF_OPEN
    assert (OPEN, breakers.TRIPPED) not in breakers.MOVES
    assert (CLOSED, breakers.PASSED) not in breakers.MOVES


def test_a_board_keeps_breakers_over_tables():
    """The same pair has the same breaker, under the newest rules; what no table names is forgotten."""
    now = [0.0]
    board = Board(clock=lambda: now[0], uniform=half)
    first = board.breaker("one", "small", RULES)
    fail(first, 0.0, 3)
    stricter = BreakerRules(consecutive=1)

    again = board.breaker("one", "small", stricter)
    board.breaker("one", "large", RULES)

    assert again is first
    assert again.rules is stricter
    assert board.report() == [["one", "small", OPEN, 1]]
    now[0] = 2.0
    board.tick()
    assert board.report() == [["one", "small", HALF_OPEN, 1]]
    board.keep([("one", "large")])
    assert board.report() == []
    assert board.breaker("one", "small", RULES) is not first


class BreakerMachine(RuleBasedStateMachine):
    """Any order of events against a plain description of what should be believed."""

    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(RULES, uniform=half)
        self.flips = 0
        self.seen = False
        self.breaker.watcher = self.flip
        self.state, self.opens, self.probe = CLOSED, 0, None
        self.valid: set[int] = set()
        self.serial = 0
        self.row = 0
        self.log: list[tuple[float, bool]] = []
        self.down_since: float | None = None

    def flip(self) -> None:
        self.flips += 1
        assert self.breaker.down is not self.seen
        self.seen = self.breaker.down

    def enter(self, state: str) -> None:
        self.opens += state == OPEN and self.state != OPEN
        if state != HALF_OPEN and state != self.state:
            self.valid = set()
            self.row, self.log = 0, []
        self.state, self.probe = state, None

    @rule(target=attempts)
    def start(self) -> tuple[int, int]:
        self.serial += 1
        number = self.breaker.started()
        self.valid.add(self.serial)
        if self.state == HALF_OPEN and self.probe is None:
            self.probe = self.serial
        return self.serial, number

    @rule(attempt=consumes(attempts))
    def succeed(self, attempt: tuple[int, int]) -> None:
        serial, number = attempt
        self.breaker.succeeded(self.now, number)
        if serial in self.valid:
            if self.state != CLOSED:
                self.enter(CLOSED)
            else:
                self.row = 0
                self.log.append((self.now, False))

    @rule(attempt=consumes(attempts))
    def fail(self, attempt: tuple[int, int]) -> None:
        serial, number = attempt
        before = self.breaker.state
        self.breaker.failed(self.now, number)
        if self.state == HALF_OPEN and serial == self.probe:
            self.enter(OPEN)
        elif self.state == CLOSED and serial in self.valid:
            self.row += 1
            self.log.append((self.now, True))
            if self.row >= RULES.consecutive:
                self.enter(OPEN)
            elif self.breaker.state == OPEN and before == CLOSED:
                # The window is between a half and a whole one; the share must hold over one of these.
                assert any(self.share_since(self.now - span) for span in (10.0, 7.5, 5.0, 2.5, 0.0))
                self.enter(OPEN)

    def share_since(self, start: float) -> bool:
        recent = [failed for at, failed in self.log if at >= start]
        return len(recent) >= RULES.min_volume and sum(recent) >= RULES.error_rate * len(recent)

    @rule(attempt=consumes(attempts))
    def abandon(self, attempt: tuple[int, int]) -> None:
        serial, number = attempt
        self.breaker.abandoned(self.now, number)
        if serial == self.probe:
            self.probe = None

    @rule(attempt=consumes(attempts))
    def never_report(self, attempt: tuple[int, int]) -> None:
        """The attempt is lost; nobody tells the breaker."""

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    def cool(self, seconds: float) -> None:
        self.breaker.cool(self.now, seconds)
        self.enter(OPEN)

    @rule(steps=st.integers(min_value=1, max_value=100))
    def wait(self, steps: int) -> None:
        for _ in range(steps):
            self.now += 0.1
            before = self.breaker.down
            self.breaker.tick(self.now)
            assert not (self.breaker.down and not before)
        if self.state == OPEN and self.breaker.state == HALF_OPEN:
            self.enter(HALF_OPEN)
        elif self.probe is not None and not self.breaker.down:
            self.probe = None

    @precondition(lambda self: self.breaker.down)
    @rule()
    def recover(self) -> None:
        """However long it was down: within 30 s an attempt is let through, and its success closes."""
        for _ in range(300):
            self.now += 0.1
            self.breaker.tick(self.now)
            if not self.breaker.down:
                break
        assert self.breaker.state == HALF_OPEN
        self.breaker.succeeded(self.now, self.breaker.started())
        assert self.breaker.state == CLOSED
        self.enter(CLOSED)

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state == self.state
        assert self.breaker.opens == self.opens
        assert self.breaker.down == (
            self.state == OPEN or (self.state == HALF_OPEN and self.probe is not None)
        )
        assert self.breaker.down == self.seen
        assert self.flips >= self.opens


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase
