"""A Kafka cluster that speaks the protocol over TCP inside the test process: librdkafka's mock broker.

It is driven through librdkafka's C interface (the library comes with confluent-kafka), because only that one can
take brokers down and up again and make them answer with errors.

``node`` is a state directory with a writer, and makes shippers for it.
"""

import asyncio
import ctypes
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.log.writer import LogWriter, WriterBounds, encode
from optimizer.settings import KafkaSettings
from optimizer.sinks.kafka import KafkaShipper, KafkaTuning

QUICK = KafkaTuning(idle_s=0.01, retry_s=0.05, first_pause_s=0.02, longest_pause_s=0.1, save_every_s=0.0)
PRODUCE = 0  # Kafka's number of the Produce request


class MockCluster:
    """One broker. ``address`` is its ``host:port``, the same before and after being down."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        error = ctypes.create_string_buffer(256)
        self._client = library.rd_kafka_new(0, None, error, len(error))
        assert self._client, error.value
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        self.address = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def create_topic(self, name: str, partitions: int) -> None:
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def set_down(self) -> None:
        """Refuse connections and drop the present ones."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def set_up(self) -> None:
        self._library.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def set_round_trip(self, milliseconds: int) -> None:
        """Delay every answer."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, 1, milliseconds)

    def answer_produce_with(self, *codes: int) -> None:
        """Answer the coming Produce requests with these error codes."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, PRODUCE, len(codes), errors)

    def messages(self, topic: str, expected: int, timeout_s: float = 15.0) -> list[confluent_kafka.Message]:
        """Everything in the topic, once at least ``expected`` records are there."""
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "test",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            partitions = consumer.list_topics(topic, timeout=timeout_s).topics[topic].partitions
            consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in partitions])
            found: list[confluent_kafka.Message] = []
            at_end: set[int] = set()
            while len(found) < expected or len(at_end) < len(partitions):
                message = consumer.poll(timeout_s)
                assert message is not None, f"{len(found)} of {expected} records"
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    at_end.add(message.partition())
            return found
        finally:
            consumer.close()

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _library() -> ctypes.CDLL | None:
    folder = Path(confluent_kafka.__file__).parent
    found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    for name, result, arguments in (
        ("rd_kafka_new", pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [pointer, number]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [pointer, number]),
        ("rd_kafka_mock_broker_set_rtt", ctypes.c_int, [pointer, number, ctypes.c_int]),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@pytest.fixture
def make_cluster() -> Iterator[Callable[[], MockCluster]]:
    """Start clusters; they end with the test."""
    library = _library()
    if library is None:
        pytest.skip("this build of confluent-kafka has no librdkafka beside it: pip install confluent-kafka")
    made: list[MockCluster] = []

    def make() -> MockCluster:
        made.append(MockCluster(library))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[[], MockCluster]) -> MockCluster:
    return make_cluster()


class Node:
    """A state directory with one writer, and shippers for it."""

    tuning = QUICK

    def __init__(self, path: Path) -> None:
        self.state = StateDirectory(path)
        self.writer = LogWriter(
            self.state.log_directory,
            node=self.state.node,
            incarnation=self.state.allocate_incarnation(),
            role="worker",
            bounds=WriterBounds(reserve_bytes=0),
        )
        self.written = 0

    def write(self, count: int, *, padding: int = 0) -> None:
        """Requests of three routes, and of none."""
        for _ in range(count):
            i = self.written
            data = {"route": f"route-{i % 3}" if i % 4 else None, "n": i, "padding": "x" * padding}
            self.log(f"event-{i}", "llm_optimizer.request.v1", data)
            self.written += 1

    def log(self, identity: str, kind: str, data: dict[str, Any]) -> None:
        self.writer.append(encode(identity, kind, "/a1/worker/1", 1_790_000_000_000 + self.written, data))

    def shipper(
        self,
        address: str,
        tuning: KafkaTuning = QUICK,
        limit_s: float = 5.0,
        topic: str = "llm-feedback",
        settings: dict[str, Any] | None = None,
        **more: Any,
    ) -> KafkaShipper:
        return KafkaShipper(
            KafkaSettings((address,), topic=topic, request_timeout_s=limit_s, **(settings or {})),
            LogReader(self.state.log_directory),
            cursor_file=self.state.kafka_cursor_file,
            dead_letter_file=self.state.dead_letter_file,
            tuning=tuning,
            rng=random.Random(1),
            **more,
        )

    @staticmethod
    async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait for something that real sockets bring about."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)

    @staticmethod
    @asynccontextmanager
    async def running(shipper: KafkaShipper) -> AsyncIterator[None]:
        """Run the shipper; stop it in the regular way, which must not take long."""
        stop = asyncio.Event()
        task = asyncio.create_task(shipper.run(stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await task


@pytest.fixture
async def node(tmp_path: Path, half_open_sockets: None) -> AsyncIterator[Node]:
    """Its shippers may leave no task behind."""
    node = Node(tmp_path / "state")
    yield node
    node.writer.close()
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0.01)
