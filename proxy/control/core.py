"""The optimizer process without its tasks and sockets: configuration, learner, table, built in dependency order.

``Core`` is what has to exist before the first worker can serve, so nothing heavy is imported here: no HTTP server, no
metrics library, no client of a store. Everything in it runs in one thread.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from optimizer import events
from optimizer.control_database import ControlDatabase
from optimizer.control_store.store import SqlStore
from optimizer.history import History as Figures
from optimizer.history_reading import PartReader
from optimizer.history_requests import RecentRequests
from optimizer.ingest import Ingest
from optimizer.key_store import KeyStore
from optimizer.lease_store import LeaseStore
from optimizer.leases import LeaseBook
from optimizer.local_keys import LocalKeys
from optimizer.log.node import StateDirectory
from optimizer.settings import Settings
from proxy.config.load import Loaded
from proxy.config.secrets import resolve
from proxy.control.access import obtain_key
from proxy.control.configuration import UNCHANGED, Configuration, History, ReloadResult
from proxy.control.journal import Journal
from proxy.control.learners import Alone, Learners
from proxy.control.learning import Learning
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import Vocabulary
from proxy.logs import LOGGER_NAME, Redactor

if TYPE_CHECKING:
    from proxy.control.cluster.composition import Foundation
    from proxy.control.cluster.node import Cluster

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
        OSError, sqlite3.Error, StoreError, ControlDatabaseError, ShelfFault: The state directory can't be used.
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
        self.foundation = _found(state, loaded, environ)
        """What makes this node one of several; None when it is alone."""
        self.journal = Journal(state, segment_bytes=loaded.settings.retention.segment_bytes, now=now)
        self.ingest = Ingest(state, clock=now, joined=self._joined if self.foundation is not None else None)
        self.database = ControlDatabase(state.control_database_file)
        self.store = _store(state, loaded, environ, now)
        shelf = self.foundation.keys(self.store) if self.foundation is not None else LocalKeys(self.database)
        self.keys = KeyStore(shelf, state.key_file, pepper=state.key_pepper, now=now)
        self.lease_store = LeaseStore(state.limits_file)
        self.shared_limits = (
            self.foundation.limits(self.lease_store, access=lambda: self.settings, now=now)
            if self.foundation is not None
            else None
        )
        self.leases = LeaseBook(
            self.lease_store.rows, self.lease_store, now=now, clock=monotonic, shares=self.shared_limits
        )
        self.observer = MetricsObserver(Vocabulary.of(loaded.settings), now=now)
        self.ingest.add_consumer(self.observer)
        self.recent = RecentRequests(state.log_directory, self.ingest.cursor)
        self.ingest.add_consumer(self.recent)
        self.ingest.add_consumer(Figures(self.ingest.history))
        self.history = PartReader()
        self.learners: Learners = self._learners(loaded)
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
        self.learners.start()

    async def prepare(self, loaded: Loaded) -> None:
        """Do beside everything else what ``use`` would have to wait for; it may be left out, or fail."""
        await self.learners.prepare(loaded.settings)

    def use(self, loaded: Loaded, *, trigger: str) -> ReloadResult:
        """Put another configuration into use, or say why not; ``trigger`` is ``file``, ``signal`` or ``api``."""
        result = self.configuration.offer(loaded, trigger=trigger, apply=self._apply)
        if result.result == UNCHANGED and trigger != "file":
            # Somebody asked in person, perhaps because a key behind `file:` has changed.
            self.learners.republish()
        return result

    @property
    def settings(self) -> Settings:
        """The configuration in use, compiled."""
        return self.learners.settings

    @property
    def cluster(self) -> "Cluster | None":
        """The learners of a node of a cluster; None on a node that is alone."""
        return None if isinstance(self.learners, Alone) else cast("Cluster", self.learners)

    @property
    def learning(self) -> Learning:
        """What a node that is alone learns.

        Raises:
            ValueError: In a cluster there is not one.
        """
        (only,) = self.learners.all()
        return only

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

    def _learners(self, loaded: Loaded) -> Learners:
        if self.foundation is not None:
            return self.foundation.cluster(
                port=loaded.listen.port,
                ingest=self.ingest,
                store=self.store,
                journal=self.journal,
                now=self.now,
            )
        return Alone(
            Learning(
                self.state,
                loaded.settings,
                ingest=self.ingest,
                journal=self.journal,
                store=self.store,
                now=self.now,
            )
        )

    def _joined(
        self, event_id: str, request_id: str, signal: str, value: float, decision: Mapping[str, Any]
    ) -> None:
        """Say to the owner of the route what a rating is about; what the log loses, its writer counts."""
        data = {
            "request_id": request_id,
            "route": decision["route"],
            "signal": signal,
            "value": value,
            "decision": decision,
        }
        self.journal.write(events.FEEDBACK_JOINED, data, event_id=f"{event_id}:joined")

    def _admin_key(self) -> str:
        key, is_new = obtain_key(self.state.admin_key_file)
        self._redactor.learn([key])
        if is_new:
            self.new_admin_key = key
        return key

    def _apply(self, loaded: Loaded) -> list[str]:
        self._redactor.learn(loaded.secrets.values())
        # Workers must hold a key before the table that names it; more keys than needed do no harm.
        self._send({"secrets": {**self.configuration.loaded.upstream_secrets, **loaded.upstream_secrets}})
        self.learners.use(loaded.settings)
        self._send({"secrets": loaded.upstream_secrets})
        self.observer.use(Vocabulary.of(loaded.settings))
        return self.learners.follow()


def _found(state: StateDirectory, loaded: Loaded, environ: Mapping[str, str]) -> "Foundation | None":
    if loaded.settings.cluster is None:
        return None
    from proxy.control.cluster.composition import found  # noqa: PLC0415 - it loads clients that one node does without

    return found(state, loaded, environ)


def _store(
    state: StateDirectory, loaded: Loaded, environ: Mapping[str, str], now: Callable[[], float]
) -> SqlStore:
    database = loaded.settings.database
    return SqlStore(
        _database_url(loaded, environ),
        directory=state.path,
        max_connections=database.max_connections,
        timeout_s=database.timeout_s,
        now=now,
    )


def _database_url(loaded: Loaded, environ: Mapping[str, str]) -> str | None:
    """The address of the database; a reference without a value is no reason to use another database."""
    reference = loaded.settings.database.url
    if reference is None:
        return None
    return resolve(reference, environ, loaded.secrets) or f"unset://{reference}"
