"""Circuit breakers: which model at which upstream is down, as one worker sees it.

The invariant: a breaker that is ``down`` always has a time at which it will not be, so nothing stays ejected for
longer than ``max_open_s`` without a new failure. Clock and randomness are passed in; nothing here awaits.

An attempt is known by the number that ``started`` returned for it. It tells attempts from before an opening (or a
closing) from later ones: a request of a minute ago that ends now says nothing about the upstream of now.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from optimizer.routing import BreakerRules

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"

TRIPPED: Final = "tripped"  # too many failures while closed
COOLED: Final = "cooled"  # the upstream asked to be left alone
DUE: Final = "due"  # the pause is over
PASSED: Final = "passed"  # an attempt from after the opening succeeded
FAILED: Final = "failed"  # the probe failed
SWITCHED_OFF: Final = "switched_off"

MOVES: Mapping[tuple[str, str], str] = {
    (CLOSED, TRIPPED): OPEN,
    (CLOSED, COOLED): OPEN,
    (OPEN, COOLED): OPEN,
    (OPEN, DUE): HALF_OPEN,
    # Attempts go out while open only when no other arm is left; their success is proof enough.
    (OPEN, PASSED): CLOSED,
    (OPEN, SWITCHED_OFF): CLOSED,
    (HALF_OPEN, PASSED): CLOSED,
    (HALF_OPEN, FAILED): OPEN,
    (HALF_OPEN, COOLED): OPEN,
    (HALF_OPEN, SWITCHED_OFF): CLOSED,
}

JITTER = 0.2  # of a pause, either way, so that workers do not probe in step
_NO_PROBE = -1


class Breaker:
    """One model at one upstream. ``opens`` counts how often it opened; ``down``: not to be chosen now.

    ``watcher`` is called whenever ``down`` has changed.
    """

    __slots__ = (
        "_era",
        "_failures",
        "_floor",
        "_half_ends",
        "_old_failures",
        "_old_volume",
        "_pauses",
        "_probe",
        "_rules",
        "_streak",
        "_uniform",
        "_until",
        "_volume",
        "down",
        "opens",
        "state",
        "watcher",
    )

    def __init__(self, rules: BreakerRules, *, uniform: Callable[[], float]) -> None:
        """Start closed. ``uniform`` draws from [0, 1) for the jitter."""
        self.state = CLOSED
        self.opens = 0
        self.down = False
        self.watcher: Callable[[], None] | None = None
        self._rules = rules
        self._uniform = uniform
        # Numbers of attempts: those below ``_floor`` belong to the time before the last opening or closing.
        self._era = 0
        self._floor = 0
        self._probe = _NO_PROBE
        self._until: float | None = None  # end of the pause; half open: when the probe is given up
        self._pauses = 0  # openings since the last success
        self._streak = 0
        # The window is two halves that take turns, so it spans between a half and a whole ``window_s``.
        self._half_ends = 0.0
        self._volume = 0
        self._failures = 0
        self._old_volume = 0
        self._old_failures = 0

    @property
    def rules(self) -> BreakerRules:
        """When to open and for how long; ``consecutive`` 0 closes it for good."""
        return self._rules

    @rules.setter
    def rules(self, rules: BreakerRules) -> None:
        self._rules = rules
        if rules.consecutive <= 0:
            self._move(SWITCHED_OFF)

    def started(self) -> int:
        """Note that an attempt goes out; half open, the first one is the probe.

        Returns:
            The attempt's number, to be handed back when it has ended.
        """
        if self.state is HALF_OPEN:
            self._era += 1
            if self._probe == _NO_PROBE:
                self._probe = self._era
                self._until = None
                self._show(down=True)
        return self._era

    def succeeded(self, now: float, attempt: int) -> None:
        """The upstream answered as it should, or refused for a reason that is the caller's."""
        if attempt < self._floor:
            return
        if self.state is not CLOSED:
            self._move(PASSED)
            return
        self._streak = 0
        if now >= self._half_ends:
            self._turn(now)
        self._volume += 1

    def failed(self, now: float, attempt: int) -> None:
        """The attempt's failure is the upstream's (``Failure.blames_arm``)."""
        if self.state is HALF_OPEN:
            if attempt == self._probe:
                self._pause(FAILED, now, self._grown_pause())
            return
        if self.state is OPEN or attempt < self._floor or self._rules.consecutive <= 0:
            return
        if now >= self._half_ends:
            self._turn(now)
        self._streak += 1
        self._volume += 1
        self._failures += 1
        if self._is_too_much():
            self._pause(TRIPPED, now, self._grown_pause())

    def abandoned(self, now: float, attempt: int) -> None:
        """The attempt ended without a verdict: its client left, or another one was faster."""
        if self.state is HALF_OPEN and attempt == self._probe:
            self._free_probe()

    def cool(self, now: float, seconds: float) -> None:
        """Leave the upstream alone for ``seconds`` (at most ``max_open_s``), as it asked."""
        if self._rules.consecutive > 0 and seconds > 0.0:
            self._pause(COOLED, now, min(seconds, self._rules.max_open_s))

    def tick(self, now: float) -> None:
        """Let time pass: end a pause that is over, give up a probe that never reported."""
        if self.state is OPEN:
            if self._until is None or now >= self._until:
                self._move(DUE)
        elif self.state is HALF_OPEN and self._probe != _NO_PROBE:
            # ``started`` knows no time, so the probe's begins with the first tick that sees it.
            if self._until is None:
                self._until = now + self._rules.max_open_s
            elif now >= self._until:
                self._free_probe()

    # --- inside -------------------------------------------------------------------------------------

    def _is_too_much(self) -> bool:
        if self._streak >= self._rules.consecutive:
            return True
        volume = self._volume + self._old_volume
        if volume < max(self._rules.min_volume, 1):
            return False
        return self._failures + self._old_failures >= self._rules.error_rate * volume

    def _grown_pause(self) -> float:
        """Seconds: doubling with every opening since the last success, jittered, never over ``max_open_s``."""
        rules = self._rules
        longest = rules.max_open_s / (1.0 + JITTER)
        # 2 ** 60 s is for ever; larger powers would only overflow.
        pause = min(rules.open_s * 2.0 ** min(self._pauses, 60), longest)
        self._pauses += 1
        return pause * (1.0 - JITTER + 2.0 * JITTER * self._uniform())

    def _pause(self, happened: str, now: float, seconds: float) -> None:
        was_open = self.state is OPEN
        self._move(happened)
        until = now + seconds
        self._until = max(self._until or until, until) if was_open else until

    def _move(self, happened: str) -> None:
        """Enter the state that the table names; what the table does not name changes nothing."""
        before, after = self.state, MOVES.get((self.state, happened))
        if after is None or after is before:
            return
        self.state = after
        self._probe = _NO_PROBE
        if after is HALF_OPEN:
            self._show(down=False)
            return
        self._era += 1
        self._floor = self._era
        if after is OPEN:
            self.opens += 1
        else:
            self._streak = self._pauses = 0
            self._volume = self._failures = self._old_volume = self._old_failures = 0
        self._show(down=after is OPEN)

    def _free_probe(self) -> None:
        self._probe = _NO_PROBE
        self._show(down=False)

    def _show(self, *, down: bool) -> None:
        if down is not self.down:
            self.down = down
            if self.watcher is not None:
                self.watcher()

    def _turn(self, now: float) -> None:
        """Begin the next half of the window."""
        half = 0.5 * self._rules.window_s
        is_next = now < self._half_ends + half
        self._old_volume = self._volume if is_next else 0
        self._old_failures = self._failures if is_next else 0
        self._volume = self._failures = 0
        self._half_ends = now + half


class Board:
    """All breakers of a worker, by (upstream, model id); they outlive the tables that name them."""

    def __init__(self, *, clock: Callable[[], float], uniform: Callable[[], float]) -> None:
        """``clock`` gives monotonic seconds, the same that breakers are told."""
        self._clock = clock
        self._uniform = uniform
        self._breakers: dict[tuple[str, str], Breaker] = {}

    def breaker(self, upstream: str, model_id: str, rules: BreakerRules) -> Breaker:
        """The breaker of the pair, from now on under ``rules``."""
        pair = (upstream, model_id)
        found = self._breakers.get(pair)
        if found is None:
            found = self._breakers[pair] = Breaker(rules, uniform=self._uniform)
        elif found.rules != rules:
            found.rules = rules
        return found

    def keep(self, pairs: Collection[tuple[str, str]]) -> None:
        """Forget the pairs that are not among ``pairs``."""
        for pair in self._breakers.keys() - set(pairs):
            del self._breakers[pair]

    def tick(self) -> None:
        """Let time pass for all; ten times a second is enough."""
        now = self._clock()
        for breaker in self._breakers.values():
            if breaker.state is not CLOSED:
                breaker.tick(now)

    def report(self) -> list[list[Any]]:
        """``[upstream, model id, state, opens]`` of those that are not closed or once were not."""
        return [
            [upstream, model_id, breaker.state, breaker.opens]
            for (upstream, model_id), breaker in self._breakers.items()
            if breaker.opens or breaker.state is not CLOSED
        ]
