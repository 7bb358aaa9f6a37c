"""Everything about optimizations in one optimizer process: what is known, who changes it, who watches.

Made before the first table, because the table carries what is deployed; so nothing heavy is imported here.
"""

import asyncio
import errno
import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from optimizer import guard
from optimizer.control_store.shard_store import ShardStore
from optimizer.control_store.store import SqlStore
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log_sync import LogSyncer
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.keeper import EvaluationKeeper
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.progress import Progress
from optimizer.rollouts.projection import Projection
from optimizer.rollouts.records import Optimization, Status
from optimizer.settings import Settings
from optimizer.strategies.prompt_optimization import PromptOptimization
from optimizer.strategies.trials import PromptTrials
from optimizer.strategist import Strategist
from proxy.control.journal import Journal
from proxy.control.publication import Publication
from proxy.logs import LOGGER_NAME

FEED_PATIENCE_S: Final = 3.0
"""How old the last look at the workers' reports may be before nobody may be said to guard a candidate."""

SILENCE_S: Final = 10.0
"""After how long without any worker's report nobody sees what candidates do; an idle worker reports every 2 s."""

_log = logging.getLogger(LOGGER_NAME)


class Optimizing:
    """The optimizations of one node.

    Args:
        state: The node's state directory.
        ingest: Whose log is followed; takes the consumers.
        journal: Where transitions are written.
        publication: Gives the overlays that were published last, and publishes.
        settings: The configuration in use.
        store: Where records are kept.
        now: Unix seconds.
        obstacle: Why no candidate may be given traffic at present; None when nothing is in the way.
        withdraw: Has the workers leave every candidate at once; None removes the guard file of ``state``.

    Attributes:
        watched_at: When all reports had been read and followed last.
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        ingest: Ingest,
        journal: Journal,
        publication: Publication,
        settings: Callable[[], Settings],
        store: SqlStore | ShardStore,
        now: Callable[[], float],
        obstacle: Callable[[], str | None] = lambda: None,
        withdraw: Callable[[], None] | None = None,
    ) -> None:
        self._withdraw = withdraw or partial(guard.withdraw, state.guard_file)
        self._settings = settings
        self._publication = publication
        self.watched_at = 0.0
        self.heard_at: Callable[[], float] = lambda: self.keeper.heard_at
        """When workers were heard of last; whoever hears of them otherwise says so here."""
        self._now = now
        self.book, outbox = Book(), Outbox()
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
        self.store = store
        self.controller = Controller(
            self.book,
            store=self.store,
            journal=journal.write,
            sync_log=partial(asyncio.to_thread, _sync, LogSyncer([journal.log_directory])),
            publish=self._publish,
            settings=settings,
            now=now,
            new_id=lambda: secrets.token_hex(8),
            requests_per_s=lambda route: self.keeper.rates.per_second(route, now=now()),
            reference_ms=lambda route: self.strategist.reference_ms(route, self._shares(route)),
            outbox=outbox,
            measured_of=self._measured,
            obstacle=obstacle,
        )
        self.strategist = Strategist(
            self.controller,
            self.book,
            settings=settings,
            source=ingest.statistics,
            trials=self.trials,
            rates=self.keeper.rates,
            now=now,
            published=self._shares,
        )
        publication.records = self.controller.table_records

    def follow(self, settings: Settings) -> list[str]:
        """Follow a configuration; the ids of the optimizations that it ends."""
        self.trials.configure(settings)
        return [record.id for record in self.controller.follow(settings)]

    @property
    def is_guarding(self) -> bool:
        """Whether candidates may have traffic: their guards see what happens, and what they decide is published."""
        now = self._now()
        # A clock that was set back makes a look of the future, which proves as little as an old one.
        looked = abs(now - self.watched_at) < FEED_PATIENCE_S
        heard = abs(now - self.heard_at()) < SILENCE_S
        return looked and heard and not self.controller.unpublished_takes

    def watch(self) -> None:
        """Look at the workers' reports once and follow what they say.

        Raises:
            OSError: The log can't be read.
        """
        self.keeper.poll()
        for rollout_id, reason in self.keeper.take_stops():
            self.controller.stop(rollout_id, reason)
        if not self.keeper.caught_up:
            return  # What was not read yet may say the opposite.
        for judgement in self.keeper.judgements():
            rollout = judgement.record.rollout
            if rollout is not None:
                self.controller.judge(rollout.id, judgement.decision, judgement.verdicts)
        self.watched_at = self._now()

    def progress(self, record: Optimization) -> Progress | None:
        """How far a rollout's stage is; None for what splits no traffic, or when nobody can tell."""
        try:
            return self.keeper.progress(record)
        except Exception:  # noqa: BLE001 - what only explains must never hold up a rollback
            _log.exception("the guards of %s can't be read", record.id)
            return None

    def is_testing_prompts(self, route: str) -> bool:
        """Whether a test of prompts collects evidence on a route just now."""
        return any(
            record.strategy == PromptOptimization.name and record.status is Status.COLLECTING
            for record in self.book.on_route(route)
        )

    async def close(self) -> None:
        """Finish what is under way, within the database's own bounds."""
        await self.controller.close()

    def _inherit(self, publication: Publication) -> None:
        for raw in publication.inherited:
            try:
                self.book.join(record_of(raw))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                _log.error("an overlay of the last table can't be read: %r", error)

    def _measured(self, record: Optimization) -> Mapping[str, Any] | None:
        found = self.progress(record)
        return None if found is None else found.by_guard()

    def _publish(self, taking: bool) -> None:
        try:
            self._publication.publish(self._settings(), dirty=(), taking=taking)
        except (OSError, ValueError):
            if taking:
                # Without the file workers leave candidates at their next look, and a full disk does not prevent that.
                self._withdraw()
            raise

    def _is_sticky(self, route: str) -> bool:
        found = self._settings().route(route)
        return found is not None and found.sticky is not None

    def _shares(self, route: str) -> Mapping[str, float]:
        table = self._publication.table
        found = next((known for known in table.routes if known.name == route), None) if table else None
        return found.control.shares if found is not None else {}


def _sync(syncer: LogSyncer) -> None:
    """Make the log durable.

    Raises:
        OSError: A part of it could not be.
    """
    errors = syncer.errors
    syncer.sync()
    if syncer.errors > errors:
        raise OSError(errno.EIO, "a file of the event log can not be synced")
