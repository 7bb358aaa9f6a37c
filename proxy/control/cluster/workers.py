"""Which tables the workers of this node use, from their reports in the node's own log."""

from collections.abc import Mapping
from typing import Any, Final

from optimizer import events
from optimizer.log.segment import Position
from optimizer.rollouts.history import event_time

SILENT_S: Final = 5.0
"""A worker that has not reported for so long is not counted; an idle one reports every two seconds."""


class Workers:
    """Follows the node's log as an ``optimizer.ingest.Consumer``; what it knows is of the moment and not saved."""

    name = "workers"

    def __init__(self) -> None:
        self._tables: dict[int, tuple[float, int]] = {}

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``Consumer``."""
        del where
        if event["type"] != events.WORKER_STATS:
            return
        data = event["data"]
        self._tables[data["worker"]] = (event_time(event), data["table_version"])

    def snapshot(self) -> bytes:
        """See ``Consumer``."""
        return b""

    def restore(self, data: bytes) -> None:
        """See ``Consumer``."""

    def tables(self, now: float) -> list[int]:
        """Versions of the tables that are used at ``now`` (Unix seconds), one for each worker that reports."""
        # A report of the future is from before the clock was set back, and proves as little as an old one.
        self._tables = {
            worker: known for worker, known in self._tables.items() if abs(now - known[0]) < SILENT_S
        }
        return [version for _, version in self._tables.values()]
