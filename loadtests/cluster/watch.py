"""Looks at the engines themselves while a cluster runs: who owns which shard, and which tables are offered.

Invariant: it goes past the relays, and writes nothing. Two owners of one tenure, or a table that went backwards,
are found if they lasted as long as a look takes.
"""

import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from loadtests.cluster.scene import Engines

VERSIONS: Final = "llm-optimizer:proof:versions"
_LOOK_S: Final = 0.1


class Watch:
    """Looks ten times a second from enter to exit.

    ``owners``: by (shard, generation) everybody that had it. ``backwards``: how often a number was lower than before.
    """

    def __init__(self, servers: Engines) -> None:
        self.owners: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        self.tables: dict[int, tuple[int, int]] = {}
        self.backwards: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self._generations: dict[int, int] = {}
        self._servers = servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def shared(self) -> int:
        """Tenures that more than one owner had."""
        return sum(len(owners) > 1 for owners in self.owners.values())

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self._look_at_owners()
                self.looks["PostgreSQL"] += 1
            except psycopg.Error:
                pass
            try:
                self._look_at_tables()
                self.looks["Redis"] += 1
            except (OSError, ValueError):
                pass

    def _look_at_owners(self) -> None:
        if not self._servers.postgres.execute("SELECT to_regclass('shards')")[0][0]:
            return
        for shard, generation, owner in self._servers.postgres.execute(
            "SELECT shard, generation, owner FROM shards"
        ):
            number, tenure = int(str(shard)), int(str(generation))
            if owner is not None:
                self.owners[number, tenure].add(str(owner))
            self.backwards["generation"] += tenure < self._generations.get(number, 0)
            self._generations[number] = tenure

    def _look_at_tables(self) -> None:
        for shard, version in hash_of(self._servers.redis.port, VERSIONS).items():
            generation, number = (int(part) for part in version.split(":")[:2])
            last = self.tables.get(int(shard), (0, 0))
            self.backwards["table"] += (generation, number) < last
            self.tables[int(shard)] = max((generation, number), last)


def hash_of(port: int, key: str) -> Mapping[str, str]:
    """A hash in Redis, asked for in its protocol over a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(f"*2\r\n$7\r\nHGETALL\r\n${len(key)}\r\n{key}\r\n".encode())
        lines = connection.makefile("rb")
        count = int(lines.readline()[1:])
        if count < 0:
            raise ValueError("Redis answers with an error")
        parts = []
        for _ in range(count):
            size = int(lines.readline()[1:])
            parts.append(lines.read(size + 2)[:-2].decode())
    return dict(zip(parts[::2], parts[1::2], strict=True))


def records(bootstrap: str, topic: str) -> int:
    """How many records a topic has; -1 while the broker does not say."""
    known = ends(bootstrap, topic)
    return sum(known.values()) if known else -1


def ends(bootstrap: str, topic: str) -> Mapping[int, int]:
    """The offset after the last record of every partition; nothing while the broker does not say."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "watch", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=5).topics[topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5)[1]
            for number in partitions
        }
    except (KafkaException, TypeError):
        return {}
    finally:
        consumer.close()
