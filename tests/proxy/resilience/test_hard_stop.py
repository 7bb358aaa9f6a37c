"""The worker's own stop: what trips it, what must not, and how seldom it is wrong."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.resilience.hard_stop import (
    BASELINE_FAILING,
    HARD_STOP,
    LEAST_RUN,
    RUN_CHANCE,
    WINDOW,
    HardStop,
    run_length,
)


def stop_with(*, good: int = 0, bad: int = 0) -> HardStop:
    """A stop whose control had ``bad`` errors and then ``good`` successes."""
    stop = HardStop()
    for _ in range(bad):
        stop.control_ended(True)
    for _ in range(good):
        stop.control_ended(False)
    return stop


def errors_until_told(stop: HardStop, most: int = 10_000, *, alone: bool = False) -> tuple[int, str | None]:
    """How many errors in a row it took, and what was said."""
    for number in range(1, most + 1):
        reason = stop.candidate_ended(True, alone=alone)
        if reason is not None:
            return number, reason
    return most, None


def test_five_errors_stop_a_candidate_beside_a_healthy_control():
    """The shortest run, once control's rate makes five in a row less likely than one in a million."""
    stop = stop_with(good=200)
    said = [stop.candidate_ended(True) for _ in range(4)]
    stop.control_ended(False)

    assert [*said, stop.candidate_ended(True)] == [None, None, None, None, HARD_STOP]
    assert stop.stopped


def test_a_run_waits_for_one_look_at_control_but_not_for_ever():
    """Who knows whether it is not both? One answer of control's decides; if there is none, twenty errors do."""
    assert errors_until_told(stop_with(good=200)) == (20, HARD_STOP)
    seen = stop_with(good=200)
    assert {seen.candidate_ended(True) for _ in range(9)} == {None}
    seen.control_ended(False)

    assert seen.candidate_ended(True) == HARD_STOP


def test_a_candidate_that_is_alone_waits_for_nobody():
    """At 100 % control gets nothing; what is known of it from before has to do."""
    assert errors_until_told(stop_with(good=200), alone=True) == (5, HARD_STOP)


def test_a_success_ends_the_run():
    """Four errors, one success, four errors: no run of five."""
    stop = stop_with(good=200)
    outcomes = [*[True] * 4, False, *[True] * 4]

    assert {stop.candidate_ended(failed, alone=True) for failed in outcomes} == {None}
    assert stop.candidate_ended(True, alone=True) == HARD_STOP


@pytest.mark.parametrize(("p", "run"), [(1e-4, 5), (0.05, 5), (0.1, 6), (0.5, 20), (0.9, 132)])
def test_the_run_follows_from_controls_rate(p, run):
    """k = max(5, ceil(ln 1e-6 / ln p))."""
    assert run_length(p) == run == max(5, math.ceil(math.log(1e-6) / math.log(p)))


@given(p=st.floats(1e-9, 1 - 1e-6))
def test_no_run_is_likelier_than_its_chance(p):
    """Whatever control's rate is, chance alone makes such a run at most once in a million."""
    assert p ** run_length(p) <= RUN_CHANCE * (1 + 1e-9)
    assert run_length(p) >= LEAST_RUN


def test_with_nothing_known_of_control_it_takes_twenty():
    """A worker that has seen no control request takes its rate for one half."""
    assert errors_until_told(HardStop()) == (20, HARD_STOP)


@given(good=st.integers(0, 500), bad=st.integers(0, 500))
def test_a_candidate_that_always_fails_is_always_told_of(good, bad):
    """Stopped if control is well, reported if not; never silence for ever."""
    stop = stop_with(good=good, bad=bad)
    number, reason = errors_until_told(stop)

    assert reason in (HARD_STOP, BASELINE_FAILING)
    assert number <= max(run_length(stop.p_control), WINDOW)
    assert stop.stopped == (reason == HARD_STOP)


def test_mostly_failing_stops_without_a_run():
    """Eleven of the last twenty, never five in a row, while control's last twenty are well."""
    stop = stop_with(good=20)
    said = [stop.candidate_ended(failed) for failed in [True, False] * 9 + [False, True]]
    assert set(said) == {None}
    said = [stop.candidate_ended(failed) for failed in (True, True)]

    assert said == [None, HARD_STOP]


def test_half_is_not_most():
    """Ten of twenty, for ever: the guards' business."""
    stop = stop_with(good=100)

    assert {stop.candidate_ended(number % 2 == 0) for number in range(400)} == {None}


def test_a_control_that_was_hardly_asked_proves_nothing():
    """Most of the candidate's fail, but of control there are nineteen outcomes only."""
    stop = stop_with(good=19)
    pattern = [True, True, True, False] * 10
    assert {stop.candidate_ended(failed) for failed in pattern} == {None}
    stop.control_ended(False)

    assert stop.candidate_ended(True) == HARD_STOP


def test_an_outage_of_both_is_reported_once_and_stops_nothing():
    """A shared upstream is down: the candidate is not to blame, and one report is enough."""
    stop = stop_with(good=500)
    said = []
    for _ in range(200):
        stop.control_ended(True)
        said.append(stop.candidate_ended(True))

    assert [reason for reason in said if reason] == [BASELINE_FAILING]
    assert not stop.stopped


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_an_outage_of_both_is_hardly_ever_blamed_on_the_candidate(share):
    """300 outages that begin for both at once, at any share of the candidate's: below 4 % are called its own.

    That takes 20 errors of its own before a single one of control's, of chance 0.9**19 < 14 % at the largest share but
    below 1e-5 at a half; seeded, so one fixed draw.
    """
    rng = random.Random(22)
    blamed = 0
    for _ in range(300):
        stop, reason = stop_with(good=60), None
        while reason is None:
            if rng.random() < share:
                reason = stop.candidate_ended(True)
            else:
                stop.control_ended(True)
        blamed += reason == HARD_STOP

    assert blamed <= (300 * 0.2 if share > 0.5 else 0)


def test_a_second_outage_is_reported_again():
    """After both were well, the next outage is news."""
    stop = stop_with(good=500)
    said = []
    for failed in [True] * 30 + [False] * 60 + [True] * 30:
        stop.control_ended(failed)
        said.append(stop.candidate_ended(failed))

    assert [reason for reason in said if reason] == [BASELINE_FAILING] * 2


def test_when_control_recovers_a_candidate_that_does_not_is_stopped():
    """The report was right while both failed; afterwards the candidate stands alone."""
    stop = stop_with(good=500)
    for _ in range(30):
        stop.control_ended(True)
        stop.candidate_ended(True)
    said = []
    for _ in range(20):
        stop.control_ended(False)
        said.append(stop.candidate_ended(True))

    assert HARD_STOP in said


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=400))
def test_a_stop_is_final_and_said_once(outcomes):
    """Whatever comes after it."""
    stop = stop_with(good=50)
    said = []
    for is_control, failed in [*outcomes, *[(False, True)] * 40, *outcomes]:
        if is_control:
            stop.control_ended(failed)
        else:
            was = stop.stopped
            said.append(stop.candidate_ended(failed))
            assert stop.stopped >= was

    assert said.count(HARD_STOP) == stop.stopped


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_identical_sides_are_left_alone(share):
    """A/A at 5 % errors: of 300 rollouts of 1,000 requests none is stopped.

    A run of five has chance 0.05**5 < 4e-7 per request, so all of them together 0.1 at most if control's rate were
    known from the start; its smoothing makes the run longer while little is known. Seeded, so this is one fixed draw.
    """
    rng = random.Random(20)
    stopped = 0
    for _ in range(300):
        stop = HardStop()
        for _ in range(1000):
            failed = rng.random() < 0.05
            if rng.random() < share:
                stop.candidate_ended(failed)
            else:
                stop.control_ended(failed)
        stopped += stop.stopped

    assert stopped == 0


@pytest.mark.parametrize(("rate", "most"), [(1.0, 5), (0.8, 12), (0.6, 40)])
def test_a_broken_candidate_is_stopped_within_few_requests(rate, most):
    """Median requests of the candidate's until it is stopped, at a tenth of the traffic and 2 % errors of control's."""
    rng = random.Random(21)
    delays = []
    for _ in range(200):
        stop, asked = stop_with(good=60), 0
        while not stop.stopped and asked < 1000:
            if rng.random() < 0.1:
                asked += 1
                stop.candidate_ended(rng.random() < rate)
            else:
                stop.control_ended(rng.random() < 0.02)
        delays.append(asked)

    assert sorted(delays)[100] <= most
