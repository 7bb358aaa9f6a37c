"""What to do after a failed attempt: once more on the same arm, on another one, on a larger one, or stop.

Who may answer the caller's request at all is decided elsewhere; this is only about the next step. It is asked before
anything reached the client. No step repeats at once what just failed: a repetition always waits.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optimizer.routing import Resilience
from proxy.resilience.failure import Failure, Kind

# Whatever is configured or asked for, a repetition leaves the upstream this long.
LEAST_WAIT_S = 0.01
RETRY_AFTER_JITTER = 0.1


class Move(enum.Enum):
    """Where the next attempt goes."""

    SAME = "same"
    OTHER = "other"
    LARGER = "larger"
    STOP = "stop"


@dataclass(slots=True)
class Step:
    """The next move, after ``wait_s`` seconds."""

    move: Move
    wait_s: float = 0.0


class Choice(enum.Enum):
    """What may be tried next, and until when."""

    SAME_FEW = enum.auto()  # while the route's repetitions last
    SAME_ONCE = enum.auto()  # after a request's first attempt only
    SAME_ALWAYS = enum.auto()  # while attempts remain
    OTHER = enum.auto()
    LARGER = enum.auto()


# In order of preference; when nothing of it is possible, stop.
PLANS: Mapping[Kind, tuple[Choice, ...]] = {
    Kind.CONNECT: (Choice.SAME_FEW, Choice.OTHER, Choice.SAME_ALWAYS),
    Kind.RESET: (Choice.SAME_FEW, Choice.OTHER, Choice.SAME_ALWAYS),
    Kind.TRANSIENT: (Choice.SAME_FEW, Choice.OTHER, Choice.SAME_ALWAYS),
    Kind.RATE_LIMITED: (Choice.SAME_FEW, Choice.OTHER),
    # Whoever was silent for a whole deadline would most likely make the caller wait for another one.
    Kind.SILENT: (Choice.OTHER, Choice.SAME_ONCE),
    Kind.BROKEN: (Choice.OTHER, Choice.SAME_ONCE),
    Kind.BUSY: (Choice.OTHER,),
    Kind.CREDENTIALS: (Choice.OTHER,),
    Kind.MODEL_MISSING: (Choice.OTHER,),
    Kind.CONTEXT: (Choice.LARGER,),
    Kind.POLICY: (),
    Kind.CALLER: (),
}
_MOVES: Mapping[Choice, Move] = {Choice.OTHER: Move.OTHER, Choice.LARGER: Move.LARGER}


def next_step(
    failure: Failure,
    rules: Resilience,
    *,
    attempts: int,
    on_this_arm: int,
    repeated: int,
    others: bool,
    larger: bool,
    uniform: Callable[[], float],
) -> Step:
    """Decide what follows a failed attempt.

    Args:
        failure: What went wrong with it.
        rules: The route's.
        attempts: Made so far, this one included.
        on_this_arm: Of those, on the arm that just failed.
        repeated: Attempts that repeated another on the same arm, on any of them.
        others: Whether an arm is left that was not tried.
        larger: Whether one of those has a larger context than the arm that just failed.
        uniform: Draws from [0, 1), for the jitter.
    """
    if attempts >= rules.attempts:
        return Step(Move.STOP)
    asked = failure.retry_after_s
    same = failure.retry_same is not False and (asked is None or asked <= rules.retry_after_s)
    possible: Mapping[Choice, bool] = {
        Choice.SAME_FEW: same and repeated < rules.same_arm,
        Choice.SAME_ONCE: same and attempts <= 1,
        Choice.SAME_ALWAYS: same,
        Choice.OTHER: others,
        Choice.LARGER: larger,
    }
    for choice in PLANS[failure.kind]:
        if possible[choice]:
            move = _MOVES.get(choice)
            if move is not None:
                return Step(move)
            return Step(Move.SAME, _wait_s(rules, asked, on_this_arm, uniform()))
    return Step(Move.STOP)


def _wait_s(rules: Resilience, asked: float | None, on_this_arm: int, u: float) -> float:
    """Seconds before a repetition: what was asked for and a little more, or half to a whole back-off."""
    if asked:
        wait = asked * (1.0 + RETRY_AFTER_JITTER * u)
    else:
        # 2 ** 60 is beyond every bound; larger powers would only overflow.
        back_off = min(rules.backoff_s * 2.0 ** min(on_this_arm - 1, 60), rules.max_backoff_s)
        wait = back_off * (0.5 + 0.5 * u)
    return max(wait, LEAST_WAIT_S)


class RetryBudget:
    """How many attempts of an upstream's may be repetitions at a time: a share of all, and never less than a floor.

    Without it, an upstream that is slow from too much work would get several times as much of it.
    """

    __slots__ = ("floor", "retrying", "share")

    def __init__(self, share: float, floor: int) -> None:
        self.share = share
        self.floor = floor
        self.retrying = 0

    def take(self, active: int) -> bool:
        """Count one more repetition if ``active`` requests allow for it; it is to be given back when it ended."""
        if self.retrying < max(self.floor, self.share * active):
            self.retrying += 1
            return True
        return False

    def give_back(self) -> None:
        """A repetition ended."""
        self.retrying -= 1
