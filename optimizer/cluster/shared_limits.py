"""Limits that hold over all nodes: the shares of this node, and the task that renews them with Redis.

Invariant: nothing but ``run`` talks to Redis, one call at a time. A worker's report waits for the call that is due only
where its lease and this node's share are both empty, and not for long; everything else is asked for in the background.

Without Redis what was granted is spent, and then the settings decide, as they do for a worker that can't ask its
optimizer: a measure that is left open is counted by this node alone, so a rate limit holds for each node instead of for
all of them; of a closed one nobody can say what is left, and its requests are told so.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Protocol

from optimizer.cluster.limit_script import MOST_CLAIMS, TEXT, arguments, key_parts, read
from optimizer.cluster.redis_link import RedisLink, Script
from optimizer.cluster.shares import Shares
from optimizer.cluster.types import Away
from optimizer.lease_store import Identity
from optimizer.lease_terms import RATES, end_of
from optimizer.leases import KEPT_WINDOWS, LIVE_S, Meter

WAIT_S: Final = 0.019
"""What a worker is told to let requests wait for an answer at most: 20 ms with the millisecond it adds itself."""
HOLD_S: Final = 0.012
"""Of these: how long a worker's report waits for Redis."""
PATIENT_S: Final = 0.2
"""The same where a request would be refused for want of an answer; workers wait a little longer for it."""
ANSWER_S: Final = 0.25
SETTLE_S: Final = 2.0
"""How long a Redis that may have forgotten something grants nothing: every node has spoken up by then."""
TICKS_TO_SETTLE: Final = 4
"""A node speaks so often in that time; what it does not need goes back to where others can have it each time."""

_SCRIPT: Final = Script(TEXT)

_log = logging.getLogger(__name__)


class Book(Protocol):
    """What survives this process; see ``optimizer.lease_store.LeaseStore``."""

    def identify(self) -> Identity: ...

    def others(self) -> dict[Meter, int]: ...

    def write_others(self, saved: Mapping[Meter, int], removed: Iterable[Meter] = ()) -> None: ...


class SharedLimits(Shares):
    """This node's shares, kept by Redis. Give it to the node's ``LeaseBook`` and keep ``run`` running."""

    def __init__(
        self,
        link: RedisLink,
        book: Book,
        *,
        node: int,
        is_open: Callable[[str], bool],
        now: Callable[[], float],
        clock: Callable[[], float],
        settle_s: float = SETTLE_S,
    ) -> None:
        """Begin where the last process ended.

        Args:
            link: To Redis.
            book: The store of the node's leases.
            node: The node's id, 32 bits.
            is_open: Whether a measure of ``lease_terms`` is let through when Redis can't be asked; read every time.
            now: Unix seconds.
            clock: Monotonic seconds.
            settle_s: See ``SETTLE_S``.

        Raises:
            OSError: The store can't be used.
        """
        over, others = _by_age(book.others(), now())
        book.write_others({}, over)
        identity = book.identify()
        self.wait_s = WAIT_S
        self._changed = asyncio.Event()
        super().__init__(others, is_open=is_open, wake=self._changed.set)
        self._link = link
        self._book = book
        self._holder = f"{node:08x}-{identity.book}"
        self._sequence = identity.boot << 32
        self._now = now
        self._clock = clock
        self._settle_s = settle_s
        self._waiting: list[asyncio.Future[bool]] = []
        self._is_late = False  # Redis lets the call that is under way wait
        self._is_told = False
        self._is_unsaved = False

    async def more(self, short: Collection[str]) -> bool:
        """Wait, not for long, until Redis has answered what was followed last; False if it has not.

        ``short`` are the measures of what requests wait for, nothing if it would merely be nice.
        """
        is_patient = not all(self.is_open(measure) for measure in short)
        if not self.can_ask or (self._is_late and not is_patient):
            return False
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self._changed.set()
        try:
            async with asyncio.timeout(PATIENT_S if is_patient else HOLD_S):
                return await answered
        except TimeoutError:
            self._is_late = True
            return False

    def forget(self, meters: Iterable[Meter]) -> None:
        """These windows are over for good."""
        over = list(meters)
        super().forget(over)
        self._save({}, [meter for meter in over if meter[1] not in RATES])

    async def run(self) -> None:
        """Renew the shares until cancelled."""
        tick_at = self._clock()
        while True:
            delay = tick_at - self._clock()
            if delay > 0 and not (self._changed.is_set() and not self.is_away):
                await self._wait(delay)
            is_due = self._clock() >= tick_at
            if is_due:
                tick_at = self._clock() + self._settle_s / TICKS_TO_SETTLE
                self.tick(self._now())
            self._changed.clear()
            waiting, self._waiting = self._waiting, []
            is_done = False
            try:
                if is_due or not self.is_away:
                    is_done = await self._renewed(is_due)
            finally:
                self._is_late = False
                for answered in waiting:
                    if not answered.done():
                        answered.set_result(is_done)

    async def close(self) -> None:
        """Give back what workers do not hold; for a node that may not come back with its file. Not beside ``run``."""
        if not self.is_away:
            self.retire()
            await self._renewed(False)

    # inside

    async def _wait(self, delay: float) -> None:
        try:
            async with asyncio.timeout(delay):
                if self.is_away:
                    await asyncio.sleep(delay)
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _renewed(self, is_due: bool) -> bool:
        """Say everything that is queued now; being heard of is enough where nothing is, or while Redis is away.

        False when Redis did not answer.
        """
        if (self.is_away or (is_due and not self.queued)) and not await self._call(0):
            return False
        for _ in range(-(-self.queued // MOST_CLAIMS)):
            if not await self._call(MOST_CLAIMS):
                return False
        return True

    async def _call(self, most: int) -> bool:
        claims = self.claims(most)
        self._sequence += 1
        sequence = self._sequence
        key = self._link.key
        keys = [key("limits", "born"), key("limits", "live"), *(key(*key_parts(claim)) for claim in claims)]
        words = arguments(self._holder, sequence, claims, settle_s=self._settle_s, live_s=LIVE_S)
        try:
            reply = await self._link.script(_SCRIPT, keys, words, timeout_s=ANSWER_S)
            answer = read(reply, claims)
        except (Away, ValueError) as error:
            # One answer may be late, and at a start the first one often is.
            if self.is_away and not self._is_told:
                self._is_told = True
                _log.warning("limits are not shared with other nodes until Redis answers: %s", error)
            self.failed(claims)
            return False
        except BaseException:
            self.failed(claims)
            raise
        if self._is_told:
            self._is_told = False
            _log.info("limits are shared with other nodes again")
        # A clone of this book, or an older state of its file: what it says next must be news all the same.
        self._sequence = max(self._sequence, *(grant.sequence for grant in answer.grants), 0)
        self.take(claims, answer, sequence=sequence)
        self._save(self.heard(claims))
        return True

    def _save(self, saved: Mapping[Meter, int], removed: Collection[Meter] = ()) -> None:
        if not saved and not removed:
            return
        try:
            self._book.write_others(saved, removed)
        except OSError as error:
            if not self._is_unsaved:
                _log.error("what other nodes have spent of budgets can't be stored: %s", error)
            self._is_unsaved = True
        else:
            self._is_unsaved = False


def _by_age(others: Mapping[Meter, int], now: float) -> tuple[list[Meter], dict[Meter, int]]:
    """Windows that are long over, and the others."""
    over = []
    kept = {}
    for meter, spent in others.items():
        end = end_of(meter[1], meter[2])
        if end + KEPT_WINDOWS * (end - meter[2]) < now:
            over.append(meter)
        else:
            kept[meter] = spent
    return over, kept
