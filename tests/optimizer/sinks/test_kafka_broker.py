"""Shipping to a real broker: as one of several nodes, with a password, and through everything that can go wrong."""

import asyncio
import os
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest

from loadtests.servers.kafka import PASSWORD, USER, KafkaBroker
from optimizer.cluster.sharding import shard_of
from optimizer.events import FEEDBACK, WORKER_STATS
from optimizer.settings import ClusterSettings, KafkaSecurity, KafkaSettings, Settings
from optimizer.sinks.kafka import ClusterTopic
from optimizer.sinks.registry import build_sinks

SASL = KafkaSecurity("sasl_plaintext", "PLAIN", USER, "env:PASSWORD")


@pytest.fixture
def topic(kafka: KafkaBroker, request: pytest.FixtureRequest) -> str:
    """One of this test's own, with three partitions."""
    return kafka.make_topic(f"{request.node.name}-{os.getpid()}".replace("[", "-").replace("]", ""), 3)


def numbers(kafka: KafkaBroker, topic: str, expected: int) -> list[int]:
    return [orjson.loads(message.value() or b"")["data"]["n"] for message in kafka.messages(topic, expected)]


async def test_a_batch_is_what_kafka_understands(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """Compressed by ourselves or not at all: value, key, headers and order are the log's."""
    node.write(500)
    for compression in ("gzip", None):
        node.state.kafka_cursor_file.unlink(missing_ok=True)
        shipper = node.shipper(kafka.bootstrap, topic=topic, settings={"compression": compression})
        async with node.running(shipper):
            await node.until(lambda: shipper.stats.delivered == 500)  # noqa: B023
        assert shipper.stats.errors == 0

    messages = kafka.messages(topic, 1000)
    assert len(messages) == 1000
    for partition in range(3):
        found = [orjson.loads(m.value() or b"")["data"]["n"] for m in messages if m.partition() == partition]
        half = len(found) // 2
        assert found[:half] == sorted(found[:half]) == found[half:]
    for message in messages[:20]:
        event = orjson.loads(message.value() or b"")
        key = (message.key() or b"").decode()
        assert key == (event["data"]["route"] or "")
        assert message.partition() == shard_of(key, 3)
        assert dict(message.headers() or [])["ce_id"] == event["id"].encode()


async def test_a_topic_that_nobody_makes_is_named(kafka: KafkaBroker, node: Any) -> None:
    """A broker that makes none by itself; as soon as it is there, everything is shipped."""
    topic = f"absent-{os.getpid()}"
    node.write(5)
    shipper = node.shipper(kafka.bootstrap, topic=topic, limit_s=1.0)

    async with node.running(shipper):
        await node.until(lambda: topic in shipper.stats.last_error)
        kafka.make_topic(topic, 2)
        await node.until(lambda: shipper.stats.delivered == 5)


async def test_a_node_of_a_cluster_makes_the_topic_and_ships_by_shard(kafka: KafkaBroker, node: Any) -> None:
    """A topic without one: it gets as many partitions as asked for; ratings stay, reports are cut by route."""
    topic = f"made-{os.getpid()}"
    known: list[int] = []
    cluster = ClusterTopic(lambda: known[0] if known else None, 5)
    node.write(20)
    node.log("f", FEEDBACK, {"route": "route-1", "n": -1})
    node.log("s", WORKER_STATS, {"n": -2, "routes": [["route-1", "a", "control", "completed", 3]]})
    node.log("e", WORKER_STATS, {"n": -3, "routes": []})
    shipper = node.shipper(kafka.bootstrap, topic=topic, cluster=cluster)

    async with node.running(shipper):
        await node.until(lambda: "not known yet" in shipper.stats.last_error)
        assert kafka.partitions(topic) == 5
        known.append(4)
        await node.until(lambda: shipper.stats.delivered == 21)
        kafka.add_partitions(topic, 7)
        node.write(20)
        await node.until(lambda: shipper.stats.delivered == 41)

    messages = kafka.messages(topic, 41)
    assert sorted({message.partition() for message in messages}) == sorted(
        {shard_of(route, 4) for route in ("", "route-0", "route-1", "route-2")}
    )
    assert all(message.partition() == shard_of((message.key() or b"").decode(), 4) for message in messages)
    kinds = [dict(message.headers() or [])["ce_id"] for message in messages]
    assert b"s:route-1" in kinds
    assert b"f" not in kinds


async def test_the_registry_knows_about_clusters(kafka: KafkaBroker, node: Any) -> None:
    """What the processes call."""
    topic = f"registry-{os.getpid()}"
    settings = Settings(
        "h", (), (), (), (),
        kafka=KafkaSettings((kafka.sasl_bootstrap,), topic=topic, security=SASL),
        cluster=ClusterSettings("default", "env:S", shards=3),
    )  # fmt: skip
    node.write(10)
    (sink,) = build_sinks(settings, node.state, secret=lambda _: PASSWORD, shards=lambda: 3)
    async with node.running(sink):
        await node.until(lambda: sink.stats.delivered == 10)
    assert kafka.partitions(topic) == 3
    for message in kafka.messages(topic, 10):
        assert message.partition() == shard_of((message.key() or b"").decode(), 3)


async def test_a_topic_with_fewer_partitions_than_shards_gets_nothing(
    kafka: KafkaBroker, topic: str, node: Any
) -> None:
    """Or a route's events would be where its owner does not look."""
    node.write(1)
    shipper = node.shipper(kafka.bootstrap, topic=topic, cluster=ClusterTopic(lambda: 4, 4))
    async with node.running(shipper):
        await node.until(lambda: "3 partitions" in shipper.stats.last_error)
        assert not shipper.stats.up
        kafka.add_partitions(topic, 4)
        await node.until(lambda: shipper.stats.delivered == 1)


async def test_a_password_is_looked_up_each_time(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """Missing, wrong, and right at last, without a restart."""
    known: dict[str, str] = {}
    node.write(10)
    shipper = node.shipper(
        kafka.sasl_bootstrap, topic=topic, limit_s=2.0, settings={"security": SASL}, secret=known.get
    )
    async with node.running(shipper):
        await node.until(lambda: "env:PASSWORD, is not set" in shipper.stats.last_error)
        known["env:PASSWORD"] = "wrong"
        await node.until(lambda: "or refuse this client" in shipper.stats.last_error)
        assert not shipper.stats.up
        known["env:PASSWORD"] = PASSWORD
        await node.until(lambda: shipper.stats.delivered == 10)
    assert PASSWORD not in shipper.stats.last_error


async def test_over_tls(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """Only to whom the operator trusts."""
    node.write(10)
    security = replace(SASL, protocol="sasl_ssl")
    stranger = node.shipper(
        kafka.secure_bootstrap, topic=topic, settings={"security": security}, secret=lambda _: PASSWORD
    )
    async with node.running(stranger):
        await node.until(lambda: stranger.stats.errors > 0)
    assert stranger.stats.delivered == 0

    security = replace(security, ca_file=str(kafka.ca_file))
    shipper = node.shipper(
        kafka.secure_bootstrap, topic=topic, settings={"security": security}, secret=lambda _: PASSWORD
    )
    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 10)


async def test_a_file_that_is_not_there_is_named(node: Any) -> None:
    security = KafkaSecurity("ssl", ca_file="/nowhere/ca.pem")
    shipper = node.shipper("127.0.0.1:1", settings={"security": security})
    async with node.running(shipper):
        await node.until(lambda: "kafka.security" in shipper.stats.last_error)


@pytest.mark.parametrize("mode", ["refuse", "stall", "cut"])
async def test_a_network_that_fails_costs_no_event(
    kafka: KafkaBroker, topic: str, node: Any, mode: Any
) -> None:
    """What was under way is sent again, what was logged meanwhile comes after it."""
    shipper = node.shipper(kafka.relay.address, topic=topic, limit_s=1.0)
    async with node.running(shipper):
        node.write(100)
        await node.until(lambda: shipper.stats.delivered == 100)
        kafka.relay.mode = mode
        node.write(100)
        await node.until(lambda: shipper.stats.errors >= 2)
        assert not shipper.stats.up
        assert shipper.stats.lag_bytes > 0
        kafka.relay.mode = "pass"
        await node.until(lambda: shipper.stats.delivered == 200, 40)
    assert set(numbers(kafka, topic, 200)) == set(range(200))


@pytest.mark.slow
async def test_a_broker_that_is_killed_and_started_again_costs_no_event(
    kafka: KafkaBroker, topic: str, node: Any
) -> None:
    """While events are logged all the time."""
    shipper = node.shipper(kafka.bootstrap, topic=topic, limit_s=1.0)
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            node.write(20)
            await asyncio.sleep(0.01)

    async with node.running(shipper):
        loading = asyncio.create_task(load())
        await node.until(lambda: shipper.stats.delivered > 200)
        await asyncio.to_thread(kafka.kill)
        await node.until(lambda: shipper.stats.errors > 0)
        await asyncio.to_thread(kafka.start)
        at = shipper.stats.delivered
        await node.until(lambda: shipper.stats.delivered > at + 200, 40)
        await asyncio.to_thread(kafka.pause)
        await node.until(lambda seen=shipper.stats.errors: shipper.stats.errors > seen)
        await asyncio.to_thread(kafka.resume)
        done.set()
        await loading
        await node.until(lambda: shipper.stats.lag_bytes == 0 and shipper.stats.up, 40)
    assert set(numbers(kafka, topic, node.written)) == set(range(node.written))


async def test_a_broker_with_a_lower_limit_gets_what_it_takes(kafka: KafkaBroker, node: Any) -> None:
    """A batch that it turns down goes record by record, and the producer's numbers still fit."""
    topic = kafka.make_topic(f"small-{os.getpid()}", 1, **{"max.message.bytes": "3000"})
    node.write(50)
    node.write(1, padding=5000)
    node.write(50)
    shipper = node.shipper(kafka.bootstrap, topic=topic, settings={"compression": None})
    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 100 and shipper.stats.lag_bytes == 0)
    assert shipper.stats.dead_lettered == 1
    assert sorted(numbers(kafka, topic, 100)) == [*range(50), *range(51, 101)]
    (letter,) = node.state.dead_letter_file.read_bytes().splitlines()
    assert orjson.loads(letter)["id"] == "event-50"


async def test_lines_that_are_no_events_are_put_aside(kafka: KafkaBroker, topic: str, node: Any) -> None:
    node.write(3)
    node.writer.append(b'{"id": nonsense}\n')
    node.write(3)
    shipper = node.shipper(kafka.bootstrap, topic=topic)
    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 6 and shipper.stats.dead_lettered == 1)
    assert node.state.dead_letter_file.read_bytes() == b'{"id": nonsense}\n'
    assert len(kafka.messages(topic, 6)) == 6


async def test_only_one_moves_the_cursor(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """Another one with new settings takes over where the first one was, when it has ended."""
    node.write(10)
    first, second = node.shipper(kafka.bootstrap, topic=topic), node.shipper(kafka.bootstrap, topic=topic)
    async with node.running(second):
        await node.until(lambda: second.stats.delivered == 10)
        async with node.running(first):
            node.write(10)
            await node.until(lambda: second.stats.delivered == 20)
            assert first.stats.delivered == 0
            assert not first.stats.up
    third = node.shipper(kafka.bootstrap, topic=topic)
    async with node.running(third):
        node.write(10)
        await node.until(lambda: third.stats.delivered == 10)
    assert sorted(numbers(kafka, topic, 30)) == list(range(30))


async def test_what_is_there_is_shipped_before_it_ends(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """A node whose disk goes with it has nobody else to ship its tail."""
    shipper = node.shipper(kafka.bootstrap, topic=topic, tuning=replace(node.tuning, idle_s=5.0))
    async with node.running(shipper):
        await node.until(lambda: shipper.stats.up)
        node.write(5000)
    assert shipper.stats.delivered == 5000


async def test_a_report_is_at_the_broker_soon(kafka: KafkaBroker, topic: str, node: Any) -> None:
    """With the tuning of production: a rollback on all nodes within a second begins with this."""
    shipper = node.shipper(kafka.bootstrap, topic=topic, tuning=type(node.tuning)())
    took = []
    async with node.running(shipper):
        await node.until(lambda: shipper.stats.up)
        for _ in range(20):
            before = shipper.stats.delivered
            await asyncio.sleep(0.013)
            node.write(1)
            start = time.perf_counter()
            await node.until(lambda: shipper.stats.delivered > before)  # noqa: B023
            took.append(time.perf_counter() - start)
    assert sorted(took)[10] < 0.08, took
