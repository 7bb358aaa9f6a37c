"""Records that nobody can use, in a topic of their own: as they came, with the reason in the headers."""

from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError

from optimizer.cluster.consuming import Incoming, end_producer, limited
from optimizer.settings import KafkaSettings
from optimizer.sinks.client import ensure_topic

REASON: Final = "dead_letter_reason"
TOPIC: Final = "dead_letter_topic"
PARTITION: Final = "dead_letter_partition"
OFFSET: Final = "dead_letter_offset"
CUT: Final = "dead_letter_cut_bytes"

_REASON_BYTES: Final = 1000
_ROOM_BYTES: Final = 64 * 1024
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)


class DeadLetters:
    """Writes dead letters; connects with the first one. ``close`` it."""

    def __init__(self, settings: KafkaSettings, security: Mapping[str, Any], record_bytes: int) -> None:
        self._settings = settings
        self._security = security
        self._record_bytes = record_bytes
        self._producer: AIOKafkaProducer | None = None

    async def put(self, topic: str, partition: int, record: Incoming, reason: str) -> None:
        """Write ``record``, which stood at ``topic``/``partition``; returns when the brokers have acknowledged it.

        One that is too large for the topic is written without its value, whose size is then in a header.

        Raises:
            KafkaError, OSError, TimeoutError: They did not, in time.
        """
        producer = self._producer or await self._connect()
        headers = [
            *record.headers,
            (REASON, reason.encode("utf-8", "replace")[:_REASON_BYTES]),
            (TOPIC, topic.encode()),
            (PARTITION, b"%d" % partition),
            (OFFSET, b"%d" % record.offset),
        ]
        try:
            await self._send(producer, record.key, record.value, headers)
        except _TOO_LARGE:
            headers.append((CUT, b"%d" % len(record.value)))
            await self._send(producer, record.key, b"", headers[len(record.headers) :])

    async def close(self) -> None:
        """End the connection, within a bounded time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await end_producer(producer)

    async def _send(
        self, producer: AIOKafkaProducer, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
    ) -> None:
        limit = 2 * self._settings.request_timeout_s
        sending = producer.send_and_wait(self._settings.dead_letter_topic, value, key=key, headers=headers)
        await limited(sending, limit)

    async def _connect(self) -> AIOKafkaProducer:
        limit = self._settings.request_timeout_s
        await ensure_topic(self._settings, self._settings.dead_letter_topic, 1, self._security)
        producer = AIOKafkaProducer(
            bootstrap_servers=list(self._settings.brokers),
            client_id=self._settings.client_id,
            acks="all",
            compression_type="gzip",
            max_request_size=self._record_bytes + _ROOM_BYTES,
            request_timeout_ms=int(limit * 1000),
            **self._security,
        )
        self._producer = producer
        await limited(producer.start(), limit)
        return producer
