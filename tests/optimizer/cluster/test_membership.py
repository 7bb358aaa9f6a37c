import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.codec import has_lz4
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from loadtests.servers.kafka import KafkaBroker
from optimizer.cluster.consuming import Incoming
from optimizer.cluster.lanes import slices
from tests.optimizer.cluster.group_helpers import Book, Running, eventually, running

SHARDS = 4
_names = itertools.count()


def _topic() -> str:
    return f"members-{os.getpid()}-{next(_names)}"


def _write(kafka: KafkaBroker, topic: str, count: int, *, partitions: int = SHARDS) -> None:
    """``count`` records into each partition."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(count):
        for partition in range(partitions):
            producer.produce(topic, b'{"number":%d}' % number, partition=partition)
    assert producer.flush(20) == 0


def _all(book: Book, count: int) -> bool:
    return book.taken == {shard: list(range(count)) for shard in range(SHARDS)}


def _shares(*members: Running) -> list[int]:
    """How many shards each has, when each has just one owner; else an empty list."""
    owned = [shard for member in members for shard in member.learner.owned]
    return [len(member.learner.owned) for member in members] if sorted(owned) == list(range(SHARDS)) else []


def test_slices_are_bounded_and_complete() -> None:
    records = [Incoming(number, None, b"x" * size, (), 0) for number, size in enumerate((5, 5, 30, 0, 10, 1))]
    parts = list(slices(records, 10))
    assert [[record.offset for record in part] for part in parts] == [[0, 1], [2], [3, 4], [5]]
    assert list(slices([], 10)) == []


async def test_one_member_reads_everything_once(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 50)
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: _all(book, 50))
        assert one.member.up
        assert one.member.owned == frozenset(range(SHARDS))
        assert one.member.partitions == SHARDS
        assert one.member.generation
        _write(kafka, topic, 5)
        await eventually(lambda: _all(book, 55), 2.0)
        await eventually(lambda: one.member.lag == dict.fromkeys(range(SHARDS), 0))
    assert one.learner.told[-1] == ("revoked", [0, 1, 2, 3])
    assert not one.member.up
    assert one.member.errors == 0


@pytest.mark.slow
async def test_shards_move_to_who_joins_and_back_from_who_leaves(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 20)
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: _all(book, 20))
        async with running(kafka.bootstrap, topic, book) as two:
            await eventually(lambda: _shares(one, two) == [2, 2])
            moved = two.learner.owned
            # What stayed was never taken away, and what went was named.
            assert one.learner.told.count(("revoked", sorted(moved))) == 1
            assert [word for word, _ in one.learner.told].count("revoked") == 1
            _write(kafka, topic, 20)
            await eventually(lambda: _all(book, 40))
            three = Running(kafka.bootstrap, topic, book)
            await eventually(lambda: sorted(_shares(one, two, three)) == [1, 1, 2])
            _write(kafka, topic, 20)
            await eventually(lambda: _all(book, 60))
            assert await three.stop() < 3.0
            assert await eventually(lambda: _shares(one, two) == [2, 2]) < 3.0
        await eventually(lambda: _shares(one) == [4])
        _write(kafka, topic, 20)
        await eventually(lambda: _all(book, 80))


@pytest.mark.slow
async def test_partitions_that_are_no_shards_belong_to_nobody(
    kafka: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    async with (
        running(kafka.bootstrap, topic, book) as one,
        running(kafka.bootstrap, topic, book) as two,
    ):
        await eventually(lambda: _shares(one, two) == [2, 2])
        kafka.add_partitions(topic, 3 * SHARDS)
        await eventually(lambda: one.member.partitions == two.member.partitions == 3 * SHARDS)
        _write(kafka, topic, 10, partitions=3 * SHARDS)
        await eventually(lambda: _all(book, 10))
        await eventually(lambda: _shares(one, two) == [2, 2])
        await asyncio.sleep(1.0)  # a rebalance would be over by then
        assert _shares(one, two) == [2, 2]
    assert _all(book, 10)
    assert caplog.text.count("12 partitions, the cluster has 4 shards") == 2


async def test_nothing_is_assigned_before_the_number_of_shards_is_known(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS + 1), Book()
    _write(kafka, topic, 3, partitions=SHARDS + 1)
    known: list[int | None] = [None]
    async with running(kafka.bootstrap, topic, book, shards=lambda: known[0]) as one:
        await eventually(lambda: one.member.partitions == SHARDS + 1 and one.member.up)
        await asyncio.sleep(0.3)
        assert one.learner.told == []
        known[0] = SHARDS
        await eventually(lambda: _all(book, 3))


async def test_a_learner_that_is_not_ready_is_waited_for(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 30)
    async with running(kafka.bootstrap, topic, book) as one:
        one.learner.ready = False
        await eventually(lambda: one.learner.owned)
        await asyncio.sleep(0.5)
        assert book.taken == {}
        assert one.member.lag == {}
        book.next = dict.fromkeys(range(SHARDS), 10)
        one.learner.ready = True
        await eventually(lambda: all(book.next[shard] == 30 for shard in range(SHARDS)))
        assert book.taken == {shard: list(range(10, 30)) for shard in range(SHARDS)}
        # It begins anew somewhere else: a tenure that was ended and taken again.
        book.next, book.taken = dict.fromkeys(range(SHARDS), 25), {}
        await eventually(lambda: all(book.next[shard] == 30 for shard in range(SHARDS)))
        assert book.taken == {shard: list(range(25, 30)) for shard in range(SHARDS)}
        assert one.learner.gaps == []


async def test_what_a_learner_could_not_keep_comes_again(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 30)
    async with running(kafka.bootstrap, topic, book) as one:
        one.learner.refusing = 7
        await eventually(lambda: _all(book, 30))
        assert one.learner.refusing == 0
        assert one.member.errors == 0
        assert one.member.up


async def test_a_partition_that_can_not_be_read_holds_no_other_up(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 5)
    other = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": "lz4"})
    for _ in range(20):
        other.produce(topic, b"{" + b" " * 500 + b"}", partition=1)
    assert other.flush(20) == 0
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: all(book.next.get(shard) == 5 for shard in (0, 2, 3)))
        if has_lz4():
            await eventually(lambda: book.next.get(1) == 25)
            return
        await eventually(lambda: "lz4" in one.member.last_error)
        _write(kafka, topic, 5)
        await eventually(lambda: all(book.next.get(shard) == 10 for shard in (0, 2, 3)))
        assert one.member.errors == 0
        assert one.member.up


async def test_what_the_topic_no_longer_has_is_a_gap(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 30)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 1, 20), TopicPartition(topic, 2, 20)]).values():
        future.result(10)
    book.next = {1: 5}
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: all(book.next.get(shard) == 30 for shard in range(SHARDS)))
        assert book.taken == {
            0: list(range(30)),
            1: list(range(20, 30)),
            2: list(range(20, 30)),
            3: list(range(30)),
        }
        # Somebody who knows nothing begins with what there is.
        assert one.learner.gaps == [(1, 5, 20)]


@pytest.mark.slow
async def test_a_topic_that_ends_before_the_position_is_told_and_nothing_is_delivered(
    kafka: KafkaBroker,
) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 10)
    book.next = {0: 100}
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: one.learner.gaps == [(0, 100, 10)])
        assert sorted(book.taken) == [1, 2, 3]
        book.next[0] = 10
        _write(kafka, topic, 1)
        await eventually(lambda: book.taken.get(0) == [10])


async def test_a_topic_that_comes_late_is_found(kafka: KafkaBroker) -> None:
    topic, book = _topic(), Book()
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: "there is no topic" in one.member.last_error)
        assert kafka.partitions(topic) == 0
        kafka.make_topic(topic, SHARDS)
        _write(kafka, topic, 5)
        await eventually(lambda: _all(book, 5))
        await eventually(lambda: one.member.last_error == "")


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_broker_that_dies_and_comes_back_takes_nothing_away(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    _write(kafka, topic, 20)
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: _all(book, 20))
        kafka.kill()
        await eventually(lambda: one.learner.owned == frozenset(), 4.0)
        assert not one.member.up
        await eventually(lambda: one.member.last_error and one.member.errors > 1)
        await asyncio.to_thread(kafka.start)
        await asyncio.to_thread(_write, kafka, topic, 20)
        await eventually(lambda: _all(book, 40))


@pytest.mark.slow
async def test_a_black_hole_ends_ownership_within_the_session(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    relay = kafka.relays[0]
    async with (
        running(relay.address, topic, book) as one,
        running(kafka.relays[1].address, topic, book) as two,
    ):
        await eventually(lambda: _shares(one, two) == [2, 2])
        relay.mode = "stall"
        # Whoever can't hear lets go before somebody else is told to begin.
        assert await eventually(lambda: one.learner.owned == frozenset(), 5.0) < 3.2
        assert len(two.learner.owned) == 2
        await eventually(lambda: _shares(two) == [4])
        _write(kafka, topic, 20)
        await eventually(lambda: _all(book, 20))
        relay.mode = "pass"
        await eventually(lambda: _shares(one, two) == [2, 2])
        _write(kafka, topic, 20)
        await eventually(lambda: _all(book, 40))


async def test_it_runs_and_stops_without_any_broker(make_relay: Callable[..., Any]) -> None:
    relay = make_relay("127.0.0.1:9")
    for mode in ("refuse", "stall"):
        relay.mode = mode
        one = Running(relay.address, "none", Book())
        await eventually(lambda one=one, mode=mode: mode == "stall" or one.member.errors > 1)
        await asyncio.sleep(0.3)
        assert await one.stop() < 5.0
        assert one.learner.told == []


@pytest.mark.slow
async def test_it_stops_in_time_when_the_brokers_went_silent(kafka: KafkaBroker) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    one = Running(kafka.relays[0].address, topic, book)
    await eventually(lambda: one.learner.owned)
    kafka.relays[0].mode = "stall"
    assert await one.stop() < 8.0
    assert one.learner.owned == frozenset()


@pytest.fixture
def start_process(kafka: KafkaBroker) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Members in processes of their own, which say what they are told line by line."""
    started: list[subprocess.Popen[str]] = []

    def start(topic: str) -> subprocess.Popen[str]:
        helper = Path(__file__).with_name("group_helpers.py")
        process = subprocess.Popen(
            [sys.executable, str(helper), kafka.bootstrap, topic, str(SHARDS)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 20.0)


@pytest.mark.slow
async def test_the_shards_of_a_killed_process_are_taken_over(
    kafka: KafkaBroker, start_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    process = start_process(topic)
    assert "assigned" in await _line(process)
    async with running(kafka.bootstrap, topic, book) as one, running(kafka.bootstrap, topic, book) as two:
        await eventually(
            lambda: len(one.learner.owned) + len(two.learner.owned) < 4 and one.member.up and two.member.up
        )
        process.kill()
        await eventually(lambda: _shares(one, two) == [2, 2])
        _write(kafka, topic, 20)
        await eventually(lambda: _all(book, 20))


@pytest.mark.slow
async def test_a_process_that_slept_through_its_session_lets_go_before_it_takes_anything(
    kafka: KafkaBroker, start_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    topic, book = kafka.make_topic(_topic(), SHARDS), Book()
    zombie = start_process(topic)
    assert "assigned" in await _line(zombie)
    async with running(kafka.bootstrap, topic, book) as one:
        await eventually(lambda: len(one.learner.owned) == 2)
        while "revoked" not in await _line(zombie):
            pass
        os.kill(zombie.pid, signal.SIGSTOP)
        await eventually(lambda: len(one.learner.owned) == SHARDS)
        _write(kafka, topic, 20)
        await eventually(lambda: _all(book, 20))
        os.kill(zombie.pid, signal.SIGCONT)
        assert "revoked" in await _line(zombie)
        assert "assigned" in await _line(zombie)
        await eventually(lambda: len(one.learner.owned) == 2)
