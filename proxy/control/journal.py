"""The optimizer process's own part of the event log: what it did, in the same log as what it read."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds, encode, event_source

ROLE: Final = "optimizer"


class Journal:
    """Appends events of this process; never raises, but says when an event was lost.

    Args:
        state: Whose log.
        segment_bytes: When a segment is closed.
        now: Unix seconds.
    """

    def __init__(self, state: StateDirectory, *, segment_bytes: int, now: Callable[[], float]) -> None:
        self.log_directory = state.log_directory
        self.incarnation = state.allocate_incarnation()
        self._name = f"{state.node:08x}-{self.incarnation:08x}"
        self._now = now
        self._source = event_source(state.node, ROLE, self.incarnation)
        self._written = 0
        self.writer = LogWriter(
            state.log_directory,
            node=state.node,
            incarnation=self.incarnation,
            role=ROLE,
            bounds=WriterBounds(segment_bytes=segment_bytes),
        )

    def write(self, type_: str, data: Mapping[str, Any], event_id: str | None = None) -> bool:
        """Append one event; False when it is known to be lost. Without ``event_id`` it gets one unique for ever."""
        self._written += 1
        name = event_id if event_id is not None else f"{self._name}-{self._written:x}"
        lost = self.writer.lost.total()
        self.writer.append(encode(name, type_, self._source, int(self._now() * 1000), dict(data)))
        return self.writer.lost.total() == lost

    def close(self) -> None:
        """Close the segment."""
        self.writer.close()
