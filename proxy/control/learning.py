"""What one event log teaches and what follows from it: statistics, selectors, rollouts, a table of its routes.

On one node there is one, over all routes, beside everything else in the node's state directory. In a cluster there is
one per owned partition, in a directory of its own, over the routes of that partition. Everything runs in one thread.
"""

import logging
from collections.abc import Callable

from optimizer.control_store.shard_store import ShardStore
from optimizer.control_store.store import SqlStore
from optimizer.drift import DriftWatch
from optimizer.forgetting import Forgetting
from optimizer.history import Ratings
from optimizer.ingest import Ingest
from optimizer.judging.judgements import Judgements
from optimizer.log.node import StateDirectory
from optimizer.publisher import Publisher
from optimizer.savings import Savings
from optimizer.settings import Settings
from optimizer.steering import Steering
from proxy.control.contextual import Contextual
from proxy.control.journal import Journal
from proxy.control.optimizing import Optimizing
from proxy.control.publication import Publication
from proxy.control.reprice import reprice
from proxy.logs import LOGGER_NAME

_log = logging.getLogger(LOGGER_NAME)


class Learning:
    """Learns the routes of ``settings`` from the log that ``ingest`` reads.

    Args:
        state: Where its files are; ``ingest`` was made with the same.
        settings: The routes that it is about, and everything that is no route.
        ingest: Reads the log; takes the consumers.
        journal: Where it writes what it did.
        store: Keeps the optimizations.
        now: Unix seconds.
        obstacle: Why no candidate may be given traffic at present; None when nothing is in the way.
        withdraw: Has the workers leave every candidate at once, when no table can say so.

    Raises:
        ValueError: The settings can't be built into a table.
    """

    def __init__(
        self,
        state: StateDirectory,
        settings: Settings,
        *,
        ingest: Ingest,
        journal: Journal,
        store: SqlStore | ShardStore,
        now: Callable[[], float],
        obstacle: Callable[[], str | None] = lambda: None,
        withdraw: Callable[[], None] | None = None,
    ) -> None:
        self.state = state
        self.settings = settings
        self.ingest = ingest
        self._journal = journal
        self._now = now
        self.savings = Savings(ingest.learner.cost_usd, ingest.history)
        self.judgements = Judgements()
        ingest.configure(settings, reprice=reprice)
        ratings = Ratings(ingest.history)
        ingest.learner.listeners.append(ratings.rated)
        for consumer in (self.savings, self.judgements, ratings):
            ingest.add_consumer(consumer)
        self.drift = self._watch_for_drift(settings)
        self.contextual = Contextual(state, ingest=ingest, now=now)
        self.contextual.configure(settings)
        self.drift.slopes = self.contextual.book.slopes
        self.publication = Publication(
            state.table_file,
            publisher=Publisher(seed=state.node, steered=self.contextual.book),
            source=ingest.statistics,
            journal=journal,
            now=now,
        )
        self.contextual.inherit(self.publication.inherited_routes)
        self.optimizing = Optimizing(
            state,
            ingest=ingest,
            journal=journal,
            publication=self.publication,
            settings=lambda: self.settings,
            store=store,
            now=now,
            obstacle=obstacle,
            withdraw=withdraw,
        )

    def start(self) -> None:
        """Publish the first table.

        Raises:
            ValueError, OSError: See the class.
        """
        self.ingest.take_dirty_routes()
        self.optimizing.follow(self.settings)
        self.publication.publish(self.settings)

    def publish_learned(self) -> bool:
        """Publish what was learned since the last call; True when the table changed."""
        learned = self.ingest.take_dirty_routes()
        self.contextual.book.mark(learned)
        dirty = learned | self.contextual.book.take_moved()
        if not dirty and not self.publication.is_uncertain:
            return False
        try:
            return self.publication.publish(self.settings, dirty=dirty)
        except OSError:
            # Nothing is lost: the evidence is kept, and the next round rebuilds these routes.
            self.ingest.learner.dirty_routes.update(dirty)
            raise

    async def prepare(self, settings: Settings) -> None:
        """Do beside everything else what ``use`` would have to wait for; it may be left out, or fail."""
        try:
            await self.contextual.book.prepare(settings)
        except (ValueError, OSError) as error:
            _log.warning("not everything could be prepared for another configuration: %s", error)

    def use(self, settings: Settings) -> None:
        """Learn and publish as another configuration says.

        Raises:
            ValueError, OSError: It can't be published; the old one stays in use.
        """
        old = self.settings
        self._follow(settings)
        self.settings = settings
        try:
            self.publication.publish(settings, always=True)
        except (ValueError, OSError):
            self.settings = old
            self._follow(old)
            raise

    def follow(self) -> list[str]:
        """End what the configuration in use no longer allows; the ids of those optimizations.

        The table already leaves it out; now it is said.
        """
        self.drift.configure(self.settings)
        return self.optimizing.follow(self.settings)

    def steering(self) -> dict[str, Steering]:
        """How the routes that are steered keep their constraints, by name."""
        book = self.contextual.book
        found = {route.name: book.steering(route.name) for route in self.settings.routes}
        return {name: status for name, status in found.items() if status is not None}

    def savings_usd(self) -> dict[str, float | None]:
        """USD saved by route; None while nothing could be compared."""
        known = self.savings.routes
        return {
            route.name: found.saved_usd if (found := known.get(route.name)) and found.requests else None
            for route in self.settings.routes
        }

    def _follow(self, settings: Settings) -> None:
        """Learn and look as ``settings`` say."""
        self.ingest.configure(settings, reprice=reprice)
        self.contextual.configure(settings)

    def _watch_for_drift(self, settings: Settings) -> DriftWatch:
        learner = self.ingest.learner
        drift = DriftWatch(
            lessons=learner.lessons,
            forget=Forgetting(learner, self.ingest.reset),
            journal=self._journal.write,
            now=self._now,
        )
        drift.configure(settings)
        self.ingest.add_consumer(drift)
        learner.listeners.append(drift.rated)
        return drift
