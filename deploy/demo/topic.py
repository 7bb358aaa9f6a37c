"""What is in the Kafka topic: every record read once, told apart by the id in its CloudEvents headers."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from deploy.demo.stage import TOPIC

REQUEST = "llm_optimizer.request.v1"
RATINGS = ("llm_optimizer.feedback.v1", "llm_optimizer.feedback.joined.v1")


@dataclass(slots=True)
class Topic:
    """Reads on from where it was; ``ids`` are distinct event ids by type, ``records`` counts what was read."""

    bootstrap: str
    ids: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    records: Counter[str] = field(default_factory=Counter)
    _next: dict[int, int] = field(default_factory=dict)

    def read(self, timeout_s: float = 20.0) -> None:
        """Read to the present end.

        Raises:
            KafkaException: When the broker does not answer.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"demo-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        try:
            numbers = consumer.list_topics(TOPIC, timeout=timeout_s).topics[TOPIC].partitions
            consumer.assign([TopicPartition(TOPIC, number, self._next.get(number, 0)) for number in numbers])
            ended: set[int | None] = set()
            while len(ended) < len(numbers):
                message = consumer.poll(timeout_s)
                if message is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                error = message.error()
                if error is None:
                    self._keep(dict(message.headers() or ()))
                    self._next[message.partition() or 0] = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(error)
        finally:
            consumer.close()

    def ratings(self) -> int:
        """How many distinct ratings there are, as they were given or as they were joined."""
        return max(len(self.ids[kind]) for kind in RATINGS)

    def _keep(self, headers: Mapping[str, str | bytes | None]) -> None:
        kind, id_ = (_text(headers.get(name)) for name in ("ce_type", "ce_id"))
        self.ids[kind].add(id_)
        self.records[kind] += 1


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
