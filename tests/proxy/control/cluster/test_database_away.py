"""A shard that is taken while the database is away waits for it, and loses nothing."""

import time

import pytest

pytestmark = pytest.mark.nodes


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_shard_waits_for_the_database_and_is_then_taken_with_what_was_learned(
    house, make_worker, judge, until
) -> None:
    one = house.node()
    one.start()
    until(lambda: len(house.owners()) == 3, 60)
    workers = [make_worker(one)]
    judge.traffic(workers, 200)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 40)
    house.postgres.pause()
    one.kill()
    two = house.node()
    two.start()
    one.start()
    judge.traffic(workers, 100)
    time.sleep(6)
    house.postgres.resume()
    workers.append(until(lambda: two.directory.joinpath("log").exists() and make_worker(two), 30))
    judge.traffic(workers, 100)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 60)
    one.stop()
    two.stop()
    judge.same(house.learned(), expected)
