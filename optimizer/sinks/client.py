"""What every Kafka client of ours is given: the brokers' security, and a topic that is there.

Secrets are looked up when a client is made, so that one that was changed is used by the next client.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from optimizer.settings import KafkaSecurity, KafkaSettings

Secrets = Callable[[str], str | None]

_REPLICAS: Final = 3

_log = logging.getLogger(__name__)


class NotReady(Exception):
    """Something that is needed to speak to the brokers is not there yet; the text says what."""


class TooEarly(NotReady):
    """The same, and normal at a start."""


def plain(error: BaseException, settings: KafkaSettings) -> str:
    """What went wrong with the brokers, for people."""
    text = str(error)
    if isinstance(error, KafkaConnectionError) and "bootstrap" in text:
        # The client tells nobody which of the two it was, except its own log.
        brokers = ",".join(settings.brokers)
        return f"no broker at {brokers} can be used: they are away, or refuse this client (kafka.security)"
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    return text or type(error).__name__


def client_security(security: KafkaSecurity, secret: Secrets | None = None) -> dict[str, Any]:
    """Keyword arguments of an aiokafka client. Reads files, so call it from where that may take its time.

    Args:
        security: As configured.
        secret: The value that a reference names, None when there is none.

    Raises:
        NotReady: If the password is not known or a file can't be used.
    """
    options: dict[str, Any] = {"security_protocol": security.protocol.upper()}
    if security.protocol.endswith("ssl"):
        try:
            context = ssl.create_default_context(cafile=security.ca_file)
            if security.certificate_file is not None:
                context.load_cert_chain(security.certificate_file, security.key_file)
        except (OSError, ValueError) as error:
            raise NotReady(f"the files of kafka.security can't be used: {error}") from None
        options["ssl_context"] = context
    if security.protocol.startswith("sasl"):
        password = secret(security.password) if secret is not None and security.password is not None else None
        if password is None:
            raise NotReady(f"the password of kafka.security, {security.password}, is not set")
        options |= {
            "sasl_mechanism": security.mechanism,
            "sasl_plain_username": security.username,
            "sasl_plain_password": password,
        }
    return options


async def ensure_topic(
    settings: KafkaSettings, topic: str, partitions: int, security: Mapping[str, Any]
) -> int:
    """How many partitions ``topic`` has; it is made with ``partitions`` when it is not there.

    Raises:
        KafkaError, OSError, TimeoutError: The brokers did not answer in time, or refused.
    """
    limit = settings.request_timeout_s
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(settings.brokers),
        client_id=settings.client_id,
        request_timeout_ms=int(limit * 1000),
        **security,
    )
    try:
        await asyncio.wait_for(admin.start(), limit)
        # Asked for all topics: a broker may make one that it is asked for, with one partition.
        if topic not in await asyncio.wait_for(admin.list_topics(), limit):
            brokers = (await asyncio.wait_for(admin.describe_cluster(), limit))["brokers"]
            new = NewTopic(topic, partitions, min(_REPLICAS, max(len(brokers), 1)))
            _raise(await asyncio.wait_for(admin.create_topics([new], int(limit * 1000)), limit))
            _log.info("made the Kafka topic %s with %d partitions", topic, partitions)
            return partitions
        (described,) = await asyncio.wait_for(admin.describe_topics([topic]), limit)
        return len(described["partitions"])
    finally:
        # Its client's own name is private; ``close`` is the same without a time limit.
        await _within(admin._client.close(), limit)


def _raise(response: Any) -> None:
    for _, code, *_ in response.topic_errors:
        error = for_code(code)
        # Another node was quicker; how many partitions it made is seen at the next look.
        if code and error is not TopicAlreadyExistsError:
            raise error


async def _within(closing: Any, limit_s: float) -> None:
    try:
        await asyncio.wait_for(closing, limit_s)
    except (KafkaError, OSError, TimeoutError) as error:
        _log.warning("closing a Kafka client failed: %r", error)
