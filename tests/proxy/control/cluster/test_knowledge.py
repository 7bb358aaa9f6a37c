"""What a takeover must not lose: sums given requests, another half-life, ratings that other systems gave."""

import base64
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from confluent_kafka import Producer

from optimizer.context.features import features_of
from optimizer.settings import ContextSettings
from optimizer.store import LearnerStore

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(200)]

ROUTES = ("alpha", "beta", "gamma", "delta")
FEATURES = features_of(ContextSettings())


def begun(house: Any, until: Any, count: int, **changes: Any) -> list[Any]:
    """So many nodes, which have shared the shards out."""
    nodes = [house.node(**changes) for _ in range(count)]
    for node in nodes:
        node.start()
    until(lambda: len(house.owners()) == 3 and len(set(house.owners().values())) == count, 60)
    return nodes


def reload(node: Any, change: Any) -> None:
    document = yaml.safe_load(node.config.read_text())
    change(document)
    node.config.write_text(yaml.safe_dump(document))
    node.signal(signal.SIGHUP)


def steered(*files: Path) -> dict[tuple[Any, ...], tuple[int, Any, Any]]:
    """What is known given requests, by everything that tells it apart."""
    found: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, 0.0, 0.0])
    for file in files:
        store = LearnerStore(file)
        linear = store.load().linear
        linear.fold()
        for cell in linear.cells():
            key = cell.key
            sums = found[key.route, key.model_key, key.version, key.group, tuple(key.signals)]
            for place, value in enumerate((cell.n, cell.gram, cell.moments)):
                sums[place] = sums[place] + value
        store.close()
    return {key: (n, gram, moments) for key, (n, gram, moments) in found.items()}


def test_what_is_known_given_requests_goes_to_the_next_owner(house, make_worker, judge, until) -> None:
    arms = {"arms": ["small", "large"], "baseline": "large", "context": {}, "drift": False}
    one, two = begun(house, until, 2, routes=dict.fromkeys(ROUTES, arms))
    workers = [make_worker(one), make_worker(two)]

    def traffic(count: int) -> None:
        for number in range(count):
            worker, rater = judge.rng.choice(workers), judge.rng.choice(workers)
            x = np.array([judge.rng.uniform(-1.0, 1.0) for _ in range(FEATURES.size)], "<f4")
            context = {"version": FEATURES.version, "x": base64.b64encode(x.tobytes()).decode()}
            rated = worker.request(ROUTES[number % 4], context=context)
            rater.rate(rated, judge.rng.random())

    traffic(200)
    until(lambda: _counts(house.saved()) == _counts([house.replayed()]), 60)
    traffic(100)  # some of it is in no snapshot when its owner dies
    one.kill()
    until(lambda: len(house.owners()) == 3 and len(set(house.owners().values())) == 1, 60)
    one.start()
    traffic(100)
    until(lambda: _counts(house.saved()) == _counts([house.replayed()]), 90)
    learned, expected = steered(*house.saved()), steered(house.replayed())
    for key, (_, gram, moments) in expected.items():
        assert learned[key][1] == pytest.approx(gram, rel=1e-9, abs=1e-9), key
        assert learned[key][2] == pytest.approx(moments, rel=1e-9, abs=1e-9), key


def _counts(files: list[Path]) -> dict[tuple[Any, ...], int]:
    return {key: n for key, (n, _, _) in steered(*files).items()}


def test_partitions_that_are_added_stay_empty_and_nothing_moves(house, make_worker, judge, until) -> None:
    """The routes' shards are those that the cluster began with, also for a node that is new."""
    one, two = begun(house, until, 2)
    workers = [make_worker(one), make_worker(two)]
    judge.traffic(workers, 150)
    house.kafka.add_partitions(house.topic, 5)
    judge.traffic(workers, 150)
    three = house.node()
    three.start()
    until(lambda: len(set(house.owners().values())) == 3, 60)
    two.kill()
    workers = [make_worker(one), make_worker(three)]
    judge.traffic(workers, 150)
    two.start()
    expected = house.expected()
    until(lambda: judge.numbers(house.learned()) == judge.numbers(expected), 90)
    judge.same(house.learned(), expected)
    assert set(house.owners()) == set(house.snapshots()) == {0, 1, 2}
    assert {message.partition() for message in house.kafka.messages(house.topic)} <= {0, 1, 2}


def test_another_half_life_is_the_next_owners_too(house, make_worker, judge, until) -> None:
    """Everything counts once, before and after the change, and an older file on a node does not bring it back."""
    one, two = begun(house, until, 2)
    workers = [make_worker(one), make_worker(two)]
    judge.traffic(workers, 200)
    first = judge.numbers(house.expected())
    until(lambda: judge.numbers(house.learned()) == first, 60)

    def shorter(document: dict[str, Any]) -> None:
        for route in document["routes"].values():
            route["policy"] = {"half_life_hours": 2}

    for node in (one, two):
        reload(node, shorter)
    until(lambda: all("is in use (signal)" in node.said() for node in (one, two)), 20)
    judge.traffic(workers, 200)
    both = judge.numbers(house.expected())
    until(lambda: judge.numbers(house.learned()) == both, 60)
    until(lambda: _half_lives(house) == dict.fromkeys(ROUTES, 7200.0), 30)
    before = house.learned()
    two.kill()
    until(lambda: len(house.owners()) == 3 and len(set(house.owners().values())) == 1, 60)
    one.stop()
    after = house.learned()
    assert _half_lives(house) == dict.fromkeys(ROUTES, 7200.0)
    judge.same(after, before)


def _half_lives(house: Any) -> dict[str, float]:
    """Of every route, what its clock was set to last."""
    return {route: half_life for route, _, _, half_life in house.rows("clocks")}


def test_ratings_of_other_systems_count_once_whoever_takes_them(house, make_worker, judge, until) -> None:
    """The node that takes them from the topic dies with some in its hands; another goes on where it had said so."""
    one, two = begun(house, until, 2)
    workers = [make_worker(one), make_worker(two)]
    requests = [judge.rng.choice(workers).request("alpha") for _ in range(300)]
    producer = Producer({"bootstrap.servers": house.kafka.bootstrap})

    def rate(ids: list[str]) -> None:
        for request_id in ids:
            rating = {"request_id": request_id, "metric": "quality", "value": 0.5}
            producer.produce(house.feedback, orjson.dumps(rating))
        assert producer.flush(20) == 0

    rate(requests[:150])
    until(lambda: _rated(house) > 0, 60)
    rate(requests[150:])
    two.kill()
    rate(requests[:50])  # again
    two.start()
    until(lambda: _rated(house) == 300, 90)
    rate(requests[:50])
    one.kill()
    one.start()
    last = [make_worker(two).request("alpha") for _ in range(10)]
    rate(last)
    until(lambda: _rated(house) >= 310, 90)
    assert _rated(house) == 310


def _rated(house: Any) -> int:
    return sum(row[3] for key, row in house.learned().items() if key[3] == "quality")
