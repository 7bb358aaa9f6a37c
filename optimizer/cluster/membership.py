"""Being a member of the consumer group, which is how the nodes elect the owner of each shard.

Kafka's group hands partitions out; it can't take them back from a member that no longer hears it. So a member that
had no answer to a heartbeat for nearly a session takes its shards for lost and says so, and what it writes in the
instant before that carries a tenure's number that nobody accepts any more.

Offsets are not committed: the position in a partition is saved with what was learned from it, and the listener says
what it wants next.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from optimizer.cluster.consuming import (
    FAILURES,
    Pauses,
    Security,
    end_consumer,
    fetching_error,
    limited,
    make_consumer,
    require_topic,
    security_of,
    until,
)
from optimizer.cluster.lanes import Lanes, Learners
from optimizer.settings import KafkaSettings
from optimizer.sinks.client import plain
from optimizer.stopping import wait_for_stop

_log = logging.getLogger(__name__)

_NEARLY: Final = 0.9
_WATCH_S: Final = 0.1


class GroupListener(Learners, Protocol):
    """Who learns the shards. All of it is called from one task, never two at a time.

    The coroutines return soon (the group is waiting): what takes long is begun in a task of the listener's own, during
    which ``position`` is None. A call may be repeated.
    """

    async def assigned(self, shards: frozenset[int]) -> None:
        """This is the complete new set of shards; what left it was named in ``revoked`` before."""
        ...

    async def revoked(self, shards: frozenset[int]) -> None:
        """These belong to somebody else now, or may soon: stop at once."""
        ...


@dataclass(frozen=True, slots=True)
class GroupTuning:
    """How a member works, as opposed to what it reads. Seconds, bytes and records.

    ``rebalance_s`` is how long a group waits for its members when it hands out anew; within ``session_s``, or members
    that wait for a dead one take their own shards for lost. ``deliver_bytes`` bounds one ``deliver``, and at least one
    record is in it.
    """

    session_s: float = 10.0
    heartbeat_s: float = 3.0
    rebalance_s: float = 8.0
    fetch_wait_s: float = 0.1
    fetch_bytes: int = 8 * 1024 * 1024
    partition_bytes: int = 1024 * 1024
    poll_records: int = 2000
    deliver_bytes: int = 1024 * 1024
    poll_s: float = 0.1
    metadata_s: float = 30.0
    listener_s: float = 10.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0


class _Lost(Exception):
    """The group goes on without us, as far as we can know."""


@dataclass(slots=True)
class _Seat:
    """What the group says, as its callbacks heard it: the shards handed out, when we last knew to be a member."""

    shards: frozenset[int] = frozenset()
    number: int = 0
    """Of the assignment, counted here; changes with every one."""
    rebalancing: bool = True
    heard_at: float = 0.0
    over: bool = False
    lanes: Lanes | None = None


class GroupMember:
    """One node's membership. ``up`` and ``last_error`` say how it is; ``errors`` counts failed sessions."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        listener: GroupListener,
        shards: int | Callable[[], int | None],
        topic: str | None = None,
        security: Security | None = None,
        tuning: GroupTuning | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Be in ``settings.group_id`` for ``topic`` (default ``settings.topic``).

        Args:
            settings: Brokers, topic, group and the time limit of a call.
            listener: Who learns.
            shards: How many partitions count; those above are nobody's. None: not known yet, so nothing is assigned.
            topic: What to read.
            security: How to speak to the brokers; None is in the clear.
            tuning: Defaults are for production.
            clock: Monotonic seconds.
            rng: Draws the pauses.
        """
        self.up = False
        self.last_error = ""
        self.errors = 0
        self._settings = settings
        self._listener = listener
        self._shards = shards if callable(shards) else lambda: shards
        self._topic = topic or settings.topic
        self._security = security
        self._tuning = tuning or GroupTuning()
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._pauses = Pauses(self._tuning.first_pause_s, self._tuning.longest_pause_s, self._rng)
        self._assignor = _assignor(self._topic, self._shards)
        self._seat = _Seat()
        self._told: frozenset[int] = frozenset()
        self._generation: int | None = None
        self._partitions: int | None = None
        self._warned: int | None = None

    @property
    def partitions(self) -> int | None:
        """How many partitions the topic has as far as is known."""
        return self._partitions

    @property
    def generation(self) -> int | None:
        """Kafka's number of the present assignment, None outside of the group. For people; fences are elsewhere."""
        return self._generation

    @property
    def owned(self) -> frozenset[int]:
        """What the listener was told last."""
        return self._told

    @property
    def lag(self) -> Mapping[int, int]:
        """Records between the listener's position and the end, of each owned shard where it is known."""
        lanes = self._seat.lanes
        return {} if lanes is None else lanes.lag

    async def run(self, stop: asyncio.Event) -> None:
        """Be a member until ``stop`` is set, however often the brokers go away; leaves the group at the end."""
        while not stop.is_set():
            try:
                await self._session(stop)
            except (*FAILURES, _Lost) as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - aiokafka also lets assertion and value errors out
                if self._failed(error):
                    _log.exception("unexpected error in the consumer group %s", self._settings.group_id)
            await wait_for_stop(stop, self._pauses.take())

    def _failed(self, error: BaseException) -> bool:
        """Count it; whether it is another one than before."""
        self.errors += 1
        text = plain(error, self._settings)
        is_news = text != self.last_error
        if is_news:
            _log.warning("consumer group %s: %s", self._settings.group_id, text)
        self.last_error = text
        return is_news

    async def _session(self, stop: asyncio.Event) -> None:
        """One consumer's life: until ``stop`` is set, or anything fails, or we may have lost our shards."""
        tuning = self._tuning
        joining_s = self._settings.request_timeout_s + tuning.session_s + tuning.rebalance_s
        self._seat = seat = _Seat(number=self._seat.number)
        security = await security_of(self._security)
        consumer = self._make_consumer(security)
        try:
            if not await until(stop, self._start(consumer, seat, security), limit_s=joining_s):
                return
            seat.heard_at = self._clock()
            self._listen_to_heartbeats(consumer, seat)
            await until(stop, self._work(consumer, seat), self._watch(consumer, seat))
        finally:
            seat.over = True
            self.up = False
            self._generation = None
            try:
                await self._let_go()
            finally:
                await end_consumer(consumer)
                self._seat = _Seat(number=seat.number)

    async def _start(self, consumer: AIOKafkaConsumer, seat: _Seat, security: Mapping[str, Any]) -> None:
        await require_topic(self._settings, self._topic, security)
        consumer.subscribe([self._topic], listener=_Callbacks(self, consumer, seat))
        await consumer.start()

    def _make_consumer(self, security: Mapping[str, Any]) -> AIOKafkaConsumer:
        tuning = self._tuning
        return make_consumer(
            self._settings,
            security,
            group=self._settings.group_id,
            partition_assignment_strategy=(self._assignor,),
            # The answer to a join comes when all members have joined, or rebalance_s is over.
            request_timeout_ms=int(max(self._settings.request_timeout_s, tuning.rebalance_s + 2) * 1000),
            session_timeout_ms=int(tuning.session_s * 1000),
            heartbeat_interval_ms=int(tuning.heartbeat_s * 1000),
            rebalance_timeout_ms=int(tuning.rebalance_s * 1000),
            metadata_max_age_ms=int(tuning.metadata_s * 1000),
            fetch_max_wait_ms=int(tuning.fetch_wait_s * 1000),
            fetch_min_bytes=1,
            fetch_max_bytes=tuning.fetch_bytes,
            max_partition_fetch_bytes=tuning.partition_bytes,
            auto_offset_reset="earliest",  # seen in the offsets of what comes, and told as a gap
        )

    def _listen_to_heartbeats(self, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        """Note when a heartbeat that was answered had been sent; aiokafka keeps that to itself."""
        coordinator = consumer._coordinator
        send = coordinator._do_heartbeat

        async def noted() -> Any:
            sent_at = self._clock()
            heard = await send()
            if heard:
                seat.heard_at = max(seat.heard_at, sent_at)
            return heard

        coordinator._do_heartbeat = noted

    def _prepare(self, consumer: AIOKafkaConsumer, seat: _Seat, partitions: Iterable[TopicPartition]) -> None:
        """The group has handed out: nothing is fetched before the listener has said from where."""
        partitions = [item for item in partitions if item.topic == self._topic]
        for partition in partitions:
            consumer.pause(partition)
            consumer.seek(partition, 0)
        self._generation = self._assignor.generation = consumer._coordinator.generation
        seat.shards = frozenset(item.partition for item in partitions)
        seat.number += 1
        seat.lanes = None
        seat.heard_at = self._clock()
        seat.rebalancing = False
        self.up = True

    async def _watch(self, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        """Raise when the session is no good any more; beside the work, which may hang in a call."""
        while True:
            self._check(consumer, seat)
            await asyncio.sleep(_WATCH_S)

    def _check(self, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        silent_s = self._clock() - seat.heard_at
        if silent_s > self._tuning.session_s * _NEARLY:
            raise _Lost(
                f"no word from the group's coordinator for {silent_s:.1f} s: its shards may be others' now"
            )
        if self._told and consumer._coordinator.generation <= 0:
            raise _Lost("the group's coordinator took us for dead")
        error = fetching_error(consumer)
        if error is not None:
            raise error

    async def _work(self, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        poll_s = self._tuning.poll_s
        while not seat.over:
            self._count_partitions(consumer)
            if seat.lanes is None and not seat.rebalancing:
                await self._tell(consumer, seat)
            lanes = seat.lanes
            if lanes is None or seat.rebalancing:
                await asyncio.sleep(poll_s / 2)
                continue
            await lanes.place()
            if seat.rebalancing:
                continue  # getmany would wait for its end
            found = await lanes.poll(poll_s, self._tuning.poll_records)
            for partition, records in found.items():
                self._check(consumer, seat)  # the process may have slept since they were fetched
                await lanes.take(partition.partition, records)
            self.last_error = lanes.last_error

    async def _tell(self, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        """Tell the listener what it owns now, as soon as it is known how many shards there are."""
        number, shards = seat.number, self._shards()
        if shards is None:
            return
        wanted = frozenset(shard for shard in seat.shards if shard < shards)
        limit = self._tuning.listener_s
        gone = self._told - wanted
        if gone:
            await limited(self._listener.revoked(gone), limit)
            self._told -= gone
        if wanted != self._told:
            self._told = wanted  # before the call: what was begun must be ended, whatever becomes of it
            await limited(self._listener.assigned(wanted), limit)
        if seat.number != number:
            return
        self._pauses.reset()
        seat.lanes = Lanes(
            consumer,
            self._listener,
            [TopicPartition(self._topic, shard) for shard in sorted(wanted)],
            limit_s=self._settings.request_timeout_s,
            patience_s=self._tuning.session_s,
            slice_bytes=self._tuning.deliver_bytes,
            current=lambda: seat.number == number and not seat.rebalancing and not seat.over,
            clock=self._clock,
            rng=self._rng,
        )

    async def _let_go(self) -> None:
        """Tell the listener that nothing is its own any more."""
        gone, self._told = self._told, frozenset()
        if not gone:
            return
        try:
            await limited(self._listener.revoked(gone), self._tuning.listener_s)
        except Exception:  # noqa: BLE001 - the session ends in any case
            _log.exception("the owner of the shards %s could not let go", sorted(gone))

    def _count_partitions(self, consumer: AIOKafkaConsumer) -> None:
        found = consumer.partitions_for_topic(self._topic)
        if not found:
            return
        self._partitions = len(found)
        shards = self._shards()
        if shards is not None and self._partitions not in (shards, self._warned):
            self._warned = self._partitions
            _log.error(
                "the topic %s has %d partitions, the cluster has %d shards: %s",
                self._topic,
                self._partitions,
                shards,
                "the others are ignored" if self._partitions > shards else "some have no owner",
            )


class _Callbacks(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what the group says; the group waits for these, so nothing is done here."""

    def __init__(self, member: GroupMember, consumer: AIOKafkaConsumer, seat: _Seat) -> None:
        self._member = member
        self._consumer = consumer
        self._seat = seat

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Everybody gives everything back before it is handed out anew, and most get back what they had."""
        self._seat.rebalancing = True

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._member._prepare(self._consumer, self._seat, assigned)


class _Limited:
    """The cluster's metadata as an assignor sees it, without the partitions that are no shards."""

    def __init__(self, cluster: Any, topic: str, shards: int) -> None:
        self._cluster = cluster
        self._topic = topic
        self._shards = shards

    def topics(self) -> Iterable[str]:
        return [self._topic]

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        found = self._cluster.partitions_for_topic(topic)
        return found and {partition for partition in found if partition < self._shards}


def _assignor(topic: str, shards: Callable[[], int | None]) -> Any:
    """A sticky assignor of its own, which shares out shards only.

    aiokafka's keeps what it remembers on the class, where all members of a process would meet. Partitions that are no
    shards would count as load, and leave one node with all that matters.
    """

    class Sticky(StickyPartitionAssignor):  # type: ignore[misc]
        @classmethod
        def assign(cls, cluster: Any, members: Any) -> Any:
            count = shards()
            return super().assign(cluster if count is None else _Limited(cluster, topic, count), members)

    return Sticky
