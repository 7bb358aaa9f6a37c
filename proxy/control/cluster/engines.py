"""The clients of Kafka and Redis that a node of a cluster has, made together and ended together.

None of them is needed to start, and none is waited for by a request.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from optimizer.cluster.earlier import Beginnings
from optimizer.cluster.exchange import RedisExchange
from optimizer.cluster.forwarding import Forwarder, Receiver
from optimizer.cluster.membership import GroupListener, GroupMember
from optimizer.cluster.redis_link import RedisLink
from optimizer.ids import verify
from optimizer.learner import LearnerLimits
from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.settings import Settings
from optimizer.sinks.base import Sink
from proxy.control.cluster.facts import EngineFacts
from proxy.control.journal import Journal
from proxy.control.tasks import Tasks

MOST_UNSHIPPED_BYTES: Final = 4 * 1024 * 1024
"""With more than this on its way nobody else knows what this node's workers see."""


class Engines:
    """See the module.

    Args:
        state: The node's state directory.
        settings: Its configuration.
        links: To Redis; all are closed in the end, the first is for what is done here.
        security: How to speak to Kafka: keyword arguments of an aiokafka client.
        journal: Gets the feedback that other nodes hand over.
        now: Unix seconds.

    Attributes:
        shipper: What ships this node's log at present; None before it runs.
        member: This node in the consumer group; None before it has begun.
        beginnings: What partitions had before an owner's copy begins.
    """

    def __init__(
        self,
        state: StateDirectory,
        settings: Settings,
        *,
        links: Sequence[RedisLink],
        security: Callable[[], Mapping[str, Any]],
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self.link, *_ = links
        self._links = links
        link = self.link
        self.exchange = RedisExchange(link)
        assert settings.kafka is not None
        self.beginnings = Beginnings(settings.kafka, security=security)
        self.shipper: Sink | None = None
        self.member: GroupMember | None = None
        self._settings = settings
        self._security = security
        self._now = now
        known = partial(verify, key=state.id_key)
        self.forwarder = Forwarder(
            link,
            LogReader(state.log_directory),
            node=state.node,
            verify=known,
            cursor_file=state.forwarded_cursor_file,
            late_window_s=LearnerLimits().late_window_s,
            clock=now,
        )
        self.receiver = Receiver(
            link,
            node=state.node,
            verify=known,
            journal=journal.write,
        )
        self._stop = asyncio.Event()
        self._seen: dict[str, tuple[bool | None, float]] = {}

    @property
    def partitions(self) -> int | None:
        """How many partitions the topic has; None while nobody could tell."""
        return self.member.partitions if self.member is not None else None

    @property
    def ships(self) -> bool:
        """Whether what this node's workers report reaches the owners of their routes."""
        sink = self.shipper
        return sink is not None and sink.stats.up and sink.stats.lag_bytes < MOST_UNSHIPPED_BYTES

    def heard_at(self) -> float:
        """When the group was heard of last, Unix seconds; what nodes report is read as long as it is."""
        return self._now() if self.member is not None and self.member.up else 0.0

    def end_of(self, shard: int, position: int) -> int | None:
        """The first offset after everything that a partition holds now, read up to ``position``."""
        lag = self.member.lag.get(shard) if self.member is not None else None
        return position + lag if lag is not None else None

    def spawn(self, tasks: Tasks, listener: GroupListener, shards: Callable[[], int | None]) -> None:
        """Begin to be a member of the group, and to hand feedback over."""
        kafka = self._settings.kafka
        assert kafka is not None
        self.member = GroupMember(kafka, listener=listener, shards=shards, security=self._security)
        tasks.spawn("group", partial(self.member.run, self._stop))
        tasks.spawn("feedback-out", partial(self.forwarder.run, self._stop))
        tasks.spawn("feedback-in", partial(self.receiver.run, self._stop))

    def stop(self) -> None:
        """Ask everything to end; the tasks are ended by whoever has them."""
        self._stop.set()

    async def close(self) -> None:
        """Let go of Redis."""
        for link in self._links:
            await link.close()

    def facts(self, *, database_up: bool, database_error: str) -> Mapping[str, EngineFacts]:
        """How the three engines are."""
        member = self.member
        kafka_up = member.up if member is not None else None
        return {
            "kafka": self._engine(
                "kafka", kafka_up, member.last_error if member else "", member.errors if member else 0
            ),
            "redis": self._engine("redis", self.link.up, self.link.last_error, self.link.counts.failures),
            "postgresql": self._engine("postgresql", database_up, database_error, 0),
        }

    def _engine(self, name: str, up: bool | None, error: str, errors: int) -> EngineFacts:
        known = self._seen.get(name)
        if known is None or known[0] != up:
            known = self._seen[name] = (up, self._now())
        return EngineFacts(up=up, error=error, since=known[1], errors=errors)
