"""Shipping the event log to a Kafka topic: at least once, with fixed event ids, whatever the broker does.

The value of a record is the log line, which is a structured CloudEvent; its attributes stand in ``ce_``
headers too. The key is the event's route, so that one partition holds all of a route. The cursor moves only
past records that the broker acknowledged. Every call into aiokafka has a time limit here, because several
of them can wait for ever; a producer that failed is thrown away and a new one made, after a pause that
grows and is drawn at random.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from optimizer.durable import write_all
from optimizer.log.reader import Entry, LogReader
from optimizer.settings import KafkaSettings
from optimizer.sinks.base import CursorFile, SinkStats

_log = logging.getLogger(__name__)

_CONTENT_TYPE: Final = ("content-type", b"application/cloudevents+json; charset=UTF-8")
_DISCARD_STEP_S: Final = 0.02
_CE_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "time")


@dataclass(frozen=True, slots=True)
class KafkaTuning:
    """How a shipper works, as opposed to where it ships to. Seconds and bytes.

    ``idempotent`` lets the broker drop duplicates of retries within one producer. ``compression`` is one of
    aiokafka's; gzip is the only one that needs no further library.
    """

    idempotent: bool = True
    compression: str | None = "gzip"
    linger_s: float = 0.02
    batch_bytes: int = 256 * 1024
    max_request_bytes: int = 1024 * 1024
    idle_s: float = 0.2
    retry_s: float = 0.5
    first_pause_s: float = 0.2
    longest_pause_s: float = 30.0
    save_every_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _Record:
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


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
        tuning: KafkaTuning | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ship what ``reader`` finds after the cursor in ``cursor_file``.

        Args:
            settings: Brokers, topic, client id and the time limit of a call.
            reader: A reader of its own.
            cursor_file: Where the acknowledged cursor is kept.
            dead_letter_file: Where events go that the broker will never take, because they are too large.
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
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._clock = clock
        self._cursor = self._cursor_file.load()
        self._saved: Mapping[str, tuple[int, int]] = dict(self._cursor)
        self._save_at = 0.0
        self._pause_s = self._tuning.first_pause_s
        self._in_doubt = 0

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Up to where everything was acknowledged."""
        return self._cursor

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until ``stop`` is set, finishing the batch at hand, or until the task is cancelled."""
        try:
            while not stop.is_set():
                try:
                    await self._session(stop)
                except (KafkaError, OSError, TimeoutError) as error:
                    self._failed(error)
                except Exception as error:  # noqa: BLE001 - aiokafka also lets assertion and value errors out
                    self._failed(error)
                    _log.exception("unexpected error while shipping to Kafka")
                if not stop.is_set():
                    await _wait(stop, self._pause_s * self._rng.uniform(0.5, 1.0))
                    self._pause_s = min(self._pause_s * 2, self._tuning.longest_pause_s)
        finally:
            self.stats.up = False
            self._save()

    def _failed(self, error: BaseException) -> None:
        self.stats.up = False
        self.stats.errors += 1
        self.stats.last_error = repr(error)
        self._measure_lag()
        _log.warning("shipping to Kafka at %s failed: %r", ",".join(self._settings.brokers), error)

    async def _session(self, stop: asyncio.Event) -> None:
        """One producer's life: until ``stop`` is set or anything fails."""
        producer = self._make_producer()
        limit = self._settings.request_timeout_s
        try:
            await asyncio.wait_for(producer.start(), limit)
            self.stats.up = True
            while not stop.is_set():
                if not await self._ship_batch(producer):
                    await self._save_sometimes()
                    self._measure_lag()
                    await _wait(stop, self._tuning.idle_s)
        finally:
            await _discard(producer, limit)

    def _make_producer(self) -> Any:
        tuning = self._tuning
        return AIOKafkaProducer(
            bootstrap_servers=list(self._settings.brokers),
            client_id=self._settings.client_id,
            acks="all",
            enable_idempotence=tuning.idempotent,
            compression_type=tuning.compression,
            linger_ms=int(tuning.linger_s * 1000),
            max_batch_size=min(tuning.batch_bytes, tuning.max_request_bytes),
            max_request_size=tuning.max_request_bytes,
            retry_backoff_ms=int(tuning.retry_s * 1000),
            request_timeout_ms=int(self._settings.request_timeout_s * 1000),
        )

    async def _ship_batch(self, producer: Any) -> bool:
        """Send what comes next and wait for its acknowledgement; False when there was nothing."""
        batch = self._reader.poll(self._cursor, self._tuning.batch_bytes)
        if batch.entries:
            # Sent before without an answer, so these may arrive a second time.
            self.stats.retried += min(self._in_doubt, len(batch.entries))
            self._in_doubt = 0
            await self._deliver(producer, [_record(entry) for entry in batch.entries])
            self._pause_s = self._tuning.first_pause_s
        self._cursor = batch.cursor
        await self._save_sometimes()
        return bool(batch.entries)

    async def _deliver(self, producer: Any, records: Sequence[_Record]) -> None:
        """Return when every record is acknowledged or put aside as too large; raise when the broker fails."""
        limit = self._settings.request_timeout_s
        sent: list[tuple[_Record, asyncio.Future[Any]]] = []
        too_large: list[_Record] = []
        try:
            # One limit for all: a limit per record would cost a task per record.
            await asyncio.wait_for(self._send(producer, records, sent, too_large), 2 * limit)
            if sent:
                _, waiting = await asyncio.wait([future for _, future in sent], timeout=2 * limit)
                if waiting:
                    raise TimeoutError(f"{len(waiting)} records were not acknowledged within {2 * limit:g} s")
        finally:
            self._in_doubt = len(sent)
        errors = [(record, future.exception()) for record, future in sent]
        for _, error in errors:
            if error is not None and not isinstance(error, MessageSizeTooLargeError):
                raise error
        rejected = [record for record, error in errors if error is not None]
        self.stats.delivered += len(sent) - len(rejected)
        # The broker turned down a whole batch; sent alone, only the culprit is.
        too_large += [record for record in rejected if not await self._deliver_alone(producer, record)]
        self._in_doubt = 0
        self._put_aside(too_large)

    async def _send(
        self,
        producer: Any,
        records: Sequence[_Record],
        sent: list[tuple[_Record, asyncio.Future[Any]]],
        too_large: list[_Record],
    ) -> None:
        for record in records:
            try:
                future = await producer.send(
                    self._settings.topic, record.value, key=record.key, headers=record.headers
                )
            except MessageSizeTooLargeError:
                too_large.append(record)
            else:
                future.add_done_callback(_retrieve)
                sent.append((record, future))

    async def _deliver_alone(self, producer: Any, record: _Record) -> bool:
        send = producer.send_and_wait(
            self._settings.topic, record.value, key=record.key, headers=record.headers
        )
        try:
            await asyncio.wait_for(send, 2 * self._settings.request_timeout_s)
        except MessageSizeTooLargeError:
            return False
        self.stats.delivered += 1
        return True

    def _put_aside(self, records: Sequence[_Record]) -> None:
        if not records:
            return
        self.stats.dead_lettered += len(records)
        _log.error("%d events are too large for Kafka; see %s", len(records), self._dead_letter_file)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._dead_letter_file, flags, 0o600)
        try:
            write_all(descriptor, b"".join([record.value + b"\n" for record in records]))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def _save_sometimes(self) -> None:
        if self._clock() >= self._save_at:
            self._save_at = self._clock() + self._tuning.save_every_s
            # In a thread, because it waits for the disk.
            await asyncio.to_thread(self._save)

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


def _record(entry: Entry) -> _Record:
    """The record of one log line; one that is no event is shipped bare, so that nothing is held up."""
    try:
        event = orjson.loads(entry.line)
    except ValueError:
        event = {}
    data = event.get("data")
    route = data.get("route") if isinstance(data, dict) else None
    headers = [_CONTENT_TYPE]
    headers += [
        (f"ce_{name}", value.encode()) for name in _CE_ATTRIBUTES if isinstance(value := event.get(name), str)
    ]
    return _Record(route.encode() if isinstance(route, str) else b"", entry.line, headers)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Look at an outcome that nobody waits for any more, or asyncio would report it as forgotten."""
    if not future.cancelled():
        future.exception()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Until ``stop`` is set, at most ``seconds``."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


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
