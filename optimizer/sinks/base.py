"""What every sink is: a follower of the log with its own saved cursor, delivering at least once.

A sink is told nothing by the data plane and holds nothing up. It may be dead for a week; what it has missed
is in the log, as far as retention kept it.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from optimizer.durable import replace_file

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SinkStats:
    """Counters of one sink since the process started; ``up`` and ``lag_bytes`` are the present state.

    ``delivered`` events were acknowledged, ``retried`` sent again because it was not known whether they had
    arrived, ``dead_lettered`` can never be delivered and were put aside; ``errors`` counts failed attempts.
    """

    delivered: int = 0
    retried: int = 0
    dead_lettered: int = 0
    errors: int = 0
    lag_bytes: int = 0
    up: bool = False
    last_error: str = ""


class Sink(Protocol):
    """A destination of events. Names are the keys of ``optimizer.sinks.registry.SINKS``."""

    name: str
    stats: SinkStats

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Up to where everything was acknowledged; what retention may drop first."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until ``stop`` is set. Never raises for anything that the destination does."""
        ...


class CursorFile:
    """A cursor in a small file of its own, replaced atomically, and a lock that says who moves it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, tuple[int, int]]:
        """The saved cursor; if there is none, or a damaged one, the log's beginning: twice beats never."""
        try:
            raw = orjson.loads(self._path.read_bytes())
            return {str(source): (int(segment), int(offset)) for source, (segment, offset) in raw.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            _log.error("%s is damaged (%r); shipping starts again with the oldest event", self._path, error)
            return {}

    def save(self, cursor: Mapping[str, tuple[int, int]]) -> None:
        """Make ``cursor`` durable.

        Raises:
            OSError: If the disk refuses; the saved cursor is then an older one.
        """
        replace_file(self._path, orjson.dumps(dict(cursor)) + b"\n")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only one who moves the cursor.

        Raises:
            BlockingIOError: Somebody else does, in this process or in another.
        """
        file = self._path.with_name(f"{self._path.name}.lock")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)
