"""Webhooks: whoever the configuration names is told of every transition and drift alarm, signed, at least once.

Both are read from the event log like everything else that is learned, and what has not been delivered is saved
with the log's cursor; so a restart neither loses nor skips one, and may repeat one under the same event id. One
subscriber that is slow or dead delays nobody else, and the queue is bounded: the oldest deliveries go first, counted.
"""

import asyncio
import hashlib
import hmac
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final

import aiohttp
import orjson

from optimizer import events
from optimizer.log.segment import Position
from optimizer.settings import WebhookSettings
from proxy.logs import LOGGER_NAME

SIGNATURE: Final = "x-llm-optimizer-signature"
EVENT_ID: Final = "x-llm-optimizer-event-id"
PREFIX: Final = "optimization."
DRIFT_ALARM: Final = "drift.alarm"

TIMEOUT_S: Final = 10.0
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 300.0
GIVE_UP_S: Final = 86400.0
MOST_WAITING: Final = 1000
_IN_FLIGHT: Final = 4
"""Deliveries to one subscriber at the same time."""
_LOOK_S: Final = 0.05

RESULTS: Final = ("delivered", "retried", "dead", "dropped")
DELIVERED, RETRIED, DEAD, DROPPED = RESULTS

_WORDS: Final[Mapping[str, str]] = {
    "create": "created",
    "propose": "proposed",
    "withdraw": "withdrawn",
    "request": "deploy_requested",
    "deploy": "started",
    "advance": "stage_advanced",
    "promote": "stage_advanced",
    "complete": "deployed",
    "pause": "paused",
    "resume": "resumed",
    "rollback": "rolled_back",
    "abort": "aborted",
    "retry": "retried",
    "supersede": "superseded",
    "delete": "deleted",
}
_TOLD: Final = (
    *("optimization", "name", "strategy", "route", "rollout", "attempt", "revision", "verb", "from", "to"),
    *("actor", "reason", "explanation", "stage", "percentage", "measured"),
)

_log = logging.getLogger(LOGGER_NAME)

EVENT_NAMES: Final = tuple(sorted({DRIFT_ALARM, *(PREFIX + word for word in _WORDS.values())}))
"""What a subscription may name; patterns such as ``optimization.*`` match these."""


def event_name(verb: str, to: str) -> str | None:
    """The subscribers' name of a transition, ``optimization.`` and what has happened; None for inner bookkeeping."""
    if verb not in _WORDS:
        return None
    if to == "deployed":
        return f"{PREFIX}deployed"
    return PREFIX + _WORDS[verb]


def sign(secret: str, body: bytes, *, at: int) -> str:
    """The signature header: ``t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">``."""
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


@dataclass(slots=True)
class Delivery:
    """One event on its way to one subscriber. Times are Unix seconds; ``tried`` counts failures."""

    webhook: str
    event_id: str
    body: str
    since: float
    due: float
    tried: int = 0


class Webhooks:
    """Follows the log as an ``ingest.Consumer`` and delivers as a task (``run``).

    Args:
        subscribers: The configured webhooks, asked for anew each time.
        secret: The value behind a reference; None when it can not be had.
        now: Unix seconds.
        jitter: A uniform draw, spreads retries.
    """

    name = "webhooks"

    def __init__(
        self,
        subscribers: Callable[[], Iterable[WebhookSettings]],
        *,
        secret: Callable[[str], str | None],
        now: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._subscribers = subscribers
        self._secret = secret
        self._now = now
        self._jitter = jitter
        self.counts: Counter[str] = Counter()
        self._waiting: dict[tuple[str, str], Delivery] = {}
        self._flying: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._saved: bytes | None = None
        self._blamed: set[str] = set()

    @property
    def waiting(self) -> int:
        """Deliveries that nobody has confirmed yet."""
        return len(self._waiting)

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        del where
        data = event["data"]
        if event["type"] == events.TRANSITION:
            name, told = event_name(str(data["verb"]), str(data["to"])), _told(data)
        elif event["type"] == events.DRIFT:
            name, told = DRIFT_ALARM, dict(data)
        else:
            return
        wanted = [hook for hook in self._subscribers() if _wants(hook, name)] if name is not None else []
        if not wanted:
            return
        event_id, now = str(event["id"]), self._now()
        body = orjson.dumps({"id": event_id, "type": name, "time": event["time"], "data": told}).decode()
        for hook in wanted:
            self._waiting[hook.name, event_id] = Delivery(hook.name, event_id, body, since=now, due=now)
        self._saved = None
        self._make_room()

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        if self._saved is None:
            rows = [asdict(delivery) for delivery in self._waiting.values()]
            self._saved = orjson.dumps({"counts": self.counts, "waiting": rows})
        return self._saved

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours.
        """
        saved = orjson.loads(data)
        rows = [Delivery(**row) for row in saved["waiting"]]
        self.counts = Counter(saved["counts"])
        self._waiting = {(row.webhook, row.event_id): row for row in rows}
        self._saved = None

    async def run(self) -> None:
        """Deliver for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        # A connection kept open to a subscriber is worth little at this rate, and one that died costs a delivery.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            try:
                while True:
                    self._begin_due(session)
                    await asyncio.sleep(_LOOK_S)
            finally:
                await self._land()

    def _begin_due(self, session: aiohttp.ClientSession) -> None:
        hooks = {hook.name: hook for hook in self._subscribers()}
        flying = Counter(name for name, _ in self._flying)
        now = self._now()
        for key, delivery in list(self._waiting.items()):
            hook = hooks.get(delivery.webhook)
            if hook is None:
                # Nobody asks for it any more.
                self._end(key, DROPPED)
            elif delivery.due <= now and key not in self._flying and flying[hook.name] < _IN_FLIGHT:
                flying[hook.name] += 1
                task = asyncio.get_running_loop().create_task(self._deliver(session, hook, delivery))
                self._flying[key] = task
                task.add_done_callback(partial(self._landed, key))

    def _landed(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._flying.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a webhook's delivery failed in itself", exc_info=error)

    async def _deliver(
        self, session: aiohttp.ClientSession, hook: WebhookSettings, delivery: Delivery
    ) -> None:
        key = (delivery.webhook, delivery.event_id)
        problem = await self._post(session, hook, delivery)
        if self._waiting.get(key) is not delivery:
            # It made room for newer ones meanwhile, and was counted then.
            return
        if problem is None:
            self._blamed.discard(hook.name)
            self._end(key, DELIVERED)
            return
        if hook.name not in self._blamed:
            # Once per outage; the counters show how long it lasts.
            self._blamed.add(hook.name)
            _log.warning("webhook %s: %s; it is tried again for a day", hook.name, problem)
        now = self._now()
        delivery.tried += 1
        delivery.due = now + self._back_off(delivery.tried)
        if now - delivery.since >= GIVE_UP_S:
            _log.error("webhook %s: %s was not delivered within a day", hook.name, delivery.event_id)
            self._end(key, DEAD)
        else:
            self.counts[RETRIED] += 1
            self._saved = None

    async def _post(
        self, session: aiohttp.ClientSession, hook: WebhookSettings, delivery: Delivery
    ) -> str | None:
        """What went wrong, without anything of the address but its owner's name; None on success."""
        body = delivery.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "llm-optimizer-webhooks",
            EVENT_ID: delivery.event_id,
        }
        if hook.secret is not None:
            secret = self._secret(hook.secret)
            if secret is None:
                return "its secret can not be found"
            headers[SIGNATURE] = sign(secret, body, at=int(self._now()))
        try:
            # Where a redirect leads was never configured.
            async with session.post(hook.url, data=body, headers=headers, allow_redirects=False) as response:
                return None if 200 <= response.status < 300 else f"it answered {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"it can not be reached ({type(error).__name__})"

    def _back_off(self, tried: int) -> float:
        longest = min(FIRST_RETRY_S * 2.0 ** min(tried - 1, 30), LONGEST_RETRY_S)
        return longest * (0.5 + 0.5 * self._jitter())

    def _make_room(self) -> None:
        while len(self._waiting) > MOST_WAITING:
            self._end(next(iter(self._waiting)), DROPPED)

    def _end(self, key: tuple[str, str], result: str) -> None:
        del self._waiting[key]
        self.counts[result] += 1
        self._saved = None

    async def _land(self) -> None:
        """Cut what is under way; it stays in the queue and goes out again."""
        for task in list(self._flying.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _wants(hook: WebhookSettings, name: str) -> bool:
    return not hook.events or any(fnmatchcase(name, pattern) for pattern in hook.events)


def _told(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a transition says, with the names of the record and without the rest of it."""
    record = data.get("record")
    known = {**record, **data} if isinstance(record, Mapping) else data
    return {name: known[name] for name in _TOLD if name in known}
