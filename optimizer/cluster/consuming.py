"""What both of our Kafka consumers need of aiokafka: making one, ending one for sure, and pauses between failures.

aiokafka's calls may wait for ever when brokers are away, and so may its ``stop``; everything here has a time limit.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from optimizer.settings import KafkaSettings
from optimizer.sinks.client import NotReady

_log = logging.getLogger(__name__)

_LEAVE_S: Final = 3.0
_END_S: Final = 2.0
_STEP_S: Final = 0.02
_CANCEL_S: Final = 2.0
_RETRY_MS: Final = 250


class Incoming(NamedTuple):
    """One record of a partition. ``value`` is empty for a tombstone; ``timestamp_ms`` is Unix milliseconds."""

    offset: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


_T = TypeVar("_T")

Security = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""Keyword arguments of an aiokafka client, or what makes them anew for each; ``optimizer.sinks.client`` has it."""


class NoTopic(Exception):
    """The topic is not there (yet)."""


# What may go wrong with the brokers, and is no fault of the program.
FAILURES: Final = (KafkaError, OSError, TimeoutError, NoTopic, NotReady)


class Pauses:
    """Growing pauses between failures, drawn at random from the upper half, so that nodes do not knock together."""

    def __init__(self, first_s: float, longest_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng
        self._next_s = first_s

    def take(self) -> float:
        """Seconds to wait now; the next ones are twice as long."""
        pause = self._next_s * self._rng.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._longest_s)
        return pause

    def reset(self) -> None:
        """Something went well."""
        self._next_s = self._first_s


def incoming(record: Any) -> Incoming:
    """An aiokafka record as ours."""
    return Incoming(
        record.offset, record.key, record.value or b"", record.headers or (), int(record.timestamp or 0)
    )


async def security_of(security: Security | None) -> Mapping[str, Any]:
    """Keyword arguments of an aiokafka client, from files and secrets as they are now.

    Raises:
        NotReady: Something of it is missing.
    """
    return await asyncio.to_thread(security) if callable(security) else security or {}


async def require_topic(settings: KafkaSettings, topic: str, security: Mapping[str, Any]) -> None:
    """Return when the topic is there.

    Asked for all topics, because a broker may make a topic that it is asked for, with one partition.

    Raises:
        NoTopic: It is not there.
        KafkaError, OSError, TimeoutError: No broker says so in time.
    """
    limit = settings.request_timeout_s
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(settings.brokers),
        client_id=settings.client_id,
        request_timeout_ms=int(limit * 1000),
        **security,
    )
    try:
        await limited(admin.start(), limit)
        topics = await limited(admin.list_topics(), limit)
    finally:
        await within(admin._client.close(), _END_S)
    if topic not in topics:
        raise NoTopic(f"there is no topic {topic!r} on {','.join(settings.brokers)}")


def make_consumer(
    settings: KafkaSettings, security: Mapping[str, Any], *, group: str | None, **options: Any
) -> AIOKafkaConsumer:
    """A consumer that commits nothing by itself, not started."""
    return AIOKafkaConsumer(
        bootstrap_servers=list(settings.brokers),
        client_id=settings.client_id,
        group_id=group,
        enable_auto_commit=False,
        retry_backoff_ms=_RETRY_MS,
        **options,
        **security,
    )


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group if that goes quickly, and end every task and connection in any case.

    ``stop`` waits for the group's answers, and with a dead broker for ever; so its parts are then ended one by one, by
    names that aiokafka keeps private.
    """
    await within(consumer.stop(), _LEAVE_S)
    consumer._closed = True
    await _end(consumer._client, _tasks(consumer))


async def end_producer(producer: AIOKafkaProducer) -> None:
    """End a producer of which nothing more is wanted; its ``stop`` would deliver first, for ever if need be."""
    producer._closed = True
    sender = producer._sender.sender_task
    await _end(producer.client, [] if sender is None else [sender])


def fetching_error(consumer: AIOKafkaConsumer) -> BaseException | None:
    """Why the consumer's background task ended, which ``getmany`` does not tell: it finds nothing for ever."""
    task: asyncio.Task[None] = consumer._fetcher._fetch_task
    if not task.done():
        return None
    return (None if task.cancelled() else task.exception()) or KafkaError("the consumer's fetcher ended")


def _tasks(consumer: AIOKafkaConsumer) -> "list[asyncio.Task[Any]]":
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
    found: list[asyncio.Task[Any] | None] = [getattr(consumer._coordinator, name, None) for name in names]
    if consumer._fetcher is not None:
        found += [consumer._fetcher._fetch_task, *consumer._fetcher._pending_tasks]
    found.append(consumer._client._sync_task)
    return [task for task in found if task is not None]


async def _end(client: Any, tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """End tasks that live on ``client``, and close it."""
    for task in tasks:
        task.cancel()
    await within(client.close(), _END_S)
    # What some of them wait for now is fresh metadata, which a closed client never gets.
    metadata = client._md_update_fut
    if metadata is not None:
        metadata.cancel()
    await _cancel(tasks)
    # And one may have connected anew while it was ended.
    await within(client.close(), _END_S)


async def limited(call: Awaitable[_T], seconds: float) -> _T:
    """What ``call`` returns, unless that takes longer; then it is cancelled, but not waited for.

    In a task of its own, because aiokafka cancels some of its tasks and then lets out that they were cancelled, which
    would end whoever awaits it; and because ``asyncio.wait_for`` waits for what does not care to be cancelled.

    Raises:
        TimeoutError: It took longer.
        KafkaError: It was cancelled from within.
    """
    task = asyncio.ensure_future(call)
    task.add_done_callback(lambda ended: _look_at((ended,)))
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if not task.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if task.cancelled():
        raise KafkaError("a call was cancelled from within")
    return task.result()


async def within(ending: Coroutine[Any, Any, Any], limit_s: float) -> None:
    """Await the end of something of which nothing more is wanted; whatever comes of it, it is over then."""
    task = asyncio.ensure_future(ending)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        await _cancel((task,))
    if task.done() and not task.cancelled() and task.exception() is not None:
        _log.info("ending a Kafka client: %r", task.exception())


async def until(
    stop: asyncio.Event,
    work: Coroutine[Any, Any, None],
    *others: Coroutine[Any, Any, None],
    limit_s: float | None = None,
) -> bool:
    """Run ``work`` until it ends, ``stop`` is set or one of ``others`` fails; True when it ended by itself.

    What is cancelled is not waited for longer than a moment: aiokafka may swallow it, and so may ``wait_for``.

    Raises:
        TimeoutError: Nothing of it within ``limit_s``.
    """
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    tasks = {working, stopping, *map(asyncio.ensure_future, others)}
    try:
        done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(tasks)
    for task in done:
        if task.cancelled():
            raise KafkaError("a call was cancelled from within")
        task.result()
    if not done:
        raise TimeoutError(f"nothing came of it within {limit_s:g} s")
    return working in done


async def _cancel(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancel tasks until they have ended, for a bounded time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CANCEL_S
    while (alive := [task for task in tasks if not task.done()]) and loop.time() < deadline:
        for task in alive:
            task.cancel()
        await asyncio.wait(alive, timeout=_STEP_S)
    _look_at(tasks)


def _look_at(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Look at outcomes that nobody waits for any more, or asyncio reports them as forgotten."""
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
