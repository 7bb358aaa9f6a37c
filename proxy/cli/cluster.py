"""``llm-optimizer cluster``: the nodes, who drives which shard, and how the engines are."""

from collections.abc import Mapping
from typing import Any

import click

from optimizer.cluster.sharding import listed
from proxy.cli.client import AdminClient
from proxy.cli.output import emit, output_option, print_table, say, span
from proxy.cli.server import server_options


@click.command("cluster")
@output_option
@server_options
def cluster(server: AdminClient, form: str) -> None:
    """Show nodes, shards and engines of a cluster.

    A shard is a partition of the Kafka topic; its owner learns its routes and drives their rollouts. `behind` are
    records that are not learned yet. A node is late with a shard whose newest table not all of its workers use.

    \b
    Examples:
      llm-optimizer cluster
      llm-optimizer cluster -o json
    """
    answer = server.get("/api/v1/cluster")
    emit(answer, form, lambda: _tables(answer))


def _tables(answer: Mapping[str, Any]) -> None:
    if not answer["enabled"]:
        say("one node: there is no cluster (cluster: in the configuration makes one)")
        return
    say("nodes")
    print_table(
        ("node", "address", "heard", "version", "owns", "late", "clock", "configuration", "down"),
        [_node(row) for row in answer["nodes"]],
        fixed=("node", "address"),
    )
    say("\nshards")
    print_table(
        ("shard", "owner", "tenure", "next", "behind", "saved", "guards"),
        [_shard(row) for row in answer["shards"]],
    )
    say("\nengines, as this node finds them")
    print_table(
        ("engine", "state", "errors", "last error"),
        [(name, _state(row["up"]), row["errors"], row["error"]) for name, row in answer["engines"].items()],
    )
    counts = ", ".join(f"{count} {result}" for result, count in answer["feedback"].items())
    say(f"\nfeedback for other nodes: {counts.replace('_', ' ')}")
    if answer["tables_unacknowledged_s"]:
        say(f"a table of this node's is not used everywhere for {span(answer['tables_unacknowledged_s'])}")


def _node(row: Mapping[str, Any]) -> tuple[Any, ...]:
    skew, down = row["clock_skew_s"], row["engines_down"]
    return (
        f"{row['node']}{' (this)' if row['is_this'] else ''}",
        row["address"],
        f"{row['age_s']:.1f} s ago",
        row["program"],
        listed(row["owns"]) or "-",
        listed(row["late"]) or "-",
        f"{skew:+.2f} s" if skew is not None else "-",
        row["config_hash"][:12] if row["config_hash"] is not None else "does not answer",
        "-" if not down else ", ".join(down),
    )


def _shard(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row["shard"],
        row["owner"] or f"nobody: {row['reason']}",
        _known(row["generation"]),
        _known(row["offset"]),
        _known(row["lag"]),
        f"{span(row['snapshot_age_s'])} ago" if row["snapshot_age_s"] is not None else "-",
        {True: "yes", False: "no"}.get(row["is_guarding"], "-"),
    )


def _state(up: bool | None) -> str:
    return {True: "up", False: "down"}.get(up, "not asked yet") if up is not None else "not asked yet"


def _known(value: Any) -> str:
    return "-" if value is None else str(value)
