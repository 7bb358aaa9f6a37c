"""Optimizer processes of one cluster over real engines; the test writes what their workers would have written."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
import yaml

from loadtests.servers.kafka import KafkaBroker
from loadtests.servers.postgres import PostgresServer
from loadtests.servers.process import Missing
from loadtests.servers.redis import RedisServer
from optimizer import events
from optimizer.cluster.secret import derived
from optimizer.control_store.shard_book import SqlShardBook
from optimizer.control_store.store import SqlStore
from optimizer.ids import RequestIds
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode, event_source
from optimizer.settings import Settings
from optimizer.store import restore
from proxy.config.load import load
from proxy.control.reprice import reprice

ROUTES: Final = ("alpha", "beta", "gamma", "delta")
SHARDS: Final = 3
SECRET: Final = "0123456789abcdef0123"
ARMS: Final = {"small": 0.1, "large": 5.0}

Sums = Mapping[tuple[str, str, str, str], tuple[float, float, float, int]]
"""Route, model, variant and signal; weight, sum, sum of squares and number."""


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-pg-") as name:
        Path(name).chmod(0o755)
        (directory := Path(name) / "server").mkdir()
        try:
            server = PostgresServer(directory)
        except Missing as reason:
            pytest.skip(str(reason))
        yield server
        server.kill()


@pytest.fixture
def postgres(postgres_process: PostgresServer) -> PostgresServer:
    postgres_process.resume()
    postgres_process.start()
    return postgres_process


class Worker:
    """Writes into a node's log as one of its workers would."""

    def __init__(self, node: "Process") -> None:
        self.state = state = StateDirectory(node.directory)
        self.incarnation = state.allocate_incarnation()
        self.ids = RequestIds(node=state.node, incarnation=self.incarnation, key=state.id_key)
        self.writer = LogWriter(
            state.log_directory, node=state.node, incarnation=self.incarnation, role="worker"
        )
        self._source = event_source(state.node, "worker", self.incarnation)
        self._settings = node.settings

    def mint(self) -> str:
        return self.ids.mint(int(time.time() * 1000))

    def request(self, route: str, arm: str = "small", *, request_id: str | None = None, **fields: Any) -> str:
        request_id = request_id or self.mint()
        found = self._settings.route(route)
        assert found is not None
        kind = next(each for each in found.arms if each.id == arm)
        data: dict[str, Any] = {
            "route": route, "table_version": 1, "endpoint": "chat", "stream": False, "arm": arm,
            "baseline_arm": "large", "model": arm, "model_key": kind.model_key, "variant_key": kind.variant_key,
            "reason": "bandit", "randomised": True, "outcome": "completed", "status": 200,
            "attempts": [{"arm": arm, "upstream": "sim", "status": 200, "randomised": True}],
            "started_ms": int(time.time() * 1000), "duration_ms": 400.0, "overhead_ms": 0.3, "cost_usd": 0.002,
            "usage_source": "reported", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 50,
        }  # fmt: skip
        self.append(request_id, events.REQUEST, data | fields)
        return request_id

    def rate(self, request_id: str, value: float, *, source: str = "user", name: str | None = None) -> None:
        data = {
            "request_id": request_id, "metric": "quality", "value": value, "source": source, "key": None
        }  # fmt: skip
        self.append(name or f"fb-{request_id}-{source}", events.FEEDBACK, data)

    def append(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        self.writer.append(encode(event_id, kind, self._source, int(time.time() * 1000), data))


class Process:
    """The optimizer process of one node."""

    def __init__(self, directory: Path, config: Path) -> None:
        self.directory = directory
        self.config = config
        self.log = directory.with_suffix(".log")
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return load(self.config, {}).settings

    def start(self) -> None:
        command = [sys.executable, "-m", "proxy.control", "--state-dir", str(self.directory)]
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [*command, "--config", str(self.config)], stdout=log, stderr=log, env={**os.environ}
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def stop(self) -> None:
        assert self.running is not None
        self.running.terminate()
        assert self.running.wait(60) == 0
        self.running = None

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class House:
    """Engines, nodes, and what their owners know together."""

    def __init__(self, root: Path, kafka: KafkaBroker, redis: RedisServer, postgres: PostgresServer) -> None:
        self.root = root
        self.kafka = kafka
        self.name = f"t{uuid4().hex[:8]}"
        self.topic = kafka.make_topic(f"{self.name}-events", SHARDS)
        self.feedback = kafka.make_topic(f"{self.name}-feedback", 1)
        postgres.execute(f"CREATE DATABASE {self.name}")
        self.postgres = postgres
        self.database = postgres.url_by(postgres.address, self.name)
        self.redis = redis
        self.nodes: list[Process] = []

    def configuration(self, **changes: Any) -> dict[str, Any]:
        model = {"upstream": "sim"}
        return {
            "cluster": {"name": self.name, "secret": SECRET, "shards": SHARDS},
            "kafka": {
                "brokers": [self.kafka.bootstrap], "topic": self.topic, "feedback_topic": self.feedback,
                "group_id": self.name, "request_timeout_ms": 3000,
            },
            "redis": {"url": self.redis.url, "timeout_sec": 2},
            "database": {"url": self.database, "timeout_sec": 5},
            "upstreams": {"sim": {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-x", "allow_private": True}},
            "models": {arm: {**model, "price": {"input": usd, "output": usd}} for arm, usd in ARMS.items()},
            "routes": {route: {"arms": [*ARMS], "baseline": "large"} for route in ROUTES},
        } | changes  # fmt: skip

    def node(self, **changes: Any) -> Process:
        number = len(self.nodes)
        config = self.root / f"n{number}.yaml"
        document = self.configuration(**changes)
        document["cluster"]["advertise"] = f"127.0.0.1:{9100 + number}"
        config.write_text(yaml.safe_dump(document))
        made = Process(self.root / f"s{number}", config)
        self.nodes.append(made)
        return made

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    def owners(self) -> dict[int, str]:
        """Of shards that have one."""
        with (
            psycopg.connect(self.database, autocommit=True) as connection,
            suppress(psycopg.errors.UndefinedTable),
        ):
            return dict(
                connection.execute("SELECT shard, owner FROM shards WHERE owner IS NOT NULL").fetchall()
            )
        return {}

    def snapshots(self) -> dict[int, bytes]:
        """What the owners have saved, by shard."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            return {
                shard: bytes(data)
                for shard, data in connection.execute("SELECT shard, data FROM shard_snapshots").fetchall()
            }

    def forget(self) -> None:
        """As ``rebuild`` does."""

        async def ask() -> None:
            store = SqlStore(self.database, directory=self.root)
            await SqlShardBook(store).forget()
            await store.close()

        asyncio.run(ask())

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """A table of what all owners have saved."""
        found = []
        for shard, data in self.snapshots().items():
            path = self.root / f"look-{shard}.sqlite3"
            restore(path, data)
            connection = sqlite3.connect(path)
            found += connection.execute(f"SELECT * FROM {table}").fetchall()
            connection.close()
        return sorted(found)

    def learned(self) -> Sums:
        """The sum of what all owners have saved."""
        found: dict[Any, list[float]] = defaultdict(lambda: [0.0] * 4)
        for path in self.saved():
            _add(found, path)
        return {key: (a, b, c, int(n)) for key, (a, b, c, n) in found.items()}

    def saved(self) -> list[Path]:
        """The learners' files that all owners have saved, as they are now."""
        found = []
        for shard, data in self.snapshots().items():
            found.append(self.root / f"look-{shard}.sqlite3")
            restore(found[-1], data)
        return found

    def expected(self) -> Sums:
        """What one learner makes of the logs of all nodes together."""
        found: dict[Any, list[float]] = defaultdict(lambda: [0.0] * 4)
        _add(found, self.replayed())
        return {key: (a, b, c, int(n)) for key, (a, b, c, n) in found.items()}

    def replayed(self) -> Path:
        """The learner's file of who has read the logs of all nodes together."""
        directory = self.root / f"u{uuid4().hex[:6]}"
        state = StateDirectory(directory)
        state.share(derived(SECRET, "request ids"), derived(SECRET, "client keys"))
        for node in self.nodes:
            for source in (node.directory / "log").iterdir():
                if source.is_dir() and source.name.endswith("-worker"):
                    shutil.copytree(source, state.log_directory / source.name)
        ingest = Ingest(StateDirectory(directory))
        ingest.configure(self.nodes[0].settings, reprice=reprice)
        while ingest.step():
            pass
        ingest.close()
        return state.database_file


def _add(found: dict[Any, list[float]], path: Path) -> None:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT route, model_key, variant_key, signal, w, wx, wxx, n FROM cells")
    for *key, w, wx, wxx, n in rows.fetchall():
        sums = found[tuple(key)]
        for index, value in enumerate((w, wx, wxx, n)):
            sums[index] += value
    connection.close()


@pytest.fixture
def house(kafka: KafkaBroker, redis_server: RedisServer, postgres: PostgresServer) -> Iterator[House]:
    # Sockets have short names.
    with tempfile.TemporaryDirectory(prefix="llmo-") as name:
        made = House(Path(name), kafka, redis_server, postgres)
        yield made
        made.close()
        for node in made.nodes:
            sys.stdout.write(node.said())


@pytest.fixture
def make_worker() -> type[Worker]:
    return Worker


@pytest.fixture
def until() -> Callable[..., Any]:
    """``until(condition, seconds)``: polls for it; what it was last is in the message."""

    def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"did not come within {seconds} s: {value!r}"
            time.sleep(0.1)
        return value

    return wait


class Judge:
    """How the tests make traffic, and compare what was learned."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def traffic(self, workers: list[Worker], count: int) -> None:
        """Requests on all routes; some are rated: here or on another node, twice, before they ended."""
        rng = self.rng
        for _ in range(count):
            worker = rng.choice(workers)
            rater = rng.choice(workers)
            request_id, value = worker.mint(), rng.randrange(11) / 10
            rated, early = rng.random() < 0.5, rng.random() < 0.3
            if rated and early:
                rater.rate(request_id, value)
            worker.request(
                rng.choice(ROUTES),
                rng.choice(tuple(ARMS)),
                request_id=request_id,
                duration_ms=rng.uniform(100, 900),
                cost_usd=rng.uniform(0.001, 0.01),
            )
            if rated and not early:
                rater.rate(request_id, value)
                if rng.random() < 0.2:
                    rng.choice(workers).rate(request_id, value, name=f"again-{request_id}")

    @staticmethod
    def numbers(sums: Sums) -> dict[tuple[str, str, str, str], int]:
        """How many observations each sum has."""
        return {key: row[3] for key, row in sums.items()}

    @staticmethod
    def same(learned: Sums, expected: Sums) -> None:
        assert learned.keys() == expected.keys()
        for key, sums in expected.items():
            assert learned[key] == pytest.approx(sums, rel=1e-9), key


@pytest.fixture
def judge() -> Judge:
    return Judge(random.Random(5))
