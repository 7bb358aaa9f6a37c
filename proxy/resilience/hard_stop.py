"""When a worker stops sending units to a candidate without waiting for statistics.

Pure. Invariant: a candidate is stopped only beside a control that does better, so an outage that hits both is reported
as the baseline's. The sequential guards of the optimizer need samples and a reading of the log; this needs neither, so
it only acts on what cannot be chance: a run of errors that control's own rate makes less likely than one in a million,
or a candidate that mostly fails beside a control that mostly does not.
"""

from math import ceil, log
from typing import Final

HARD_STOP: Final = "hard_stop"
BASELINE_FAILING: Final = "baseline_failing"

WINDOW: Final = 20
LEAST_RUN: Final = 5
# Chance of a run of errors by which the candidate is no worse than control.
RUN_CHANCE: Final = 1e-6

_MOST_FAIL = 0.5
_HEALTHY = 0.2
_LATEST = (1 << WINDOW) - 1


class Latest:
    """Which of the latest ``WINDOW`` outcomes of a side were errors, and how many there were of each in all."""

    __slots__ = ("_bits", "errors_ever", "seen_ever")

    def __init__(self) -> None:
        self.errors_ever = 0
        self.seen_ever = 0
        self._bits = 0

    def add(self, failed: bool) -> None:
        self._bits = (self._bits << 1 | failed) & _LATEST
        self.errors_ever += failed
        self.seen_ever += 1

    @property
    def errors(self) -> int:
        """Errors among the latest."""
        return self._bits.bit_count()

    @property
    def seen(self) -> int:
        """How many the latest are: ``WINDOW``, or fewer in the beginning."""
        return min(self.seen_ever, WINDOW)


def run_length(p_control: float) -> int:
    """How many errors of the candidate in a row stop it when each of control's requests fails with ``p_control``."""
    return max(LEAST_RUN, ceil(log(RUN_CHANCE) / log(p_control)))


class HardStop:
    """One rollout as one worker sees it. ``stopped`` is final: a candidate comes back as another rollout."""

    __slots__ = ("_beside", "_candidate", "_control", "_reported", "_run", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        self._control = Latest()
        self._candidate = Latest()
        self._run = 0  # of errors of the candidate's
        self._beside = Latest()  # control's outcomes since that run began
        self._reported = False

    def control_ended(self, failed: bool) -> None:
        """A request of control's was answered, or failed upstream."""
        self._control.add(failed)
        self._beside.add(failed)

    def candidate_ended(self, failed: bool, *, alone: bool = False) -> str | None:
        """A request of the candidate's was answered, or failed upstream.

        Args:
            failed: Which of the two.
            alone: Control gets no requests now, so there is nothing to wait for.

        Returns:
            ``HARD_STOP`` when this one stopped it, ``BASELINE_FAILING`` when it would have but control fails too (once,
            until one of them is well again), else None.
        """
        if self.stopped:
            return None
        self._candidate.add(failed)
        self._run = self._run + 1 if failed else 0
        if self._run == 1:
            self._beside = Latest()
        in_row, mostly = self._fails_in_row, self._mostly_fails
        if not in_row and not mostly:
            self._reported = False
        elif self._control_fails:
            if not self._reported:
                self._reported = True
                return BASELINE_FAILING
        elif not in_row or self._stands_alone(alone):
            self.stopped = True
            return HARD_STOP
        return None

    @property
    def p_control(self) -> float:
        """Control's rate of errors by all that this worker saw of it; one half while it saw nothing.

        Two errors and two successes are added (the centre of Agresti and Coull's interval): a lucky beginning of
        control's must not make a run of the candidate's look less likely than it is.
        """
        return (self._control.errors_ever + 2) / (self._control.seen_ever + 4)

    @property
    def _fails_in_row(self) -> bool:
        return self._run >= LEAST_RUN and self._run >= run_length(self.p_control)

    @property
    def _mostly_fails(self) -> bool:
        # Of a control that was hardly asked nobody knows that it does better.
        both = self._candidate.seen == self._control.seen == WINDOW
        return both and self._candidate.errors > _MOST_FAIL * WINDOW

    @property
    def _control_fails(self) -> bool:
        """A fifth of the latest, but no fewer than two: one error of three is no outage."""
        return self._control.errors >= _HEALTHY * max(self._control.seen, WINDOW // 2)

    def _stands_alone(self, alone: bool) -> bool:
        """Whether it is the candidate that has begun to fail, and not what both depend on.

        When both begin to fail, the candidate's run may well be long enough before control has failed often enough. So
        a first outcome of control's is waited for, though not for ever.
        """
        beside = self._beside
        if not beside.seen:
            return alone or self._run >= WINDOW
        return beside.errors < _HEALTHY * beside.seen
