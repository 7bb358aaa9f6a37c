"""Answers that need other nodes: asking all who know something, and passing an order on to whom it concerns.

Whoever could not be asked is named in the answer, under ``incomplete``; nothing is left out in silence. On one node,
and for a request that another node has passed on, there is nobody to ask and no such field.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aiohttp import web

from proxy.control.admin.endpoint import AdminFault, Call, question_of
from proxy.control.cluster.forwarding import Question, Reply, Unreachable
from proxy.control.cluster.peers import Peer, Place

RETRY_S: Final = 2
"""When a shard that waits may have an owner again."""

_BACK: Final = ("Content-Type", "ETag", "Retry-After", "Idempotent-Replayed", "Cache-Control")

T = TypeVar("T")


@dataclass(slots=True)
class Gathered:
    """What other nodes said, each with how long it took (s). ``incomplete`` is None where nobody is asked.

    ``learned`` are the shards that an answer for another node is about; None in any other.
    """

    answers: list[tuple[Peer, Mapping[str, Any], float]] = field(default_factory=list)
    incomplete: list[dict[str, Any]] | None = None
    learned: list[int] | None = None

    def parts(self, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
        """What ``read`` makes of each answer; a node whose answer it can't read is named as one that gave none."""
        found = []
        for peer, document, _ in self.answers:
            try:
                found.append(read(document))
            except (KeyError, TypeError, ValueError, AttributeError):
                self.lacks(peer, "answers what this node can't read")
        return found

    def mark(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with ``incomplete``, or for another node with ``learned``, where that says anything."""
        if self.learned is not None:
            return document | {"learned": self.learned}
        return document if self.incomplete is None else document | {"incomplete": self.incomplete}

    def lacks(self, peer: Peer, reason: str, shards: Iterable[int] = ()) -> None:
        """Name a node that did not answer, or not about ``shards``."""
        assert self.incomplete is not None
        self.incomplete.append(missing(peer, reason, shards))


def missing(peer: Peer | None, reason: str, shards: Iterable[int] = ()) -> dict[str, Any]:
    """One line of ``incomplete``: a node that did not answer, or (None) shards that nobody learns."""
    return {
        "node": node_name(peer.node) if peer is not None else None,
        "address": peer.address if peer is not None else None,
        "shards": sorted(shards),
        "reason": reason,
    }


def node_name(node: int) -> str:
    """A node's id as people read it."""
    return f"{node:08x}"


def owners(places: Iterable[Place]) -> list[Peer]:
    """Every other node that owns one of the shards."""
    return list(dict.fromkeys(place.peer for place in places if place.peer is not None))


async def gather(call: Call, target: str, *, everyone: bool = False, place: Place | None = None) -> Gathered:
    """Ask every owner of a shard, ``everyone``, or that of one ``place``, for ``target``.

    Nobody is asked on one node, and for another node.
    """
    services = call.services
    peers = services.peers
    if peers is None or services.forwarder is None:
        return Gathered()
    if call.is_hop:
        return Gathered(learned=[place.shard for place in peers.places() if place.is_here])
    question = Question("GET", target, call.actor)
    places = peers.places() if place is None else [place]
    asked = owners(places) if not everyone else _together(peers.others(), owners(places))
    found = Gathered(incomplete=[*_waiting(places)])
    shards = _shards_by_node(places)
    for peer, reply in await services.forwarder.ask_all(asked, question):
        expected = shards.get(peer.node, [])
        if isinstance(reply, Unreachable):
            found.lacks(peer, str(reply), expected)
        elif reply.status != 200 or not isinstance(document := reply.document(), dict):
            found.lacks(peer, f"answers {reply.status}", expected)
        else:
            found.answers.append((peer, document, reply.took_s))
            # It has taken them, and still catches up with what the owner before has learned.
            learned = document.get("learned")
            if isinstance(learned, list) and (absent := [one for one in expected if one not in learned]):
                found.lacks(peer, "is not ready with them yet", absent)
    return found


async def ask_owners(call: Call, question: Question) -> list[tuple[Peer, Reply | Unreachable]]:
    """What every owner of a shard says to ``question``, or why it says nothing."""
    assert call.services.peers is not None
    assert call.services.forwarder is not None
    return await call.services.forwarder.ask_all(owners(call.services.peers.places()), question)


async def pass_on(call: Call, peer: Peer, what: str) -> web.StreamResponse:
    """The answer of the node that the request concerns; ``what`` says in a message what it is asked for.

    Raises:
        AdminFault: 503 when it can't be asked, 504 when nobody knows whether it did what it was asked to do.
    """
    assert call.services.forwarder is not None
    question = await question_of(call.request, call.actor)
    try:
        return relayed(await call.services.forwarder.ask(peer, question))
    except Unreachable as away:
        raise unreachable(peer, away, what, is_read=question.is_read) from away


def unreachable(peer: Peer, away: Unreachable, what: str, *, is_read: bool) -> AdminFault:
    """The answer for a node that gave none."""
    name = f"node {node_name(peer.node)} ({peer.address})"
    details = {"node": node_name(peer.node), "address": peer.address, "reason": str(away)}
    if away.is_uncertain and not is_read:
        return AdminFault(
            504,
            "UNCERTAIN",
            f"{name} was told to {what} and {away}: it may be done. Look, or send it again with the same "
            "Idempotency-Key.",
            details,
            retry_after_s=RETRY_S,
        )
    return AdminFault(
        503,
        "SERVICE_UNAVAILABLE",
        f"{name}, which would {what}, {away}; nothing has changed.",
        details,
        retry_after_s=RETRY_S,
    )


def relayed(reply: Reply) -> web.Response:
    """Another node's answer as our own."""
    response = web.Response(status=reply.status, body=reply.body)
    for name in _BACK:
        if name.lower() in reply.headers:
            response.headers[name] = reply.headers[name.lower()]
    return response


def waits(place: Place) -> AdminFault:
    """The 503 for what only the owner of a shard can do, while there is none."""
    return AdminFault(
        503,
        "SERVICE_UNAVAILABLE",
        f"Nobody drives shard {place.shard} at present ({_why(place)}); its routes keep their last table. "
        "Nothing has changed.",
        {"shard": place.shard, "reason": _why(place)},
        retry_after_s=RETRY_S,
    )


def _together(*several: Iterable[Peer]) -> list[Peer]:
    return list(dict.fromkeys(peer for peers in several for peer in peers))


def _shards_by_node(places: Iterable[Place]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place in places:
        if place.peer is not None:
            found.setdefault(place.peer.node, []).append(place.shard)
    return found


def _waiting(places: Sequence[Place]) -> Iterable[dict[str, Any]]:
    """The shards that nobody learns, by why."""
    if not places:
        yield missing(None, "how many shards there are is not known yet")
    found: dict[str, list[int]] = {}
    for place in places:
        if place.peer is None and not place.is_here:
            found.setdefault(_why(place), []).append(place.shard)
    for reason, shards in found.items():
        yield missing(None, reason, shards)


def _why(place: Place) -> str:
    return place.why or ("it has no owner" if place.peer is None else "its new owner is not ready yet")
