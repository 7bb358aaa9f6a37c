"""Real engines that tests may stop, freeze, kill and start again; one of each per test process, if a test asks."""

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.servers.kafka import KafkaBroker
from loadtests.servers.process import Missing
from loadtests.servers.redis import RedisServer
from loadtests.servers.relay import Relay


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """The broker of this process; use ``kafka``, which makes sure that it runs."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-kafka-") as directory:
        try:
            broker = KafkaBroker(Path(directory))
        except Missing as reason:
            pytest.skip(str(reason))
        yield broker
        broker.close()


@pytest.fixture
def kafka(kafka_broker: KafkaBroker) -> Iterator[KafkaBroker]:
    """A real Kafka broker that runs, whose relays pass. Topics of other tests are there: take a name of your own."""
    kafka_broker.resume()
    kafka_broker.start()
    for relay in kafka_broker.relays:
        relay.delay_s = 0.0
        relay.mode = "pass"
    yield kafka_broker
    _collect()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """The Redis of this process; use ``redis_server``, which makes sure that it runs and is empty."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-redis-") as directory:
        try:
            server = RedisServer(Path(directory))
        except Missing as reason:
            pytest.skip(str(reason))
        yield server
        server.kill()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A real Redis that runs and is empty."""
    redis_process.resume()
    redis_process.start()
    redis_process.flush()
    return redis_process


@pytest.fixture
def make_relay() -> Iterator[Callable[[str], Relay]]:
    """``make_relay(address)``: a TCP relay in front of any server; they end with the test."""
    made: list[Relay] = []

    def make(target: str = "") -> Relay:
        made.append(Relay(target))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


@pytest.fixture
def half_open_sockets() -> Iterator[None]:
    """Whatever Kafka clients leave to the collector is collected here, and not in another test."""
    yield
    _collect()


def _collect() -> None:
    """aiokafka leaves a half-open socket behind when it is ended in the middle of its start; its warning is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
