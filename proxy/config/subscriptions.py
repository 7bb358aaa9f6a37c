"""What a webhook may ask for: the names of events, and patterns of them.

The names are those that ``proxy.control.webhooks`` sends (a test compares the two); they stand here because checking a
file must not load an HTTP client.
"""

from fnmatch import fnmatchcase
from typing import Final

EVENT_NAMES: Final = (
    "drift.alarm",
    "optimization.aborted",
    "optimization.created",
    "optimization.deleted",
    "optimization.deploy_requested",
    "optimization.deployed",
    "optimization.paused",
    "optimization.proposed",
    "optimization.resumed",
    "optimization.retried",
    "optimization.rolled_back",
    "optimization.stage_advanced",
    "optimization.started",
    "optimization.superseded",
    "optimization.withdrawn",
)


def is_event(pattern: str) -> bool:
    """Whether ``pattern`` (a name, or with ``*``) fits at least one event."""
    return any(fnmatchcase(name, pattern) for name in EVENT_NAMES)
