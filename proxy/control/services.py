"""What the admin surface works with: the parts of the running optimizer process, typed, built in one place."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optimizer import events
from optimizer.arm_report import ArmReport, selection_report
from optimizer.ids import verify
from optimizer.key_store import KeyStore
from optimizer.leases import LeaseBook
from optimizer.log.position_index import PositionIndex
from optimizer.log.segment import EventReader
from optimizer.rollouts.audit import AuditFilter, AuditRow
from optimizer.rollouts.codec import record_of
from optimizer.rollouts.history import audit_data
from optimizer.rollouts.records import Optimization
from optimizer.settings import Settings
from optimizer.steering import Steering
from optimizer.strategies.registry import STRATEGIES
from proxy.control.access import AccessRules
from proxy.control.cluster.forwarding import Forwarder
from proxy.control.cluster.peers import Peers
from proxy.control.configuration import ReloadResult
from proxy.control.core import Core
from proxy.control.learning import Learning
from proxy.control.metrics.exposition import Facts
from proxy.control.optimization_desk import OptimizationDesk


class Responses(Protocol):
    """From a provider's response id to our request id."""

    def lookup(self, response_id: str) -> str | None:
        """The request id, or None when it is unknown or too old."""
        ...


@dataclass(slots=True)
class Services:
    """One running optimizer process. ``started`` is Unix seconds; without ``peers`` it is alone."""

    core: Core
    reload: Callable[[str], Awaitable[ReloadResult]]
    responses: Responses
    positions: PositionIndex
    events: EventReader
    facts: Callable[[], Facts]
    started: float
    version: str
    worker_token: str
    peers: Peers | None = None
    forwarder: Forwarder | None = field(init=False)
    """Asks the other nodes; None on one node."""
    _desks: list[tuple[Learning, OptimizationDesk]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.forwarder = Forwarder(self.peers, now=self.core.now) if self.peers is not None else None

    @property
    def settings(self) -> Settings:
        """The configuration in use, with the routes that others learn."""
        return self.core.configuration.settings

    @property
    def keys(self) -> KeyStore:
        """The client keys."""
        return self.core.keys

    @property
    def leases(self) -> LeaseBook:
        """Who holds how much of every limit."""
        return self.core.leases

    def access_rules(self) -> AccessRules:
        """Who may do what, by the configuration in use."""
        return self.core.configuration.access_rules

    def desks(self) -> Sequence[OptimizationDesk]:
        """Where wishes about optimizations of this node's routes arrive; one for each ``Learning``."""
        learnings = self.core.learners.all()
        kept = [(known, desk) for known, desk in self._desks if any(known is one for one in learnings)]
        for learning in learnings:
            if not any(known is learning for known, _ in kept):
                kept.append((learning, self._desk(learning)))
        self._desks = kept
        return [desk for _, desk in kept]

    def desk_of(self, route: str) -> OptimizationDesk | None:
        """Where wishes about a route arrive; None when it is not learned here."""
        learning = self.core.learners.of(route)
        desks = self.desks()
        found = (desk for (known, _), desk in zip(self._desks, desks, strict=True) if known is learning)
        return next(found, None)

    def overlaying(self) -> Sequence[Optimization]:
        """Everything that changes a route now."""
        if self.peers is None:
            return [record for desk in self.desks() for record in desk.overlaying()]
        table = self.core.learners.table
        return [record_of(raw) for raw in table.overlays] if table is not None else ()

    def audit(self, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Keep who changed what; ``detail`` holds no secret."""
        if self.peers is None:
            for desk in self.desks():
                desk.audit(actor, action, target, detail)
            return
        # It is about no route, so whoever learns the shard of what is about none writes it into the database.
        row = audit_data(actor, action, target, detail)
        self.core.journal.write(events.AUDIT, row, event_id=f"audit_{secrets.token_hex(8)}")

    async def audit_page(self, wanted: AuditFilter, *, limit: int, before: str | None) -> Sequence[AuditRow]:
        """Rows of the audit, with those that are still on their way to the database; raises ``StoreError``."""
        # Looked at first: what is stored meanwhile is then in both, and not in neither.
        pending = (
            [row for desk in self.desks() for row in desk.pending_audit() if wanted.matches(row)]
            if before is None
            else []
        )
        stored = await self.core.store.audit_page(wanted, limit=limit, before=before)
        if not pending:
            return stored
        rows = {row.id: row for row in (*stored, *pending)}.values()
        return sorted(rows, key=lambda row: (row.at, row.id), reverse=True)[:limit]

    def find_decision(self, request_id: str) -> Mapping[str, Any] | None:
        """The logged event of a request; None when the id is not ours or its row is gone."""
        name = verify(request_id, self.core.state.id_key)
        position = self.positions.find(name) if name is not None else None
        event = self.events.read_event(position) if position is not None else None
        return event if event is not None and event.get("id") == request_id else None

    def decided_by(self, request_id: str) -> int | None:
        """The node that gave out a request id; None when it is no genuine one."""
        name = verify(request_id, self.core.state.id_key)
        return name.node if name is not None else None

    def steering(self) -> Mapping[str, Steering]:
        """How the routes that are learned here and steered keep their constraints, by name."""
        return {
            route: status
            for learning in self.core.learners.all()
            for route, status in learning.steering().items()
        }

    def reports(self) -> Mapping[str, Sequence[ArmReport]]:
        """What is believed about every arm of the routes that are learned here, in the configuration's order."""
        now = self.core.now()
        found = {
            route: rows
            for learning in self.core.learners.all()
            for route, rows in selection_report(
                learning.settings, learning.ingest.statistics, learning.publication.table, now=now
            ).items()
        }
        known = [route.name for route in self.settings.routes]
        order = {name: place for place, name in enumerate(known)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    async def close(self) -> None:
        """Close the connections to other nodes."""
        if self.forwarder is not None:
            await self.forwarder.close()

    def _desk(self, learning: Learning) -> OptimizationDesk:
        optimizing = learning.optimizing
        return OptimizationDesk(
            optimizing.controller,
            optimizing.book,
            STRATEGIES,
            settings=lambda: self.settings,
            look_at=optimizing.strategist.look_at,
            store=optimizing.store,
            progress=optimizing.progress,
        )
