"""The attempts made for one request: who is asked, when, and who is asked next.

Invariant: at most one attempt is under way, or two while a hedge races, or none while a repetition waits; never more in
all than the route allows, and none that its upstream's retry budget forbids. The answers themselves are the owner's.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Protocol, cast

import orjson

from optimizer import events
from proxy import headers as crossing
from proxy.attempt import Attempt, Owner
from proxy.compiled import CompiledArm
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.errors import ProxyError
from proxy.fallbacks import alternatives, that_continue, with_larger_context
from proxy.http1.messages import Request
from proxy.providers.base import Prepared
from proxy.resilience.failure import Failure, Kind
from proxy.resilience.follow_up import Move, RetryBudget, next_step
from proxy.turn import Turn

# After these the same arm may go on with its own answer; after a silence it would most likely be silent again.
_SAME_BODY = (events.FIRST, events.RETRY)
_CUT = (Kind.RESET, Kind.BROKEN)


class Context(Protocol):
    """What all requests of a worker share."""

    turn: Turn
    buffered_reply_bytes: int
    uniform: Callable[[], float]
    call_later: Callable[..., asyncio.TimerHandle]


class Pursuit:
    """See the module. ``current`` is the attempt that matters now, ``tried`` are those that are over, in order."""

    # Defaults of the class: most requests never set these, and every one is created on the hot path.
    current: Attempt | None = None
    tried: tuple[Attempt, ...] = ()
    sent_at = 0.0
    _rival: Attempt | None = None
    _timer: asyncio.TimerHandle | None = None
    _waiting: RetryBudget | None = None  # what the repetition that is waited for was taken from
    _deadline = 0.0

    def __init__(
        self, context: Context, owner: Owner, request: Request, envelope: Envelope, decision: Decision
    ) -> None:
        self._context = context
        self._owner = owner
        self._request = request
        self._envelope = envelope
        self._decision = decision
        self._rules = decision.route.resilience

    def begin(self, prepared: Prepared) -> None:
        """Ask the decided arm."""
        rules = self._rules
        self.sent_at = now = perf_counter()
        if rules.total_s is not None:
            self._deadline = now + rules.total_s
        if rules.hedge_s is not None:
            self._timer = self._context.call_later(rules.hedge_s, self._hedge)
        self.current = self._launch(self._decision.arm, self._envelope, prepared, events.FIRST)

    def opened(self, winner: Attempt) -> None:
        """A reply has begun: nobody else is asked, and who was asked beside it is given up."""
        if self._rival is None and self._timer is None:
            return
        self.stop_timer()
        rival, self._rival = self._rival, None
        loser = self.current if winner is rival else rival
        self.current = winner
        if loser is not None:
            loser.give_up()
            self.tried += (loser,)

    def outlived(self, attempt: Attempt) -> bool:
        """Whether somebody is still being asked now that ``attempt`` has failed."""
        rival, self._rival = self._rival, None
        if rival is None:
            self.stop_timer()
            return False
        self.tried += (attempt,)
        if attempt is self.current:
            self.current = rival
        return True

    def follow_up(self, attempt: Attempt, failure: Failure) -> bool:
        """Make another attempt, or plan one; False when there is none to make."""
        now = perf_counter()
        if self._deadline and now >= self._deadline:
            return False
        arm = attempt.arm
        others = self._others(attempt)
        larger = with_larger_context(others, arm)
        step = next_step(
            failure,
            self._rules,
            attempts=len(self.tried) + 1,
            on_this_arm=1 + sum(1 for over in self.tried if over.arm is arm),
            repeated=sum(1 for over in (*self.tried, attempt) if over.why == events.RETRY),
            others=bool(others),
            larger=bool(larger),
            uniform=self._context.uniform,
        )
        if step.move is Move.STOP:
            return False
        # The failure that opened the breaker is the last one there.
        opened = failure.blames_arm and arm.breaker.down and bool(others)
        if step.move is Move.SAME and not opened:
            soon_enough = not self._deadline or now + step.wait_s < self._deadline
            if soon_enough and _take(arm):
                self.tried += (attempt,)
                self._waiting = arm.handle.budget
                self._timer = self._context.call_later(step.wait_s, self._repeat, arm)
                return True
        # What the budget does not allow to repeat may still be asked of somebody else.
        if step.move is Move.LARGER:
            return self._move_on(attempt, larger, events.LARGER_CONTEXT)
        return self._move_on(attempt, others, events.FALLBACK)

    def resume(self, attempt: Attempt, failure: Failure, ask: Callable[[CompiledArm], Envelope]) -> bool:
        """Let another arm go on with an answer that was cut; ``ask`` makes the request for it. False if none can."""
        if len(self.tried) + 1 >= self._rules.attempts:
            return False
        if self._deadline and perf_counter() >= self._deadline:
            return False
        arms = that_continue(self._others(attempt))
        if failure.kind in _CUT:
            arms += that_continue([attempt.arm])
        for arm in arms:
            envelope = ask(arm)
            prepared = self._prepare(arm, envelope)
            if prepared is not None and _take(arm):
                self.tried += (attempt,)
                self.current = self._launch(arm, envelope, prepared, events.CONTINUATION, arm.handle.budget)
                return True
        return False

    def give_up(self) -> Attempt:
        """Nobody waits for the answer any more; the attempt that was under way, or the last one."""
        self.stop_timer()
        if self._waiting is not None:
            self._waiting.give_back()
            self._waiting = None
        if self._rival is not None:
            self._rival.give_up()
            self.tried += (self._rival,)
            self._rival = None
        attempt = self.current
        assert attempt is not None
        attempt.give_up()
        return attempt

    @property
    def made(self) -> int:
        """Attempts so far."""
        return len(self.tried) + (self.current not in self.tried)

    def close(self) -> Attempt | None:
        """The request is over. Cuts the cycles with the owner, so that reference counting frees all at once."""
        self.stop_timer()
        attempt, self.current = self.current, None
        self.tried = ()
        self._owner = cast("Owner", None)
        return attempt

    def left(self) -> tuple[str, float] | None:
        """The deadline of the whole request as a bound from now; None if there is none."""
        return ("total", max(0.0, self._deadline - perf_counter())) if self._deadline else None

    def stop_timer(self) -> None:
        """Plan nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # inside

    def _others(self, attempt: Attempt) -> list[CompiledArm]:
        tried = {over.arm.id for over in (*self.tried, attempt)}
        return alternatives(self._decision, self._envelope, tried, failed=attempt.arm)

    def _move_on(self, attempt: Attempt, arms: list[CompiledArm], reason: str) -> bool:
        """Go to the first of ``arms`` that takes the request."""
        for arm in arms:
            prepared = self._prepare(arm, self._envelope)
            if prepared is None:
                continue
            # To somebody else's upstream this is no repetition.
            budget = arm.handle.budget if arm.handle is attempt.arm.handle else None
            if budget is None or _take(arm):
                self.tried += (attempt,)
                self.current = self._launch(arm, self._envelope, prepared, reason, budget)
                return True
        return False

    def _repeat(self, arm: CompiledArm) -> None:
        self._timer = None
        budget, self._waiting = self._waiting, None
        prepared = self._prepare(arm, self._envelope)
        assert prepared is not None  # it was prepared before
        self.current = self._launch(arm, self._envelope, prepared, events.RETRY, budget)

    def _hedge(self) -> None:
        """No reply has begun: let another arm try as well."""
        self._timer = None
        current = self.current
        if current is None or self._rules.attempts <= len(self.tried) + 1:
            return
        for arm in self._others(current):
            prepared = self._prepare(arm, self._envelope)
            if prepared is not None and _take(arm):
                self._rival = self._launch(arm, self._envelope, prepared, events.HEDGE, arm.handle.budget)
                return

    def _prepare(self, arm: CompiledArm, envelope: Envelope) -> Prepared | None:
        """What to send to ``arm``; None if its provider can't be asked for this."""
        try:
            return arm.handle.codec.prepare(envelope, arm.arm, arm.model, arm.variant, arm.handle.upstream)
        except (ProxyError, orjson.JSONEncodeError):
            return None

    def _launch(
        self,
        arm: CompiledArm,
        envelope: Envelope,
        prepared: Prepared,
        reason: str,
        budget: RetryBudget | None = None,
    ) -> Attempt:
        context, headers = self._context, self._request.headers
        attempt = Attempt(
            self._owner,
            context.turn,
            envelope=envelope,
            arm=arm,
            prepared=prepared,
            why=reason,
            buffered_bytes=context.buffered_reply_bytes,
        )
        attempt.budget = budget
        block = crossing.forwarded(headers, same_body=reason in _SAME_BODY)
        if arm.handle.passthrough_auth:
            block += crossing.credential(headers, arm.handle.upstream.provider)
        trace = self._request.trace
        if trace is not None:
            block += trace.launched(reason, arm.id, self._request.body_at)
        attempt.begin(block, self._bound(arm))
        return attempt

    def _bound(self, arm: CompiledArm) -> tuple[str, float] | None:
        """The deadline of an attempt that begins now: for its first token, or for the whole request."""
        own = arm.model.first_token_s
        first = own if own is not None else self._rules.first_token_s
        left = self.left()
        if not self._envelope.stream or first is None:
            return left
        return ("first_token", first) if left is None or first < left[1] else left


def _take(arm: CompiledArm) -> bool:
    """Whether the retry budget of the arm's upstream allows one more."""
    pool = arm.handle.pool
    return arm.handle.budget.take(pool.busy + pool.waiting)
