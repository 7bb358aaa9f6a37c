"""A real Apache Kafka broker: KRaft, one node that is broker and controller, from the jars of ``deploy/kafka``.

It listens several times: ``bootstrap`` in the clear, ``sasl_bootstrap`` with a password in the clear,
``secure_bootstrap`` with a password over TLS, and once behind each relay. A client that asks through a relay is told
the relay's address, so that all it sends goes through there.
"""

import shutil
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trustme
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from cryptography.hazmat.primitives import serialization

from loadtests.servers.process import Missing, ServerProcess, free_port, need
from loadtests.servers.relay import Relay

USER: Final = "optimizer"
PASSWORD: Final = "hunter2"

_FETCH: Final = Path(__file__).parents[2] / "deploy" / "kafka" / "fetch.sh"
_LISTENER: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def jars() -> Path:
    """The directory of Kafka's jars, fetched if they are not there yet.

    Raises:
        Missing: Without Java, or without the jars and Maven to get them.
    """
    need("java", "openjdk-17-jre-headless")
    try:
        done = subprocess.run(["sh", str(_FETCH)], capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise Missing("the Kafka jars could not be fetched in time: run deploy/kafka/fetch.sh") from None
    if done.returncode:
        raise Missing(f"no Kafka jars (deploy/kafka/fetch.sh): {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip())


class KafkaBroker(ServerProcess):
    """One broker; topics and records outlive ``stop`` and ``kill``. ``relays`` are in front of it, all passing."""

    def __init__(
        self,
        directory: Path,
        *,
        relays: int = 2,
        auto_create: bool = False,
        heap_mb: int = 256,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Make, but do not start it.

        Args:
            directory: Its own.
            relays: How many.
            auto_create: Whether a topic comes into being by being asked for, as Kafka's default is.
            heap_mb: Of the Java process.
            properties: More lines of its configuration.

        Raises:
            Missing: Without Java or the jars.
        """
        self._jars = jars()
        super().__init__(directory)
        self._heap_mb = heap_mb
        self.relays = [Relay() for _ in range(relays)]
        self._ports = [free_port() for _ in range(relays + 3)]
        for relay, port in zip(self.relays, self._ports, strict=False):
            relay.target = f"127.0.0.1:{port}"
        self._controller, sasl, secure = self._ports[relays:]
        self.sasl_bootstrap = f"127.0.0.1:{sasl}"
        self.secure_bootstrap = f"127.0.0.1:{secure}"
        self.ca_file = directory / "ca.pem"
        self._properties = {"auto.create.topics.enable": str(auto_create).lower(), **(properties or {})}
        self._format()
        self._configure()

    @property
    def bootstrap(self) -> str:
        """host:port of the broker itself, no relay and no password."""
        return self.address

    @property
    def relay(self) -> Relay:
        """The first of the relays."""
        return self.relays[0]

    def make_topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic; its name."""
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        admin = self._admin()  # Kept until the answer is there.
        admin.create_topics([new], operation_timeout=10)[name].result(20)
        return name

    def add_partitions(self, name: str, total: int) -> None:
        """Let a topic have ``total`` partitions from now on."""
        admin = self._admin()
        admin.create_partitions([NewPartitions(name, total)], operation_timeout=10)[name].result(20)

    def delete_topic(self, name: str) -> None:
        """Take a topic away with all its records."""
        admin = self._admin()
        admin.delete_topics([name], operation_timeout=10)[name].result(20)

    def partitions(self, name: str) -> int:
        """How many partitions a topic has; 0 when there is no such topic."""
        topic = self._admin().list_topics(timeout=10).topics.get(name)
        return 0 if topic is None else len(topic.partitions)

    def messages(self, topic: str, expected: int = 0, timeout_s: float = 20.0) -> list[Message]:
        """Everything that is in a topic at present, once at least ``expected`` records are there; by partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"test-{uuid.uuid4()}",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        try:
            numbers = consumer.list_topics(topic, timeout=timeout_s).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
            found: list[Message] = []
            at_end: set[int | None] = set()
            while len(found) < expected or len(at_end) < len(numbers):
                message = consumer.poll(timeout_s)
                assert message is not None, f"{len(found)} of {expected} records"
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end.add(message.partition())
            return sorted(found, key=lambda message: (message.partition() or 0, message.offset() or 0))
        finally:
            consumer.close()

    def command(self, name: str, *arguments: str) -> str:
        """Run one of Kafka's own command line classes (``kafka.admin.ConfigCommand``); what it printed."""
        ran = subprocess.run(
            ["java", "-cp", f"{self._jars}/*", name, *arguments], capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        return ran.stdout

    def wipe(self) -> None:
        """Kill it and lose all topics and offsets; ``start`` begins with nothing."""
        self.kill()
        shutil.rmtree(self.directory / "data")
        self._format()

    def close(self) -> None:
        """Kill it, and end the relays."""
        self.kill()
        for relay in self.relays:
            relay.close()

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def _format(self) -> None:
        """What ``kafka-storage format`` does, without another Java process."""
        data = self.directory / "data"
        data.mkdir()
        ids = [urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A") for _ in range(2)]
        (data / "meta.properties").write_text(
            f"version=1\nnode.id=1\ncluster.id={ids[0]}\ndirectory.id={ids[1]}\n"
        )

    def _configure(self) -> None:
        names = [f"RELAY{number}" for number in range(len(self.relays))]
        ports = {
            "DIRECT": self.port,
            "CONTROLLER": self._controller,
            "SASL": int(self.sasl_bootstrap.rpartition(":")[2]),
            "SECURE": int(self.secure_bootstrap.rpartition(":")[2]),
            **dict(zip(names, self._ports, strict=False)),
        }
        advertised = ports | {name: relay.port for name, relay in zip(names, self.relays, strict=True)}
        del advertised["CONTROLLER"]
        protocols = dict.fromkeys(ports, "PLAINTEXT") | {"SASL": "SASL_PLAINTEXT", "SECURE": "SASL_SSL"}
        jaas = f'{_LISTENER} user_{USER}="{PASSWORD}";'
        lines: dict[str, Any] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "listeners": _listeners(ports),
            "advertised.listeners": _listeners(advertised),
            "listener.security.protocol.map": ",".join(f"{key}:{word}" for key, word in protocols.items()),
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": jaas,
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": jaas,
            **self._tls(),
            "log.dirs": self.directory / "data",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # A broker that was killed is let in again only when its former life has timed out.
            "broker.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,
            # Members that die are to be missed within a test's patience.
            "group.min.session.timeout.ms": 1000,
            "controlled.shutdown.enable": "false",
            "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
            "num.network.threads": 2,
            "num.io.threads": 2,
            **self._properties,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.directory / "server.properties").write_text(text)

    def _tls(self) -> dict[str, str]:
        """A certificate for loopback, signed by an authority whose own is in ``ca_file``."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        issued = authority.issue_cert("127.0.0.1", "localhost")
        # Kafka reads keys in PKCS 8 only.
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.directory / "server.pem").write_bytes(
            key + b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        )
        return {
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(self.directory / "server.pem"),
            "listener.name.secure.ssl.truststore.type": "PEM",
            "listener.name.secure.ssl.truststore.location": str(self.ca_file),
            "listener.name.secure.ssl.client.auth": "requested",
        }

    def _command(self) -> list[str]:
        return [
            "java", f"-Xms{self._heap_mb // 2}m", f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-Xshare:auto",
            "-XX:TieredStopAtLevel=1", "-cp", f"{self._jars}/*", "kafka.Kafka",
            str(self.directory / "server.properties"),
        ]  # fmt: skip

    def _answers(self) -> bool:
        # Asking a port that nobody listens on would only fill the screen with librdkafka's complaints.
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return bool(self._admin().list_topics(timeout=1).brokers)
        except (OSError, KafkaException):
            return False


def _listeners(ports: Mapping[str, int]) -> str:
    named: Sequence[str] = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
    return ",".join(named)
