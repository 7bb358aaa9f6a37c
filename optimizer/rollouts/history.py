"""What a change leaves behind: the event that says all about it, and the audit row that is read off the event.

The event holds the whole new record, so the events of a log rebuild every record, in whatever order they are read.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from optimizer import events
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.records import SPLITTING, Optimization

ACTION_PREFIX: Final = "optimization."
_DETAIL: Final = (
    *(
        "route",
        "rollout",
        "attempt",
        "revision",
        "from",
        "to",
        "reason",
        "explanation",
        "stage",
        "percentage",
    ),
    *("measured", "name"),
)


def transition_id(record: Optimization) -> str:
    """Id of the event that made ``record`` what it is: the same however often it is written."""
    return f"{record.id}:{record.revision}"


def transition_data(old: Optimization | None, new: Optimization, *, verb: str, actor: str) -> dict[str, Any]:
    """``data`` of the ``optimization.transition.v1`` event; see ``optimizer.events``."""
    rollout = new.rollout
    return {
        "optimization": new.id,
        "name": new.name,
        "route": new.route,
        "rollout": None if rollout is None else rollout.id,
        "attempt": new.attempts,
        "revision": new.revision,
        "verb": verb,
        "from": None if old is None else str(old.status),
        "to": str(new.status),
        "actor": actor,
        "reason": new.reason,
        "explanation": new.explanation,
        "stage": rollout.stage if rollout is not None and new.status in SPLITTING else None,
        "percentage": new.candidate_percentage,
        "measured": to_plain(new.measured),
        "record": to_plain(new),
    }


def record_in(data: Mapping[str, Any]) -> Optimization:
    """The record that a transition's ``data`` holds.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If it holds none.
    """
    return record_of(data["record"])


def audit_data(actor: str, action: str, target: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` of the ``admin.audit.v1`` event."""
    return {"actor": actor, "action": action, "target": target, "detail": dict(detail)}


def row_of(event_id: str, type_: str, data: Mapping[str, Any], at: float) -> AuditRow:
    """The audit row of a transition or audit event that happened at ``at`` (Unix seconds).

    Raises:
        KeyError, TypeError: If the event lacks something.
    """
    if type_ == events.AUDIT:
        return AuditRow(event_id, at, data["actor"], data["action"], data["target"], data["detail"])
    detail = {name: data[name] for name in _DETAIL if data.get(name) is not None}
    return AuditRow(event_id, at, data["actor"], ACTION_PREFIX + data["verb"], data["optimization"], detail)


def event_time(event: Mapping[str, Any]) -> float:
    """When an event happened, Unix seconds.

    Raises:
        KeyError, ValueError: If it does not say.
    """
    return datetime.fromisoformat(event["time"]).timestamp()
