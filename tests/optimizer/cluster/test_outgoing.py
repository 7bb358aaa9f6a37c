"""From log lines to records: nothing is lost or shipped twice by the cut, and a route is always in its shard."""

from typing import Any

import orjson
import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cluster.outgoing import Outgoing, Poison, Splitter
from optimizer.cluster.sharding import shard_of
from optimizer.events import AUDIT, FEEDBACK, FEEDBACK_JOINED, REQUEST, SELECTOR, TRANSITION, WORKER_STATS

ROUTES = st.text(max_size=12)
ROWS = st.lists(st.tuples(ROUTES, st.integers(0, 2**40)).map(list), max_size=6)


def line(kind: str, data: Any, identity: str = "id-1") -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": identity,
            "source": "/a/worker/1",
            "type": kind,
            "time": "t",
            "data": data,
        }
    )


def header(record: Outgoing, name: str) -> bytes:
    return dict(record.headers)[name]


@given(st.none() | ROUTES, st.integers(1, 50))
def test_one_node_ships_every_line_as_it_is(route: str | None, partitions: int) -> None:
    """To the partition that Kafka's own clients choose for the key."""
    for kind in (REQUEST, FEEDBACK, WORKER_STATS, AUDIT):
        text = line(kind, {"route": route, "routes": [["a", 1]]})
        (record,) = Splitter(partitions, cluster=False)(text)
        assert record.value == text
        assert record.key == (route or "").encode()
        every = list(range(partitions))
        assert record.partition == DefaultPartitioner()(record.key, every, every)
        assert header(record, "ce_type") == kind.encode()
        assert header(record, "content-type").startswith(b"application/cloudevents+json")


@given(ROUTES, st.integers(1, 50))
def test_a_node_of_a_cluster_ships_by_shard(route: str, shards: int) -> None:
    for kind in (REQUEST, SELECTOR, FEEDBACK_JOINED, TRANSITION):
        text = line(kind, {"route": route})
        (record,) = Splitter(shards, cluster=True)(text)
        assert (record.value, record.partition) == (text, shard_of(route, shards))


@pytest.mark.parametrize("data", [None, {}, {"route": None}, {"route": 7}, [], "x"])
def test_what_is_about_no_route_has_a_shard_too(data: Any) -> None:
    (record,) = Splitter(9, cluster=True)(line(AUDIT, data))
    assert (record.key, record.partition) == (b"", shard_of("", 9))


def test_a_rating_stays_until_it_is_joined() -> None:
    assert Splitter(9, cluster=True)(line(FEEDBACK, {"route": "auto"})) == []


@given(ROWS, ROWS, ROWS)
def test_a_report_is_cut_by_route(routes: list[Any], guards: list[Any], stops: list[Any]) -> None:
    """Together the parts have each row once and in order, each part has its own route's only."""
    data = {"worker": 3, "routes": routes, "guards": guards, "stops": stops, "rss_bytes": 5}
    records = Splitter(7, cluster=True)(line(WORKER_STATS, data))

    found: dict[str, list[Any]] = {"routes": [], "guards": [], "stops": []}
    for record in records:
        event, route = orjson.loads(record.value), record.key.decode()
        assert event["id"] == f"id-1:{route}"
        assert header(record, "ce_id") == event["id"].encode()
        assert record.partition == shard_of(route, 7)
        assert (event["data"]["worker"], event["data"]["rss_bytes"]) == (3, 5)
        for field, rows in found.items():
            assert all(row[0] == route for row in event["data"][field])
            rows.extend(event["data"][field])
    assert len({record.key for record in records}) == len(records)
    for field, rows in found.items():
        assert sorted(rows) == sorted(data[field])
        for route in {row[0] for row in rows}:
            assert [row for row in rows if row[0] == route] == [row for row in data[field] if row[0] == route]


@pytest.mark.parametrize("data", [None, {}, {"routes": None}, {"routes": [None, [], [None, 1], [3]]}])
def test_a_report_without_rows_is_not_shipped(data: Any) -> None:
    assert Splitter(7, cluster=True)(line(WORKER_STATS, data)) == []


@pytest.mark.parametrize("text", [b"{", b"{]}", b"[]", b"7", b"", b'{"a":"\xff"}'])
@pytest.mark.parametrize("cluster", [True, False])
def test_what_is_no_event_is_poison(text: bytes, cluster: bool) -> None:
    with pytest.raises(Poison):
        Splitter(3, cluster=cluster)(text)


def test_many_routes_do_not_fill_the_memory() -> None:
    splitter = Splitter(3, cluster=True)
    for number in range(25_000):
        splitter(line(REQUEST, {"route": f"r{number}"}))
    assert len(splitter._known) <= 10_000
