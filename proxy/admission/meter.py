"""Rate limits and budgets as a worker applies them: reserve before, settle after, spend leases in between.

A ``Meter`` is this worker's lease on one limit of one subject in one window: what it may still spend (``free``), what
requests under way have reserved, what was used. The invariants:

- A request reserves at all of its meters or at none, in one step, so no interleaving of requests spends a lease twice.
- ``free + reserved + used`` never exceeds what the optimizer has recorded for this worker, unless replies cost more
  than was reserved for them or requests were let through without an answer; both are reported and counted.
- A request waits at most ``Ask.wait_s`` for the optimizer; what happens then is decided by the settings. Where they
  say refuse and the optimizer is only late, it waits up to ``PATIENCE_S``: a wrong refusal costs more than the wait.

Nothing here awaits. A clock that is set makes another window current; what a window has seen stays seen.
"""

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol

from optimizer.lease_terms import MAX_CLAIMS, RATES, Claim, Grant, Windows, nano, windows
from optimizer.routing import Quota
from proxy.admission.lease import (
    AMOUNT_OF,
    NEVER,
    Clockwork,
    Meter,
    Parts,
    header_lines,
    limited,
    limits_of,
    unit,
)
from proxy.admission.rate_limited import RateLimited, away, exceeded
from proxy.admission.reservation import Reservation

__all__ = ["Ask", "Clockwork", "Meters", "RateLimited", "Reservation"]

AWAIT_S: Final = 0.004
GRACE_S: Final = 0.001
# Of a request that would be refused although nobody said that its limit is used up.
PATIENCE_S: Final = 0.25
"""With ``AWAIT_S`` 5 ms: what a request may be held up that goes on without an answer. Where nodes share their limits
the optimizer has to ask in turn, and makes it 20 ms."""
REFRESH_S: Final = 0.5
"""How soon what a worker holds and does not need goes back to where others can have it."""
DENIAL_S: Final = 0.25
"""A limit that was found used up is not asked for again at once."""
FIRST_BLIND_S: Final = 0.25
LONGEST_BLIND_S: Final = 2.0
PROBE_S: Final = 0.25
"""How often an optimizer that is away is tried; no request waits for that."""
AHEAD: Final = 16
"""So many requests' worth a lease begins with."""
KEPT_SHARE: Final = 256
"""At rest a lease is at most this part of what nobody holds."""
FRESH_AFTER_S: Final = 3600.0
"""After such a pause a meter comes back as a new holder, and a quiet worker is heard of again, long before the
optimizer merges what those left that are gone."""

_log = logging.getLogger("llm_optimizer.limits")

Answer = Callable[[Sequence[Grant | None] | None], None]


class Ask(Protocol):
    """How claims get to the optimizer."""

    @property
    def wait_s(self) -> float:
        """How long a request may be held up for an answer, ``AWAIT_S`` unless the optimizer says otherwise."""

    def ask(self, claims: Sequence[Claim], answer: Answer) -> None:
        """Send; ``answer`` is called once, later, with one entry per claim, or with None when there is no answer."""


class _Account:
    """A subject's meters in the current windows."""

    __slots__ = ("meters", "quota", "windows")

    def __init__(self, quota: Quota, current: Windows, meters: tuple[tuple[Meter, int], ...]) -> None:
        self.quota = quota
        self.windows = current
        self.meters = meters  # with the index of the amount that each counts


Resume = Callable[[Reservation | RateLimited], None]


class _Waiter:
    __slots__ = ("asked", "due", "parts", "resume")

    def __init__(self, parts: Parts, resume: Resume, due: float) -> None:
        self.parts = parts
        self.resume = resume
        self.due = due
        self.asked = False


class Meters:
    """All limits of one worker. ``rates_open`` and ``budgets_open``: what to do when the optimizer is away."""

    def __init__(self, *, ask: Ask, now: Callable[[], float], loop: Clockwork) -> None:
        self.rates_open = True
        self.budgets_open = False
        self.now = now
        self._ask = ask
        self._loop = loop
        self._windows = windows(now())
        self._accounts: dict[str, _Account] = {}
        self._serial = 0
        self._waiting: list[_Waiter] = []
        self._queued: dict[Meter, None] = {}
        self._touched: list[Meter] = []
        self._flight: list[Meter] | None = None
        self._sent_at = 0.0
        self._is_away = False
        self._is_overdue = False  # requests have stopped waiting for the answer that is under way
        self._misses = 0
        self._blind_until = 0.0
        self._quiet_until = 0.0
        self._sending = False
        self._ticking = False
        self._next_look = inf
        self._beating = False
        self._closed = False

    def admit(
        self,
        subjects: Sequence[tuple[str, Quota]],
        *,
        tokens: int,
        usd: float | None,
        resume: Resume,
    ) -> Reservation | RateLimited | None:
        """Reserve for one request at all limits of ``subjects`` (``key:<id>``, ``route:<name>``).

        ``tokens`` and ``usd`` are the most it is expected to take; an unknown price reserves next to nothing, but not
        of a budget that is used up. None means that the request is parked: ``resume`` is called exactly once, within
        about 5 ms (20 ms where nodes share their limits), or ``PATIENCE_S`` where an answer alone can keep it from
        being refused.
        """
        now = self.now()
        current = self._windows
        if not current.minute <= now < current.minute_end:
            current = self._windows = windows(now)
        amounts = (1, max(1, tokens), 1 if usd is None else max(1, nano(usd)))
        parts: list[tuple[Meter, int]] = []
        fits = True
        for subject, quota in subjects:
            account = self._accounts.get(subject)
            if account is None or account.quota is not quota or account.windows is not current:
                account = self._account(subject, quota)
            for meter, index in account.meters:
                amount = amounts[index]
                if meter.free < amount:
                    fits = False
                parts.append((meter, amount))
        return self._take(parts) if fits else self._lacking(parts, resume)

    def prepare(self, subjects: Sequence[tuple[str, Quota]]) -> None:
        """Ask for a little of each limit before the first request needs it."""
        for subject, quota in subjects:
            if subject not in self._accounts:
                for meter, _ in self._account(subject, quota).meters:
                    meter.chunk = meter.limit // KEPT_SHARE
                    if meter.chunk:
                        self._renew(meter)

    def touch(self, meter: Meter) -> None:
        """Something changed that the next refresh reports."""
        meter.touched = True
        self._touched.append(meter)
        if not self._ticking and not self._closed:
            self._ticking = True
            self._loop.call_later(REFRESH_S, self._tick)

    def close(self) -> None:
        """Give back what is not needed any more, and decide about who waits; best effort, nothing is awaited."""
        self._closed = True
        for waiter in self._drop_waiting(lambda _: True):
            self._resume(waiter, self._alone(waiter.parts))
        held = [m for account in self._accounts.values() for m, _ in account.meters if m.free > 0]
        for meter in (*held, *self._touched):
            meter.chunk = 0
            self._queued[meter] = None
        while self._queued:
            self._post()

    # accounts and windows

    def _account(self, subject: str, quota: Quota) -> _Account:
        """The subject's account, brought up to date with the quota and the time."""
        old = self._accounts.get(subject)
        known = {meter.measure: meter for meter, _ in old.meters} if old is not None else {}
        wanted = limits_of(quota)
        meters = tuple(
            (self._meter(known.pop(measure, None), subject, measure, limit), AMOUNT_OF[measure])
            for measure, limit in wanted
        )
        for meter in known.values():  # no limit any more
            self._retire(meter)
        account = self._accounts[subject] = _Account(quota, self._windows, meters)
        if not self._beating:
            self._beat()
        return account

    def _meter(self, known: Meter | None, subject: str, measure: str, limit: int) -> Meter:
        window = self._windows.of(measure)
        clock = self._loop.time()
        if known is not None:
            rested = clock - known.at > FRESH_AFTER_S and known.reserved == 0
            if known.start == window[0] and not rested:
                self._change_limit(known, limit)
                known.at = clock
                return known
            self._retire(known)
        self._serial += 1
        meter = Meter(subject, measure, limit, window, self._serial)
        meter.at = clock
        if known is not None and known.start != window[0]:
            meter.chunk = min(known.chunk, limit)
        return meter

    def _change_limit(self, meter: Meter, limit: int) -> None:
        if limit == meter.limit:
            return
        meter.unallocated = max(0, meter.unallocated + limit - meter.limit)
        meter.denied_until = 0.0
        meter.limit = limit
        # What was granted under a larger limit is nobody's right under the smaller one.
        meter.chunk = 0
        self._renew(meter)
        meter.free = min(meter.free, 0)

    def _retire(self, meter: Meter) -> None:
        meter.chunk = 0
        meter.left = True
        if not meter.touched:
            self.touch(meter)

    # reserving

    def _take(self, parts: Parts) -> Reservation:
        for meter, amount in parts:
            meter.free -= amount
            meter.reserved += amount
            meter.spent += amount
            if not meter.touched:
                self.touch(meter)
            if meter.free < meter.low:
                meter.chunk = min(meter.limit, max(2 * meter.chunk, AHEAD * amount))
                self._renew(meter)
        return Reservation(self, parts)

    def _lacking(self, parts: Parts, resume: Resume) -> Reservation | RateLimited | None:
        clock = self._loop.time()
        for meter, amount in parts:
            if meter.free >= amount:
                continue
            if amount > meter.limit or (amount >= meter.denied and clock < meter.denied_until):
                return self._refusal(parts, meter, amount)
            if meter not in self._queued:
                meter.chunk = min(meter.limit, max(2 * meter.chunk, AHEAD * amount))
                self._renew(meter)
        refuses = self._refuses_alone(parts)
        is_blind = self._is_overdue or clock < self._blind_until
        if self._closed or self._is_away or (is_blind and not refuses):
            return self._alone(parts)
        due = clock + (PATIENCE_S if refuses else self._ask.wait_s)
        self._waiting.append(_Waiter(parts, resume, due))
        self._send_soon()
        self._look_at(due, clock)
        return None

    def _refuses_alone(self, parts: Parts) -> bool:
        """Whether the request would be refused for want of an answer, not for want of what it asks for."""
        return any(
            meter.free < amount and not (self.rates_open if meter.measure in RATES else self.budgets_open)
            for meter, amount in parts
        )

    def _look_at(self, due: float, clock: float) -> None:
        if due < self._next_look:
            self._next_look = due
            self._loop.call_later(max(0.0, due - clock), self._due)

    def _alone(self, parts: Parts) -> Reservation | RateLimited:
        """Decide without the optimizer's answer.

        While it is merely slow, a rate limit that stands open still lets no more through than was left when it was
        last heard of.
        """
        for meter, amount in parts:
            if meter.free >= amount:
                continue
            if not (self.rates_open if meter.measure in RATES else self.budgets_open):
                return away(limited(meter), self.now())
            if not self._is_away and meter.free + meter.unallocated < amount:
                return self._refusal(parts, meter, amount)
        return self._take(parts)

    def _refusal(self, parts: Parts, meter: Meter, amount: int) -> RateLimited:
        now = self.now()
        return exceeded(limited(meter), amount / unit(meter), now, header_lines(parts, now))

    # parked requests

    def _due(self) -> None:
        """The time of the first in the line is over.

        When this loop itself was busy, the answer may lie unread in the socket; timers come before sockets, so one
        more round decides.
        """
        self._loop.call_later(GRACE_S, self._decide_late)

    def _decide_late(self) -> None:
        self._next_look = inf
        clock = self._loop.time()
        late = self._drop_waiting(lambda waiter: waiter.due <= clock)
        if late and self._flight is not None:
            self._is_overdue = True
            self._misses += 1
            self._blind_until = clock + min(LONGEST_BLIND_S, FIRST_BLIND_S * 2 ** min(self._misses - 1, 8))
        if self._waiting:
            self._look_at(min(waiter.due for waiter in self._waiting), clock)
        for waiter in late:
            self._resume(waiter, self._alone(waiter.parts))

    def _drop_waiting(self, condition: Callable[[_Waiter], bool]) -> list[_Waiter]:
        dropped = [waiter for waiter in self._waiting if condition(waiter)]
        self._waiting = [waiter for waiter in self._waiting if not condition(waiter)]
        return dropped

    def _resume(self, waiter: _Waiter, outcome: Reservation | RateLimited) -> None:
        try:
            waiter.resume(outcome)
        except Exception:  # noqa: BLE001 - one request's trouble must not keep the others waiting
            _log.exception("a request could not go on after it was admitted")

    def _serve(self, answered: dict[Meter, Grant | None]) -> None:
        """Go through the line after an answer, the first in it first."""
        waiting, self._waiting = self._waiting, []
        rest: list[_Waiter] = []
        for waiter in waiting:
            lacking = [(meter, amount) for meter, amount in waiter.parts if meter.free < amount]
            asked = [(meter, amount) for meter, amount in lacking if waiter.asked and meter in answered]
            denied = next(((meter, amount) for meter, amount in asked if meter.remaining < amount), None)
            if not lacking:
                self._resume(waiter, self._take(waiter.parts))
            elif not asked:
                rest.append(waiter)
            elif any(answered[meter] is None for meter, _ in asked):
                self._resume(waiter, self._alone(waiter.parts))
            elif denied is None:
                rest.append(waiter)  # others were quicker, and there is more where that came from
            else:
                meter, amount = denied
                meter.denied = amount
                meter.denied_until = self._loop.time() + DENIAL_S
                self._resume(waiter, self._refusal(waiter.parts, meter, amount))
        self._waiting = rest + self._waiting

    # talking to the optimizer

    def _renew(self, meter: Meter) -> None:
        meter.low = NEVER
        self._queued[meter] = None
        self._send_soon()

    def _send_soon(self) -> None:
        # Deferred, so that everything that comes in one turn of the loop goes in one message.
        if not self._sending and self._flight is None and not self._closed:
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        if self._flight is not None or self._closed or self._loop.time() < self._quiet_until:
            return
        self._post()

    def _post(self) -> None:
        demand: dict[Meter, int] = {}
        for waiter in self._waiting:
            for meter, amount in waiter.parts:
                demand[meter] = demand.get(meter, 0) + amount
        for meter, amount in demand.items():
            if amount > meter.free:
                self._queued[meter] = None
        chosen = list(self._queued)[:MAX_CLAIMS]
        if not chosen:
            return
        for meter in chosen:
            del self._queued[meter]
        sent = set(chosen)
        for waiter in self._waiting:
            waiter.asked = all(meter in sent or meter.free >= amount for meter, amount in waiter.parts)
        claims = []
        for meter in chosen:
            wanted = demand.get(meter, 0)
            meter.chunk = max(meter.chunk, min(meter.free, wanted))
            claims.append(meter.claim(min(meter.limit, max(0, wanted - max(0, meter.free)))))
        self._flight = chosen
        self._sent_at = self._loop.time()
        self._ask.ask(claims, lambda grants: self._answered(chosen, grants))

    def _answered(self, flight: list[Meter], grants: Sequence[Grant | None] | None) -> None:
        if self._closed:
            return
        self._flight = None
        self._is_overdue = False
        clock = self._loop.time()
        if grants is None or len(grants) != len(flight):
            self._failed(flight, clock)
            return
        self._is_away = False
        self._quiet_until = 0.0
        if clock - self._sent_at < self._ask.wait_s:
            self._misses = 0
        for meter, grant in zip(flight, grants, strict=True):
            if grant is not None:
                meter.take(grant)
            elif not meter.touched:
                self.touch(meter)
        self._serve(dict(zip(flight, grants, strict=True)))
        if self._queued or self._waiting:
            self._send_soon()

    def _failed(self, flight: list[Meter], clock: float) -> None:
        """No answer will come: go on alone for a while, and report again what was not heard."""
        self._is_away = True
        self._quiet_until = clock + PROBE_S
        for meter in flight:
            if not meter.touched:
                self.touch(meter)
        for waiter in self._drop_waiting(lambda _: True):
            self._resume(waiter, self._alone(waiter.parts))

    def _tick(self) -> None:
        """Report what was spent, and keep only what the next moments will need."""
        self._ticking = False
        if self._closed:
            return
        touched, self._touched = self._touched, []
        now = self.now()
        for meter in touched:
            meter.touched = False
            over = not meter.start <= now < meter.end
            if over or meter.left:
                meter.chunk = 0
            elif meter.spent > 0:
                meter.chunk = min(meter.limit, 2 * meter.spent)
            else:
                # A little stays, so that occasional requests need not wait; next to nothing of a limit that is tight.
                meter.chunk = min(meter.chunk, meter.unallocated // KEPT_SHARE)
            if meter.spent > 0 and not over:
                self.touch(meter)  # once more, so that a pause is noticed
            meter.spent = 0
            if not over or meter.measure not in RATES:
                self._queued[meter] = None
        if self._queued:
            self._send_soon()
            if not self._touched:
                self._retry_later()

    def _beat(self) -> None:
        """Be heard of, even if there is nothing to say."""
        if self._closed:
            return
        if self._beating and self._flight is None:
            self._ask.ask((), lambda _: None)
        self._beating = True
        self._loop.call_later(FRESH_AFTER_S, self._beat)

    def _retry_later(self) -> None:
        """While the optimizer is away, what is queued must not wait for the next request."""
        if self._loop.time() < self._quiet_until and not self._ticking:
            self._ticking = True
            self._loop.call_later(REFRESH_S, self._tick)
