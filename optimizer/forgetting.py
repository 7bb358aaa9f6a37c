"""Forgetting what an arm was like before it changed, without forgetting what was seen of it since.

Only what is known about the signal that changed counts less: a slow hour must not cost an arm its ratings. A change is
told some observations after it happened, and those were added to the evidence from before; they are added once more, to
what counts whole. Counting them twice is off by ``keep`` of a few observations.
"""

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any, Protocol

from optimizer import reward
from optimizer.learner import Learner
from optimizer.linear_statistics import DONE, RATED
from optimizer.reward import Lesson
from optimizer.timeline import RouteArm


class Reset(Protocol):
    """``Ingest.reset``."""

    def __call__(
        self,
        route: str,
        *,
        model_key: str,
        variant_key: str,
        keep: float,
        at: float,
        signals: tuple[str, ...],
    ) -> None: ...


class Forgetting:
    """Implements ``optimizer.drift.Forget`` on what a learner knows.

    Args:
        learner: Its statistics get the newest observations again.
        reset: Lets the older ones count less, usually ``Ingest.reset``.
    """

    def __init__(self, learner: Learner, reset: Reset) -> None:
        self._learner = learner
        self._reset = reset

    def __call__(
        self,
        arm: RouteArm,
        signal: str,
        *,
        keep: float,
        at: float,
        seen: Sequence[tuple[float, Mapping[str, Any] | None]],
    ) -> None:
        """See ``optimizer.drift.Forget``; ``quality`` is what the route's anchor says, whoever that is."""
        learner = self._learner
        name = signal.partition("@")[0]
        signals = (reward.COST, reward.COST_USD) if name == reward.COST else (name,)
        self._reset(arm[0], model_key=arm[1], variant_key=arm[2], keep=keep, at=at, signals=signals)
        # A reset is never before the newest event, so it may be later than it was asked for.
        moment = learner.statistics.timeline.resets[-1].at
        stored = learner.stored_signal(arm[0], signal)
        group = RATED if reward.is_quality(stored) else DONE
        for value, data in seen:
            lessons = _lessons(stored, value)
            learner.statistics.add(arm, moment, lessons)
            # Whether an attempt succeeds is not learned with its features.
            if data is not None and name != reward.SUCCESS:
                for version, x in learner.vectors(data):
                    learner.linear.add(arm, version, group, moment, x, lessons)


def _lessons(stored: str, value: float) -> tuple[Lesson, ...]:
    name, _, version = stored.partition("@")
    if name == reward.COST:
        return (stored, value), (reward.priced(reward.COST_USD, version), exp(value))
    return ((stored, value),)
