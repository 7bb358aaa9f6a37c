"""One route on recorded outcomes: request after request is decided, and what the chosen arm did is told.

The player is handed anything that decides and learns; ``optimizer.loop.RouteLoop`` is the product's own. Cost and
latency are told at once, as they arrive with the reply; ratings come for a share of the requests, some requests late.
Invariant: the player reads only what was chosen, so a policy learns exactly what it would learn from traffic.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from optimizer.simulating.world import IntArray, World
from policies.types import FloatArray


class Learning(Protocol):
    """What is played. ``at`` is in seconds; ``eligible`` a bit mask of arms."""

    def decide(self, x: FloatArray, u: float, eligible: int | None = None) -> tuple[int, Sequence[float]]:
        """The arm for the uniform number ``u``, and the probability of every arm."""
        ...

    def outcome(
        self,
        arm: int,
        x: FloatArray,
        *,
        at: float,
        completed: bool = True,
        cost_usd: float | None,
        latency_s: float | None,
    ) -> None:
        """What the reply showed."""
        ...

    def rating(self, arm: int, x: FloatArray, *, at: float, value: float) -> None:
        """How good it was, 0..1; ``at`` is when it was decided, however late this comes."""
        ...

    def open_account(self) -> None:
        """Forget what was spent, not what was learned."""
        ...


@dataclass(frozen=True, slots=True)
class Feedback:
    """Which ratings arrive, and when: a ``share`` (0..1) of them, ``delay`` requests after their own."""

    share: float = 1.0
    delay: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0 or self.delay < 0:
            raise ValueError("feedback needs a share of 0..1 and a delay of 0 requests or more")


@dataclass(frozen=True, slots=True)
class Course:
    """What was played, one row per request: ``row`` of the world, ``arm``, its outcome, the whole ``vector`` (T, K)."""

    row: IntArray
    arm: IntArray
    vector: FloatArray
    quality: FloatArray
    cost: FloatArray
    latency: FloatArray

    def since(self, start: int) -> "Course":
        """Without the first ``start`` requests."""
        return self._cut(slice(start, None))

    def until(self, end: int) -> "Course":
        """The first ``end`` requests."""
        return self._cut(slice(end))

    def _cut(self, part: slice) -> "Course":
        return Course(
            self.row[part],
            self.arm[part],
            self.vector[part],
            self.quality[part],
            self.cost[part],
            self.latency[part],
        )

    @property
    def shares(self) -> FloatArray:
        """Share of the requests that each arm got, shape (K,)."""
        counts = np.bincount(self.arm, minlength=self.vector.shape[1])
        return counts / max(1, len(self.arm))

    def late_share(self, limit_s: float) -> float:
        """Share of the replies that took longer than ``limit_s``; NaN when no latency is known."""
        known = self.latency[np.isfinite(self.latency)]
        return float((known > limit_s).mean()) if len(known) else float("nan")


def play(
    world: World,
    order: Sequence[int] | IntArray,
    learning: Learning,
    *,
    rng: np.random.Generator,
    feedback: Feedback | None = None,
    told: FloatArray | None = None,
    interval_s: float = 1.0,
    start: float = 0.0,
    afresh: int | None = None,
    show: Callable[[int], None] | None = None,
) -> Course:
    """Send the queries ``order`` one after the other.

    Args:
        world: Where outcomes come from.
        order: Rows of the world, any number of times each.
        learning: Decides and learns.
        rng: Draws of arms, and which ratings arrive. Both are drawn for every request, so that two policies with equal
            seeds meet equal luck.
        feedback: Which ratings arrive; None means all, at once.
        told: What ratings say, shape (n, K), where that is not the true quality.
        interval_s: Time between two requests.
        start: Time of the first one.
        afresh: The request before which a new account of what is spent is opened.
        show: Called with the number of requests done, now and then.
    """
    taken = feedback or Feedback()
    values = world.quality if told is None else told
    rows = np.asarray(order, dtype=np.int64)
    mask = world.eligible()
    drawn, rated = rng.random(len(rows)), rng.random(len(rows)) < taken.share
    arms = np.zeros(len(rows), dtype=np.int64)
    vectors = np.zeros((len(rows), len(world.arms)))
    waiting: deque[tuple[int, int, int]] = deque()
    for number, row in enumerate(rows):
        at = start + number * interval_s
        if number == afresh:
            learning.open_account()
        while waiting and waiting[0][0] <= number:
            due, arm, of = waiting.popleft()
            decided_at = start + (due - taken.delay) * interval_s
            learning.rating(arm, world.x[of], at=decided_at, value=float(values[of, arm]))
        arm, vectors[number] = learning.decide(world.x[row], float(drawn[number]), int(mask[row]))
        arms[number] = arm
        _tell(world, learning, int(row), arm, at)
        if rated[number] and np.isfinite(values[row, arm]):
            if taken.delay:
                waiting.append((number + taken.delay, arm, int(row)))
            else:
                learning.rating(arm, world.x[row], at=at, value=float(values[row, arm]))
        if show is not None and number % 64 == 63:
            show(number + 1)
    cells = (rows, arms)
    return Course(rows, arms, vectors, world.quality[cells], world.cost[cells], world.latency[cells])


def _tell(world: World, learning: Learning, row: int, arm: int, at: float) -> None:
    latency = float(world.latency[row, arm])
    learning.outcome(
        arm,
        world.x[row],
        at=at,
        cost_usd=float(world.cost[row, arm]),
        latency_s=latency if np.isfinite(latency) else None,
    )
