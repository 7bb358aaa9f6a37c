"""The cluster: its nodes, its shards and who drives them, its engines; and learning everything anew.

Every node tells of itself what only it knows (its configuration, its clock, how far its shards are, what it hears of
the engines); the node that is asked puts that beside what it hears in Redis.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from aiohttp import web

from optimizer.cluster.types import NodeState, Version
from optimizer.control_store.errors import StoreError
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.gathering import gather, node_name
from proxy.control.cluster.facts import ENGINES, FEEDBACK, ClusterFacts, EngineFacts
from proxy.control.cluster.peers import Peers
from proxy.control.services import Services

TARGET: Final = "/api/v1/cluster"


@dataclass(frozen=True, slots=True)
class Own:
    """What a node says of itself. ``skew_s``: how far its clock is ahead of the asking node's."""

    node: int
    at: float
    config_hash: str
    engines: Mapping[str, Mapping[str, Any]]
    shards: Mapping[int, Mapping[str, Any]]
    feedback: Mapping[str, int]
    skew_s: float | None = None


async def show(call: Call) -> web.StreamResponse:
    """Nodes, shards and engines; on one node only that there is no cluster."""
    services = call.services
    peers = services.peers
    if peers is None:
        return answer({"enabled": False})
    facts = peers.facts()
    own = _own(services, facts)
    if call.is_hop:
        return answer({"part": asdict(own)})
    asked_at = services.core.now()
    gathered = await gather(call, TARGET, everyone=True)
    took = {peer.node: took_s for peer, _, took_s in gathered.answers}
    parts = {part.node: part for part in gathered.parts(lambda document: _read(document, asked_at, took))}
    parts[own.node] = own
    silent = {row["node"]: row["reason"] for row in gathered.incomplete or ()}
    now = services.core.now()
    document = {
        "enabled": True,
        "node": node_name(facts.node),
        "nodes": [_node(state, facts, parts, silent, now) for state in facts.nodes],
        "partitions": facts.partitions,
        "shards": _shards(peers, facts, parts, now),
        "engines": own.engines,
        "feedback": {
            result: sum(part.feedback.get(result, 0) for part in parts.values()) for result in FEEDBACK
        },
        "tables_unacknowledged_s": facts.unacknowledged_s,
    }
    return answer(gathered.mark(document))


async def rebuild(call: Call) -> web.StreamResponse:
    """Forget what was learned, everywhere: owners learn all of it again from the beginning of the topic."""
    peers = call.services.peers
    if peers is None:
        raise AdminFault(
            409,
            "CONFLICT",
            "There is no cluster. A node that is alone learns again from its own log while it does not run: "
            "stop it, then `llm-optimizer rebuild --yes`.",
        )
    try:
        await peers.rebuild()
    except StoreError as away:
        raise AdminFault(
            503, "SERVICE_UNAVAILABLE", f"Nothing was forgotten: {away}.", retry_after_s=2
        ) from away
    shards = [place.shard for place in peers.places()]
    call.services.audit(call.actor, "cluster.rebuild", "cluster", {"shards": len(shards)})
    return answer({"shards": shards}, status=202)


def _own(services: Services, facts: ClusterFacts) -> Own:
    shards = {
        shard.shard: {
            "generation": shard.generation,
            "taken_at": shard.taken_at,
            "offset": shard.offset,
            "lag": shard.lag,
            "saved_at": shard.saved_at,
            "is_guarding": shard.is_guarding,
        }
        for shard in facts.owned
    }
    return Own(
        node=facts.node,
        at=services.core.now(),
        config_hash=services.settings.config_hash,
        engines={name: asdict(facts.engines.get(name, EngineFacts())) for name in ENGINES},
        shards=shards,
        feedback=dict(facts.feedback),
    )


def _read(document: Mapping[str, Any], asked_at: float, took: Mapping[int, float]) -> Own:
    part = document["part"]
    node, at = int(part["node"]), float(part["at"])
    return Own(
        node=node,
        at=at,
        config_hash=str(part["config_hash"]),
        engines={name: _engine(row) for name, row in part["engines"].items()},
        shards={int(shard): _shard_part(row) for shard, row in part["shards"].items()},
        feedback={str(name): int(count) for name, count in part["feedback"].items()},
        # It looked at its clock somewhere between the question and the answer.
        skew_s=round(at - (asked_at + took[node] / 2.0), 3),
    )


def _engine(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("up", "error", "since", "errors")}


def _shard_part(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("generation", "taken_at", "offset", "lag", "saved_at", "is_guarding")
    return {name: row[name] for name in names}


def _node(
    state: NodeState, facts: ClusterFacts, parts: Mapping[int, Own], silent: Mapping[str, str], now: float
) -> dict[str, Any]:
    part = parts.get(state.node)
    late = sorted(
        shard for shard, newest in facts.tables.items() if state.runs.get(shard, Version()) < newest
    )
    return {
        "node": node_name(state.node),
        "address": state.address,
        "age_s": round(max(now - state.at, 0.0), 3),
        "program": state.program,
        "owns": sorted(state.owns),
        "late": late,
        "answers": part is not None,
        "reason": None if part is not None else silent.get(node_name(state.node), "was not heard of lately"),
        "config_hash": part.config_hash if part is not None else None,
        "clock_skew_s": part.skew_s if part is not None else None,
        "engines_down": (
            sorted(name for name, engine in part.engines.items() if engine["up"] is False)
            if part is not None
            else None
        ),
        "is_this": state.node == facts.node,
    }


def _shards(peers: Peers, facts: ClusterFacts, parts: Mapping[int, Own], now: float) -> list[dict[str, Any]]:
    rows = []
    for place in peers.places():
        owner = facts.node if place.is_here else place.peer.node if place.peer is not None else None
        part = parts.get(owner) if owner is not None else None
        known = part.shards.get(place.shard) if part is not None else None
        saved_at = known["saved_at"] if known is not None else None
        rows.append(
            {
                "shard": place.shard,
                "owner": node_name(owner) if owner is not None else None,
                "reason": place.why or None,
                "generation": known["generation"] if known is not None else None,
                "offset": known["offset"] if known is not None else None,
                "lag": known["lag"] if known is not None else None,
                "snapshot_age_s": round(max(now - saved_at, 0.0), 3) if saved_at is not None else None,
                "is_guarding": known["is_guarding"] if known is not None else None,
            }
        )
    return rows
