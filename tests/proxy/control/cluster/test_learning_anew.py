"""Owners that begin anew come to what they knew, resets by changes that were noticed among it."""

import time

import pytest

pytestmark = pytest.mark.nodes


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_learning_anew_comes_to_the_same(house, make_worker, judge, until) -> None:
    one = house.node()
    one.start()
    until(lambda: one.said().count("is ours") >= 3, 60)
    workers = [make_worker(one)]
    judge.traffic(workers, 200)
    for number in range(900):
        rated = workers[0].request("alpha", "small", outcome="completed")
        workers[0].rate(rated, 0.9 if number < 600 else 0.1)
    expected = house.expected()

    def all_but_quality(sums) -> dict:
        return {key: number for key, number in judge.numbers(sums).items() if key[3] != "quality"}

    until(lambda: all_but_quality(house.learned()) == all_but_quality(expected), 60)
    # The last ratings come after the last requests.
    time.sleep(11)
    before, resets = house.learned(), house.rows("resets")
    assert resets
    house.forget()
    until(lambda: one.said().count("is ours") >= 6, 40)
    until(lambda: judge.numbers(house.learned()) == judge.numbers(before), 40)
    judge.same(house.learned(), before)
    assert house.rows("resets") == resets
