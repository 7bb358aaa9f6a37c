"""Feedback that reached one node for a request that another one decided, handed over through Redis.

The sender puts the line into the hash ``feedback:<node>`` under the event's id, and again and again until it finds the
positive ``acked:<event id>``; the receiver writes that, and takes the line out, only after the event is in its own log.
So a crash anywhere and a Redis that was wiped lose nothing, and what arrives twice teaches once, because the learner
knows a rating by its identity. The sender's cursor never passes a line that is not acknowledged or given up.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from optimizer import events
from optimizer.cluster.outbox import Outbox, Parcel
from optimizer.cluster.redis_link import RedisLink, Script
from optimizer.cluster.types import Away
from optimizer.ids import RequestId
from optimizer.log.reader import Entry, LogReader
from optimizer.sinks.base import CursorFile, SinkStats
from optimizer.stopping import wait_for_stop

_log = logging.getLogger(__name__)

Verify = Callable[[str], RequestId | None]
Journal = Callable[[str, Mapping[str, Any], str], bool]

LINE_BYTES: Final = 64 * 1024
_MARK: Final = events.FEEDBACK.encode()
# Long enough for a sender to see it, short enough that a flood of feedback does not fill Redis.
_ACK_S: Final = 300
# A sender that lives puts its lines there again long before.
_HASH_S: Final = 24 * 3600
_AT_ONCE: Final = 500
_REMEMBERED: Final = 10_000

# KEYS: hash, then an acknowledgement for each event. ARGV: seconds, then the events.
_DONE: Final = Script("""
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], '1', 'EX', ARGV[1])
  redis.call('HDEL', KEYS[1], ARGV[i])
end
return 0
""")


@dataclass(frozen=True, slots=True)
class ForwardingTuning:
    """How feedback is handed over, as opposed to which. Seconds, bytes, numbers of events.

    ``unacked`` is how many events a sender keeps in memory for one node, ``unacked_in_all`` for all nodes together
    (though ``unacked_least`` for each); what is beyond waits in the log. ``repeat_s`` is after how long an event is put
    into Redis again, ``portion`` how many a receiver takes at once.
    """

    unacked: int = 1000
    unacked_in_all: int = 20_000
    unacked_least: int = 50
    repeat_s: float = 10.0
    idle_s: float = 0.25
    longest_pause_s: float = 5.0
    save_every_s: float = 1.0
    read_bytes: int = 256 * 1024
    send_bytes: int = 1024 * 1024
    portion: int = 100


class Forwarder:
    """Hands the feedback in one node's log over to the nodes that decided. A ``Sink``: see ``optimizer.sinks.base``.

    ``stats.delivered`` were acknowledged, ``retried`` put into Redis again, ``dead_lettered`` given up: too late to be
    learned from, or too large.
    """

    name = "feedback"

    def __init__(
        self,
        link: RedisLink,
        reader: LogReader,
        *,
        node: int,
        verify: Verify,
        cursor_file: Path,
        late_window_s: float,
        tuning: ForwardingTuning | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Follow the log that ``reader`` reads, from the cursor in ``cursor_file``.

        Args:
            link: To Redis; closing it is its owner's business.
            reader: A reader of its own.
            node: This node, whose own requests' feedback is left where it is.
            verify: Reads a request id that a node of the cluster made, None for any other.
            cursor_file: Where it is kept what was handed over.
            late_window_s: For how long after a decision its feedback is of use; then it is given up.
            tuning: Defaults are for production.
            clock: Unix seconds, compared with when a request was decided.
            timer: Monotonic seconds, for everything that is done again after a while.
        """
        self.stats = SinkStats()
        self._link = link
        self._reader = reader
        self._node = node
        self._verify = verify
        self._late_window_s = late_window_s
        self._tuning = tuning = tuning or ForwardingTuning()
        self._clock = clock
        self._timer = timer
        self._cursor_file = CursorFile(cursor_file)
        self._saved = self._cursor_file.load()
        self._save_at = 0.0
        self._given_up: list[Parcel] = []
        self.outbox = Outbox(
            self._saved,
            self._parse,
            room=tuning.unacked,
            room_in_all=tuning.unacked_in_all,
            least_room=tuning.unacked_least,
        )

    @property
    def cursor(self) -> Mapping[str, tuple[int, int]]:
        """Up to where everything is acknowledged or given up."""
        return self.outbox.cursor()

    @property
    def waiting(self) -> int:
        """Events in memory that were not acknowledged yet."""
        return len(self.outbox)

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until ``stop`` is set. Never raises for anything that Redis or the disk does."""
        pause = self._tuning.idle_s
        try:
            while not stop.is_set():
                try:
                    busy = await self.step()
                    pause = 0.0 if busy else self._tuning.idle_s
                except (Away, OSError) as error:
                    self.stats.errors += 1
                    self.stats.last_error = str(error)
                    self.stats.up = False
                    pause = min(max(pause * 2, self._tuning.idle_s), self._tuning.longest_pause_s)
                await self._save_sometimes()
                await wait_for_stop(stop, pause)
        finally:
            self.stats.up = False
            self._save()

    async def step(self) -> bool:
        """Read on, look for acknowledgements, send what is due; True when there is more to read at once.

        Raises:
            Away: Redis is away; nothing is lost, call again.
            OSError: The log cannot be read.
        """
        more = self._read()
        self._give_up(self._clock())
        now = self._timer()
        await self._look_for_acks(now)
        await self._send(now)
        await self._withdraw()
        self.stats.up = self._link.up
        return more

    # --- inside -------------------------------------------------------------------------------------

    def _read(self) -> bool:
        batch = self._reader.poll(self.outbox.front, self._tuning.read_bytes)
        self.outbox.take(batch)
        more = batch.more
        # One of them at a time, so that a step stays short.
        for node, cursor in self.outbox.hungry():
            again = self._reader.poll(cursor, self._tuning.read_bytes)
            self.outbox.take_again(node, again)
            more = more or again.more
            break
        return more

    def _parse(self, entry: Entry) -> Parcel | None:
        line = entry.line
        if _MARK not in line:
            return None
        try:
            event = orjson.loads(line)
            if event["type"] != events.FEEDBACK:
                return None
            event_id, request = event["id"], self._verify(event["data"]["request_id"])
        except (ValueError, KeyError, TypeError):
            return None
        if request is None or request.node == self._node or not isinstance(event_id, str):
            return None
        expires_at = request.now_ms / 1000 + self._late_window_s
        return Parcel(event_id, request.node, line, entry.source, (entry.segment, entry.offset), expires_at)

    def _give_up(self, now: float) -> None:
        lost = [
            parcel
            for parcel in self.outbox.parcels()
            if parcel.expires_at <= now or len(parcel.line) > LINE_BYTES
        ]
        if lost:
            self.outbox.remove(lost)
            self.stats.dead_lettered += len(lost)
            # Beyond this it is Redis that ends them.
            self._given_up = (self._given_up + lost)[-_AT_ONCE:]

    async def _look_for_acks(self, now: float) -> None:
        for target in [each for each in self.outbox.targets.values() if each.check_at <= now]:
            doubtful = [parcel for parcel in target.parcels.values() if parcel.doubtful]
            arrived: list[Parcel] = []
            for start in range(0, len(doubtful), _AT_ONCE):
                portion = doubtful[start : start + _AT_ONCE]
                keys = [_ack_key(self._link, parcel.event_id) for parcel in portion]
                acks = await self._link.command("MGET", *keys)
                arrived += [parcel for parcel, ack in zip(portion, acks, strict=True) if ack is not None]
            self.outbox.remove(arrived)
            self.stats.delivered += len(arrived)
            longest = self._tuning.longest_pause_s
            target.pause_s = self._tuning.idle_s if arrived else min(target.pause_s * 2, longest)
            target.check_at = now + target.pause_s

    async def _send(self, now: float) -> None:
        for node, target in list(self.outbox.targets.items()):
            due = [parcel for parcel in target.parcels.values() if parcel.send_at <= now]
            for portion in _portions(due, self._tuning.send_bytes):
                fields = [word for parcel in portion for word in (parcel.event_id, parcel.line)]
                key = _box_key(self._link, node)
                again = sum(parcel.sent for parcel in portion)
                for parcel in portion:
                    parcel.doubtful = parcel.sent = True
                await self._link.pipeline([("HSET", key, *fields), ("EXPIRE", key, _HASH_S)])
                self.stats.retried += again
                for parcel in portion:
                    parcel.send_at = now + self._tuning.repeat_s
            if due:
                target.pause_s = self._tuning.idle_s
                target.check_at = min(target.check_at, now + target.pause_s)

    async def _withdraw(self) -> None:
        """Take what was given up out of Redis, so that it does not wait there for a node that is gone."""
        if self._given_up:
            commands = [("HDEL", _box_key(self._link, each.node), each.event_id) for each in self._given_up]
            await self._link.pipeline(commands)
            self._given_up = []

    async def _save_sometimes(self) -> None:
        now = self._timer()
        if now >= self._save_at:
            self._save_at = now + self._tuning.save_every_s
            with suppress(OSError):
                self.stats.lag_bytes = self._reader.lag_bytes(self.cursor)
            # In a thread, because it waits for the disk.
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        cursor = self.outbox.to_save()
        if cursor == self._saved:
            return
        try:
            self._cursor_file.save(cursor)
            self._saved = cursor
        except OSError as error:
            # Only duplicates can come of it.
            _log.warning("cannot save the cursor of forwarded feedback: %s", error)


class Receiver:
    """Takes the feedback that other nodes got for this node's decisions into this node's log.

    ``counts``: ``received`` were appended, ``duplicates`` had been before, ``malformed`` were thrown away, ``refused``
    are left in Redis because the log did not take them, ``errors`` are failed attempts.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        node: int,
        verify: Verify,
        journal: Journal,
        tuning: ForwardingTuning | None = None,
    ) -> None:
        """Take what is for ``node``.

        Args:
            link: To Redis; closing it is its owner's business.
            node: This node.
            verify: Reads a request id that a node of the cluster made, None for any other.
            journal: Appends type, data and id of an event to this node's log; only when it returned True it has.
            tuning: Defaults are for production.
        """
        self.counts: Counter[str] = Counter()
        self.last_error = ""
        self._link = link
        self._node = node
        self._verify = verify
        self._journal = journal
        self._tuning = tuning or ForwardingTuning()
        # What is in the log though Redis may not know; an answer may have been lost.
        self._appended: dict[str, None] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Receive until ``stop`` is set. Never raises for anything that Redis or the disk does."""
        pause = self._tuning.idle_s
        while not stop.is_set():
            try:
                pause = 0.0 if await self.step() else self._tuning.idle_s
            except Away as error:
                self.counts["errors"] += 1
                self.last_error = str(error)
                pause = min(max(pause * 2, self._tuning.idle_s), self._tuning.longest_pause_s)
            await wait_for_stop(stop, pause)

    async def step(self) -> bool:
        """Take a portion; True when there may be more to take at once.

        Raises:
            Away: Redis is away; nothing is lost, call again.
        """
        box = _box_key(self._link, self._node)
        flat = await self._link.command("HRANDFIELD", box, self._tuning.portion, "WITHVALUES")
        if not flat:
            return False
        names = [name.decode(errors="replace") for name in flat[::2]]
        acks = await self._link.command("MGET", *(_ack_key(self._link, name) for name in names))
        done: list[bytes] = []
        for raw, name, line, ack in zip(flat[::2], names, flat[1::2], acks, strict=True):
            if ack is not None or name in self._appended:
                self.counts["duplicates"] += 1
            elif not self._append(name, line):
                self.counts["refused"] += 1
                break
            done.append(raw)
        if done:
            keys = [box, *(_ack_key(self._link, name.decode(errors="replace")) for name in done)]
            await self._link.script(_DONE, keys, (_ACK_S, *done))
        return len(done) == self._tuning.portion

    def _append(self, name: str, line: bytes) -> bool:
        """False when it must stay where it is; what can never be appended is thrown away."""
        data = self._read(name, line)
        if data is None:
            self.counts["malformed"] += 1
            _log.warning("feedback %.80r for this node in Redis is none and is thrown away", name)
            return True
        if not self._journal(events.FEEDBACK, data, name):
            return False
        self.counts["received"] += 1
        self._appended[name] = None
        if len(self._appended) > _REMEMBERED:
            del self._appended[next(iter(self._appended))]
        return True

    def _read(self, name: str, line: bytes) -> dict[str, Any] | None:
        if len(line) > LINE_BYTES:
            return None
        try:
            event = orjson.loads(line)
            data = event["data"]
            request = self._verify(data["request_id"])
            genuine = event["type"] == events.FEEDBACK and event["id"] == name and isinstance(data, dict)
        except (ValueError, KeyError, TypeError):
            return None
        return data if genuine and request is not None and request.node == self._node else None


def _box_key(link: RedisLink, node: int) -> str:
    return link.key("feedback", f"{node:08x}")


def _ack_key(link: RedisLink, event_id: str) -> str:
    return link.key("acked", event_id)


def _portions(parcels: Sequence[Parcel], most_bytes: int) -> Iterator[list[Parcel]]:
    portion: list[Parcel] = []
    size = 0
    for parcel in parcels:
        if portion and size + len(parcel.line) > most_bytes:
            yield portion
            portion, size = [], 0
        portion.append(parcel)
        size += len(parcel.line)
    if portion:
        yield portion
