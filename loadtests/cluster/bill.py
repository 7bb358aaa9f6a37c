"""The bill: what is in the topic, in the nodes' logs and in what owners learned, held against what callers saw.

Invariant: what is asked is an equality of sets; a run in which something could not be looked at has failed.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.cluster import ledger
from loadtests.cluster.faults import OUR_OWN
from loadtests.cluster.scene import TOPIC, Engines, Node
from loadtests.cluster.traffic import Seen
from loadtests.cluster.watch import Watch, ends, records
from loadtests.processes import Failed
from optimizer.settings import Settings
from optimizer.statistics import Statistics
from optimizer.store import LearnerStore, restore
from proxy.config.load import load

SHARDS: Final = 4
RELATIVE: Final = 1e-9
_SETTLE_S: Final = 180.0
_LOOK_S: Final = 1.0

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that there is when it is over. Without ``clustered`` it was one node that ships to Kafka."""

    servers: Engines
    members: Sequence[Node]
    seen: Seen
    watch: Watch
    settled: bool
    clustered: bool = True

    @property
    def shards(self) -> int | None:
        """How many there are; None without a cluster."""
        return SHARDS if self.clustered else None


def settle(servers: Engines, seen: Seen, *, clustered: bool = True) -> bool:
    """Wait until everything is in the topic that must be; what comes too late is found missing."""
    until, wanted = time.monotonic() + _SETTLE_S, len(seen.answered) + len(seen.rated)
    while time.monotonic() < until:
        if records(servers.kafka.bootstrap, TOPIC) >= wanted:
            topic = ledger.read_topic(servers.kafka, shards=SHARDS if clustered else None)
            if seen.answered <= topic.requests and seen.rated.keys() <= topic.ratings:
                return not clustered or _saved(servers, until)
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


def callers(seen: Seen, what: str) -> Rows:
    """What callers saw; nobody's request may have failed because of ``what``."""
    ended = seen.broken + seen.refused
    ours = Counter({name: count for name, count in ended.items() if OUR_OWN in name})
    theirs = Counter({name: count for name, count in ended.items() if OUR_OWN not in name})
    rows = [
        must(f"requests failed because of {what}", theirs.total() + seen.failures.total(), 0,
             tally(theirs + seen.failures)),
    ]  # fmt: skip
    if ours:
        rows.append(
            row("requests cut or refused while we killed our own processes", ours.total(), note=tally(ours))
        )
    return [
        *rows,
        row("answers that came completely", len(seen.answered)),
        row("ratings accepted", len(seen.rated), note=f"{len(seen.unsure)} of them after a lost answer"),
        must("ids given to two requests", seen.repeated, 0),
    ]


def books(found: Evidence, union: Path) -> Rows:
    """The topic and the logs against what callers saw, and what was learned against a replay in ``union``."""
    seen, topic = found.seen, ledger.read_topic(found.servers.kafka, shards=found.shards)
    logs = ledger.logs_of(found.members)
    lost, kept = logs.lost, logs.lost.total()
    unshipped = {request for request in logs.requests if request not in topic.requests}
    twice = sum(count > 1 for count in logs.requests.values())
    missing, unasked = len(seen.answered - topic.requests), len(topic.requests - seen.answered)
    unrated, surplus = len(seen.rated.keys() - topic.ratings), topic.ratings - seen.rated.keys() - seen.unsure
    worst, where = _compare(found, union)
    rows = [
        must("everything shipped in the end", int(found.settled), 1),
        row("records in the topic", topic.records, note=f"{topic.repeated} came again"),
        at_most("answered requests not in the topic", missing, kept, "losses the product counted"),
        at_most("requests in the topic that nobody has a whole answer to", unasked,
                seen.broken.total() + seen.failures.total(), "cut or failed ones"),
        at_most("accepted ratings not in the topic", unrated, kept, "losses the product counted"),
        must("requests in the nodes' logs that are not in the topic", len(unshipped), 0),
        must("requests that were logged twice", twice, 0),
        must("ratings in the topic that nobody gave", len(surplus), 0),
        must("losses the product counted", kept, 0, tally(lost)),
        must("events that differ though their id is the same", topic.differing.total(), 0,
             tally(topic.differing)),
        must("events in another partition than their route's", topic.misplaced, 0),
        must("events that are not what docs/schemas say", topic.problems.total(), 0, tally(topic.problems)),
        at_most("largest relative difference to a replay of all logs", worst, RELATIVE, where or "bound"),
        row("slowest answer", round(seen.slowest_s, 2), unit="s"),
    ]  # fmt: skip
    return rows + (_fencing(found.watch) if found.clustered else [])


def _fencing(watch: Watch) -> Rows:
    tenures = len(watch.owners)
    return [
        row("tenures", tenures, note=f"{watch.looks['PostgreSQL']} looks at the database"),
        must("tenures with two owners", watch.shared, 0),
        must(
            "tables or generations that went backwards",
            watch.backwards.total(),
            0,
            tally(watch.backwards),
        ),
    ]


def _compare(found: Evidence, union: Path) -> tuple[float, str]:
    """Owners' evidence against that of one node that has read everything."""
    settings = settings_of(found.members[0])
    now = time.time()
    state = ledger.union_log(found.members, union, clustered=found.clustered)
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


def _learned(found: Evidence, scratch: Path) -> list[Statistics]:
    """What the node, or the last owner of every shard, had saved."""
    if not found.clustered:
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


def settings_of(node: Node) -> Settings:
    """What a node is configured to."""
    return load(node.directory / "config.yaml", {}).settings


def held(rows: Rows) -> Rows:
    """The rows, when everything is as it must be.

    Raises:
        Failed: With everything that is not.
    """
    wrong = [row for row in rows if not row["holds"]]
    if wrong:
        raise Failed("; ".join(f"{row['name']}: {row['value']} ({row['note']})" for row in wrong))
    return rows


def row(
    name: str, value: float, *, unit: str = "", asked: str = "", note: str = "", holds: bool = True
) -> dict[str, Any]:
    """One line of the page."""
    return {"name": name, "value": value, "unit": unit, "asked": asked, "note": note, "holds": holds}


def must(name: str, value: int, wanted: int, note: str = "") -> dict[str, Any]:
    """One that has to be ``wanted``."""
    return row(name, value, asked=str(wanted), note=note, holds=value == wanted)


def at_most(name: str, value: float, most: float, note: str) -> dict[str, Any]:
    """One that may not be more than ``most``."""
    return row(name, value, asked=f"<= {most:g}", note=note, holds=value <= most)


def tally(counts: Mapping[str, int]) -> str:
    """What was counted, for people."""
    return ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
