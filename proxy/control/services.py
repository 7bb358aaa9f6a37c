"""What the admin surface works with: the parts of the running optimizer process, typed, built in one place."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optimizer.arm_report import ArmReport, selection_report
from optimizer.ids import verify
from optimizer.key_store import KeyStore
from optimizer.leases import LeaseBook
from optimizer.log.position_index import PositionIndex
from optimizer.log.segment import EventReader
from optimizer.steering import Steering
from proxy.control.access import AccessRules
from proxy.control.configuration import ReloadResult
from proxy.control.core import Core
from proxy.control.metrics.exposition import Facts
from proxy.control.optimization_desk import OptimizationDesk


class Responses(Protocol):
    """From a provider's response id to our request id."""

    def lookup(self, response_id: str) -> str | None:
        """The request id, or None when it is unknown or too old."""
        ...


@dataclass(slots=True)
class Services:
    """One running optimizer process. ``started`` is Unix seconds."""

    core: Core
    reload: Callable[[str], Awaitable[ReloadResult]]
    responses: Responses
    positions: PositionIndex
    events: EventReader
    facts: Callable[[], Facts]
    started: float
    version: str
    worker_token: str
    optimizations: OptimizationDesk | None = None

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

    def audit(self, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Keep who changed what; ``detail`` holds no secret."""
        if self.optimizations is not None:
            self.optimizations.audit(actor, action, target, detail)

    def find_decision(self, request_id: str) -> Mapping[str, Any] | None:
        """The logged event of a request; None when the id is not ours or its row is gone."""
        name = verify(request_id, self.core.state.id_key)
        position = self.positions.find(name) if name is not None else None
        event = self.events.read_event(position) if position is not None else None
        return event if event is not None and event.get("id") == request_id else None

    def steering(self) -> Mapping[str, Steering]:
        """How the routes that are steered keep their constraints, by name."""
        return self.core.learning.steering()

    def reports(self) -> Mapping[str, Sequence[ArmReport]]:
        """What is believed about every arm, by route."""
        core = self.core
        return selection_report(
            core.configuration.settings,
            core.ingest.statistics,
            core.learning.publication.table,
            now=core.now(),
        )
