"""Everything about optimizations in one optimizer process: what is known, who changes it, who watches.

Made before the first table, because the table carries what is deployed; so nothing heavy is imported here.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from optimizer.control_store.store import SqlStore
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log_sync import LogSyncer
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.keeper import EvaluationKeeper
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.projection import Projection
from optimizer.settings import Settings
from optimizer.strategies.trials import PromptTrials
from optimizer.strategist import Strategist
from proxy.control.journal import Journal
from proxy.control.publication import Publication
from proxy.logs import LOGGER_NAME

FEED_PATIENCE_S: Final = 3.0
"""How old the last look at the workers' reports may be before nobody may be said to guard a candidate."""

_log = logging.getLogger(LOGGER_NAME)


class Optimizing:
    """The optimizations of one node.

    Args:
        state: The node's state directory.
        ingest: Whose log is followed; takes the consumers.
        journal: Where transitions are written.
        publication: Gives the overlays that were published last, and publishes.
        settings: The configuration in use.
        database_url: Where records are kept; None is a file in the state directory.
        now: Unix seconds.
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        ingest: Ingest,
        journal: Journal,
        publication: Publication,
        settings: Callable[[], Settings],
        database_url: str | None,
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._publication = publication
        self._now = now
        self.book = Book()
        outbox = Outbox()
        self.projection = Projection(self.book, outbox)
        self._inherit(publication)
        ingest.add_consumer(self.projection)
        self.projection.read_ahead(state.log_directory, ingest.cursor)
        self.trials = PromptTrials()
        self.trials.configure(settings())
        ingest.add_consumer(self.trials)
        self.keeper = EvaluationKeeper(
            self.book, state.log_directory, cursor=ingest.cursor, is_sticky=self._is_sticky, now=now
        )
        ingest.add_consumer(self.keeper)
        ingest.learner.listeners += [self.trials.rated, self.keeper.rated]
        database = settings().database
        self.store = SqlStore(
            database_url,
            directory=state.path,
            max_connections=database.max_connections,
            timeout_s=database.timeout_s,
            now=now,
        )
        syncer = LogSyncer([state.log_directory])
        self.controller = Controller(
            self.book,
            store=self.store,
            journal=lambda type_, data, event_id: journal.write(type_, data, event_id=event_id),
            sync_log=lambda: asyncio.to_thread(syncer.sync),
            publish=self._publish,
            settings=settings,
            now=now,
            new_id=lambda: secrets.token_hex(8),
            requests_per_s=lambda route: self.keeper.rates.per_second(route, now=now()),
            reference_ms=lambda route: self.strategist.reference_ms(route, self._shares(route)),
            outbox=outbox,
        )
        self.strategist = Strategist(
            self.controller,
            self.book,
            settings=settings,
            source=ingest.statistics,
            trials=self.trials,
            rates=self.keeper.rates,
            now=now,
        )
        publication.records = self.controller.table_records

    def follow(self, settings: Settings) -> list[str]:
        """Follow a configuration; the ids of the optimizations that it ends."""
        self.trials.configure(settings)
        return [record.id for record in self.controller.follow(settings)]

    @property
    def is_guarding(self) -> bool:
        """Whether candidates may have traffic: their guards see what happens, and what they decide is published."""
        fresh = self._now() - self.keeper.polled_at < FEED_PATIENCE_S
        return fresh and not self.controller.unpublished_takes

    def watch(self) -> None:
        """Look at the workers' reports once and follow what they say.

        Raises:
            OSError: The log can't be read.
        """
        self.keeper.poll()
        for rollout_id, reason in self.keeper.take_stops():
            self.controller.stop(rollout_id, reason)
        for judgement in self.keeper.judgements():
            rollout = judgement.record.rollout
            if rollout is not None:
                self.controller.judge(rollout.id, judgement.decision, judgement.verdicts)

    async def close(self) -> None:
        """Finish what is under way, within the database's own bounds."""
        await self.controller.close()
        await self.store.close()

    def _inherit(self, publication: Publication) -> None:
        for raw in publication.inherited:
            try:
                self.book.join(record_of(raw))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                _log.error("an overlay of the last table can't be read: %r", error)

    def _publish(self, taking: bool) -> None:
        self._publication.publish(self._settings(), dirty=(), taking=taking)

    def _is_sticky(self, route: str) -> bool:
        return any(known.name == route and known.sticky for known in self._settings().routes)

    def _shares(self, route: str) -> Mapping[str, float]:
        table = self._publication.table
        found = next((known for known in table.routes if known.name == route), None) if table else None
        if found is None:
            return {}
        side = found.control
        return {arm.id: share for arm, share in zip(side.arms, side.selector.probabilities, strict=True)}
