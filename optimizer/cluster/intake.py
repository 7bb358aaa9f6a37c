"""Ratings that other systems write to Kafka: checked, logged like any other, or put aside with the reason.

An offset is committed after everything before it was logged or its dead letter acknowledged, never sooner; the ids of
ratings are made of what they say, so a record that comes again teaches nothing twice. One node needs no cluster for it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener

from optimizer import events
from optimizer.cluster.consuming import (
    FAILURES,
    Incoming,
    Pauses,
    Security,
    end_consumer,
    fetching_error,
    incoming,
    limited,
    make_consumer,
    require_topic,
    security_of,
    until,
)
from optimizer.cluster.dead_letters import REASON, DeadLetters
from optimizer.feedback import FeedbackProblem, parse_feedback, to_event
from optimizer.settings import KafkaSettings
from optimizer.sinks.client import plain
from optimizer.stopping import wait_for_stop

_log = logging.getLogger(__name__)

_OURS: Final = "llm_optimizer."
_TYPE_HEADER: Final = "ce_type"
_STEP: Final = 200
_RECORD_BYTES: Final = 1024 * 1024
_WATCH_S: Final = 0.5
_ASK_S: Final = 5.0
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

Rating = tuple[str, dict[str, Any]]
"""Id and ``data`` of a ``feedback.v1`` event."""


class UnknownResponse(FeedbackProblem):
    """A response id that no request of this node has got."""

    def __init__(self, index: int, response_id: str) -> None:
        super().__init__(
            f"feedback[{index}].response_id",
            "is not known (any more); name the request: x-llm-optimizer-request-id of the answer",
        )
        self.response_id = response_id


@dataclass(frozen=True, slots=True)
class IntakeTuning:
    """How the intake works. Seconds, bytes and records; a record of more than ``record_bytes`` is put aside."""

    record_bytes: int = _RECORD_BYTES
    fetch_bytes: int = 8 * 1024 * 1024
    partition_bytes: int = 1024 * 1024
    poll_records: int = 500
    poll_s: float = 0.2
    session_s: float = 10.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0


@dataclass(frozen=True, slots=True)
class RatingRules:
    """What makes a record ratings, without any IO.

    ``verify`` says whether a request id is one that this cluster gave out. ``resolve`` gives the request id of a
    provider's response id, None when it is not known; without it ratings of response ids are refused.
    """

    verify: Callable[[str], bool]
    resolve: Callable[[str], str | None] | None = None
    record_bytes: int = _RECORD_BYTES

    def read(self, record: Incoming, known: Mapping[str, str] = _NONE) -> list[Rating] | None:
        """The ratings of a record, in its order; None when it is none: an event of ours, a dead letter, a tombstone.

        Args:
            record: What came.
            known: Request ids by response ids that ``resolve`` does not know.

        Raises:
            UnknownResponse: It names one that is in neither.
            FeedbackProblem: It is no rating that can be taken; nothing of the record counts then.
        """
        if not record.value or _is_marked(record.headers):
            return None
        if len(record.value) > self.record_bytes:
            raise FeedbackProblem("", f"has {len(record.value)} bytes, the limit is {self.record_bytes}")
        try:
            doc = orjson.loads(record.value)
        except orjson.JSONDecodeError as error:
            raise FeedbackProblem("", f"is not valid JSON: {error}") from error
        if isinstance(doc, dict) and "specversion" in doc and str(doc.get("type", "")).startswith(_OURS):
            return None
        items = parse_feedback(doc)
        return [
            to_event(item, request_id=self._request(item.request_id, item.response_id, index, known))
            for index, item in enumerate(items)
        ]

    def _request(
        self, request_id: str | None, response_id: str | None, index: int, known: Mapping[str, str]
    ) -> str:
        if request_id is None:
            response_id = response_id or ""
            found = self.resolve(response_id) if self.resolve and response_id else None
            request_id = found or known.get(response_id)
            if request_id is None:
                raise UnknownResponse(index, response_id)
        if not self.verify(request_id):
            raise FeedbackProblem(f"feedback[{index}].request_id", "is not an id that this proxy gave out")
        return request_id


class FeedbackIntake:
    """Reads one topic in a consumer group of its own, ``<group_id>-feedback``.

    ``accepted`` counts ratings that were logged, ``ignored`` records that are none, ``dead_lettered`` records that were
    put aside; ``up``, ``errors`` and ``last_error`` say how the connection is.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        journal: Callable[[str, Mapping[str, Any], str], bool],
        verify: Callable[[str], bool],
        resolve: Callable[[str], str | None] | None = None,
        ask: Callable[[str], Awaitable[str | None]] | None = None,
        security: Security | None = None,
        tuning: IntakeTuning | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Read ``settings.feedback_topic``, or ``settings.topic``; bad records go to ``settings.dead_letter_topic``.

        Args:
            settings: Brokers, topics, group and the time limit of a call.
            journal: Appends an event to the node's log: type, data, id. False: it is known to be lost; tried again.
            verify: See ``RatingRules``.
            resolve: See ``RatingRules``.
            ask: The request id of a response id that ``resolve`` does not know, which may take a moment.
            security: How to speak to the brokers; None is in the clear.
            tuning: Defaults are for production.
            clock: Monotonic seconds.
            rng: Draws the pauses.
        """
        self.accepted = 0
        self.ignored = 0
        self.dead_lettered = 0
        self.up = False
        self.errors = 0
        self.last_error = ""
        self._settings = settings
        self._topic = settings.feedback_topic or settings.topic
        self._group = f"{settings.group_id}-feedback"
        self._journal = journal
        self._security = security
        self._tuning = tuning or IntakeTuning()
        self._ask = ask
        self._rules = RatingRules(verify, resolve, self._tuning.record_bytes)
        self._clock = clock
        rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._pauses = Pauses(self._tuning.first_pause_s, self._tuning.longest_pause_s, rng)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until ``stop`` is set, however often the brokers go away."""
        while not stop.is_set():
            try:
                await self._session(stop)
            except FAILURES as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - aiokafka also lets assertion and value errors out
                if self._failed(error):
                    _log.exception("unexpected error while reading ratings from Kafka")
            await wait_for_stop(stop, self._pauses.take())

    def _failed(self, error: BaseException) -> bool:
        """Count it; whether it is another one than before."""
        self.errors += 1
        text = plain(error, self._settings)
        is_news = text != self.last_error
        if is_news:
            _log.warning("ratings from Kafka's topic %s: %s", self._topic, text)
        self.last_error = text
        return is_news

    async def _session(self, stop: asyncio.Event) -> None:
        limit = self._settings.request_timeout_s
        security = await security_of(self._security)
        consumer = self._make_consumer(security)
        letters = DeadLetters(self._settings, security, self._tuning.record_bytes)
        handing_out = _HandingOut()
        try:
            joining_s = limit + 2 * self._tuning.session_s
            starting = self._start(consumer, handing_out, security)
            if not await until(stop, starting, limit_s=joining_s):
                return
            self.up = True
            self._pauses.reset()
            await until(stop, self._work(consumer, letters, handing_out), _watch(consumer))
        finally:
            self.up = False
            try:
                await letters.close()
            finally:
                await end_consumer(consumer)

    def _make_consumer(self, security: Mapping[str, Any]) -> AIOKafkaConsumer:
        tuning = self._tuning
        return make_consumer(
            self._settings,
            security,
            group=self._group,
            request_timeout_ms=int(max(self._settings.request_timeout_s, tuning.session_s + 2) * 1000),
            session_timeout_ms=int(tuning.session_s * 1000),
            heartbeat_interval_ms=int(tuning.session_s * 300),
            fetch_max_bytes=tuning.fetch_bytes,
            max_partition_fetch_bytes=tuning.partition_bytes,
            auto_offset_reset="earliest",
        )

    async def _start(
        self, consumer: AIOKafkaConsumer, handing_out: "_HandingOut", security: Mapping[str, Any]
    ) -> None:
        await require_topic(self._settings, self._topic, security)
        consumer.subscribe([self._topic], listener=handing_out)
        await consumer.start()

    async def _work(
        self, consumer: AIOKafkaConsumer, letters: DeadLetters, handing_out: "_HandingOut"
    ) -> None:
        poll_s, limit = self._tuning.poll_s, self._settings.request_timeout_s
        while True:
            if handing_out.going_on:
                await asyncio.sleep(poll_s / 2)  # getmany would wait for its end
                continue
            number = handing_out.number
            polling = consumer.getmany(timeout_ms=int(poll_s * 1000), max_records=self._tuning.poll_records)
            found = await limited(polling, limit + self._tuning.session_s)
            for partition, records in found.items():
                await self._take(letters, partition, records)
            if found and handing_out.number == number:
                # Otherwise somebody else reads them again, which is harmless.
                offsets = {partition: records[-1].offset + 1 for partition, records in found.items()}
                await limited(consumer.commit(offsets), limit)
                self.last_error = ""

    async def _take(self, letters: DeadLetters, partition: TopicPartition, records: Sequence[Any]) -> None:
        """Log every rating of ``records``, and put aside what is none."""
        since_others_ran = 0
        # Nodes that do not answer may not hold up the group.
        ask_until = self._clock() + _ASK_S
        for raw in records:
            record = incoming(raw)
            since_others_ran += 1
            try:
                ratings = await self._read(record, ask_until)
            except FeedbackProblem as problem:
                await letters.put(partition.topic, partition.partition, record, str(problem))
                self.dead_lettered += 1
                continue
            if ratings is None:
                self.ignored += 1
            for event_id, data in ratings or ():
                if not self._journal(events.FEEDBACK, data, event_id):
                    raise OSError("the node's log takes no more")
                self.accepted += 1
                since_others_ran += 1
            if since_others_ran >= _STEP:
                since_others_ran = 0
                await asyncio.sleep(0)

    async def _read(self, record: Incoming, ask_until: float) -> list[Rating] | None:
        """See ``RatingRules.read``; an answer that is not known may be another node's, or very new."""
        known: dict[str, str] = {}
        while True:
            try:
                return self._rules.read(record, known)
            except UnknownResponse as unknown:
                left_s = ask_until - self._clock()
                if self._ask is None or left_s <= 0:
                    raise
                try:
                    found = await limited(self._ask(unknown.response_id), left_s)
                except TimeoutError:
                    found = None
                if found is None:
                    raise
                known[unknown.response_id] = found


class _HandingOut(ConsumerRebalanceListener):  # type: ignore[misc]
    """Whether the group is just handing partitions out, and the how-manyeth time that is."""

    def __init__(self) -> None:
        self.going_on = True
        self.number = 0
        """Changes when handing out begins, and when it ends."""

    def on_partitions_revoked(self, revoked: object) -> None:
        self.going_on = True
        self.number += 1

    def on_partitions_assigned(self, assigned: object) -> None:
        self.going_on = False
        self.number += 1


async def _watch(consumer: AIOKafkaConsumer) -> None:
    while True:
        error = fetching_error(consumer)
        if error is not None:
            raise error
        await asyncio.sleep(_WATCH_S)


def _is_marked(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether headers say that it is an event of ours, or a dead letter in a topic that serves for both."""
    return any(
        name == REASON or (name == _TYPE_HEADER and (value or b"").startswith(_OURS.encode()))
        for name, value in headers
    )
