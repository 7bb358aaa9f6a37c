"""Everything about decisions that look at requests, in one optimizer process: accounts, projections, frozen indices."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from optimizer.condenser import Condenser
from optimizer.context.keeper import ProjectionKeeper
from optimizer.context_book import ContextBook
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.routing import Route, RoutingTable
from optimizer.settings import Settings
from optimizer.steering import Ledger

REFRESH_S: Final = 0.25
SWEEP_S: Final = 60.0


class Contextual:
    """The parts and their common life. Make it before the first step of ``ingest``; ``configure`` after ``ingest`` was.

    ``book`` gives selectors, ``ledger`` knows what requests cost and were worth.
    """

    def __init__(self, state: StateDirectory, *, ingest: Ingest, now: Callable[[], float]) -> None:
        self._ingest = ingest
        self.ledger = Ledger()
        keeper = ProjectionKeeper(seed=state.node)
        ingest.add_consumer(self.ledger)
        ingest.add_consumer(keeper)
        ingest.learner.listeners.append(self.ledger.rated)
        self._condenser = Condenser(keeper, state.selector_directory)
        self.book = ContextBook(
            statistics=ingest.statistics,
            linear=ingest.linear,
            ledger=self.ledger,
            condenser=self._condenser,
            relearning=lambda: ingest.relearning.pending,
            directory=state.selector_directory,
            now=now,
        )

    def configure(self, settings: Settings) -> None:
        """Follow a configuration, at start and after every reload."""
        self._condenser.configure(settings)
        self._relearn(settings, [route.name for route in settings.routes])
        self.book.configure(settings)

    def inherit(self, routes: Iterable[Route]) -> None:
        """Begin with what the last table used."""
        self.book.inherit(routes)

    async def run(self, settings: Callable[[], Settings], table: Callable[[], RoutingTable | None]) -> None:
        """Freeze what moves and fit what is due, for ever; ``table`` is the one that workers may still be reading.

        Raises:
            OSError: When the disk refuses; nothing was lost, call again.
        """
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        while True:
            refused = None
            try:
                await self.book.refresh()
            except OSError as error:
                refused = error  # One index that can't be written keeps no route from new features.
            changed = await self._condenser.step()
            if changed:
                self._relearn(settings(), changed)
                self.book.mark(changed)
            if loop.time() - swept_at >= SWEEP_S:
                swept_at = loop.time()
                await self.book.sweep(_files(table()))
            if refused is not None:
                raise refused
            await asyncio.sleep(REFRESH_S)

    def _relearn(self, settings: Settings, routes: Iterable[str]) -> None:
        for name in routes:
            route = settings.route(name)
            revision = self._condenser.revision(route) if route is not None else None
            if revision is not None:
                self._ingest.relearn(name, revision.version, revision.revise)


def _files(table: RoutingTable | None) -> list[str]:
    """What a table names in the directory of indices and projections."""
    routes = table.routes if table is not None else ()
    sides = [side for route in routes for side in (route.control, route.candidate) if side is not None]
    features = [route.features for route in routes if route.features is not None]
    named = [*(side.selector.index for side in sides), *(one.projection for one in features)]
    return [name for name in named if name is not None]
