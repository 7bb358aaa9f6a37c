"""Which node answers for an optimization: its route's owner, because nobody else may change it.

What this node owns it does itself; the rest goes to the owner as it came, with its headers, and comes back as the owner
answered. Where an optimization is, its owner says and not the database, so that traffic can be taken from a candidate
while the database is away.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from urllib.parse import quote

from aiohttp import web

from optimizer.control_store.errors import StoreError
from proxy.control.admin.endpoint import AdminFault, Call, question_of
from proxy.control.admin.gathering import RETRY_S, ask_owners, pass_on, relayed, unreachable, waits
from proxy.control.admin.models import CreateRequest
from proxy.control.admin.reading import read_body
from proxy.control.cluster.forwarding import Question, Reply, Unreachable
from proxy.control.cluster.peers import Peer, Peers
from proxy.control.optimization_desk import OptimizationDesk, Wish, meant_route

Work = Callable[[Call, OptimizationDesk], Awaitable[web.StreamResponse]]


def by_id(work: Work) -> Callable[[Call], Awaitable[web.StreamResponse]]:
    """A handler that does ``work`` where the optimization of the path is."""

    @wraps(work)
    async def run(call: Call) -> web.StreamResponse:
        desk = await _at_record(call)
        return desk if isinstance(desk, web.StreamResponse) else await work(call, desk)

    return run


async def wish_of(call: Call) -> Wish:
    """The optimization that the body asks for; raises as ``read_body``."""
    asked = await read_body(call, CreateRequest)
    return Wish(asked.name, asked.strategy, asked.route, asked.parameters, asked.deploy)


async def at_route(call: Call) -> OptimizationDesk | web.StreamResponse:
    """The desk of the route that the body means, or the answer of the node that has it.

    Raises:
        AdminFault: 503 while nobody has it, 504 when its node does not say whether it did it; 400 for the body.
    """
    services = call.services
    if services.peers is None:
        return services.desks()[0]
    # A name that is no route has a shard too, whose owner tells everything that is wrong with the request.
    route, _, _ = meant_route(await wish_of(call), services.settings)
    place = services.peers.place_of(route)
    desk = services.desk_of(route)
    if desk is None and place.is_here and services.settings.route(route) is None:
        desk = next(iter(services.desks()), None)
    if desk is not None:
        return desk
    if call.is_hop or place.peer is None:
        raise waits(place)
    return await pass_on(call, place.peer, "make the optimization")


def unknown(*, knows_all: bool = True) -> AdminFault:
    """The answer for an id that is nobody's; without ``knows_all`` it may be one that was not read yet."""
    if not knows_all:
        return AdminFault(
            503, "SERVICE_UNAVAILABLE", "the database was not read since the start; it may know this id"
        )
    return AdminFault(
        404, "NOT_FOUND", "There is no optimization with this id; GET /api/v1/optimize lists them."
    )


async def _at_record(call: Call) -> OptimizationDesk | web.StreamResponse:
    services = call.services
    desks = services.desks()
    if services.peers is None:
        return desks[0]
    id_ = call.request.match_info["optimization_id"]
    for desk in desks:
        if desk.get(id_) is not None:
            return desk
    knows_all = all(desk.knows_all for desk in desks)
    if call.is_hop:
        # A shard that this node has taken and does not know yet may have it.
        raise unknown(knows_all=knows_all and not services.peers.facts().waiting)
    return await _from_owner(call, services.peers, id_, knows_all=knows_all)


async def _from_owner(call: Call, peers: Peers, id_: str, *, knows_all: bool) -> web.StreamResponse:
    question = await question_of(call.request, call.actor)
    if not question.is_read:
        question = Question("GET", f"/api/v1/optimize/{quote(id_, safe='')}", call.actor)
    away: list[tuple[Peer, Unreachable]] = []
    for peer, reply in await ask_owners(call, question):
        if isinstance(reply, Unreachable):
            away.append((peer, reply))
        elif reply.status in (200, 304):
            return await _answered(call, peer, reply)
        elif reply.status != 404:
            knows_all = False
    raise await _nowhere(call, peers, id_, away, knows_all=knows_all)


async def _answered(call: Call, peer: Peer, reply: Reply) -> web.StreamResponse:
    if call.request.method in ("GET", "HEAD"):
        return relayed(reply)
    response = await pass_on(call, peer, "change the optimization")
    if response.status == 404:
        raise AdminFault(
            503,
            "SERVICE_UNAVAILABLE",
            "The route is just moving to another node; nothing has changed.",
            retry_after_s=RETRY_S,
        )
    return response


async def _nowhere(
    call: Call, peers: Peers, id_: str, away: list[tuple[Peer, Unreachable]], *, knows_all: bool
) -> AdminFault:
    """Why nobody has it: there is none, its owner does not answer, its shard has no owner, or is just moving."""
    try:
        records = await call.services.core.store.load()
    except StoreError:
        records = []
    record = next((found for found in records if found.id == id_), None)
    waiting = [place for place in peers.places() if place.peer is None and not place.is_here]
    if record is None and knows_all and not away and not waiting and peers.places():
        return unknown()
    if record is None:
        # The database may be a moment behind those who could not be asked.
        return AdminFault(
            503,
            "SERVICE_UNAVAILABLE",
            "Not every node answers that may know this id; nothing has changed.",
            {
                "nodes": [{"address": peer.address, "reason": str(reason)} for peer, reason in away],
                "shards": [place.shard for place in waiting],
            },
            retry_after_s=RETRY_S,
        )
    place = peers.place_of(record.route)
    for peer, reason in away:
        if peer == place.peer:
            return unreachable(peer, reason, "answer for the optimization", is_read=True)
    return waits(place)
