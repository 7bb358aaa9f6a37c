"""Who holds how much of every limit on this node.

A meter is one limit of one subject in one window. Its holders, one or more per worker, have been granted absolute
amounts of it. The invariants:

- What is granted never sums above the limit, unless holders report that they have already spent more (a reply that
  cost more than was reserved for it) or the limit itself was lowered.
- A holder never believes in more than is recorded here: it lowers itself before it reports, and is told of a larger
  amount only after the ledger has stored it. So a restart from the ledger can forget no grant.
- Nothing is ever taken back from a holder. What a dead worker held and did not report as free counts as spent until
  the window ends.

Where several nodes share the limits, this node hands out its share of each instead of the whole (``Shares``).

Pure: time is an argument, the ledger is given.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from optimizer.lease_terms import NANO, PERIODS, RATES, Claim, Grant, Report, end_of

LIVE_S: Final = 5.0
"""A worker that has reported within this time counts when shares are cut."""
GONE_S: Final = 86_400.0
"""After so long without a report the holders of a worker are merged into one."""
KEPT_WINDOWS: Final = 3
"""So many windows of each meter outlive their end, for clocks that are set back."""
FORGET_S: Final = 62 * 86_400.0

_MERGED: Final = (0, 0)

_log = logging.getLogger(__name__)

Meter = tuple[str, str, int]
"""Subject, measure, start of the window."""
Holder = tuple[int, int]
"""Worker incarnation and the serial number within it."""


class Holding(NamedTuple):
    """One holder's share of one meter, as it is stored."""

    subject: str
    measure: str
    start: int
    worker: int
    serial: int
    limit: int
    granted: int
    used: int


class Ledger(Protocol):
    """Where holdings survive this process."""

    def write(self, saved: Sequence[Holding], removed: Sequence[Holding] = ()) -> None:
        """Store and remove in one transaction, durable against the end of the process on return.

        Raises:
            OSError: It could not be done; nothing was.
        """


class Shares(Protocol):
    """What this node may hand out of limits that it shares with others; see ``optimizer.cluster.shared_limits``."""

    @property
    def can_ask(self) -> bool:
        """Whether an answer is to be expected soon, and can help."""
        ...

    @property
    def wait_s(self) -> float:
        """How long workers may let a request wait for an answer."""
        ...

    def ceiling(self, meter: Meter, limit: int) -> int:
        """How much of ``limit`` this node's workers may hold in all."""
        ...

    def unallocated(self, meter: Meter, limit: int, granted: int) -> int:
        """How much nobody holds, if this node's workers hold ``granted``."""
        ...

    def recover(self, meter: Meter, limit: int, granted: int, used: int) -> None:
        """The ledger says that workers hold ``granted`` and have spent ``used`` of it."""
        ...

    def follow(self, meter: Meter, limit: int, granted: int, used: int, *, short: int, wish: int) -> None:
        """Workers hold ``granted`` now and have spent ``used`` of it.

        One of them has requests waiting for ``short`` more, and would like ``wish`` more.
        """
        ...

    def forget(self, meters: Iterable[Meter]) -> None:
        """These windows are over for good."""
        ...

    def is_known(self, meter: Meter) -> bool:
        """Whether what was answered last says what is left, or nobody needs to be asked."""
        ...

    async def more(self, short: Collection[str]) -> bool:
        """Wait, not for long, until what was followed last has been answered; False if it was not.

        ``short`` are the measures of what requests wait for, nothing if it would merely be nice.
        """
        ...


@dataclass(frozen=True, slots=True)
class MeterReport:
    """One limit as it stands on this node. Dollars for budgets, counts for rates; times are Unix seconds.

    ``granted`` includes ``used``; the difference is what workers still hold, or took with them when they died.
    """

    subject: str
    measure: str
    window: str
    starts_at: int
    resets_at: int
    limit: float
    granted: float
    used: float


class _Tally:
    """One meter: the limit that was named last, and who holds what."""

    __slots__ = ("granted", "holders", "limit", "seen", "used")

    def __init__(self, limit: int, seen: float) -> None:
        self.limit = limit
        self.granted = 0
        self.used = 0
        self.holders: dict[Holder, Holding] = {}
        self.seen = seen

    def put(self, row: Holding) -> None:
        holder = (row.worker, row.serial)
        before = self.holders.get(holder)
        if before is not None:
            self.granted -= before.granted
            self.used -= before.used
        self.granted += row.granted
        self.used += row.used
        self.holders[holder] = row


class LeaseBook:
    """The one that grants. Not thread-safe.

    ``now`` is Unix seconds, ``clock`` a clock that is never set: who is alive must not depend on the first.
    ``shares`` are given when the limits are shared with other nodes; ``wait_s`` is then how long workers may let a
    request wait for an answer, else 0. ``unstored`` counts reports that the ledger refused.
    """

    def __init__(
        self,
        rows: Iterable[Holding],
        ledger: Ledger,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        shares: Shares | None = None,
    ) -> None:
        self._ledger = ledger
        self._shares = shares
        self.wait_s = shares.wait_s if shares is not None else 0.0
        self._now = now
        self._clock = clock
        self._tallies: dict[Meter, _Tally] = {}
        self._heard: dict[int, float] = {}
        self._sequence: dict[int, int] = {}
        self._owed: dict[tuple[Meter, Holder], Holding] = {}
        self.unstored = 0
        began = clock()
        for row in rows:
            self._tally(row[:3], row.limit, began - GONE_S).put(row)
            self._heard.setdefault(row.worker, began - LIVE_S - 1)
        if shares is not None:
            for meter, tally in self._tallies.items():
                shares.recover(meter, tally.limit, tally.granted, tally.used)

    async def answer(self, report: Report) -> list[Grant | None]:
        """``report``, and where the limits are shared and the share is too small, what comes of asking for more.

        None then also stands for a limit of which nobody could say in time what is left of it.
        """
        grants = self.report(report)
        shares = self._shares
        if shares is None:
            return grants
        lacking = [claim for claim, grant in zip(report.claims, grants, strict=True) if _lacks(claim, grant)]
        if not lacking:
            return grants
        is_answered = await shares.more({claim.measure for claim in lacking if claim.need})
        known = [
            shares.is_known(claim[:3]) and (is_answered or not shares.can_ask) for claim in report.claims
        ]
        if self._sequence.get(report.worker) == report.sequence:
            grants = self._grant(report, asks=False)
        return [
            grant if is_known or not claim.need or not _lacks(claim, grant) else None
            for claim, grant, is_known in zip(report.claims, grants, known, strict=True)
        ]

    def report(self, report: Report) -> list[Grant | None]:
        """Record what a worker says, and grant; one answer for each claim.

        None for a budget that could not be stored: nothing may be spent of what was not. A report that is a
        repetition, or was overtaken by a later one, changes nothing and is told what is recorded.
        """
        clock = self._clock()
        worker = report.worker
        if report.sequence <= self._sequence.get(worker, -1):
            return [self._recorded(worker, claim) for claim in report.claims]
        self._sequence[worker] = report.sequence
        self._heard[worker] = clock
        return self._grant(report)

    def _grant(self, report: Report, *, asks: bool = True) -> list[Grant | None]:
        clock = self._clock()
        worker = report.worker
        live = sum(clock - heard <= LIVE_S for heard in self._heard.values())
        changed: list[tuple[_Tally, Holding, int]] = []
        for claim in report.claims:
            tally = self._tally(claim[:3], claim.limit, clock)
            old = tally.holders.get((worker, claim.serial))
            row = _granted(tally, old, worker, claim, self._ceiling(claim), max(1, live))
            if row != old:
                changed.append((tally, row, max(claim.hold, old.granted if old is not None else 0)))
                tally.put(row)
        is_stored = not (changed or self._owed) or self._stored([row for _, row, _ in changed])
        if not is_stored:
            for tally, row, believed in changed:
                # Rates need not survive, budgets must: the worker is left with what it believes in already.
                held = row if row.measure in RATES else row._replace(granted=believed)
                tally.put(held)
                self._owed[held[:3], (worker, row.serial)] = held
        grants = [
            self._recorded(worker, claim) if is_stored or claim.measure in RATES else None
            for claim in report.claims
        ]
        if self._shares is not None:
            self._follow(self._shares, report.claims, grants, asks=asks)
        return grants

    def meters(self) -> list[MeterReport]:
        """Every limit that somebody has asked for in the window that is open now."""
        now = self._now()
        found = []
        for (subject, measure, start), tally in self._tallies.items():
            end = end_of(measure, start)
            if start <= now < end:
                unit = 1 if measure in RATES else NANO
                found.append(
                    MeterReport(
                        subject=subject,
                        measure=measure if measure in RATES else "usd",
                        window=PERIODS[measure],
                        starts_at=start,
                        resets_at=end,
                        limit=tally.limit / unit,
                        granted=tally.granted / unit,
                        used=tally.used / unit,
                    )
                )
        return sorted(found, key=lambda meter: (meter.subject, meter.measure, meter.starts_at))

    def sweep(self) -> None:
        """Forget windows that are long over, and merge what workers left that are gone. Call it now and then.

        Raises:
            OSError: The ledger refused; it is tried again by the next call.
        """
        clock = self._clock()
        removed: list[Holding] = []
        over = self._over(self._now(), clock)
        for meter in over:
            removed += self._tallies[meter].holders.values()
        gone = {worker for worker, heard in self._heard.items() if clock - heard > GONE_S}
        merged: list[Holding] = []
        kept = [(meter, tally) for meter, tally in self._tallies.items() if meter not in over]
        for meter, tally in kept:
            left = [row for row in tally.holders.values() if row.worker in gone and row.worker]
            if left:
                removed += left
                left += [row for row in tally.holders.values() if (row.worker, row.serial) == _MERGED]
                granted, used = sum(row.granted for row in left), sum(row.used for row in left)
                merged.append(Holding(*meter, *_MERGED, tally.limit, granted, used))
        if removed or merged:
            self._ledger.write(merged, removed)
            for row in removed:
                self._owed.pop((row[:3], (row.worker, row.serial)), None)
        if self._shares is not None:
            self._shares.forget(over)
        for meter in over:
            del self._tallies[meter]
        for row in removed:
            tally_of = self._tallies.get(row[:3])
            if tally_of is not None and tally_of.holders.pop((row.worker, row.serial), None) is not None:
                tally_of.granted -= row.granted
                tally_of.used -= row.used
        for row in merged:
            self._tallies[row[:3]].put(row)
        for worker in gone:
            del self._heard[worker]
            self._sequence.pop(worker, None)

    def _over(self, now: float, clock: float) -> set[Meter]:
        """Windows that have ended and are not among the last few used of their limit, or are very old."""
        by_limit: dict[tuple[str, str], list[tuple[float, Meter]]] = {}
        for meter, tally in self._tallies.items():
            if not meter[2] <= now < end_of(meter[1], meter[2]):
                by_limit.setdefault(meter[:2], []).append((tally.seen, meter))
        over: set[Meter] = set()
        for ended in by_limit.values():
            ended.sort(reverse=True)
            over.update(meter for _, meter in ended[KEPT_WINDOWS:])
            over.update(m for seen, m in ended if clock - seen >= GONE_S and now - m[2] > FORGET_S)
        return over

    def _tally(self, meter: Meter, limit: int, clock: float) -> _Tally:
        tally = self._tallies.get(meter)
        if tally is None:
            tally = self._tallies[meter] = _Tally(limit, clock)
        tally.limit = limit
        tally.seen = clock
        return tally

    def _recorded(self, worker: int, claim: Claim) -> Grant | None:
        tally = self._tallies.get(claim[:3])
        row = tally.holders.get((worker, claim.serial)) if tally is not None else None
        if tally is None or row is None:
            return None
        if self._shares is not None:
            return Grant(row.granted, self._shares.unallocated(claim[:3], tally.limit, tally.granted))
        return Grant(row.granted, max(0, tally.limit - tally.granted))

    def _ceiling(self, claim: Claim) -> int:
        return claim.limit if self._shares is None else self._shares.ceiling(claim[:3], claim.limit)

    def _follow(
        self, shares: Shares, claims: Sequence[Claim], grants: Sequence[Grant | None], *, asks: bool
    ) -> None:
        for claim, grant in zip(claims, grants, strict=True):
            tally = self._tallies[claim[:3]]
            beyond = grant.granted - claim.hold if asks and grant is not None else claim.want
            shares.follow(
                claim[:3],
                tally.limit,
                tally.granted,
                tally.used,
                short=max(0, claim.need - beyond),
                wish=max(0, claim.want - beyond),
            )

    def _stored(self, rows: Sequence[Holding]) -> bool:
        owed = {**self._owed, **{(row[:3], (row.worker, row.serial)): row for row in rows}}
        try:
            self._ledger.write(list(owed.values()))
        except OSError as error:
            if not self._owed:
                _log.error("limits can't be stored, budgets grant nothing until they can: %s", error)
            self.unstored += 1
            return False
        self._owed.clear()
        return True


def _lacks(claim: Claim, grant: Grant | None) -> bool:
    """Whether requests wait for more than was granted, or nothing was granted though there is something."""
    if grant is None:
        return False
    beyond = grant.granted - claim.hold
    return beyond < claim.need or (beyond <= 0 < claim.want and grant.unallocated > 0)


def _granted(
    tally: _Tally, old: Holding | None, worker: int, claim: Claim, ceiling: int, live: int
) -> Holding:
    """The holder's new row: what it holds, what its waiting requests need, and a fair share to be ahead."""
    others = tally.granted - (old.granted if old is not None else 0)
    room = max(0, ceiling - others - claim.hold)
    ahead = min(claim.want, room // (2 * live))
    granted = claim.hold + min(room, max(claim.need, ahead))
    return Holding(*claim[:3], worker, claim.serial, claim.limit, granted, claim.used)
