"""Publishing the routing table: settings and evidence become a file that the workers pick up.

The invariant is that versions only grow, over restarts too, and that a table is written only when it says something
else than the last one. A refused build (bad settings) leaves file and version as they were. A write that failed may
have reached the workers all the same, so its version is not used again and what comes next is written whatever it says.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimizer import events
from optimizer.evidence import EvidenceSource
from optimizer.publisher import Publisher
from optimizer.rollouts.records import Optimization
from optimizer.routing import Route, RoutingTable
from optimizer.settings import Settings
from optimizer.table_file import TableReader, write_table
from proxy.control.journal import Journal
from proxy.logs import LOGGER_NAME

_log = logging.getLogger(LOGGER_NAME)


class Publication:
    """The published table of one node.

    Args:
        path: The table file.
        publisher: Builds tables; keeps what did not change.
        source: Where evidence comes from.
        journal: Gets a ``table.published`` event per write.
        now: Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        publisher: Publisher,
        source: EvidenceSource,
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._publisher = publisher
        self._source = source
        self.records: Callable[[], Iterable[Optimization]] = tuple
        """Gives the optimizations that change routes; set by whoever keeps them, before the first table."""
        self.published: Callable[[RoutingTable, bool], None] | None = None
        """Told of every table that was written, and whether it takes traffic away; an OSError counts as the disk's."""
        self._journal = journal
        self._now = now
        self.table: RoutingTable | None = None
        self.is_uncertain = False
        """Whether the last write failed, so that nobody knows which table the workers have."""
        previous = TableReader(path).poll()
        self._version = previous.version if previous is not None else 0
        self.inherited: tuple[Mapping[str, Any], ...] = previous.overlays if previous is not None else ()
        """The overlays of the table that was there at start."""
        self.inherited_routes: tuple[Route, ...] = previous.routes if previous is not None else ()
        """Its routes."""

    @property
    def version(self) -> int:
        """Version of the last written table; 0 before the first."""
        return self._version

    def publish(
        self,
        settings: Settings,
        *,
        dirty: Collection[str] | None = None,
        always: bool = False,
        taking: bool = False,
    ) -> bool:
        """Build and, if it differs from the last one, write the table. True when one was written.

        Args:
            settings: What to publish.
            dirty: Routes with new evidence; None rebuilds all.
            always: Write even the same again, which makes workers look their secrets up anew.
            taking: Traffic is taken away, so workers may see the table before the disk has confirmed it.

        Raises:
            ValueError: The settings can't be built; the message names the route.
            OSError: The disk refuses.
        """
        table = self._publisher.build(
            settings,
            self._source,
            version=self._version + 1,
            now=self._now(),
            dirty=dirty,
            records=self.records(),
        )
        if not (always or self.is_uncertain) and self.table is not None and _same(self.table, table):
            return False
        self.is_uncertain, self._version = True, table.version
        checksum = write_table(self._path, table, order="rename_first" if taking else "fsync_first")
        if self.published is not None:
            self.published(table, taking)
        self.table, self.is_uncertain = table, False
        self._journal.write(
            events.TABLE_PUBLISHED,
            {"version": table.version, "config_hash": table.config_hash, "checksum": checksum},
        )
        _log.debug("published routing table %d", table.version)
        return True


def _same(old: RoutingTable, new: RoutingTable) -> bool:
    return replace(new, version=old.version, published_at=old.published_at) == old
