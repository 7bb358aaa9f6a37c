"""The optimizer process without its tasks and sockets: configuration, learner, table, built in dependency order.

``Core`` is what has to exist before the first worker can serve, so nothing heavy is imported here: no HTTP server, no
metrics library, no client of a store. Everything in it runs in one thread.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from optimizer.control_database import ControlDatabase
from optimizer.drift import DriftWatch
from optimizer.forgetting import Forgetting
from optimizer.ingest import Ingest
from optimizer.judging.judgements import Judgements
from optimizer.key_store import KeyStore
from optimizer.lease_store import LeaseStore
from optimizer.leases import LeaseBook
from optimizer.log.node import StateDirectory
from optimizer.publisher import Publisher
from optimizer.savings import Savings
from optimizer.settings import Settings
from optimizer.steering import Steering
from proxy.config.load import Loaded
from proxy.config.secrets import resolve
from proxy.control.access import obtain_key
from proxy.control.configuration import UNCHANGED, Configuration, History, ReloadResult
from proxy.control.contextual import Contextual
from proxy.control.journal import Journal
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import Vocabulary
from proxy.control.optimizing import Optimizing
from proxy.control.publication import Publication
from proxy.control.reprice import reprice
from proxy.logs import LOGGER_NAME, Redactor

Send = Callable[[Mapping[str, Any]], object]

_log = logging.getLogger(LOGGER_NAME)


class Core:
    """Everything one node knows and decides with.

    Args:
        state: The node's state directory.
        loaded: The configuration to start with.
        path: Its file, None for the built-in one.
        environ: The process environment.
        send: Tells the supervisor something; does nothing when there is none.
        redactor: Learns the configuration's literal secrets.
        now: Unix seconds.

    Raises:
        ValueError: The configuration can't be built into a table.
        OSError, sqlite3.Error, StoreError, ControlDatabaseError: The state directory can't be used.
    """

    def __init__(
        self,
        state: StateDirectory,
        loaded: Loaded,
        *,
        path: Path | None,
        environ: Mapping[str, str],
        send: Send,
        redactor: Redactor,
        now: Callable[[], float],
    ) -> None:
        self.state = state
        self.now = now
        self._send = send
        self._redactor = redactor
        redactor.learn(loaded.secrets.values())
        self.new_admin_key: str | None = None
        self.journal = Journal(state, segment_bytes=loaded.settings.retention.segment_bytes, now=now)
        self.ingest = Ingest(state, clock=now)
        self.database = ControlDatabase(state.control_database_file)
        self.keys = KeyStore(self.database, state.key_file, pepper=state.key_pepper, now=now)
        self.lease_store = LeaseStore(state.limits_file)
        self.leases = LeaseBook(self.lease_store.rows, self.lease_store, now=now, clock=monotonic)
        self.observer = MetricsObserver(Vocabulary.of(loaded.settings), now=now)
        self.savings = Savings(self.ingest.learner.mean_cost_usd)
        self.judgements = Judgements()
        self.ingest.configure(loaded.settings, reprice=reprice)
        for consumer in (self.observer, self.savings, self.judgements):
            self.ingest.add_consumer(consumer)
        self.drift = self._watch_for_drift(loaded.settings)
        self.contextual = Contextual(state, ingest=self.ingest, now=now)
        self.contextual.configure(loaded.settings)
        self.drift.slopes = self.contextual.book.slopes
        self.publication = Publication(
            state.table_file,
            publisher=Publisher(seed=state.node, steered=self.contextual.book),
            source=self.ingest.statistics,
            journal=self.journal,
            now=now,
        )
        self.settings = loaded.settings
        self.contextual.inherit(self.publication.inherited_routes)
        self.optimizing = Optimizing(
            state,
            ingest=self.ingest,
            journal=self.journal,
            publication=self.publication,
            settings=lambda: self.settings,
            database_url=_database_url(loaded, environ),
            now=now,
        )
        self.configuration = Configuration(
            loaded,
            path=path,
            environ=environ,
            generated_key=self._admin_key,
            history=History(state.config_history),
            journal=self.journal,
            now=now,
        )

    def start(self) -> None:
        """Publish the first table; from then on the workers can serve.

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

    async def prepare(self, loaded: Loaded) -> None:
        """Do beside everything else what ``use`` would have to wait for; it may be left out, or fail."""
        try:
            await self.contextual.book.prepare(loaded.settings)
        except (ValueError, OSError) as error:
            _log.warning("not everything could be prepared for another configuration: %s", error)

    def use(self, loaded: Loaded, *, trigger: str) -> ReloadResult:
        """Put another configuration into use, or say why not; ``trigger`` is ``file``, ``signal`` or ``api``."""
        result = self.configuration.offer(loaded, trigger=trigger, apply=self._apply)
        if result.result == UNCHANGED and trigger != "file":
            # Somebody asked in person, perhaps because a key behind `file:` has changed.
            self.publication.publish(self.settings, always=True)
        return result

    def steering(self) -> dict[str, Steering]:
        """How the routes that are steered keep their constraints, by name."""
        book = self.contextual.book
        found = {route.name: book.steering(route.name) for route in self.settings.routes}
        return {name: status for name, status in found.items() if status is not None}

    def close(self) -> None:
        """Learn from what is left in the log, save, close."""
        try:
            while self.ingest.step():
                pass
        finally:
            self.ingest.close()
            self.journal.close()
            self.database.close()
            self.lease_store.close()

    def _follow(self, settings: Settings) -> None:
        """Learn and look as ``settings`` say."""
        self.ingest.configure(settings, reprice=reprice)
        self.contextual.configure(settings)

    def _watch_for_drift(self, settings: Settings) -> DriftWatch:
        learner = self.ingest.learner
        drift = DriftWatch(
            lessons=learner.lessons,
            forget=Forgetting(learner, self.ingest.reset),
            journal=lambda type_, data, event_id: self.journal.write(type_, data, event_id=event_id),
            now=self.now,
        )
        drift.configure(settings)
        self.ingest.add_consumer(drift)
        learner.listeners.append(drift.rated)
        return drift

    def _admin_key(self) -> str:
        key, is_new = obtain_key(self.state.admin_key_file)
        self._redactor.learn([key])
        if is_new:
            self.new_admin_key = key
        return key

    def _apply(self, loaded: Loaded) -> list[str]:
        old = self.settings
        self._redactor.learn(loaded.secrets.values())
        # Workers must hold a key before the table that names it; more keys than needed do no harm.
        self._send({"secrets": {**self.configuration.loaded.upstream_secrets, **loaded.upstream_secrets}})
        self._follow(loaded.settings)
        self.settings = loaded.settings
        try:
            self.publication.publish(loaded.settings, always=True)
        except (ValueError, OSError):
            self.settings = old
            self._follow(old)
            raise
        self._send({"secrets": loaded.upstream_secrets})
        self.observer.use(Vocabulary.of(loaded.settings))
        self.drift.configure(loaded.settings)
        # The table just published leaves out what the file no longer allows; now it is said.
        return self.optimizing.follow(loaded.settings)


def _database_url(loaded: Loaded, environ: Mapping[str, str]) -> str | None:
    """The address of the database; a reference without a value is no reason to use another database."""
    reference = loaded.settings.database.url
    if reference is None:
        return None
    return resolve(reference, environ, loaded.secrets) or f"unset://{reference}"
