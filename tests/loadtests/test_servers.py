"""The real engines that other tests rely on: they come back with their data, and fail in the way they are told."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import psutil
import pytest

from loadtests.servers.kafka import PASSWORD, USER, KafkaBroker
from loadtests.servers.redis import RedisServer
from loadtests.servers.relay import Relay


def produce(address: str, topic: str, value: bytes, **settings: object) -> bool:
    """Send one record; whether it was acknowledged."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": address, "message.timeout.ms": 10_000, "log_level": 0, **settings}
    )
    outcomes: list[bool] = []
    producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error is None))
    producer.flush(15)
    return outcomes == [True]


def values(broker: KafkaBroker, topic: str, expected: int) -> list[bytes | None]:
    return [message.value() for message in broker.messages(topic, expected)]


@pytest.mark.slow
def test_a_broker_keeps_its_records_when_it_is_killed(kafka: KafkaBroker) -> None:
    topic = kafka.make_topic("servers", 2)
    assert produce(kafka.bootstrap, topic, b"direct")
    assert produce(kafka.relay.address, topic, b"by relay")
    kafka.kill()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", kafka.port))
    kafka.start()
    assert kafka.partitions(topic) == 2
    assert set(values(kafka, topic, 2)) == {b"direct", b"by relay"}
    assert kafka.partitions("never made") == 0


def test_a_broker_asks_for_a_password(kafka: KafkaBroker) -> None:
    topic = kafka.make_topic("servers-secured")
    login = {"sasl.mechanism": "PLAIN", "sasl.username": USER, "sasl.password": PASSWORD}
    assert produce(kafka.sasl_bootstrap, topic, b"clear", **login, **{"security.protocol": "SASL_PLAINTEXT"})
    assert produce(
        kafka.secure_bootstrap, topic, b"secret", **login,
        **{"security.protocol": "SASL_SSL", "ssl.ca.location": str(kafka.ca_file)},
    )  # fmt: skip
    wrong = {**login, "sasl.password": "wrong", "message.timeout.ms": 1000}
    assert not produce(
        kafka.sasl_bootstrap, topic, b"nobody", **wrong, **{"security.protocol": "SASL_PLAINTEXT"}
    )
    assert values(kafka, topic, 2) == [b"clear", b"secret"]


def test_a_frozen_redis_answers_later(redis_server: RedisServer) -> None:
    assert redis_server._ask(b"SET a 1").startswith(b"+OK")
    redis_server.pause()
    with socket.create_connection(("127.0.0.1", redis_server.port), 0.2) as link:
        link.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            link.recv(10)
    redis_server.resume()
    redis_server.kill()
    redis_server.start()
    assert redis_server._ask(b"GET a") == b"$1\r\n1\r\n"
    redis_server.wipe()
    redis_server.start()
    assert redis_server._ask(b"GET a") == b"$-1\r\n"


def test_a_relay_fails_as_it_is_told(redis_server: RedisServer, make_relay: Callable[[str], Relay]) -> None:
    relay = make_relay(redis_server.address)

    def ping(link: socket.socket) -> bytes:
        link.sendall(b"PING\r\n")
        return link.recv(100)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", relay.port), 0.3)

    with connect() as link:
        assert ping(link) == b"+PONG\r\n"
        relay.mode = "stall"
        with pytest.raises(TimeoutError):
            ping(link)
        with connect() as other, pytest.raises(TimeoutError):
            ping(other)
        relay.mode = "pass"
        assert link.recv(100) == b"+PONG\r\n"
        relay.mode = "cut"
        with pytest.raises(ConnectionResetError):
            ping(link)
        with pytest.raises(ConnectionResetError), connect() as other:
            other.recv(1)
    relay.mode = "refuse"
    with pytest.raises(ConnectionRefusedError):
        connect()
    relay.mode = "pass"
    with connect() as link:
        assert ping(link) == b"+PONG\r\n"
        relay.drop()
        with pytest.raises(ConnectionResetError):
            ping(link)


def test_a_server_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    """Not even when that process had no time to clean up."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    program = (
        "import os, sys, pathlib\n"
        "from loadtests.servers.redis import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True, check=False, timeout=30
    )
    server = int(ran.stdout)
    until = time.monotonic() + 10
    while psutil.pid_exists(server) and psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)
