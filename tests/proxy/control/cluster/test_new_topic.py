"""A topic that was deleted and made again teaches what it has, and what was learned stays."""

import pytest

pytestmark = pytest.mark.nodes


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_topic_made_anew_loses_nothing_that_it_has(house, make_worker, judge, until) -> None:
    one = house.node()
    one.start()
    until(lambda: one.said().count("is ours") >= 3, 60)
    workers = [make_worker(one)]
    judge.traffic(workers, 300)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 40)
    house.kafka.delete_topic(house.topic)
    house.kafka.make_topic(house.topic, 3)
    judge.traffic(workers, 100)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 80)
    one.stop()
    judge.same(house.learned(), expected)
