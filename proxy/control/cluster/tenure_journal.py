"""What an owner writes into its node's log: nothing once its tenure is over, and no alarm a second time.

An owner that begins reads again what came after the last snapshot, and finds there what the owner before has found
already. Whoever is told of alarms must not hear of them again from another node, or, when all is learned anew, of all
that there ever were.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optimizer import events
from optimizer.drift import SAVE_S
from optimizer.log.reader import Cursor, LogReader
from proxy.control.journal import Journal

_MARK: Final = f'"{events.DRIFT}"'.encode()
_BYTES: Final = 8 * 1024 * 1024

Watched = tuple[str, str, str, str]
"""Route, keys of model and prompt, signal."""


class TenureJournal(Journal):
    """The node's journal for as long as the tenure lasts: what a former owner decides is nobody's business.

    Args:
        journal: The node's.
        fenced: Set when the tenure is over.
        told: Alarms of earlier owners, see ``alarms_told``.
    """

    def __init__(self, journal: Journal, fenced: asyncio.Event, told: Mapping[Watched, float]) -> None:
        self.log_directory = journal.log_directory
        self.incarnation = journal.incarnation
        self.writer = journal.writer
        self._journal = journal
        self._fenced = fenced
        self._told = told

    def write(self, type_: str, data: Mapping[str, Any], event_id: str | None = None) -> bool:
        """See ``Journal``; True also for what is not written, because nobody is to try again."""
        if self._fenced.is_set() or (type_ == events.DRIFT and self._is_told(data)):
            return True
        return self._journal.write(type_, data, event_id)

    def _is_told(self, alarm: Mapping[str, Any]) -> bool:
        # What a watch remembers may be a little older than what was read, and so its alarm may come a little later.
        return float(alarm["at"]) <= self._told.get(_watched(alarm), float("-inf")) + SAVE_S


def alarms_told(log_directory: Path, cursor: Cursor) -> Mapping[Watched, float]:
    """Until when (Unix seconds) alarms about each signal are in a log from ``cursor`` on. For a thread.

    Raises:
        OSError: It can't be read.
    """
    found: dict[Watched, float] = {}
    reader, more = LogReader(log_directory), True
    while more:
        batch = reader.poll(cursor, _BYTES)
        cursor, more = batch.cursor, batch.more
        batch.entries[:] = [entry for entry in batch.entries if _MARK in entry.line]
        for _, event in batch.events():
            try:
                alarm = event["data"]
                key, at = _watched(alarm), float(alarm["at"])
            except (KeyError, TypeError, ValueError):
                continue
            if event.get("type") == events.DRIFT:
                found[key] = max(at, found.get(key, at))
    return found


def _watched(alarm: Mapping[str, Any]) -> Watched:
    return alarm["route"], alarm["model_key"], alarm["variant_key"], alarm["signal"]
