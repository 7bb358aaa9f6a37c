"""Looking for a sudden change of a mean: a two-sided Page-Hinkley test that knows how noisy its signal is.

The mean so far is the reference. What an observation lies above it, less a tolerance, is added up, never below zero;
the same below it. A sum beyond the limit is an alarm. The textbook's one limit raises a false alarm about every 1,200
observations of a coin; here it grows with the noise so that ``RUN_LENGTH`` observations pass between false alarms, and
the given threshold is only its least value. For signals whose neighbours resemble each other (latencies) the noise is
that of means of whole blocks. An observation is compared with the reference before it counts in it: such residuals are
uncorrelated, so a young reference raises no alarms either. What is known to vary with the request (a covariate, and by
a fit its features) is taken out first: a change of the mix of requests is no change of the arm. Of a fit only its
slopes are used, times how far a request lies from the mean one of the reference: a slope that is still being learned
then moves the level of what is watched by nothing. It is often learned from the very requests that raise the
suspicion, so before an alarm the sum is made anew with what is known by then.

Source: Page (1954), Hinkley (1971); run length by Siegmund's approximation for Brownian motion with drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log1p, sqrt
from typing import Final

import numpy as np

from policies.types import FloatArray

RUN_LENGTH: Final = 1_000_000
"""Observations between two false alarms of one side, when the noise is known."""

LEAST_REFERENCE: Final = 30
"""Observations before the first comparison."""

_JUMP: Final = 5.0
_LEAST_SPREAD: Final = 1e-9
_MEMORY: Final = 5000
"""The reference is a mean over about so many observations, so that creeping is followed and not alarmed about."""
_BLOCKS: Final = (8, 64, 512)
_FEWEST_BLOCKS: Final = 5
_MOST_BLOCKS: Final = 200
_PRIOR_BLOCKS: Final = 4.0
"""How many blocks the finer noise estimate counts for while the coarser one is young."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a change of one signal.

    ``tolerance`` > 0 is the change of the mean that is none, ``threshold`` >= 0 the least evidence for an alarm, in the
    signal's unit times observations. ``outlier`` bounds how many deviations one observation counts for; ``correlated``
    says that neighbouring observations resemble each other.
    """

    tolerance: float
    threshold: float
    outlier: float = inf
    correlated: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm. ``before`` is the mean of the ``reference`` observations until then, ``after`` of the newest ones,
    ``observations`` of them; ``evidence`` is the sum."""

    before: float
    after: float
    evidence: float
    observations: int
    reference: int


def limit(rules: Rules, noise: float) -> float:
    """The sum that is an alarm when observations have the variance ``noise``, >= ``rules.threshold``."""
    if noise <= 0.0:
        return rules.threshold
    # Run length = (exp(b) - 1 - b) / drift with b = 2 tolerance limit / noise, solved for the limit.
    length = RUN_LENGTH * 2.0 * rules.tolerance**2 / noise
    return max(rules.threshold, log1p(length + log1p(length)) * noise / (2.0 * rules.tolerance))


class _Blocks:
    """The scatter of means of consecutive blocks of one size. ``noise`` is what it says about one observation."""

    __slots__ = ("count", "filled", "mean", "scatter", "size", "total")

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = 0
        self.total = 0.0
        self.count = self.mean = self.scatter = 0.0

    def add(self, value: float) -> None:
        self.filled += 1
        self.total += value
        if self.filled < self.size:
            return
        mean, self.filled, self.total = self.total / self.size, 0, 0.0
        keep = 1.0 if self.count < _MOST_BLOCKS else 1.0 - 1.0 / _MOST_BLOCKS
        self.count = keep * self.count + 1.0
        gap = mean - self.mean
        self.mean += gap / self.count
        self.scatter = keep * self.scatter + gap * (mean - self.mean)

    def drop_begun(self) -> None:
        """Leave out the block that is not full."""
        self.filled, self.total = 0, 0.0

    def noise(self, finer: float) -> float:
        if self.count < _FEWEST_BLOCKS:
            return finer
        found = self.size * self.scatter / (self.count - 1.0)
        return max(finer, (self.count * found + _PRIOR_BLOCKS * finer) / (self.count + _PRIOR_BLOCKS))


class _Sum:
    """One side: what observations lie beyond the tolerance, added up and never below zero."""

    __slots__ = ("aside", "count", "explained", "level", "mean", "total", "value")

    def __init__(self) -> None:
        self.value = self.total = 0.0
        self.count = 0
        # How far its requests lie from the mean one, added up, and what slopes made of that.
        self.aside: FloatArray | None = None
        self.explained = 0.0
        # The reference when the suspicion began: later ones contain what is suspected.
        self.mean = self.level = 0.0

    def add(self, above: float, tolerance: float, gap: float, mean: float, level: float) -> float:
        """``above`` is what counts of ``gap``, with the sign of this side; ``gap`` is from the reference ``mean``."""
        value = self.value + above - tolerance
        if value <= 0.0:
            self.value = self.total = self.explained = 0.0
            self.count = 0
            self.aside = None
            return 0.0
        if not self.count:
            self.mean, self.level = mean, level
        self.value = value
        self.total += gap + mean - self.mean
        self.count += 1
        return value

    def look(self, aside: FloatArray, explained: float) -> None:
        """Take note of the request of the last observation, if it counts."""
        if self.count:
            self.aside = aside if self.aside is None else self.aside + aside
            self.explained += explained

    def explain(self, slope: FloatArray, sign: float) -> None:
        """Take out what ``slope`` makes of the requests, in place of what slopes made of them one by one."""
        if self.aside is None:
            return
        now = float(slope @ self.aside)
        self.value = max(self.value - sign * (now - self.explained), 0.0)
        self.total -= now - self.explained
        self.explained = now


class PageHinkley:
    """One signal of one arm; ``observe`` says when its mean has changed and then begins anew."""

    __slots__ = (
        *(
            "_above",
            "_below",
            "_blocks",
            "_given",
            "_given2",
            "_joint",
            "_level",
            "_mean",
            "_n",
            "_scatter",
            "_x",
        ),
        *("evidence", "rules", "run"),
    )

    def __init__(self, rules: Rules) -> None:
        """A detector that has seen nothing; its ``rules`` may be replaced by others for the same signal.

        Raises:
            ValueError: If tolerance is not positive or threshold negative.
        """
        if not rules.tolerance > 0.0 or not rules.threshold >= 0.0:
            raise ValueError(
                f"tolerance {rules.tolerance} must be positive, threshold {rules.threshold} >= 0"
            )
        self.rules = rules
        self._blocks = [_Blocks(size) for size in _BLOCKS] if rules.correlated else []
        self._begin()

    def _begin(self) -> None:
        """Forget the reference; how neighbours resemble each other is no matter of the mean, so that stays."""
        self._n = 0
        self._mean = self._scatter = self._level = 0.0
        self._given = self._given2 = self._joint = 0.0
        self._x: FloatArray | None = None
        self._above, self._below = _Sum(), _Sum()
        self.evidence = 0.0  # the greater of the two sums
        self.run = 0  # observations of the longer of the two suspicions
        for blocks in self._blocks:
            blocks.drop_begun()

    def inherit(self, other: "PageHinkley") -> None:
        """Take over from a detector of the same signal how neighbours resemble each other."""
        self._blocks = other._blocks

    @property
    def count(self) -> int:
        """Observations since the beginning or the last alarm."""
        return self._n

    @property
    def level(self) -> float:
        """The mean of the observed values, as they were given."""
        return self._level

    @property
    def limit(self) -> float:
        """The evidence that would be an alarm now."""
        return limit(self.rules, self.noise)

    @property
    def noise(self) -> float:
        """Variance of one observation around the reference, as it counts in sums of many."""
        if self._n < 2:
            return 0.0
        noise = self._scatter / (min(self._n, _MEMORY) - 1)
        for blocks in self._blocks:
            noise = blocks.noise(noise)
        return noise

    def observe(
        self,
        value: float,
        *,
        given: float = 0.0,
        x: FloatArray | None = None,
        slope: FloatArray | None = None,
    ) -> Change | None:
        """Take one observation in.

        Args:
            value: What was observed.
            given: A covariate that the value may depend on linearly; its slope is learned.
            x: Features of the request, always of the same length (d,).
            slope: What a fit says by now about how the value depends on them, (d,); its constant is of no matter.

        Returns:
            The change, if this observation was the last that was missing to tell; the detector then begins anew.

        Raises:
            ValueError: If a number is not finite, or the features are others than before.
        """
        if not (isfinite(value) and isfinite(given)):
            raise ValueError(f"observations must be finite numbers, got {value}, {given}")
        rest, off = value, None
        if x is not None:
            if self._x is None:
                # Whoever came without features was like the first who has them.
                self._x = x.astype(np.float64)
            if x.shape != self._x.shape:
                raise ValueError(f"{x.shape} are other features than {self._x.shape}")
            off = x - self._x
            if slope is not None:
                rest = value - float(slope @ off)
        aside = given - self._given
        own = self._joint / self._given2 if self._given2 > _LEAST_SPREAD else 0.0
        gap = rest - self._level - own * aside
        if not isfinite(gap):
            raise ValueError(f"features and slopes must be finite numbers, got {x} and {slope}")
        if self._n >= LEAST_REFERENCE:
            change = self._compare(gap, off, value - rest, slope)
            if change is not None:
                self._begin()
                return change
        self._learn(rest, gap, aside, value, x)
        return None

    def _compare(
        self, gap: float, off: FloatArray | None, explained: float, slope: FloatArray | None
    ) -> Change | None:
        rules, counted = self.rules, gap
        if rules.outlier < inf:
            deviation = sqrt(self._scatter / (min(self._n, _MEMORY) - 1))
            # What hardly scattered at all until now must be able to jump.
            bound = max(rules.outlier * deviation, _JUMP * rules.tolerance)
            counted = max(-bound, min(gap, bound))
        above, below = self._above, self._below
        around = (gap, self._mean, self._level)
        high = above.add(counted, rules.tolerance, *around)
        low = below.add(-counted, rules.tolerance, *around)
        self.evidence = evidence = max(high, low)
        self.run = max(above.count, below.count)
        # The noise is asked for only where it can matter: nearly all observations end here.
        if off is not None:
            above.look(off, explained)
            below.look(off, explained)
        if evidence <= rules.threshold or evidence <= (least := self.limit):
            return None
        if slope is not None:
            above.explain(slope, 1.0)
            below.explain(slope, -1.0)
            high, low = above.value, below.value
            self.evidence = evidence = max(high, low)
            if evidence <= least:
                return None
        found = above if high >= low else below
        after = found.level + found.total / found.count
        return Change(found.level, after, evidence, found.count, self._n + 1 - found.count)

    def _learn(self, rest: float, gap: float, aside: float, value: float, x: FloatArray | None) -> None:
        self._n += 1
        pace = 1.0 / min(self._n, _MEMORY)
        keep = 1.0 - pace if self._n > _MEMORY else 1.0
        apart = rest - self._level
        self._level += pace * (value - self._level)
        if x is not None and self._x is not None:
            self._x += pace * (x - self._x)
        # How the level went that the mean request has: only its steps matter.
        self._mean += pace * apart
        # As in a regression with an intercept the slope is of deviations from both means.
        self._given += pace * aside
        spread = aside * (1.0 - pace)
        self._given2 = keep * self._given2 + aside * spread
        self._joint = keep * self._joint + apart * spread
        # A residual of a reference that it is no part of scatters a little more than an observation does.
        self._scatter = keep * self._scatter + gap * gap * (1.0 - pace)
        for blocks in self._blocks:
            blocks.add(gap)

    def save(self) -> list[float]:
        """Everything, flat, for ``load``, but for the requests of a suspicion: they can't be explained later."""
        return [
            *(self._n, self._mean, self._scatter, self._level, self._given, self._given2, self._joint),
            *(
                number
                for one in (self._above, self._below)
                for number in (one.value, one.total, one.count, one.mean, one.level)
            ),
            *(n for b in self._blocks for n in (b.filled, b.total, b.count, b.mean, b.scatter)),
            *((0,) if self._x is None else (self._x.size, *self._x.tolist())),
        ]

    def load(self, saved: Sequence[float]) -> None:
        """Go on from what ``save`` gave, under the same ``correlated``.

        Raises:
            ValueError: If it is of another kind of detector.
        """
        fixed = 17 + 5 * len(self._blocks)
        if len(saved) <= fixed or len(saved) != fixed + 1 + saved[fixed]:
            raise ValueError(f"{len(saved)} numbers are no state of this detector")
        self._x = np.array(saved[fixed + 1 :], dtype=np.float64) if saved[fixed] else None
        numbers = iter(saved)
        self._n = int(next(numbers))
        self._mean, self._scatter, self._level = next(numbers), next(numbers), next(numbers)
        self._given, self._given2, self._joint = next(numbers), next(numbers), next(numbers)
        for one in (self._above, self._below):
            one.value, one.total, one.count = next(numbers), next(numbers), int(next(numbers))
            one.mean, one.level = next(numbers), next(numbers)
        for blocks in self._blocks:
            blocks.filled, blocks.total = int(next(numbers)), next(numbers)
            blocks.count, blocks.mean, blocks.scatter = next(numbers), next(numbers), next(numbers)
        self.evidence = max(self._above.value, self._below.value)
        self.run = max(self._above.count, self._below.count)
