"""What is in the topic, in the logs and in the owners' statistics, held against what callers saw.

Invariant: nothing here asks the product how well it did, except for the losses that it counted itself.
"""

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

import orjson

from loadtests.cluster.scene import SECRET, TOPIC, Node
from loadtests.event_schemas import event_schemas
from loadtests.servers.kafka import KafkaBroker
from loadtests.soak.verdict import LogCount, count_log
from optimizer import events
from optimizer.cluster.sharding import shard_of
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.settings import Settings
from optimizer.statistics import Statistics

Known = Mapping[tuple[str, str, str], tuple[float, ...]]
"""By route, arm and signal."""


@dataclass
class Topic:
    """The deduplicated events of the topic. ``ratings`` are ids of the requests that were rated."""

    records: int = 0
    requests: set[str] = field(default_factory=set)
    ratings: set[str] = field(default_factory=set)
    ids: set[tuple[str, str]] = field(default_factory=set)
    misplaced: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)

    @property
    def repeated(self) -> int:
        """Records that came again."""
        return self.records - len(self.ids)


def read_topic(kafka: KafkaBroker, *, shards: int | None) -> Topic:
    """Everything in the topic. With ``shards`` of a cluster each record must be in the partition of its route."""
    found = Topic()
    rating = events.FEEDBACK if shards is None else events.FEEDBACK_JOINED
    shapes: set[tuple[str, ...]] = set()
    bodies: dict[tuple[str, str], bytes] = {}
    for message in kafka.messages(TOPIC):
        value = message.value()
        line = value if isinstance(value, bytes) else b"{}"
        event = orjson.loads(line)
        found.records += 1
        key = (event["type"], event["id"])
        # Told again it may be by somebody else, at another time; what is told must be the same.
        told = blake2b(orjson.dumps(event["data"], option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
        if bodies.setdefault(key, told) != told:
            found.differing[event["type"]] += 1
        found.ids.add(key)
        data = event["data"]
        if event["type"] == events.REQUEST:
            found.requests.add(event["id"])
        elif event["type"] == rating:
            found.ratings.add(data["request_id"])
        route = data.get("route")
        if shards is not None and route and message.partition() != shard_of(route, shards):
            found.misplaced += 1
        shape = (event["type"], str(data.get("outcome")), *sorted(data))
        if shape not in shapes:
            shapes.add(shape)
            found.problems.update(event_schemas().problems(event))
    return found


def logs_of(nodes: Sequence[Node]) -> LogCount:
    """What is in the nodes' own logs, and the lines that their processes say they could not keep."""
    found = LogCount()
    for node in nodes:
        count = count_log(node.state)
        found.requests.update(count.requests)
        found.lost.update(count.lost)
    return found


def union_log(nodes: Sequence[Node], into: Path, *, clustered: bool) -> StateDirectory:
    """One state directory with the logs of all nodes, as if one node had written them.

    What nodes joined for owners is left out: the replay joins the ratings itself.
    """
    state = StateDirectory(into)
    for node in nodes:
        source_state = StateDirectory(node.state)
        if not clustered:
            shutil.copy(source_state.node_file, state.node_file)
        state.id_key_file.write_bytes(_id_key(source_state, clustered=clustered))
        for source in source_state.log_directory.iterdir():
            if source.is_dir():
                _copy_source(source, state.log_directory / source.name)
    return StateDirectory(into)


def _id_key(state: StateDirectory, *, clustered: bool) -> bytes:
    if not clustered:
        return state.id_key
    from optimizer.cluster.secret import derived  # noqa: PLC0415 - what only a cluster needs

    return derived(SECRET, ID_KEY_PURPOSE)


ID_KEY_PURPOSE: Final = "request ids"


def _copy_source(source: Path, into: Path) -> None:
    into.mkdir(mode=0o700)
    mark = f'"type":"{events.FEEDBACK_JOINED}"'.encode()
    for segment in sorted(source.glob("*.jsonl*")):
        if segment.suffix == ".jsonl":
            lines = segment.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if mark not in line[:400]]
            (into / segment.name).write_bytes(b"".join(kept))
        else:
            shutil.copy(segment, into / segment.name)


def replay(state: StateDirectory, settings: Settings, *, now: float) -> Statistics:
    """What one node would have learned from all of the log."""
    ingest = Ingest(state, clock=lambda: now)
    ingest.configure(settings)
    try:
        while ingest.step():
            pass
        return ingest.statistics
    finally:
        ingest.close()


def evidence(
    statistics: Statistics, settings: Settings, *, now: float
) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """By route, arm and signal: how often, sum and sum of squares as they count at ``now``, and the pulls of every arm.

    These are what is added up; a variance is a difference of two of them, and may be all rounding.
    """
    found: dict[tuple[str, str, str], tuple[float, ...]] = {}
    for route in settings.routes:
        for arm in route.arms:
            known = statistics.evidence(route.name, arm, now=now, half_life_s=route.policy.half_life_s)
            found[route.name, arm.id, "pulls"] = (known.pulls,)
            signals = {"success": known.success, **known.signals}
            for name, moments in signals.items():
                weight, mean = moments.weight, moments.mean
                squares = weight * (moments.variance + mean * mean)
                found[route.name, arm.id, name] = (weight, weight * mean, squares)
    return found


def largest_difference(one: Known, other: Known) -> tuple[float, str]:
    """The largest relative difference, and where; infinite when one knows what the other does not."""
    worst, where = 0.0, ""
    for key in one.keys() | other.keys():
        mine, yours = one.get(key), other.get(key)
        if mine is None or yours is None:
            return math.inf, f"{key} is known to one only"
        for place, (a, b) in enumerate(zip(mine, yours, strict=True)):
            size = max(abs(a), abs(b))
            difference = abs(a - b) / size if size > 1e-15 else 0.0
            if difference > worst:
                worst, where = difference, f"{key}[{place}]: {a!r} and {b!r}"
    return worst, where
