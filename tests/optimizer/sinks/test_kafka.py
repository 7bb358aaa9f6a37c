"""Shipping to Kafka, against a broker that speaks the protocol: complete, in order, whatever the broker does."""

import asyncio
import re
import socket
from dataclasses import replace
from typing import Any

import orjson
import pytest

from optimizer.log.compression import compress_segment
from optimizer.log.reader import LogReader

TOPIC = "llm-feedback"


def numbers(messages: list[Any]) -> list[int]:
    return [orjson.loads(message.value())["data"]["n"] for message in messages]


async def test_every_line_arrives_as_it_was_logged(cluster: Any, node: Any) -> None:
    """Value = the line, key = the route, attributes as headers; the order within a route is the log's."""
    cluster.create_topic(TOPIC, 3)
    node.write(500)
    shipper = node.shipper(cluster.address)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 500)
        node.write(100)
        await node.until(lambda: shipper.stats.delivered == 600)
        await node.until(lambda: shipper.stats.lag_bytes == 0)

    messages = cluster.messages(TOPIC, 600)
    assert sorted(numbers(messages)) == list(range(600))
    lines = {entry.line for entry in LogReader(node.state.log_directory).poll({}, 1 << 24).entries}
    assert {message.value() for message in messages} == lines
    by_key: dict[bytes, list[int]] = {}
    for message in messages:
        by_key.setdefault(message.key() or b"", []).append(orjson.loads(message.value())["data"]["n"])
    assert sorted(by_key) == [b"", b"route-0", b"route-1", b"route-2"]
    assert all(found == sorted(found) for found in by_key.values())
    first = next(message for message in messages if b'"event-7"' in message.value())
    headers = dict(first.headers())
    place = headers.pop("place").decode()
    assert re.fullmatch(r"[0-9a-f]{8}-00000001-worker:1:[0-9]+:0", place)
    assert headers == {
        "content-type": b"application/cloudevents+json; charset=UTF-8",
        "ce_specversion": b"1.0",
        "ce_id": b"event-7",
        "ce_source": b"/a1/worker/1",
        "ce_type": b"llm_optimizer.request.v1",
        "ce_time": b"2026-09-21T14:13:20.007Z",
    }


async def test_the_next_process_goes_on_where_the_last_one_was(cluster: Any, node: Any) -> None:
    """The cursor is on disk; a regular restart repeats nothing."""
    cluster.create_topic(TOPIC, 1)
    node.write(50)
    first = node.shipper(cluster.address)
    async with node.running(first):
        await node.until(lambda: first.stats.delivered == 50)
    node.write(50)

    second = node.shipper(cluster.address)
    async with node.running(second):
        await node.until(lambda: second.stats.delivered == 50)

    assert numbers(cluster.messages(TOPIC, 100)) == list(range(100))
    assert second.cursor == node.shipper(cluster.address).cursor


async def test_a_killed_process_repeats_but_never_skips(cluster: Any, node: Any) -> None:
    """Without the last saved cursor events arrive twice, with the same ids."""
    cluster.create_topic(TOPIC, 1)
    node.write(40)
    first = node.shipper(cluster.address)
    async with node.running(first):
        await node.until(lambda: first.stats.delivered == 40)
    node.state.kafka_cursor_file.write_bytes(b"{damaged")

    second = node.shipper(cluster.address)
    async with node.running(second):
        await node.until(lambda: second.stats.delivered == 40)

    assert numbers(cluster.messages(TOPIC, 80)) == [*range(40), *range(40)]


async def test_it_starts_without_a_broker_and_ships_when_there_is_one(cluster: Any, node: Any) -> None:
    """Until then it says that it is down and how much is waiting."""
    cluster.create_topic(TOPIC, 1)
    cluster.set_down()
    node.write(30)
    shipper = node.shipper(cluster.address, limit_s=1.0)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.errors >= 2)
        waiting = (shipper.stats.up, shipper.stats.lag_bytes > 0, dict(shipper.cursor))
        cluster.set_up()
        await node.until(lambda: shipper.stats.delivered == 30)
        up = shipper.stats.up

    assert waiting == (False, True, {})
    assert up
    assert sorted(numbers(cluster.messages(TOPIC, 30))) == list(range(30))


@pytest.mark.slow
async def test_a_broker_that_dies_and_returns_costs_no_event(cluster: Any, node: Any) -> None:
    """Whatever was not acknowledged is sent again."""
    cluster.create_topic(TOPIC, 2)
    shipper = node.shipper(cluster.address, limit_s=1.0)

    async with node.running(shipper):
        for _ in range(2):
            node.write(100)
            await node.until(lambda: shipper.stats.delivered >= node.written)
            cluster.set_down()
            node.write(100)
            errors = shipper.stats.errors
            await node.until(lambda seen=errors: shipper.stats.errors > seen)  # type: ignore[misc]
            cluster.set_up()
            await node.until(lambda: shipper.stats.lag_bytes == 0 and shipper.stats.up)

    assert set(numbers(cluster.messages(TOPIC, 400))) == set(range(400))
    assert shipper.stats.retried > 0


async def test_a_broker_that_does_not_answer_is_given_up_in_time(cluster: Any, node: Any) -> None:
    """Every call has a limit; stopping has one too, and the cursor stays where it was."""
    cluster.create_topic(TOPIC, 1)
    node.write(10)
    shipper = node.shipper(cluster.address, limit_s=0.3)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 10)
        cursor = dict(shipper.cursor)
        cluster.set_round_trip(60_000)
        node.write(10)
        await node.until(lambda: shipper.stats.errors >= 1)

    assert shipper.stats.delivered == 10
    assert dict(shipper.cursor) == cursor
    assert shipper.stats.last_error


async def test_a_broker_that_stays_away_is_told_of_once(
    cluster: Any, node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried, in words, and again when it is back."""
    caplog.set_level("INFO", "optimizer.sinks.kafka")
    cluster.create_topic(TOPIC, 1)
    cluster.set_down()
    node.write(10)
    shipper = node.shipper(cluster.address, limit_s=0.3)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.errors >= 5)
        cluster.set_up()
        await node.until(lambda: shipper.stats.delivered == 10)

    ours = [record.getMessage() for record in caplog.records if record.name == "optimizer.sinks.kafka"]
    told = [text for text in ours if "are not shipped" in text]
    assert len(told) == len(set(told)) <= 2
    assert f"no broker at {cluster.address} can be used" in told[0]
    assert ours[-1] == f"events are shipped to Kafka at {cluster.address}"


async def test_a_port_that_swallows_everything_holds_nothing_up(node: Any) -> None:
    """A black hole accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        node.write(1)
        shipper = node.shipper(f"127.0.0.1:{hole.getsockname()[1]}", limit_s=0.2)

        async with node.running(shipper):
            await node.until(lambda: shipper.stats.errors >= 2)

    assert not shipper.stats.up
    assert shipper.stats.delivered == 0


async def test_cancelling_it_ends_it_at_once(cluster: Any, node: Any) -> None:
    """A process that shuts down hard leaves no task behind."""
    node.write(10)
    shipper = node.shipper(cluster.address)
    before = asyncio.all_tasks()
    task = asyncio.create_task(shipper.run(asyncio.Event()))
    await node.until(lambda: shipper.stats.delivered == 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)

    await node.until(lambda: asyncio.all_tasks() <= before)
    assert node.shipper(cluster.address).cursor == shipper.cursor


@pytest.mark.parametrize("code", [7, 19, 29, 45])
async def test_errors_of_the_broker_are_overcome(cluster: Any, node: Any, code: int) -> None:
    """Time-outs, missing replicas, authorisation and sequence errors: in the end each event is there."""
    cluster.create_topic(TOPIC, 1)
    cluster.answer_produce_with(code, code)
    node.write(20)
    shipper = node.shipper(cluster.address, limit_s=2.0)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 20)

    assert set(numbers(cluster.messages(TOPIC, 20))) == set(range(20))


async def test_events_that_are_too_large_are_put_aside(cluster: Any, node: Any) -> None:
    """They are counted and kept in a file of their own; the others go on."""
    cluster.create_topic(TOPIC, 1)
    node.write(3)
    node.write(1, padding=5000)
    node.write(3)
    shipper = node.shipper(cluster.address, replace(node.tuning, max_request_bytes=2000))

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 6)
        await node.until(lambda: shipper.stats.lag_bytes == 0)

    assert shipper.stats.dead_lettered == 1
    assert numbers(cluster.messages(TOPIC, 6)) == [0, 1, 2, 4, 5, 6]
    letters = node.state.dead_letter_file.read_bytes().splitlines()
    assert [orjson.loads(letter)["id"] for letter in letters] == ["event-3"]
    assert node.state.dead_letter_file.stat().st_mode & 0o777 == 0o600


async def test_a_batch_that_the_broker_finds_too_large_is_sent_singly(cluster: Any, node: Any) -> None:
    """Only what is refused on its own is put aside."""
    cluster.create_topic(TOPIC, 1)
    cluster.answer_produce_with(10, 10)  # The batch, then its first record alone.
    node.write(5)
    shipper = node.shipper(cluster.address)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 4)
        await node.until(lambda: shipper.stats.lag_bytes == 0)

    assert shipper.stats.dead_lettered == 1
    assert numbers(cluster.messages(TOPIC, 4)) == [1, 2, 3, 4]


async def test_old_compressed_segments_are_shipped_too(cluster: Any, node: Any) -> None:
    """A sink that was away for long catches up from what retention kept."""
    cluster.create_topic(TOPIC, 1)
    node.write(200)
    node.writer.close()
    compress_segment(node.writer.directory, 1, member_bytes=1000)
    shipper = node.shipper(cluster.address)

    async with node.running(shipper):
        await node.until(lambda: shipper.stats.delivered == 200)

    assert numbers(cluster.messages(TOPIC, 200)) == list(range(200))
