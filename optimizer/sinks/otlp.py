"""Sending spans to an OpenTelemetry collector: OTLP over HTTP as JSON, made of the log, behind everybody's back.

A follower of the log with its own cursor, as every sink. But spans are no data set: retention does not wait for them,
and a collector that stays away is not sent all that it missed. What is left out is counted, by reason, and is in the
log all the same. Within that the cursor moves only past spans that the collector has taken.
"""

import asyncio
import gzip
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from optimizer import events
from optimizer.log.reader import Batch, LogReader
from optimizer.settings import TracingSettings
from optimizer.sinks.base import CursorFile, SinkStats
from optimizer.sinks.client import Secrets
from optimizer.spans import Asked, Json, payload, spans_of
from optimizer.stopping import wait_for_stop

LOST: Final = ("refused", "rejected", "behind", "retention", "malformed")
"""Why spans were left out: the collector refuses all of a call, or some of it; it was away for too long; the log was
deleted before it was read (one for each segment, whatever it held); an event makes no spans (one for each)."""

_RETRYABLE: Final = frozenset((408, 429, 502, 503, 504))
_MARK: Final = b'"span_id":'
_ANSWER_BYTES: Final = 4096
_SAID_CHARS: Final = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OtlpTuning:
    """How it is sent. Seconds, bytes, and spans a call.

    ``most_lag_bytes`` of the log may wait; beyond that the oldest half is left out. ``drain_s`` is how long what is
    there is sent after being told to stop.
    """

    batch_bytes: int = 1024 * 1024
    most_spans: int = 2048
    timeout_s: float = 10.0
    idle_s: float = 0.5
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    save_every_s: float = 1.0
    drain_s: float = 3.0
    most_lag_bytes: int = 512 * 1024 * 1024


class _Away(Exception):
    """The collector did not take it and may later. ``after_s`` is what it asked for."""

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.after_s = after_s


class SpanSender:
    """Sends the spans of one node. Implements ``base.Sink``; ``lost`` counts spans by ``LOST``."""

    name = "traces"

    def __init__(
        self,
        settings: TracingSettings,
        reader: LogReader,
        *,
        cursor_file: Path,
        asked: Callable[[], Asked],
        resource: Mapping[str, Any],
        version: str,
        secret: Secrets | None = None,
        tuning: OtlpTuning | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send what ``reader`` finds after the cursor in ``cursor_file``; without one, what comes from now on.

        Args:
            settings: Where to, and with which headers.
            reader: A reader of its own.
            cursor_file: Where the cursor is kept. Whoever sends holds a lock on it.
            asked: What models are called at their upstreams, now.
            resource: Attributes of everything that is sent.
            version: Of the product.
            secret: The value of a secret by its reference.
            tuning: Defaults are for production.
            rng: Draws the pauses.
            clock: Monotonic seconds.
        """
        self.stats = SinkStats()
        self.lost: Counter[str] = Counter(dict.fromkeys(LOST, 0))
        self._settings = settings
        self._reader = reader
        self._cursor_file = CursorFile(cursor_file)
        self._is_new = not cursor_file.exists()
        self._asked = asked
        self._resource = resource
        self._version = version
        self._secret = secret
        self._tuning = tuning or OtlpTuning()
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._clock = clock
        self._cursor: Mapping[str, tuple[int, int]] = {}
        self._saved: Mapping[str, tuple[int, int]] = {}
        self._save_at = 0.0
        self._pause_s = self._tuning.first_pause_s
        self._waiting: tuple[list[list[Json]], Mapping[str, tuple[int, int]]] | None = None

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Up to where everything was taken or left out."""
        return self._cursor

    async def run(self, stop: asyncio.Event) -> None:
        """Send until ``stop`` is set, then what is there as far as time allows."""
        try:
            while not stop.is_set():
                try:
                    with self._cursor_file.hold():
                        await self._follow(stop)
                except BlockingIOError:
                    # A sender with other settings is about to end.
                    await wait_for_stop(stop, self._tuning.first_pause_s)
                except OSError as error:
                    self._failed(error)
                    await wait_for_stop(stop, self._tuning.longest_pause_s)
        finally:
            self.stats.up = False

    async def _follow(self, stop: asyncio.Event) -> None:
        self._cursor = self._cursor_file.load()
        if self._is_new:
            # What was logged before anybody asked for spans has none.
            await self._leave_out(0, count=False)
            self._is_new = False
        self._saved = {}
        self.stats.up = True
        timeout = aiohttp.ClientTimeout(total=self._tuning.timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout, auto_decompress=True) as session:
                await self._send_on(session, stop)
        finally:
            await asyncio.to_thread(self._save)

    async def _send_on(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        ends_at: float | None = None
        while True:
            stopping = stop.is_set()
            if stopping:
                ends_at = ends_at or self._clock() + self._tuning.drain_s
                if self._clock() >= ends_at:
                    return
            try:
                if not await self._step(session):
                    if stopping:
                        return
                    await wait_for_stop(stop, self._tuning.idle_s)
            except (_Away, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._failed(error)
                if stopping:
                    return
                await self._bound()
                asked_for = error.after_s if isinstance(error, _Away) else 0.0
                pause = max(self._pause_s * self._rng.uniform(0.5, 1.0), asked_for)
                await wait_for_stop(stop, min(pause, self._tuning.longest_pause_s))
                self._pause_s = min(self._pause_s * 2, self._tuning.longest_pause_s)

    async def _step(self, session: aiohttp.ClientSession) -> bool:
        """Send what comes next; False when there is nothing."""
        if self._waiting is None:
            batch = await self._poll()
            calls = self._calls(batch)
            if not calls:
                moved = batch.cursor != self._cursor
                self._cursor = batch.cursor
                await self._save_sometimes()
                if not batch.more:
                    self.stats.lag_bytes = 0
                return moved
            self._waiting = calls, batch.cursor
        calls, cursor = self._waiting
        while calls:
            await self._call(session, calls[0])
            del calls[0]
        self._waiting = None
        self._cursor = cursor
        self._pause_s = self._tuning.first_pause_s
        await self._save_sometimes()
        return True

    async def _poll(self) -> Batch:
        dropped = self._reader.dropped_segments
        batch = await asyncio.to_thread(self._reader.poll, self._cursor, self._tuning.batch_bytes)
        self.lost["retention"] += self._reader.dropped_segments - dropped
        return batch

    def _calls(self, batch: Batch) -> list[list[Json]]:
        """The spans of a batch, as many at a time as one call takes."""
        asked = self._asked()
        spans: list[Json] = []
        for entry in batch.entries:
            if _MARK not in entry.line:
                continue
            try:
                event = orjson.loads(entry.line)
                if event.get("type") == events.REQUEST:
                    spans += spans_of(event, asked)
            except (ValueError, KeyError, TypeError, AttributeError):
                # A disk that lies, or another program's event: it will be no better the next time.
                self.lost["malformed"] += 1
        most = self._tuning.most_spans
        return [spans[at : at + most] for at in range(0, len(spans), most)]

    async def _call(self, session: aiohttp.ClientSession, spans: Sequence[Json]) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        for name, reference in self._settings.headers:
            value = self._secret(reference) if self._secret is not None else None
            if value is None:
                raise _Away(f"{reference} is not set")
            headers[name] = value
        body = orjson.dumps(payload(spans, self._resource, self._version))
        packed = await asyncio.to_thread(gzip.compress, body, 1)
        async with session.post(
            self._settings.url, data=packed, headers=headers, allow_redirects=False
        ) as reply:
            answer = await _begin_of(reply.content)
            status = reply.status
            after_s = _after(reply.headers.get("retry-after"))
        said = f"{status} {answer.decode('utf-8', 'replace')[:_SAID_CHARS]}".strip()
        if status in _RETRYABLE:
            raise _Away(said, after_s)
        rejected = len(spans) if not 200 <= status < 300 else min(_rejected(answer), len(spans))
        self.stats.up = rejected < len(spans)
        self.stats.delivered += len(spans) - rejected
        if rejected:
            self.lost["refused" if rejected == len(spans) else "rejected"] += rejected
            self._say(said)
        elif self.stats.last_error:
            self.stats.last_error = ""
            _log.info("spans are sent to %s", self._settings.url)

    async def _bound(self) -> None:
        """Leave out the oldest when too much waits."""
        lag = await asyncio.to_thread(self._reader.lag_bytes, self._cursor)
        if lag > self._tuning.most_lag_bytes:
            self._waiting = None
            await self._leave_out(self._tuning.most_lag_bytes // 2, count=True)
            lag = await asyncio.to_thread(self._reader.lag_bytes, self._cursor)
        self.stats.lag_bytes = lag

    async def _leave_out(self, keep_bytes: int, *, count: bool) -> None:
        """Go on without sending until only ``keep_bytes`` wait."""
        while await asyncio.to_thread(self._reader.lag_bytes, self._cursor) > keep_bytes:
            batch = await self._poll()
            if batch.cursor == self._cursor:
                return
            if count:
                self.lost["behind"] += sum(map(len, self._calls(batch)))
            self._cursor = batch.cursor

    def _failed(self, error: BaseException) -> None:
        self.stats.up = False
        self.stats.errors += 1
        self._say(str(error) or type(error).__name__)

    def _say(self, text: str) -> None:
        if text != self.stats.last_error:
            _log.warning("spans are not sent to %s: %s", self._settings.url, text)
        self.stats.last_error = text

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
            # Only spans that are sent twice can come of it.
            _log.warning("cannot save the cursor of spans: %s", error)


async def _begin_of(content: aiohttp.StreamReader) -> bytes:
    """What an answer begins with, however small the pieces are in which it comes."""
    begin = b""
    while len(begin) < _ANSWER_BYTES and (more := await content.read(_ANSWER_BYTES - len(begin))):
        begin += more
    return begin


def _rejected(answer: bytes) -> int:
    """How many spans a collector says it could not use."""
    try:
        partial = orjson.loads(answer)["partialSuccess"]
        return max(int(partial.get("rejectedSpans", 0)), 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return 0


def _after(value: str | None) -> float:
    """Seconds of a Retry-After header, 0 without one that can be read."""
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
