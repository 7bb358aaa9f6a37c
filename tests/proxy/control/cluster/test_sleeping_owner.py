"""An owner that slept beyond its tenure writes nothing when it wakes."""

import signal
import time

import pytest

pytestmark = pytest.mark.nodes


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_an_owner_that_slept_too_long_writes_nothing_when_it_wakes(house, make_worker, judge, until) -> None:
    one, two = house.node(), house.node()
    one.start(), two.start()
    until(lambda: len(set(house.owners().values())) == 2 and len(house.owners()) == 3, 60)
    workers = [make_worker(one), make_worker(two)]
    judge.traffic(workers, 200)
    time.sleep(1)
    one.signal(signal.SIGSTOP)
    before = two.said().count("is ours")
    judge.traffic(workers[1:], 200)
    until(lambda: len(house.owners()) == 3 and len(set(house.owners().values())) == 1, 40)
    until(lambda: two.said().count("is ours") > before, 10)
    one.signal(signal.SIGCONT)
    judge.traffic(workers, 200)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 60)
    one.stop()
    two.stop()
    judge.same(house.learned(), expected)
