"""From a line of the log to the records that a Kafka topic gets. Pure: no client, no clock, no state but a cache.

One node ships every line as it is; the route is the key, and the partition what Kafka's own clients make of the key.

In a cluster partition and shard are one, ``optimizer.cluster.sharding``, and what a route's owner needs is all in its
shard: ``worker.stats.v1``, which is about several routes, becomes one record for each, with an id of its own,
``<id>:<route>``; one about no route is left out. So is ``feedback.v1``: the node that decided joins it, and ships the
joined event. A header says where the line stands in the node's log, by which owners know what comes again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from optimizer.cluster.sharding import NO_ROUTE, shard_of
from optimizer.events import FEEDBACK, WORKER_STATS

PLACE: Final = "place"
"""Header that says where the line stands in the log it was shipped from: ``<source>:<segment>:<offset>:<number>``."""
LATE: Final = "late"
"""Header of a record that comes after others which stand behind it."""

_CONTENT_TYPE: Final = ("content-type", b"application/cloudevents+json; charset=UTF-8")
_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "time")
# What of a worker's report is rows that begin with a route.
_BY_ROUTE: Final = ("routes", "guards", "stops")
# Routes come from the configuration, so there are few; what somebody else wrote into a log is no reason to grow.
_MOST_ROUTES: Final = 10_000


class Poison(ValueError):
    """A line that is no event and never will be."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record. ``value`` is a structured CloudEvent; its attributes stand in ``ce_`` headers too."""

    key: bytes
    partition: int
    value: bytes
    headers: Sequence[tuple[str, bytes]]

    def placed(self, place: str, number: int) -> "Outgoing":
        """The same from a place in the log, being the ``number``-th record of its line."""
        return replace(self, headers=(*self.headers, (PLACE, f"{place}:{number}".encode())))

    def late(self) -> "Outgoing":
        """The same after others that stand behind it."""
        return replace(self, headers=(*self.headers, (LATE, b"1")))

    @property
    def size(self) -> int:
        """About how many bytes it takes, uncompressed."""
        return (
            len(self.key)
            + len(self.value)
            + sum(len(name) + len(text) + 2 for name, text in self.headers)
            + 32
        )


class Splitter:
    """``splitter(line)`` is what goes out for a line."""

    def __init__(self, partitions: int, *, cluster: bool) -> None:
        """For a topic of which ``partitions`` are used, at least 1; ``cluster``: its partitions are shards."""
        self.partitions = partitions
        self._make: Callable[[bytes, Mapping[str, Any]], list[Outgoing]] = (
            self._in_cluster if cluster else self._alone
        )
        self._known: dict[str, tuple[bytes, int]] = {}

    def __call__(self, line: bytes) -> list[Outgoing]:
        """The records of ``line``, which may be none.

        Raises:
            Poison: If the line is no JSON object.
        """
        try:
            event = orjson.loads(line)
        except ValueError as error:
            raise Poison(f"no JSON: {error}") from None
        if not isinstance(event, dict):
            raise Poison("no JSON object")
        return self._make(line, event)

    def _alone(self, line: bytes, event: Mapping[str, Any]) -> list[Outgoing]:
        return [self._record(line, event, _route(event.get("data")))]

    def _in_cluster(self, line: bytes, event: Mapping[str, Any]) -> list[Outgoing]:
        kind, data = event.get("type"), event.get("data")
        if kind == FEEDBACK:
            return []
        if kind == WORKER_STATS:
            return [
                self._record(orjson.dumps(part), part, route)
                for route, part in _parts(event, data if isinstance(data, dict) else {})
            ]
        return [self._record(line, event, _route(data))]

    def _record(self, value: bytes, event: Mapping[str, Any], route: str) -> Outgoing:
        place = self._known.get(route)
        if place is None:
            if len(self._known) >= _MOST_ROUTES:
                self._known.clear()
            place = self._known[route] = (route.encode(), shard_of(route, self.partitions))
        headers = [_CONTENT_TYPE]
        headers += [
            (f"ce_{name}", text.encode()) for name in _ATTRIBUTES if isinstance(text := event.get(name), str)
        ]
        return Outgoing(*place, value, headers)


def _route(data: Any) -> str:
    route = data.get("route") if isinstance(data, dict) else None
    return route if isinstance(route, str) else NO_ROUTE


def _parts(event: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A worker's report, cut by route; every part has all of its other fields."""
    by_route: dict[str, dict[str, list[Any]]] = {}
    for field in _BY_ROUTE:
        rows = data.get(field)
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, list) and row and isinstance(row[0], str):
                fields = by_route.setdefault(row[0], {name: [] for name in _BY_ROUTE if name in data})
                fields[field].append(row)
    return [
        (route, {**event, "id": f"{event.get('id')}:{route}", "data": {**data, **fields}})
        for route, fields in by_route.items()
    ]
