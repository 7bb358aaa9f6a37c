"""Real engines behind relays, and nodes of the product in front of them.

Invariant: a node talks to every engine through that engine's relay only, and whatever is started here is stopped here.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from loadtests.peers import free_port
from loadtests.processes import ROOT, Child, Skipped, python_module
from loadtests.product import wait_ready
from loadtests.servers.kafka import KafkaBroker
from loadtests.servers.postgres import PostgresServer
from loadtests.servers.process import Missing, ServerProcess
from loadtests.servers.redis import RedisServer
from loadtests.servers.relay import Relay

TOPIC: Final = "cluster-proof"
SECRET: Final = "a-secret-of-the-cluster-proof-0123456789"
ROUTES: Final = ("ask", "chat", "code", "sum")
READY_S: Final = 60.0
"""Engines, nodes and callers share the machine."""
MODELS: Final = ("alpha", "beta", "gamma")


@dataclass
class Engine:
    """One engine and what stands between it and the nodes."""

    name: str
    server: ServerProcess
    relay: Relay


@dataclass
class Engines:
    """Kafka, Redis and PostgreSQL, running."""

    kafka: KafkaBroker
    redis: RedisServer
    postgres: PostgresServer
    redis_relay: Relay
    postgres_relay: Relay

    def all(self) -> tuple[Engine, ...]:
        """Each with its relay."""
        return (
            Engine("Kafka", self.kafka, self.kafka.relay),
            Engine("Redis", self.redis, self.redis_relay),
            Engine("PostgreSQL", self.postgres, self.postgres_relay),
        )


@contextmanager
def engines(directory: Path, *, shards: int = 4) -> Iterator[Engines]:
    """Start all three, with a topic of ``shards`` partitions.

    Raises:
        Skipped: If one is not installed; the message says which.
    """
    with ExitStack() as stack:
        homes = {name: Path(stack.enter_context(_home(name))) for name in ("kafka", "redis", "postgres")}
        try:
            kafka, redis = KafkaBroker(homes["kafka"]), RedisServer(homes["redis"])
            stack.callback(kafka.close)
            postgres = PostgresServer(homes["postgres"])
        except Missing as missing:
            raise Skipped(str(missing)) from missing
        for server in (kafka, redis, postgres):
            stack.callback(server.kill)
            server.start()
        relays = [Relay(server.address) for server in (redis, postgres)]
        for relay in relays:
            stack.callback(relay.close)
        kafka.make_topic(TOPIC, shards)
        yield Engines(kafka, redis, postgres, *relays)


def _home(name: str) -> tempfile.TemporaryDirectory[str]:
    # PostgreSQL runs as another user, who must be able to get there.
    return tempfile.TemporaryDirectory(prefix=f"llm-optimizer-{name}-")


def configuration(upstream: str, **blocks: Any) -> dict[str, Any]:
    """Routes of equal shape over three models. Drift is not looked for: what it forgets depends on when it is told."""
    return {
        "log": {"level": "warning"},
        "upstreams": {
            "mock": {"base_url": f"{upstream}/v1", "api_key": "literal-upstream-key", "allow_private": True}
        },
        "models": {
            name: {"upstream": "mock", "model": name, "price": {"input": 1.0 + index, "output": 4.0 + index}}
            for index, name in enumerate(MODELS)
        },
        "routes": {
            route: {
                "arms": list(MODELS),
                "baseline": MODELS[0],
                "policy": {"floor": 0.1},
                "drift": False,
            }
            for route in ROUTES
        },
        **blocks,
    }


def shipping_block(servers: Engines) -> dict[str, Any]:
    """Kafka alone: what one node can use."""
    return {"kafka": {"brokers": [servers.kafka.relay.address], "topic": TOPIC, "request_timeout_ms": 2000}}


def cluster_blocks(servers: Engines, *, shards: int) -> dict[str, Any]:
    """Everything that several nodes need, all of it through the relays."""
    return {
        **shipping_block(servers),
        "redis": {"url": servers.redis.url_by(servers.redis_relay.address), "timeout_sec": 1},
        "database": {"url": servers.postgres.url_by(servers.postgres_relay.address), "timeout_sec": 2},
        "cluster": {"name": "proof", "secret": SECRET, "shards": shards},
    }


@dataclass
class Node:
    """A node that can be started, killed and started again on the same state.

    ``tree`` has the sources of the program that it runs.
    """

    name: str
    directory: Path
    document: Mapping[str, Any]
    workers: int = 1
    port: int = field(default_factory=free_port)
    child: Child | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    tree: Path = ROOT
    starts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            Failed: If it does not become ready.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        document = dict(self.document)
        if "cluster" in document:
            document["cluster"] = {**document["cluster"], "advertise": f"127.0.0.1:{self.port}"}
        config = self.directory / "config.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        options = ["--config", str(config), "--state-dir", str(self.state), "--port", str(self.port)]
        command = python_module("proxy.cli", "serve", *options, "--workers", str(self.workers))
        cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        self.starts += 1
        log = self.directory / f"serve-{self.starts}.log"
        # What is there where it runs comes before what is installed, in its own children too.
        environ = {"PYTHONPATH": str(self.tree), **self.environ}
        self.child = Child(command, core=cores, log=log, name=self.name, environ=environ, cwd=self.tree)
        wait_ready(self.child, self.port, seconds=READY_S)

    def stop(self, seconds: float = 60.0) -> None:
        """SIGTERM, and wait until all of it is gone."""
        if self.child is not None:
            self.child.stop(seconds=seconds)
            self.child = None

    def pids(self) -> dict[str, Any]:
        """The product's own list of its processes; empty while there is none."""
        with contextlib.suppress(OSError, ValueError):
            return dict(orjson.loads((self.state / "run" / "pids").read_bytes()))
        return {}

    def worker_pids(self) -> Sequence[int]:
        """Of its workers, at present."""
        return [pid for pid in self.pids().get("workers", ()) if pid]


@contextmanager
def nodes(
    directory: Path, documents: Sequence[Mapping[str, Any]], *, workers: int = 1
) -> Iterator[list[Node]]:
    """Run one node for each document until the end."""
    made = [
        Node(f"node {number}", directory / f"node{number}", document, workers)
        for number, document in enumerate(documents, 1)
    ]
    try:
        for node in made:
            node.start()
        yield made
    finally:
        for node in made:
            node.stop()
