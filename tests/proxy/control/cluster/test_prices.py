"""A change of prices reaches what earlier owners learned: the topic has it, though the new owner's copy has not."""

import signal

import pytest
import yaml

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(200)]

LATER = {"small": 0.4, "large": 5.0}


@pytest.mark.slow
def test_a_new_price_after_a_takeover_counts_what_was_learned_before_it(
    house, make_worker, judge, until
) -> None:
    one = house.node()
    one.start()
    until(lambda: len(house.owners()) == 3, 60)
    workers = [make_worker(one)]
    judge.traffic(workers, 200)
    before = judge.numbers(house.expected())
    until(lambda: judge.numbers(house.learned()) == before, 60)
    one.stop()
    two = house.node()
    two.start()
    until(lambda: two.said().count("is ours") == 3, 60)

    document = yaml.safe_load(two.config.read_text())
    for arm, usd in LATER.items():
        document["models"][arm]["price"] = {"input": usd, "output": usd}
    for node in (one, two):
        node.config.write_text(yaml.safe_dump(document))
    two.signal(signal.SIGHUP)
    until(lambda: "is in use (signal)" in two.said(), 20)
    workers = [make_worker(two)]
    judge.traffic(workers, 50)

    costs = _costs(judge.numbers(house.expected()))
    until(lambda: _costs(judge.numbers(house.learned())).items() >= costs.items(), 60)
    two.stop()
    learned, expected = house.learned(), house.expected()
    judge.same({key: learned[key] for key in costs}, {key: expected[key] for key in costs})


def _costs(numbers):
    """Those of ``small``, whose price has changed, under the new price."""
    return {key: number for key, number in numbers.items() if key[3].startswith("cost") and number > 0}
