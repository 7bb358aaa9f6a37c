"""Shipping the event log to a Kafka topic: at least once, with fixed event ids, whatever the broker does.

What goes out for a line says ``optimizer.cluster.outgoing``. The cursor moves only past records that the broker
acknowledged. Several batches are under way at once. Every call into aiokafka has a time limit here, because several of
them can wait for ever; a producer that failed is thrown away and a new one made, after a pause that grows and is drawn
at random; it sends again only what was not acknowledged.
"""

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from optimizer.cluster.outgoing import Splitter
from optimizer.durable import write_all
from optimizer.log.reader import LogReader
from optimizer.settings import KafkaSettings
from optimizer.sinks.base import CursorFile, SinkStats
from optimizer.sinks.batch import PackedBatch
from optimizer.sinks.client import NotReady, Secrets, TooEarly, client_security, ensure_topic, plain
from optimizer.sinks.shipment import Shipment
from optimizer.stopping import wait_for_stop

_log = logging.getLogger(__name__)

_DISCARD_STEP_S: Final = 0.02
_MOST_DEAD_BYTES: Final = 64 * 1024 * 1024
_LEAST_BATCH_BYTES: Final = 16 * 1024
_SHARDS: Final = 12


@dataclass(frozen=True, slots=True)
class KafkaTuning:
    """How a shipper works, as opposed to where it ships to. Seconds and bytes.

    ``idempotent`` lets the broker drop duplicates of retries within one producer. ``in_flight`` polls of the log, of
    ``batch_bytes`` each, are under way at most. ``idle_s`` is how often the log is looked at when nothing is new: a
    worker's report has to be at the broker within 80 ms. ``drain_s`` is how long what is there is shipped after being
    told to stop.
    """

    idempotent: bool = True
    batch_bytes: int = 256 * 1024
    max_request_bytes: int = 1024 * 1024
    in_flight: int = 8
    idle_s: float = 0.05
    retry_s: float = 0.1
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0
    save_every_s: float = 1.0
    drain_s: float = 4.0


@dataclass(frozen=True, slots=True)
class ClusterTopic:
    """Shipping as a node of a cluster. ``shards`` is their number, None as long as the database has not said it.

    ``partitions`` is what the topic gets when it has to be made.
    """

    shards: Callable[[], int | None]
    partitions: int = _SHARDS


class _Renew(Exception):
    """The broker turned a batch down, so that the producer's sequence numbers no longer fit: it needs a new one."""


class KafkaShipper:
    """Ships one node's log to one topic."""

    name = "kafka"

    def __init__(
        self,
        settings: KafkaSettings,
        reader: LogReader,
        *,
        cursor_file: Path,
        dead_letter_file: Path,
        secret: Secrets | None = None,
        cluster: ClusterTopic | None = None,
        tuning: KafkaTuning | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ship what ``reader`` finds after the cursor in ``cursor_file``.

        Args:
            settings: Brokers, topic, client id, security and the time limit of a call.
            reader: A reader of its own.
            cursor_file: Where the acknowledged cursor is kept. Whoever ships holds a lock on it.
            dead_letter_file: Where lines go that are no events, or that the broker will never take.
            secret: The value of a secret by its reference.
            cluster: As a node of a cluster; None on a node of its own.
            tuning: Defaults are for production.
            rng: Draws the pauses.
            clock: Monotonic seconds.
        """
        self.stats = SinkStats()
        self._settings = settings
        self._tuning = tuning or KafkaTuning()
        self._reader = reader
        self._cursor_file = CursorFile(cursor_file)
        self._dead_letter_file = dead_letter_file
        self._secret = secret
        self._cluster = cluster
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._clock = clock
        self._cursor: Mapping[str, tuple[int, int]] = self._cursor_file.load()
        self._saved: Mapping[str, tuple[int, int]] = dict(self._cursor)
        self._save_at = 0.0
        self._pause_s = self._tuning.first_pause_s
        self._said = ""
        """What was logged last of why nothing is shipped; empty while something is."""
        self._splitter: Splitter | None = None
        self._shipments: deque[Shipment] = deque()
        self._batch_bytes = min(self._tuning.batch_bytes, self._tuning.max_request_bytes)

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Up to where everything was acknowledged."""
        return self._cursor

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until ``stop`` is set, then what is there as far as time allows, or until the task is cancelled."""
        try:
            while not stop.is_set():
                try:
                    with self._cursor_file.hold():
                        self._begin()
                        await self._ship(stop)
                except BlockingIOError:
                    # A shipper with other settings is about to end.
                    await wait_for_stop(stop, self._tuning.first_pause_s)
                except OSError as error:
                    self._failed(error)
                    await wait_for_stop(stop, self._tuning.longest_pause_s)
        finally:
            self.stats.up = False

    def _begin(self) -> None:
        """Take up the cursor as whoever shipped before has left it."""
        self._cursor = self._cursor_file.load()
        self._saved = dict(self._cursor)
        self._shipments.clear()

    async def _ship(self, stop: asyncio.Event) -> None:
        """One producer after the other."""
        try:
            while not stop.is_set():
                try:
                    await self._session(stop)
                except _Renew:
                    continue
                except (KafkaError, OSError, TimeoutError, NotReady) as error:
                    self._failed(error)
                except Exception as error:  # noqa: BLE001 - aiokafka also lets assertion and value errors out
                    if self._failed(error):
                        _log.exception("unexpected error while shipping to Kafka")
                if not stop.is_set():
                    await wait_for_stop(stop, self._pause_s * self._rng.uniform(0.5, 1.0))
                    self._pause_s = min(self._pause_s * 2, self._tuning.longest_pause_s)
        finally:
            self._save()

    def _failed(self, error: BaseException) -> bool:
        """Count it; whether it is another one than before."""
        self.stats.up = False
        self.stats.errors += 1
        text = plain(error, self._settings)
        self._measure_lag()
        is_news = text != self._said
        if is_news:
            level = logging.INFO if isinstance(error, TooEarly) else logging.WARNING
            _log.log(level, "events wait on the disk and are not shipped to Kafka: %s", text)
        self._said = self.stats.last_error = text
        return is_news

    async def _session(self, stop: asyncio.Event) -> None:
        """One producer's life: until ``stop`` is set or anything fails."""
        limit = self._settings.request_timeout_s
        # In a thread, because it reads files.
        security = await asyncio.to_thread(client_security, self._settings.security, self._secret)
        shards = await self._shards(security)
        producer = self._make_producer(security)
        try:
            await asyncio.wait_for(producer.start(), limit)
            there = await self._partitions(producer)
            self._prepare(there if shards is None else shards)
            self.stats.up = True
            ends_at: float | None = None
            while True:
                # Before the log is looked at: what was written before is shipped.
                stopping = stop.is_set()
                if stopping:
                    ends_at = ends_at or self._clock() + self._tuning.drain_s
                    if self._clock() >= ends_at:
                        break
                if not await self._step(producer):
                    if stopping:
                        break
                    self.stats.lag_bytes = 0
                    await wait_for_stop(stop, self._tuning.idle_s)
        finally:
            await _discard(producer, limit)

    async def _partitions(self, producer: Any) -> int:
        """How many the topic has; brokers that may make it do so when they are asked."""
        topic = self._settings.topic
        try:
            asking = producer.partitions_for(topic)
            return len(await asyncio.wait_for(asking, self._settings.request_timeout_s))
        except TimeoutError:
            raise NotReady(f"no word of the topic {topic} in time: it may have to be made") from None

    async def _shards(self, security: Mapping[str, Any]) -> int | None:
        """How many partitions are used, None for as many as there are; in a cluster the topic is made if need be."""
        if self._cluster is None:
            return None
        topic = self._settings.topic
        there = await ensure_topic(self._settings, topic, self._cluster.partitions, security)
        shards = self._cluster.shards()
        if shards is None:
            raise TooEarly("the number of shards is not known yet")
        if there < shards:
            raise NotReady(f"the topic {topic} has {there} partitions, and the cluster has {shards} shards")
        return shards

    def _make_producer(self, security: Mapping[str, Any]) -> Any:
        tuning = self._tuning
        return AIOKafkaProducer(
            bootstrap_servers=list(self._settings.brokers),
            client_id=self._settings.client_id,
            acks="all",
            enable_idempotence=tuning.idempotent,
            retry_backoff_ms=int(tuning.retry_s * 1000),
            request_timeout_ms=int(self._settings.request_timeout_s * 1000),
            **security,
        )

    def _prepare(self, partitions: int) -> None:
        """What the last producer left is sent again, by the same partitions."""
        if self._splitter is None or self._splitter.partitions != partitions:
            self._splitter = Splitter(partitions, cluster=self._cluster is not None)
            self._shipments.clear()
        # They may have arrived, so these may arrive a second time.
        self.stats.retried += sum(shipment.send_again() for shipment in self._shipments)

    async def _step(self, producer: Any) -> bool:
        """Send what comes next, and take in what has arrived; False when nothing is under way or to be sent."""
        for shipment in self._shipments:
            await self._send(producer, shipment)
        more = len(self._shipments) < self._tuning.in_flight and await self._read_on(producer)
        if not self._shipments:
            await self._save_sometimes()
            return False
        waiting = self._shipments[0].waiting
        if waiting and not more:
            limit = 2 * self._settings.request_timeout_s
            _, late = await asyncio.wait(waiting, timeout=limit)
            if late:
                raise TimeoutError(f"{len(late)} batches were not acknowledged within {limit:g} s")
        self._take_in()
        await self._save_sometimes()
        return True

    async def _read_on(self, producer: Any) -> bool:
        """Poll the log once; whether there was anything."""
        before = self._shipments[-1].cursor if self._shipments else self._cursor
        batch = self._reader.poll(before, self._batch_bytes)
        if not batch.entries:
            if not self._shipments:
                self._cursor = batch.cursor
            return False
        assert self._splitter is not None
        shipment = Shipment(batch.cursor)
        shipment.fill(
            batch.entries,
            self._splitter,
            batch_bytes=self._batch_bytes,
            most_bytes=self._tuning.max_request_bytes,
        )
        self._shipments.append(shipment)
        await self._send(producer, shipment)
        return True

    async def _send(self, producer: Any, shipment: Shipment) -> None:
        """Hand over its batches; waits for room, as long as the broker may take."""
        while shipment.unsent:
            batch = shipment.unsent[0]
            packed = PackedBatch(batch, compression=self._settings.compression)
            sending = producer.send_batch(packed, self._settings.topic, partition=batch[0].partition)
            future = await asyncio.wait_for(sending, 2 * self._settings.request_timeout_s)
            future.add_done_callback(_retrieve)
            shipment.sent(batch, future)

    def _take_in(self) -> None:
        """Move the cursor past what is acknowledged from its place on without a gap."""
        refused = False
        failures: list[BaseException] = []
        for shipment in self._shipments:
            refused |= shipment.collect(self.stats, MessageSizeTooLargeError, failures)
        while self._shipments and not self._shipments[0].records:
            first = self._shipments[0]
            self._put_aside(first.put_aside)
            first.put_aside = []
            self._cursor = first.cursor
            self._shipments.popleft()
            self._pause_s = self._tuning.first_pause_s
            if self._said:
                self._said = ""
                _log.info("events are shipped to Kafka at %s", ",".join(self._settings.brokers))
        if refused:
            # The batches behind a refused one fail as well, which says nothing about the broker.
            self._batch_bytes = max(self._batch_bytes // 2, _LEAST_BATCH_BYTES)
            raise _Renew
        if failures:
            raise failures[0]

    def _put_aside(self, lines: Sequence[bytes]) -> None:
        """Into a file of a bounded size, which has one predecessor."""
        if not lines:
            return
        file = self._dead_letter_file
        _log.error("%d lines can not be shipped to Kafka; see %s", len(lines), file)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            write_all(descriptor, b"".join([line + b"\n" for line in lines]))
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        self.stats.dead_lettered += len(lines)
        if size > _MOST_DEAD_BYTES:
            file.replace(file.with_name(f"{file.name}.old"))

    async def _save_sometimes(self) -> None:
        if self._clock() >= self._save_at:
            self._save_at = self._clock() + self._tuning.save_every_s
            # In a thread, because it waits for the disk.
            await asyncio.to_thread(self._save)
            if self._shipments:
                self._measure_lag()

    def _save(self) -> None:
        cursor = dict(self._cursor)
        if cursor == self._saved:
            return
        try:
            self._cursor_file.save(cursor)
            self._saved = cursor
        except OSError as error:
            # Only duplicates can come of it.
            _log.warning("cannot save the shipping cursor: %s", error)

    def _measure_lag(self) -> None:
        self.stats.lag_bytes = self._reader.lag_bytes(self._cursor)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Look at an outcome that nobody waits for any more, or asyncio would report it as forgotten."""
    if not future.cancelled():
        future.exception()


async def _discard(producer: Any, limit_s: float) -> None:
    """Take a producer apart, within ``limit_s`` per step.

    Its own ``stop`` waits until every batch is delivered, which with a dead broker is for ever; so the parts are ended
    one by one, by names that aiokafka keeps private. Nothing is lost by it: what was not acknowledged is in the log.
    """
    producer._closed = True
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
    try:
        await asyncio.wait_for(producer.client.close(), limit_s)
    except (KafkaError, OSError, TimeoutError) as error:
        _log.warning("closing a Kafka client failed: %r", error)
    deadline = time.monotonic() + limit_s
    while sender is not None and not sender.done() and time.monotonic() < deadline:
        # Requests that were cut off now wait for fresh metadata, which a closed client never gets.
        metadata = producer.client._md_update_fut
        if metadata is not None:
            metadata.cancel()
        await asyncio.wait({sender}, timeout=_DISCARD_STEP_S)
