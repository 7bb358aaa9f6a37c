"""The detector of a standing delay, on a clock of its own."""

import pytest

from proxy.admission.shedding import Shedder

TARGET_S = 0.05


class Loop:
    """Turns of an event loop on paper: ``turn(offered)`` reads what was offered and runs what was taken."""

    def __init__(self, target_s: float = TARGET_S, cost_s: float = 0.0001) -> None:
        self.now = 100.0
        self.cost_s = cost_s
        self.shedder = Shedder(target_s, clock=lambda: self.now)

    def turn(self, offered: int) -> int:
        """Returns how many were taken."""
        shedder = self.shedder
        shedder.gathering()
        taken = sum([not shedder.on or shedder.takes() for _ in range(offered)])
        begun = self.now
        self.now += taken * self.cost_s
        shedder.ran(begun, taken)
        return taken

    def idle(self, seconds: float) -> None:
        self.now += seconds


def test_a_burst_after_idleness_is_served_whole():
    loop = Loop()
    loop.idle(60)
    assert loop.turn(2000) == 2000  # 200 ms of work at once
    assert not loop.shedder.on
    assert loop.turn(10) == 10


def test_bursts_with_idleness_between_them_never_add_up():
    loop = Loop()
    for _ in range(100):
        assert loop.turn(1500) == 1500
        loop.idle(1.0)
    assert loop.shedder.refused == 0


def test_one_short_turn_shows_that_no_queue_stands():
    loop = Loop()
    for _ in range(50):
        assert loop.turn(1000) == 1000
        assert loop.turn(100) == 100
    assert loop.shedder.refused == 0


def test_a_standing_delay_is_shed_and_turns_get_short():
    loop = Loop()
    turns = 0
    while not loop.shedder.on:
        assert loop.turn(800) == 800
        turns += 1
        assert turns < 10
    begun = loop.now
    for _ in range(100):
        assert 0 < loop.turn(800) < 100
    assert (loop.now - begun) / 100 < 0.01
    assert loop.shedder.refused > 70_000


def test_it_goes_off_when_for_an_interval_nobody_was_refused():
    loop = Loop()
    while not loop.shedder.on:
        loop.turn(800)
    loop.turn(800)
    loop.turn(800)
    refused = loop.shedder.refused
    assert refused > 0
    for _ in range(200):
        loop.turn(5)
        loop.idle(0.002)
    assert not loop.shedder.on
    assert loop.shedder.refused == refused
    assert loop.turn(800) == 800


def test_bursts_that_leave_time_between_them_are_served_again():
    """Once on, it must not stay on for a load that is uneven but no overload: 15 ms of work every 50 ms."""
    loop = Loop()
    while not loop.shedder.on:
        loop.turn(800)
    for _ in range(40):
        loop.turn(150)
        loop.idle(0.035)
    assert not loop.shedder.on


def test_a_process_that_was_put_to_sleep_does_not_look_dear():
    loop = Loop()
    for turn in range(200):
        begun = loop.now
        loop.shedder.gathering()
        loop.now += 0.2 if turn % 10 == 0 else 0.001
        loop.shedder.ran(begun, 10)
    assert 0.00005 < loop.shedder._cost_s < 0.0002


def test_dearer_requests_mean_fewer_a_turn_but_never_none():
    cheap, dear, slow = Loop(cost_s=0.00005), Loop(cost_s=0.0002), Loop(cost_s=0.1)
    taken = []
    for loop in (cheap, dear, slow):
        while not loop.shedder.on:
            loop.turn(2000)
        for _ in range(100):
            loop.turn(2000)
        taken.append(loop.turn(2000))
    assert taken[0] > taken[1] > taken[2] == 4


def test_everything_refused_in_a_turn_is_still_a_turn():
    """Upstreams that answer nothing leave a turn without work; the next one takes requests again."""
    loop = Loop()
    while not loop.shedder.on:
        loop.turn(800)
    for _ in range(10):
        shedder = loop.shedder
        shedder.gathering()
        while shedder.takes():
            pass
        shedder.ran(loop.now, 0)
        assert loop.turn(3) == 3


@pytest.mark.parametrize("target_s", [0.0])
def test_no_target_switches_it_off(target_s):
    loop = Loop(target_s)
    for _ in range(50):
        assert loop.turn(5000) == 5000
