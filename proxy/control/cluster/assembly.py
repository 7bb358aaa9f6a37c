"""The node's routing table, put together from the tables of the shards' owners, this node among them.

What is no route comes from the node's own configuration. A route is its owner's, as published last; until one has
published it, it is as in the table that was there at start, or else as the configuration has it, with nothing learned.
A published route that names models or prompts that this node's configuration does not know (the file is being changed
node by node) is not used, and said. Versions of the node's table only grow, over restarts too.
"""

import errno
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optimizer import events, guard
from optimizer.cluster.types import Version
from optimizer.durable import replace_file
from optimizer.evidence import NoEvidence
from optimizer.log.node import StateDirectory
from optimizer.publisher import Publisher
from optimizer.routing import Arm, Route, RoutingTable, Side
from optimizer.settings import Settings
from optimizer.table_file import TableReader, write_table
from proxy.control.journal import Journal
from proxy.logs import LOGGER_NAME

REMEMBERED: Final = 512
"""Of so many tables it is known what was in them, for the acknowledgements of workers."""
UNUSED_S: Final = 600.0
_PLAIN: Final = "default"  # the prompt as it comes, which no configuration has to name

_log = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one owner published: the table of one shard's routes."""

    shard: int
    version: Version
    table: RoutingTable


class Assembly:
    """See the module.

    Args:
        state: The node's state directory.
        shard_of: The shard of a route; None while their number is not known.
        journal: Gets a ``table.published`` event per write.
        now: Unix seconds.
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        shard_of: Callable[[str], int | None],
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self._state = state
        self._shard_of = shard_of
        self._journal = journal
        self._now = now
        self._publisher = Publisher(seed=state.node)
        self._pieces: dict[int, Piece] = {}
        self._routes: dict[int, dict[str, Route]] = {}
        self._made: OrderedDict[int, dict[int, Version]] = OrderedDict()
        self._strange: set[str] = set()
        self._base: tuple[Settings, RoutingTable] | None = None
        previous = TableReader(state.table_file).poll()
        self._inherited = {route.name: route for route in previous.routes} if previous is not None else {}
        self._inherited_overlays = previous.overlays if previous is not None else ()
        self._version = previous.version if previous is not None else 0
        self.table: RoutingTable | None = None
        self.is_uncertain = False
        """Whether the last write failed, so that nobody knows which table the workers have."""

    @property
    def version(self) -> int:
        """Version of the last written table; 0 before the first."""
        return self._version

    @property
    def known(self) -> Mapping[int, Version]:
        """The newest version of each shard's table that is here."""
        return {shard: piece.version for shard, piece in self._pieces.items()}

    def running(self, table_version: int) -> Mapping[int, Version]:
        """Which versions of the shards' tables are in a table of this node; empty when that is too long ago."""
        return self._made.get(table_version, {})

    def candidates(self) -> set[int | None]:
        """Shards with a route in the present table whose traffic is divided; None for one that nobody can name yet."""
        return {self._shard_of(route.name) for route in self.routes() if route.candidate is not None}

    def routes(self) -> tuple[Route, ...]:
        """The routes of the present table."""
        return self.table.routes if self.table is not None else ()

    def check(self, settings: Settings) -> None:
        """See whether a table can be built.

        Raises:
            ValueError: It can't; the message names the route.
        """
        self._base_of(settings)

    def offer(self, piece: Piece) -> bool:
        """Take what an owner published, unless it is older than what is here; whether it was taken."""
        last = self._pieces.get(piece.shard)
        if last is not None and last.version >= piece.version:
            return False
        self._pieces[piece.shard] = piece
        self._routes[piece.shard] = {route.name: route for route in piece.table.routes}
        return True

    def write(self, settings: Settings, *, always: bool = False, taking: bool = False) -> bool:
        """Build and, if it differs from the last one, write the table. True when one was written.

        Args:
            settings: The node's configuration.
            always: Write even the same again, which makes workers look their secrets up anew.
            taking: Traffic is taken away, so workers may see the table before the disk has confirmed it.

        Raises:
            ValueError: The settings can't be built; the message names the route.
            OSError: The disk refuses.
        """
        table = self._built(settings)
        if not (always or self.is_uncertain) and self.table is not None and _same(self.table, table):
            # What is in it is newer all the same: the routes of its shards did not change.
            self._made[self._version] = dict(self.known)
            return False
        self.is_uncertain, self._version = True, table.version
        try:
            checksum = write_table(
                self._state.table_file, table, order="rename_first" if taking else "fsync_first"
            )
        except OSError:
            if taking:
                self.withdraw()
            raise
        self.table, self.is_uncertain = table, False
        self._made[table.version] = dict(self.known)
        while len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        self._journal.write(
            events.TABLE_PUBLISHED,
            {"version": table.version, "config_hash": table.config_hash, "checksum": checksum},
        )
        return True

    def withdraw(self) -> None:
        """Have the workers leave every candidate at their next look; a full disk does not prevent that."""
        guard.withdraw(self._state.guard_file)

    def adopt(self, name: str, directory: Path) -> None:
        """Have a file of an own shard's selectors, under the same name, which its content gives.

        Raises:
            OSError: The disk refuses.
        """
        _share(directory / name, self._state.selector_directory / name)

    def lend(self, name: str, directory: Path) -> None:
        """Give a shard a file that the node has; without it the shard makes its own."""
        with suppress(FileNotFoundError):
            _share(self._state.selector_directory / name, directory / name)

    def has(self, name: str) -> bool:
        """Whether the node has a file of that name; if so, it stays for a while though no table names it yet."""
        try:
            os.utime(self._state.selector_directory / name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """A file of the node; None when it is gone."""
        try:
            return (self._state.selector_directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, name: str, data: bytes) -> None:
        """Take a file that another node made.

        Raises:
            OSError: The disk refuses.
        """
        replace_file(self._state.selector_directory / name, data)

    def sweep(self) -> None:
        """Forget files of selectors that no table has named for a while. For a thread: it looks at the disk."""
        # A table that does not fit this node's configuration is used as soon as that has followed.
        published = [route for routes in list(self._routes.values()) for route in routes.values()]
        named = {name for route in (*self.routes(), *published) for name in blobs_of(route)}
        oldest = self._now() - UNUSED_S
        with os.scandir(self._state.selector_directory) as found:
            for item in found:
                with suppress(FileNotFoundError):
                    if item.name not in named and item.stat().st_mtime < oldest:
                        os.unlink(item.path)

    def _built(self, settings: Settings) -> RoutingTable:
        base = self._base_of(settings)
        return replace(
            base,
            version=self._version + 1,
            published_at=self._now(),
            routes=tuple(self._chosen(route, settings) for route in base.routes),
            overlays=self._overlays(),
        )

    def _base_of(self, settings: Settings) -> RoutingTable:
        """The table as the configuration alone has it."""
        if self._base is None or self._base[0] is not settings:
            base = self._publisher.build(settings, NoEvidence(), version=0, now=self._now())
            self._base = (settings, base)
        return self._base[1]

    def _chosen(self, own: Route, settings: Settings) -> Route:
        shard = self._shard_of(own.name)
        piece = self._pieces.get(shard) if shard is not None else None
        if piece is None:
            route = self._inherited.get(own.name)
            return route if route is not None and _fits(route, settings) else own
        route = self._routes[piece.shard].get(own.name)
        if route is not None and _fits(route, settings):
            self._strange.discard(own.name)
            return route
        if own.name not in self._strange:
            self._strange.add(own.name)
            _log.warning(
                "route %s is another one in its owner's configuration: this node uses its own file", own.name
            )
        return own

    def _overlays(self) -> tuple[Mapping[str, Any], ...]:
        there = [overlay for piece in self._pieces.values() for overlay in piece.table.overlays]
        missing = [raw for raw in self._inherited_overlays if self._shard_of_overlay(raw) not in self._pieces]
        return (*there, *missing)

    def _shard_of_overlay(self, raw: Mapping[str, Any]) -> int | None:
        route = raw.get("route")
        return self._shard_of(route) if isinstance(route, str) else None


def blobs_of(route: Route) -> tuple[str, ...]:
    """The files that a route names in the directory of selectors."""
    named = [side.selector.index for side in _sides(route)]
    named += [route.features.projection] if route.features is not None else []
    return tuple(name for name in named if name is not None)


def _share(source: Path, target: Path) -> None:
    """The same file in two places, of this moment; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        draft = target.with_suffix(".draft")
        shutil.copyfile(source, draft)
        draft.rename(target)
    # Whoever sweeps by age must not take it for one that nobody has named for long.
    os.utime(target)


def _sides(route: Route) -> tuple[Side, ...]:
    return tuple(side for side in (route.control, route.candidate) if side is not None)


def _fits(route: Route, settings: Settings) -> bool:
    """Whether this node knows everything that the route names, by the same content."""
    models = {model.name: model.key for model in settings.models}
    variants = {variant.name: variant.key for variant in settings.variants}
    arms: list[Arm] = [arm for side in _sides(route) for arm in side.arms]
    return all(
        arm.model in models
        # An arm with parameters of its own has a key of its own.
        and (bool(arm.parameters) or models[arm.model] == arm.model_key)
        and (arm.variant in variants or arm.variant == _PLAIN)
        and variants.get(arm.variant, arm.variant_key) == arm.variant_key
        for arm in (*arms, *route.fallbacks)
    )


def _same(old: RoutingTable, new: RoutingTable) -> bool:
    return replace(new, version=old.version, published_at=old.published_at) == old
