"""The engines of several nodes, and being several nodes: brokers, Redis, the cluster itself.

Invariant: what comes out holds references to secrets, never their values.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from optimizer.settings import (
    ClusterSettings,
    DatabaseSettings,
    KafkaSecurity,
    KafkaSettings,
    RedisSettings,
    RouteSettings,
)
from proxy.config.compile_addresses import compile_address
from proxy.config.compile_cache import uses_redis
from proxy.config.compile_upstreams import SecretStore
from proxy.config.models import File
from proxy.config.models_cluster import KafkaSecurityBlock
from proxy.config.problems import Findings, KeyPath
from proxy.config.secrets import resolve

LEAST_SECRET: Final = 16
"""Characters of a cluster's secret: whoever guesses it can make up request ids."""

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_SECURITY: KeyPath = ("kafka", "security")
_POSTGRESQL = ("postgresql", "postgres")


def compile_kafka(file: File, secrets: SecretStore, findings: Findings) -> KafkaSettings | None:
    """The brokers and topics; None without a block, or after a problem."""
    block = file.kafka
    if block is None:
        return None
    if not block.brokers:
        if ("kafka", "brokers") not in findings.broken:
            findings.problem(("kafka", "brokers"), "is required: name at least one host:port.")
        return None
    for index, broker in enumerate(block.brokers):
        if not _is_host_port(broker):
            findings.problem(("kafka", "brokers", index), f"{broker!r} is not host:port.")
    if block.dead_letter_topic in (block.topic, block.feedback_topic):
        findings.problem(("kafka", "dead_letter_topic"), "must be a topic of its own.")
    return KafkaSettings(
        brokers=tuple(block.brokers),
        topic=block.topic,
        group_id=block.group_id,
        client_id=block.client_id,
        request_timeout_s=block.request_timeout_ms / 1000,
        compression=None if block.compression == "none" else block.compression,
        feedback_topic=block.feedback_topic,
        dead_letter_topic=block.dead_letter_topic,
        security=_security(block.security or KafkaSecurityBlock(), secrets, findings),
    )


def _security(block: KafkaSecurityBlock, secrets: SecretStore, findings: Findings) -> KafkaSecurity:
    sasl, tls = block.protocol.startswith("sasl"), block.protocol.endswith("ssl")
    password = None
    for key in ("mechanism", "username", "password"):
        value = getattr(block, key)
        if sasl and value is None and (*_SECURITY, key) not in findings.broken:
            findings.problem((*_SECURITY, key), f"is required with the protocol {block.protocol}.")
        elif not sasl and value is not None:
            findings.problem(
                (*_SECURITY, key), f"says nothing to brokers with the protocol {block.protocol}."
            )
    if sasl and block.password is not None:
        path: KeyPath = (*_SECURITY, "password")
        password = secrets.reference(block.password, path, findings)
        if password is not None and not secrets.is_known(password):
            findings.note(path, f"{password} is not set; until it is, nothing is shipped.")
        if block.protocol == "sasl_plaintext" and block.mechanism == "PLAIN":
            findings.note(path, "is sent in the clear; sasl_ssl would encrypt it.")
    files = {}
    for key in ("ca_file", "certificate_file", "key_file"):
        value = getattr(block, key)
        if value is None:
            continue
        if not tls:
            findings.problem((*_SECURITY, key), f"is of no use with the protocol {block.protocol}.")
            continue
        files[key] = _file(value, (*_SECURITY, key), secrets, findings)
    if "key_file" in files and "certificate_file" not in files:
        findings.problem((*_SECURITY, "certificate_file"), "is required beside key_file.")
    return KafkaSecurity(
        block.protocol, block.mechanism if sasl else None, block.username if sasl else None, password, **files
    )


def _file(text: str, path: KeyPath, secrets: SecretStore, findings: Findings) -> str:
    file = Path(text)
    if not file.is_absolute():
        file = (secrets.base or Path.cwd()) / file
    if not file.is_file():
        findings.problem(path, "there is no such file.")
    return str(file)


def compile_redis(
    file: File, routes: Iterable[RouteSettings], secrets: SecretStore, findings: Findings
) -> RedisSettings | None:
    """Where Redis is. The URL becomes a reference: a password may stand in it."""
    block = file.redis
    if block is None:
        return None
    caches = uses_redis(routes)
    if not _is_on(file) and not caches:
        findings.note(
            ("redis",),
            "is used by the nodes of a cluster, and by routes with `cache: {store: redis}`; there is neither here.",
        )
    if block.url is None:
        return None
    reference = compile_address(
        block.url,
        ("redis", "url"),
        secrets,
        findings,
        unset="until it is, no answers are kept there."
        if caches and not _is_on(file)
        else "until it is, this node hears nothing of the others.",
        problem=_redis_problem,
    )
    if reference is None:
        return None
    return RedisSettings(reference, block.max_connections, block.timeout_sec)


def _redis_problem(url: str) -> str | None:
    """What is wrong with the address, without repeating it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address that can be read; write special letters of a password as %XX."
    if parts.scheme not in ("redis", "rediss") or not host:
        return "must be a redis:// or rediss:// address."
    database = parts.path.strip("/")
    return None if not database or database.isdecimal() else "must end with the number of a database, if any."


def compile_cluster(
    file: File, database: DatabaseSettings, secrets: SecretStore, findings: Findings
) -> ClusterSettings | None:
    """Being one of several nodes; None on a node of its own. Names everything that it needs and that is not there."""
    block = file.cluster
    if block is None or not _is_on(file):
        return None
    if file.kafka is None and ("kafka",) not in findings.broken:
        findings.problem(
            ("kafka", "brokers"), "is required in a cluster: its nodes share what they see through Kafka."
        )
    if (file.redis is None or file.redis.url is None) and ("redis", "url") not in findings.broken:
        findings.problem(
            ("redis", "url"), "is required in a cluster: its nodes hear of each other through Redis."
        )
    _check_database(database, secrets, findings)
    if block.advertise is not None and not _is_host_port(block.advertise):
        findings.problem(("cluster", "advertise"), "must be host:port, such as 10.0.0.7:8080.")
    secret = _secret(block.secret, secrets, findings)
    if secret is None:
        return None
    return ClusterSettings(block.name, secret, block.advertise, block.shards)


def _check_database(database: DatabaseSettings, secrets: SecretStore, findings: Findings) -> None:
    path: KeyPath = ("database", "url")
    if database.url is None:
        if path not in findings.broken:
            findings.problem(
                path, "is required in a cluster: its nodes share what they decide in a PostgreSQL database."
            )
        return
    url = resolve(database.url, secrets.environ, secrets.literals)
    if url is not None and urlsplit(url).scheme.partition("+")[0] == "sqlite":
        findings.problem(path, "must be a postgresql:// address in a cluster.")


def _secret(text: str | None, secrets: SecretStore, findings: Findings) -> str | None:
    path: KeyPath = ("cluster", "secret")
    if text is None:
        if path not in findings.broken:
            findings.problem(path, "is required; write ${NAME}, with the same value on every node.")
        return None
    reference = secrets.reference(text, path, findings)
    if reference is None:
        return None
    value = resolve(reference, secrets.environ, secrets.literals)
    if value is None:
        findings.note(path, f"{reference} is not set; nodes know each other's request ids by it.")
    elif len(value) < LEAST_SECRET:
        findings.problem(path, f"must have at least {LEAST_SECRET} characters.")
    return reference


def _is_on(file: File) -> bool:
    return file.cluster is not None and file.cluster.enabled


def _is_host_port(text: str) -> bool:
    return _HOST_PORT.fullmatch(text) is not None and int(text.rpartition(":")[2]) <= 65535
