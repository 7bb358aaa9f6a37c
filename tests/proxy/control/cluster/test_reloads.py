"""A configuration that changes while the cluster runs: prices, and routes that come and go."""

import signal

import pytest
import yaml

pytestmark = pytest.mark.nodes

ARMS = {"small": 0.4, "large": 5.0}


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_new_prices_and_routes_are_learned_as_if_they_had_always_been(
    house, make_worker, judge, until
) -> None:
    one = house.node()
    one.start()
    until(lambda: len(house.owners()) == 3, 60)
    workers = [make_worker(one)]
    judge.traffic(workers, 200)
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 40)
    document = yaml.safe_load(one.config.read_text())
    for arm, usd in ARMS.items():
        document["models"][arm]["price"] = {"input": usd, "output": usd}
    document["routes"]["epsilon"] = document["routes"].pop("delta")
    one.config.write_text(yaml.safe_dump(document))
    one.signal(signal.SIGHUP)
    until(lambda: "epsilon" in {route.name for route in one.settings.routes}, 5)
    judge.traffic(workers, 50)
    (late,) = [make_worker(one)]
    for _ in range(20):
        late.rate(late.request("epsilon"), 0.5)
    # What a route cost that is no more is nobody's business.
    expected = {key: row for key, row in house.expected().items() if key[0] != "delta"}
    wanted = judge.numbers(expected)
    until(lambda: {key: judge.numbers(house.learned()).get(key) for key in wanted} == wanted, 40)
    one.stop()
    learned = house.learned()
    judge.same({key: learned[key] for key in expected}, expected)
