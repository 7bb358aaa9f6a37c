"""Nothing is lost: nodes under steady load while engines fail and our own processes are killed, and then the bill.

``python -m loadtests.cluster chaos``. Invariant: what is asked is an equality of sets, taken from the topic, from the
nodes' logs and from what callers wrote down; a run in which something could not be checked has failed.
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from loadtests.cluster import ledger
from loadtests.cluster.faults import OUR_OWN, Director, engine_faults, process_faults
from loadtests.cluster.scene import (
    TOPIC,
    Engines,
    Node,
    cluster_blocks,
    configuration,
    engines,
    nodes,
    shipping_block,
)
from loadtests.cluster.traffic import Seen, Traffic
from loadtests.cluster.watch import Watch, ends, records
from loadtests.peers import mock_upstream
from loadtests.processes import Failed, cores
from optimizer.settings import Settings
from optimizer.statistics import Statistics
from optimizer.store import LearnerStore, restore
from proxy.config.load import load

SHARDS: Final = 4
RATE: Final = 250.0
RELATIVE: Final = 1e-9
_SETTLE_S: Final = 180.0
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Play:
    """How it is played. ``members`` 1 is a node of its own that ships to Kafka."""

    requests: int
    members: int = 2
    rate: float = RATE
    every_fault: bool = True
    kill: bool = True


def chaos(requests: int) -> Sequence[Mapping[str, Any]]:
    """Rows for the page.

    Raises:
        Failed: If one of the equalities does not hold, or something could not be looked at.
        Skipped: If an engine is not installed.
    """
    rows = perform(Play(requests))
    wrong = [row for row in rows if not row["holds"]]
    if wrong:
        raise Failed("; ".join(f"{row['name']}: {row['value']} ({row['note']})" for row in wrong))
    return rows


def perform(play: Play) -> list[dict[str, Any]]:
    """Play and count."""
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-chaos-") as name:
        directory = Path(name)
        with engines(directory, shards=SHARDS) as servers, mock_upstream(cores(), directory) as upstream:
            blocks = cluster_blocks(servers, shards=SHARDS) if play.members > 1 else shipping_block(servers)
            document = configuration(upstream.url, **blocks)
            with nodes(directory, [document] * play.members) as members, Watch(servers) as watch:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    seen, played = runner.run(_run(play, servers, members))
                settled = _settle(play, servers, seen)
            return _bill(_Evidence(play, servers, members, seen, played, watch, settled), directory / "union")


async def _run(play: Play, servers: Engines, members: Sequence[Node]) -> tuple[Seen, list[str]]:
    """Traffic and faults at the same time; both have ended when this returns."""
    faults = [fault for engine in servers.all() for fault in engine_faults(engine, every=play.every_fault)]
    if play.kill:
        faults += [fault for node in members[-1:] for fault in process_faults(node)]
    director = Director(faults, seconds=play.requests / play.rate)
    traffic = Traffic(members, rate=play.rate)
    traffic.during = lambda: director.now_playing
    directing = asyncio.create_task(director.run())
    try:
        await traffic.run(play.requests, directing.done)
        await directing
    finally:
        directing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await directing
    return traffic.seen, director.played


def _settle(play: Play, servers: Engines, seen: Seen) -> bool:
    """Wait until everything is in the topic that must be; what comes too late is found missing."""
    until, wanted = time.monotonic() + _SETTLE_S, len(seen.answered) + len(seen.rated)
    while time.monotonic() < until:
        if records(servers.kafka.bootstrap, TOPIC) >= wanted:
            topic = ledger.read_topic(servers.kafka, shards=SHARDS if play.members > 1 else None)
            if seen.answered <= topic.requests and seen.rated.keys() <= topic.ratings:
                return play.members == 1 or _saved(servers, until)
        time.sleep(_LOOK_S)
    return False


def _saved(servers: Engines, until: float) -> bool:
    """Wait until owners have saved what they learned of everything that is in the topic now."""
    wanted = ends(servers.kafka.bootstrap, TOPIC)
    while time.monotonic() < until:
        there = {int(str(shard)): int(str(offset)) for shard, offset in _offsets(servers)}
        if all(there.get(shard, 0) >= end for shard, end in wanted.items()):
            return True
        time.sleep(_LOOK_S)
    return False


def _offsets(servers: Engines) -> list[tuple[object, ...]]:
    return servers.postgres.execute('SELECT shard, "offset" FROM shard_snapshots ORDER BY shard')


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Everything that there is when it is over."""

    play: Play
    servers: Engines
    members: Sequence[Node]
    seen: Seen
    played: Sequence[str]
    watch: Watch
    settled: bool


def _bill(found: _Evidence, union: Path) -> list[dict[str, Any]]:
    """Every figure with what it must be."""
    seen, clustered = found.seen, found.play.members > 1
    topic = ledger.read_topic(found.servers.kafka, shards=SHARDS if clustered else None)
    logs = ledger.logs_of(found.members)
    lost, kept = logs.lost, logs.lost.total()
    unshipped = {request for request in logs.requests if request not in topic.requests}
    twice = sum(count > 1 for count in logs.requests.values())
    ours = Counter({what: count for what, count in (seen.broken + seen.refused).items() if OUR_OWN in what})
    theirs = Counter(
        {what: count for what, count in (seen.broken + seen.refused).items() if OUR_OWN not in what}
    )
    missing, unasked = len(seen.answered - topic.requests), len(topic.requests - seen.answered)
    unrated, surplus = len(seen.rated.keys() - topic.ratings), topic.ratings - seen.rated.keys() - seen.unsure
    worst, where = _compare(found, union)
    rows = [
        _row("requests sent", seen.sent, note=f"{found.play.rate:g}/s to {found.play.members} nodes"),
        _row("faults played", len(found.played), note="; ".join(found.played)),
        _must("requests failed because of an engine", theirs.total() + seen.failures.total(), 0,
              _tally(theirs + seen.failures)),
        _row("requests cut or refused while we killed our own processes", ours.total(), note=_tally(ours)),
        _row("answers that came completely", len(seen.answered)),
        _row("ratings accepted", len(seen.rated), note=f"{len(seen.unsure)} of them after a lost answer"),
        _must("ids given to two requests", seen.repeated, 0),
        _must("everything shipped in the end", int(found.settled), 1),
        _row("records in the topic", topic.records, note=f"{topic.repeated} came again"),
        _at_most("answered requests not in the topic", missing, kept, "losses the product counted"),
        _at_most("requests in the topic that nobody has a whole answer to", unasked,
                 seen.broken.total() + seen.failures.total(), "cut or failed ones"),
        _at_most("accepted ratings not in the topic", unrated, kept, "losses the product counted"),
        _must("requests in the nodes' logs that are not in the topic", len(unshipped), 0),
        _must("requests that were logged twice", twice, 0),
        _must("ratings in the topic that nobody gave", len(surplus), 0),
        _must("losses the product counted", kept, 0, _tally(lost)),
        _must("events that differ though their id is the same", topic.differing.total(), 0,
              _tally(topic.differing)),
        _must("events in another partition than their route's", topic.misplaced, 0),
        _must("events that are not what docs/schemas say", topic.problems.total(), 0, _tally(topic.problems)),
        _at_most("largest relative difference to a replay of all logs", worst, RELATIVE, where or "bound"),
        _row("slowest answer", round(seen.slowest_s, 2), unit="s"),
    ]  # fmt: skip
    return rows + (_fencing(found.watch) if clustered else [])


def _fencing(watch: Watch) -> list[dict[str, Any]]:
    tenures = len(watch.owners)
    return [
        _row("tenures", tenures, note=f"{watch.looks['PostgreSQL']} looks at the database"),
        _must("tenures with two owners", watch.shared, 0),
        _must(
            "tables or generations that went backwards",
            watch.backwards.total(),
            0,
            _tally(watch.backwards),
        ),
    ]


def _compare(found: _Evidence, union: Path) -> tuple[float, str]:
    """Owners' evidence against that of one node that has read everything."""
    clustered = found.play.members > 1
    first = found.members[0]
    settings = load_file(first.directory / "config.yaml")
    now = time.time()
    state = ledger.union_log(found.members, union, clustered=clustered)
    alone = ledger.evidence(ledger.replay(state, settings, now=now), settings, now=now)
    owned: dict[tuple[str, str, str], tuple[float, ...]] = {}
    for statistics in _learned(found, union.parent / "owners"):
        known = ledger.evidence(statistics, settings, now=now)
        owned.update({key: value for key, value in known.items() if known[*key[:2], "pulls"][0] > 0})
    heard = {key: value for key, value in alone.items() if alone[*key[:2], "pulls"][0] > 0}
    worst, where = ledger.largest_difference(heard, owned)
    pulls = [
        f"{key[0]}/{key[1]} {value[0]:g} and {owned[key][0]:g}"
        for key, value in heard.items()
        if key[2] == "pulls" and key in owned and owned[key] != value
    ]
    return worst, "; ".join([where, *pulls])


def _learned(found: _Evidence, scratch: Path) -> list[Statistics]:
    """What the node, or the last owner of every shard, had saved."""
    if found.play.members == 1:
        return [_statistics(found.members[0].state / "learner.sqlite3")]
    scratch.mkdir()
    stored = found.servers.postgres.execute("SELECT shard, data FROM shard_snapshots ORDER BY shard")
    files = []
    for shard, data in stored:
        files.append(scratch / f"{shard}.sqlite3")
        assert isinstance(data, bytes)
        restore(files[-1], data)
    return [_statistics(file) for file in files]


def _statistics(file: Path) -> Statistics:
    store = LearnerStore(file)
    try:
        return store.load().statistics
    finally:
        store.close()


def load_file(path: Path) -> Settings:
    """The settings of a node."""
    return load(path, {}).settings


def _row(
    name: str, value: float, *, unit: str = "", asked: str = "", note: str = "", holds: bool = True
) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "asked": asked, "note": note, "holds": holds}


def _must(name: str, value: int, wanted: int, note: str = "") -> dict[str, Any]:
    return _row(name, value, asked=str(wanted), note=note, holds=value == wanted)


def _at_most(name: str, value: float, most: float, note: str) -> dict[str, Any]:
    return _row(name, value, asked=f"<= {most:g}", note=note, holds=value <= most)


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
