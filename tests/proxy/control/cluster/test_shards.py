"""Who learns what, exactly once: the owners' statistics are those of one learner over the logs of all nodes."""

import time

import pytest

pytestmark = pytest.mark.nodes


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_owners_that_are_killed_and_replaced_teach_everything_once(house, make_worker, judge, until) -> None:
    one, two = house.node(), house.node()
    one.start(), two.start()
    until(lambda: len(set(house.owners().values())) == 2 and len(house.owners()) == 3, 60)
    workers = [make_worker(one), make_worker(two)]
    judge.traffic(workers, 300)
    time.sleep(1.5)
    judge.traffic(workers, 300)
    noted = one.directory / "kafka.cursor.json"
    until(noted.exists)
    one.kill()
    # As if it had been killed before it could note what had arrived: it ships everything again.
    noted.unlink()
    judge.traffic(workers, 200)
    one.start()
    time.sleep(3)
    judge.traffic(workers, 200)
    two.kill()
    two.start()
    judge.traffic(workers, 200)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 90)
    two.stop()
    one.stop()
    judge.same(house.learned(), expected)
