"""The doctor's look at a cluster: do its nodes agree on time, configuration, version and tables; who has no owner."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from optimizer.cluster.sharding import listed
from proxy.cli.client import AdminClient, Refused
from proxy.cli.findings import Finding, fail, ok, warn

SKEW_S: Final = 2.0
"""Beyond it windows, stages and tables of two nodes tell different stories; a minute apart nodes refuse each other."""
_LOST_S: Final = 60.0


def cluster(client: AdminClient) -> Iterator[Finding]:
    """What is wrong between the nodes; nothing on one node."""
    try:
        found = client.get("/api/v1/cluster")
    except Refused:
        return  # A server from before there were clusters.
    if not found["enabled"]:
        return
    yield from _nodes(found)
    yield from _shards(found)
    yield from _engines(found)


def _nodes(found: Mapping[str, Any]) -> Iterator[Finding]:
    nodes = found["nodes"]
    problems = [*_silent(nodes), *_clocks(nodes), *_different(nodes), *_late(nodes)]
    yield from problems
    if not problems:
        yield ok("nodes", f"{len(nodes)} answer, with the same configuration, version and time")


def _silent(nodes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        if not node["answers"]:
            yield warn(
                "nodes",
                f"{_name(node)} was heard of {node['age_s']:.0f} s ago and does not answer{_because(node)}",
                "start it; if it runs, open its port to the other nodes, or correct cluster.advertise; "
                "cluster.secret has to be the same everywhere",
            )


def _clocks(nodes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        skew = node["clock_skew_s"]
        if skew is None or abs(skew) <= SKEW_S:
            continue
        kind = fail if abs(skew) > _LOST_S else warn
        yield kind(
            "clock",
            f"{_name(node)} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this node",
            "let the systems of all nodes keep time (chrony, systemd-timesyncd)",
        )


def _different(nodes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    for field, what, fix in (
        ("config_hash", "another configuration", "give all nodes the same file; llm-optimizer config reload"),
        ("program", "another version", "fine during an upgrade; otherwise upgrade it too"),
    ):
        counts = Counter(node[field] for node in nodes if node[field])
        if len(counts) < 2:
            continue
        usual = counts.most_common(1)[0][0]
        for node in nodes:
            if node[field] and node[field] != usual:
                yield warn("nodes", f"{_name(node)} runs {what} ({node[field][:12]}, not {usual[:12]})", fix)


def _late(nodes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        if node["late"]:
            shards = listed(node["late"])
            yield warn(
                "tables",
                f"{_name(node)} does not use the newest table of shards {shards} yet",
                "look again; if it stays so, look at that node's log: its stages wait for it",
            )


def _shards(found: Mapping[str, Any]) -> Iterator[Finding]:
    shards, partitions = found["shards"], found["partitions"]
    idle: dict[str, list[int]] = {}
    for row in shards:
        if row["owner"] is None:
            idle.setdefault(row["reason"], []).append(row["shard"])
    for reason, numbers in idle.items():
        yield warn(
            "shards",
            f"nobody drives shards {listed(numbers)}: {reason}",
            "their routes keep their last table",
        )
    if partitions is not None and partitions < len(shards):
        yield fail(
            "shards",
            f"the topic has {partitions} partitions for {len(shards)} shards: events of the others go nowhere",
            f"add partitions until there are {len(shards)} (kafka-topics.sh --alter)",
        )
    elif partitions is not None and partitions > len(shards):
        yield ok("shards", f"{partitions - len(shards)} partitions are beyond the shards and stay empty")
    if not shards:
        yield warn(
            "shards", "how many there are is not known yet", "Kafka and the database have to answer once"
        )
    elif not idle:
        yield ok("shards", f"{len(shards)}, and each has an owner")


def _engines(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Engines that other nodes do not reach; this node's own are among its components."""
    for node in found["nodes"]:
        for engine in node["engines_down"] or ():
            if not node["is_this"]:
                yield warn(engine, f"{_name(node)} does not reach it", "look at the network between the two")


def _because(node: Mapping[str, Any]) -> str:
    reason = node.get("reason")  # A server of an earlier version does not say.
    return f": it {reason}" if reason else ""


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node['node']} ({node['address']})"
