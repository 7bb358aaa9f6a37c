"""The other policy: what it gives every arm in every logged decision.

A policy that always plays the same shares keeps them among the arms that could serve a request, as workers do. One that
learns is taken along the log: at every request it decides with what the rows before have taught it, and only then sees
what came of the row, so its probabilities never know the outcome they are multiplied with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.replaying.rows import COST, LATENCY, QUALITY, SUCCESS, Decisions
from optimizer.steering import Account
from policies.offpolicy import LARGEST_WEIGHT, Vectors
from policies.types import FloatArray

_MIDDLE = 0.5
_TOLD_EVERY = 256


class Target(Protocol):
    """A policy to evaluate. ``name`` is for people."""

    @property
    def name(self) -> str: ...

    def wanted(self, decisions: Decisions) -> NDArray[np.bool_]:
        """Arms it may give a share to, shape (K,)."""
        ...

    def vectors(self, decisions: Decisions) -> Vectors:
        """Its probabilities for these decisions."""
        ...


@dataclass(frozen=True, slots=True)
class Shares:
    """Fixed shares by arm id; missing arms have none."""

    name: str
    shares: Mapping[str, float]

    def wanted(self, decisions: Decisions) -> NDArray[np.bool_]:
        """See ``Target``."""
        return np.array([self.shares.get(arm, 0.0) > 0.0 for arm in decisions.arms], dtype=np.bool_)

    def vectors(self, decisions: Decisions) -> Vectors:
        """Shares among the eligible arms; all of them alike where none of the policy's own is eligible."""
        shares = np.array([self.shares.get(arm, 0.0) for arm in decisions.arms])

        def part(start: int, stop: int) -> FloatArray:
            eligible = decisions.eligible_arms(start, stop)
            mine = eligible * shares
            total = mine.sum(axis=1, keepdims=True)
            anyone = eligible / np.maximum(eligible.sum(axis=1, keepdims=True), 1)
            found: FloatArray = np.where(total > 0.0, mine / np.where(total > 0.0, total, 1.0), anyone)
            return found

        return part


@dataclass(frozen=True, slots=True)
class AsLogged:
    """The policy that made the log."""

    name: str = "as logged"

    def wanted(self, decisions: Decisions) -> NDArray[np.bool_]:
        """See ``Target``."""
        return np.zeros(decisions.n_arms, dtype=np.bool_)

    def vectors(self, decisions: Decisions) -> Vectors:
        """See ``Target``."""
        return decisions.logged_vectors


@dataclass(slots=True)
class Imagined(Account):
    """What the other policy would have spent by now: a row counts ``weight`` times, as often as it would have come.

    Without that its constraints would be steered by what the logged policy spent.
    """

    weight: float = 1.0

    def pay(self, cost_usd: float, at: float) -> None:
        """See ``Account``."""
        # Zero-argument super() does not work in a dataclass with slots.
        Account.pay(self, cost_usd * self.weight, at)
        self.priced += self.weight - 1.0

    def rate_quality(self, value: float) -> None:
        """See ``Account``."""
        Account.rate_quality(self, value * self.weight)
        self.rated += self.weight - 1.0

    def time(self, *, late: bool) -> None:
        """See ``Account``."""
        Account.time(self, late=late)
        self.timed += self.weight - 1.0
        self.late += (self.weight - 1.0) * late


class Loop(Protocol):
    """One route's learning in memory (``optimizer.loop.RouteLoop``); times are Unix seconds."""

    account: Account

    def decide(self, x: FloatArray, u: float, eligible: int | None = None) -> tuple[int, Sequence[float]]: ...

    def outcome(
        self,
        arm: int,
        x: FloatArray,
        *,
        at: float,
        completed: bool = True,
        cost_usd: float | None = None,
        latency_s: float | None = None,
    ) -> None: ...

    def rating(self, arm: int, x: FloatArray, *, at: float, value: float) -> None: ...


def learned(
    loop: Loop,
    places: NDArray[np.int64],
    decisions: Decisions,
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FloatArray:
    """What a learning policy gives every arm, row after row, shape (n, K).

    Args:
        loop: The policy, which has learned nothing yet.
        places: Index in the log's arms of every arm of the loop, shape (n arms of the loop,).
        decisions: The log.
        size: Number of features that the loop expects; 1 is no context.
        progress: Told how many rows are done, and how many there are.
    """
    account = loop.account = Imagined()
    back = {int(place): arm for arm, place in enumerate(places)}
    vectors = np.zeros((len(decisions), decisions.n_arms))
    costs, latencies = decisions.outcomes[COST], decisions.outcomes[LATENCY]
    ratings, successes = decisions.outcomes[QUALITY], decisions.outcomes[SUCCESS]
    one = np.ones(1)
    for row in range(len(decisions)):
        if row % _TOLD_EVERY == 0:
            progress(row, len(decisions))
        eligible = decisions.eligible_arms(row, row + 1)[0][places]
        mask = sum(1 << arm for arm in np.flatnonzero(eligible).tolist())
        x = decisions.x[row].astype(np.float64) if decisions.x is not None and size > 1 else one
        if mask:
            _, vector = loop.decide(x, _MIDDLE, mask)
            vectors[row, places] = vector
        arm = back.get(int(decisions.chosen[row]))
        if arm is None:
            continue
        account.weight = min(float(vectors[row, places[arm]] / decisions.propensity[row]), LARGEST_WEIGHT)
        at, completed = float(decisions.at[row]), bool(successes[row] > 0.0)
        loop.outcome(
            arm,
            x,
            at=at,
            completed=completed,
            cost_usd=_known(costs[row]) if completed else None,
            latency_s=_known(latencies[row]) if completed else None,
        )
        if completed and (value := _known(ratings[row])) is not None:
            loop.rating(arm, x, at=at, value=value)
    return vectors


@dataclass(frozen=True, slots=True)
class Learned:
    """A policy whose vectors were computed by ``learned`` for exactly these decisions."""

    name: str
    rows: FloatArray

    def wanted(self, decisions: Decisions) -> NDArray[np.bool_]:
        """See ``Target``."""
        wanted: NDArray[np.bool_] = np.logical_or.reduce(self.rows > 0.0, axis=0)
        return wanted

    def vectors(self, decisions: Decisions) -> Vectors:
        """See ``Target``."""
        if len(decisions) != len(self.rows):
            raise ValueError("these are not the decisions that it learned along")
        return lambda start, stop: self.rows[start:stop]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
