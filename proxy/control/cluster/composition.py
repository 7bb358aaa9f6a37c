"""What a node of a cluster has instead of a node that is alone, built from its configuration.

Imported by clusters only, because the clients of Redis and Kafka are loaded with it.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final

from optimizer.cluster.redis_link import RedisLink
from optimizer.cluster.secret import derived
from optimizer.cluster.shared_limits import SharedLimits
from optimizer.control_store.shared_keys import SharedKeys
from optimizer.control_store.store import SqlStore
from optimizer.ingest import Ingest
from optimizer.lease_store import LeaseStore
from optimizer.lease_terms import RATES
from optimizer.log.node import StateDirectory
from optimizer.settings import ClusterSettings, RedisSettings, Settings
from optimizer.sinks.client import client_security
from proxy.config.load import Loaded
from proxy.config.secrets import resolve
from proxy.control.cluster.engines import Engines
from proxy.control.cluster.node import Cluster
from proxy.control.cluster.view import ClusterView
from proxy.control.journal import Journal
from proxy.control.learners import Learners

_REQUEST_IDS: Final = "request ids"
_CLIENT_KEYS: Final = "client keys"
_NODES: Final = "requests between nodes"


@dataclass(frozen=True, slots=True)
class Foundation:
    """What has to be there before anything else of a node of a cluster.

    Attributes:
        token: What only nodes of this cluster know.
        link: To Redis.
        limits_link: To Redis for limits, whose short time-outs are to hold up nothing else.
        secret: The value of a reference to a secret, None without one.
    """

    state: StateDirectory
    settings: Settings
    token: bytes
    link: RedisLink
    limits_link: RedisLink
    secret: Callable[[str], str | None]

    def limits(
        self, ledger: LeaseStore, *, access: Callable[[], Settings], now: Callable[[], float]
    ) -> SharedLimits:
        """This node's shares of limits that hold over all nodes.

        Raises:
            OSError: The ledger can't be used.
        """

        def is_open(measure: str) -> bool:
            rules = access().access
            return rules.rates_open if measure in RATES else rules.budgets_open

        return SharedLimits(
            self.limits_link, ledger, node=self.state.node, is_open=is_open, now=now, clock=monotonic
        )

    def keys(self, store: SqlStore) -> SharedKeys:
        """Where client keys are kept."""
        return SharedKeys(store)

    def cluster(
        self, *, port: int, ingest: Ingest, store: SqlStore, journal: Journal, now: Callable[[], float]
    ) -> Cluster:
        """The node's learners.

        Raises:
            ValueError: The configuration can't be built into a table.
        """
        cluster, kafka = self.settings.cluster, self.settings.kafka
        assert cluster is not None
        assert kafka is not None
        engines = Engines(
            self.state,
            self.settings,
            links=(self.link, self.limits_link),
            security=partial(client_security, kafka.security, self.secret),
            journal=journal,
            now=now,
        )
        return Cluster(
            self.state,
            self.settings,
            address=cluster.advertise or f"{socket.gethostname()}:{port}",
            ingest=ingest,
            store=store,
            engines=engines,
            journal=journal,
            now=now,
        )


def view_of(foundation: Foundation, learners: Learners, store: SqlStore) -> ClusterView:
    """What the admin surface asks about the cluster."""
    assert isinstance(learners, Cluster)
    return ClusterView(
        learners,
        node=foundation.state.node,
        token=foundation.token,
        database=lambda: (store.healthy, store.last_error or ""),
    )


def found(state: StateDirectory, loaded: Loaded, environ: Mapping[str, str]) -> Foundation:
    """Begin to be a node of the configuration's cluster; the state directory gets the keys that all nodes share.

    Raises:
        ValueError: A secret is not set or too short; the message names its place in the configuration.
    """
    cluster, redis = loaded.settings.cluster, loaded.settings.redis
    assert cluster is not None
    assert redis is not None

    def secret(reference: str) -> str | None:
        return resolve(reference, environ, loaded.secrets)

    shared = _value(secret, cluster)
    state.share(derived(shared, _REQUEST_IDS), derived(shared, _CLIENT_KEYS))
    return Foundation(
        state,
        loaded.settings,
        derived(shared, _NODES),
        _link(secret, redis, cluster),
        _link(secret, replace(redis, max_connections=2), cluster),
        secret,
    )


def _value(secret: Callable[[str], str | None], cluster: ClusterSettings) -> str:
    value = secret(cluster.secret)
    if value is None:
        raise ValueError(f"cluster.secret: {cluster.secret} is not set")
    return value


def _link(secret: Callable[[str], str | None], redis: RedisSettings, cluster: ClusterSettings) -> RedisLink:
    url = secret(redis.url)
    if url is None:
        raise ValueError(f"redis.url: {redis.url} is not set")
    return RedisLink(url, name=cluster.name, max_connections=redis.max_connections, timeout_s=redis.timeout_s)
