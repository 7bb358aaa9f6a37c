"""Keeping constraints while an index pursues its objectives: Lagrange multipliers, in linear dollars.

The index of an arm is utility(x) + quality * q(x) - cost * c(x) - late * P(late); the three multipliers are found such
that the policy which results (Thompson sampling with its floors, not a hypothetical best one) keeps the constraints in
expectation over recent requests. Expected cost falls as its multiplier rises, and likewise for the others, so each is
found by bisection, in turns (Agrawal-Devanur; Balseiro-Gur pacing, with the model's expectation in the place of steps).
What the model gets wrong, the caller corrects by moving the targets by what was really spent (``aims``).

When not everything can be kept, quality and lateness are kept and the cost is what it takes: never compromise quality
without being told. A floor that no mix is believed to reach is tried for with arms that may be better than believed;
what can't be reached even so is approached as closely as it can be.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.beliefs import Beliefs
from policies.contextual import Index
from policies.types import FloatArray

COST = "cost"
QUALITY = "quality"
LATE = "late"

# Multipliers in units of utility: per target cost, per quality 1, per probability 1.
_LEAST, _MOST = 1e-4, 1e3
# Beside others, cost never weighs more than this; those that go before it may weigh what it takes to win over it by a
# difference of so little quality or probability.
_MOST_BESIDE, _LEAST_DIFFERENCE = 30.0, 0.01
# Bisection ends early when a constraint is kept with no more than this to spare, relative to its aim.
_HALVINGS, _QUICK_HALVINGS, _CLOSE = 24, 16, 0.003
_SWEEPS = 3
# Draws are narrower than the posterior, which theory wants as it is and practice does not (Chapelle-Li 2011): half the
# width loses less while learning, a third of it locks in (docs/learning.md).
_WIDTH = 0.5
_POINTS = 48
# A constraint that is missed by less, relative to its target, is kept.
_SLACK = 0.02
_SLACK_QUALITY = 0.002
# Where no mix is believed to reach a floor of quality, arms are taken to be as many standard deviations better than
# believed as it needs: who was hardly tried gets the chance, cheapest first, instead of the best known at any price.
_HOPES = (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Aims:
    """What to keep in expectation: cost in USD per request, quality 0..1, share of late replies; None is not asked."""

    cost_usd: float | None = None
    quality: float | None = None
    late: float | None = None


@dataclass(frozen=True, slots=True)
class Multipliers:
    """Utility per ``cost`` USD, per 1 of ``quality``, per 1 of probability of being ``late``; all >= 0."""

    cost: float = 0.0
    quality: float = 0.0
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Expected:
    """Means per request under a policy."""

    cost_usd: float
    quality: float
    late: float


@dataclass(frozen=True, slots=True)
class Course:
    """The index to play, the multipliers in it, what they lead to, and which aims can't be kept (by name)."""

    index: Index
    multipliers: Multipliers
    expected: Expected
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """Shares that arms have in any case (K,), and which of them (K,) bool compete for the rest."""

    shares: FloatArray
    drawn: NDArray[np.bool_]


def index_of(
    beliefs: Beliefs, multipliers: Multipliers, given: Given, *, max_request_usd: float = float("inf")
) -> Index:
    """The index of ``beliefs`` under ``multipliers``."""
    # The objectives and the floor want the same belief, whose errors are the same: their factors add up.
    factor = beliefs.pursued + multipliers.quality
    value = beliefs.value + factor[:, None] * beliefs.quality.weights
    value[:, 0] -= multipliers.late * beliefs.late
    charges = beliefs.charges
    if multipliers.cost > 0.0:
        charge = beliefs.cost.copy()
        charge[:, 0] += np.log(multipliers.cost)
        charges = np.concatenate([charges, charge[None]])
    noise = _WIDTH**2 * (beliefs.noise + factor**2 * beliefs.quality.level)
    spread = (_WIDTH * factor[:, None, None]) ** 2 * beliefs.quality.spread
    return Index(
        value=value,
        charges=charges,
        spread=spread,
        noise=noise,
        given=given.shares,
        drawn=given.drawn,
        cost=beliefs.cost,
        max_request_usd=max_request_usd,
    )


def steer(
    beliefs: Beliefs,
    requests: FloatArray,
    aims: Aims,
    given: Given,
    *,
    max_request_usd: float = float("inf"),
) -> Course:
    """Find the multipliers.

    Args:
        beliefs: About K arms with d features.
        requests: Recent requests to take expectations over, shape (n, d), n >= 1.
        aims: What to keep.
        given: Shares that are not the index's to decide.
        max_request_usd: See ``policies.contextual.Index``.
    """
    search = _Search(beliefs, requests, given, max_request_usd)
    believed, found = beliefs, search.solve(aims)
    if QUALITY in missed(aims, search.expect(found)):
        for hopeful in (_hoping(beliefs, hope) for hope in _HOPES):
            trial = _Search(hopeful, requests, given, max_request_usd)
            multipliers = trial.solve(aims)
            if QUALITY not in missed(aims, trial.expect(multipliers)):
                believed, found = hopeful, multipliers
                break
    index = index_of(believed, found, given, max_request_usd=max_request_usd)
    expected = search.judge(index)
    return Course(index, found, expected, missed(aims, expected))


def _hoping(beliefs: Beliefs, hope: float) -> Beliefs:
    """``beliefs`` with the quality of every arm so many standard deviations better than believed."""
    weights = beliefs.quality.weights.copy()
    weights[:, 0] += hope * np.sqrt(beliefs.quality.level)
    return replace(beliefs, quality=replace(beliefs.quality, weights=weights))


def missed(aims: Aims, expected: Expected) -> tuple[str, ...]:
    """The names of the aims that are missed by more than a slack."""
    found = []
    if aims.quality is not None and expected.quality < aims.quality - _SLACK_QUALITY:
        found.append(QUALITY)
    if aims.late is not None and expected.late > aims.late * (1.0 + _SLACK):
        found.append(LATE)
    if aims.cost_usd is not None and expected.cost_usd > aims.cost_usd * (1.0 + _SLACK):
        found.append(COST)
    return tuple(found)


class _Search:
    def __init__(self, beliefs: Beliefs, requests: FloatArray, given: Given, max_request_usd: float) -> None:
        self._beliefs, self._requests, self._given = beliefs, requests, given
        self._max_request_usd = max_request_usd
        self._cost = beliefs.cost_usd(requests)
        self._quality = np.clip(requests @ beliefs.quality.weights.T, 0.0, 1.0)
        # One request alone leaves nothing to smooth the steps between arms, and costs next to nothing.
        self._halvings = _QUICK_HALVINGS if len(requests) > 1 else _HALVINGS

    def expect(self, multipliers: Multipliers) -> Expected:
        """What the policy under ``multipliers`` leads to."""
        return self.judge(
            index_of(self._beliefs, multipliers, self._given, max_request_usd=self._max_request_usd)
        )

    def judge(self, index: Index) -> Expected:
        """What drawing by ``index`` leads to, as far as is believed."""
        shares = index.shares(self._requests, points=_POINTS)
        return Expected(
            float((shares * self._cost).sum(axis=1).mean()),
            float((shares * self._quality).sum(axis=1).mean()),
            float((shares @ self._beliefs.late).mean()),
        )

    def solve(self, aims: Aims) -> Multipliers:
        """Multipliers that keep ``aims`` as far as they can be kept together."""
        asked = [
            name
            for name, aim in ((COST, aims.cost_usd), (LATE, aims.late), (QUALITY, aims.quality))
            if aim is not None
        ]
        found = Multipliers()
        for _ in range(_SWEEPS if len(asked) > 1 else 1):
            before = found
            for name in asked:
                found = self._solve_one(name, found, aims, beside=len(asked) > 1)
            if found == before:
                break
        return found

    def _solve_one(self, name: str, others: Multipliers, aims: Aims, *, beside: bool) -> Multipliers:
        unit = 1.0 / aims.cost_usd if name == COST and aims.cost_usd else 1.0
        most = max(_MOST, self._reach(name, others) / _LEAST_DIFFERENCE)
        if name == COST and beside:
            most = _MOST_BESIDE

        def trial(logarithm: float) -> Multipliers:
            return replace(others, **{name: unit * float(np.exp(logarithm))})

        low, high = float(np.log(_LEAST)), float(np.log(most))
        current = getattr(others, name)
        if current > 0.0:
            # A look or two tell whether what an earlier sweep found is still the least that keeps the constraint.
            step = (high - low) * 0.5**self._halvings
            less = replace(others, **{name: current * float(np.exp(-step))})
            excess = self._excess(name, others, aims)
            if excess <= 0.0 and (excess >= -_CLOSE or self._excess(name, less, aims) > 0.0):
                return others
        none = replace(others, **{name: 0.0})
        if self._excess(name, none, aims) <= 0.0:
            return none
        for _ in range(self._halvings):
            middle = (low + high) / 2.0
            excess = self._excess(name, trial(middle), aims)
            if excess > 0.0:
                low = middle
                continue
            high = middle
            if excess >= -_CLOSE:
                break
        # On a steep step the middle may lie on either side; this is the one that keeps the constraint.
        return trial(high)

    def _reach(self, name: str, others: Multipliers) -> float:
        """How far those that ``name`` goes before may set two arms apart."""
        cost = others.cost * float(np.ptp(self._cost.mean(axis=0)))
        late = others.late * float(np.ptp(self._beliefs.late))
        return {COST: 0.0, LATE: cost, QUALITY: cost + late}[name]

    def _excess(self, name: str, multipliers: Multipliers, aims: Aims) -> float:
        """By how much a constraint is missed, relative to its aim; at most 0 when it is kept."""
        expected = self.expect(multipliers)
        found, aim, sign = {
            COST: (expected.cost_usd, aims.cost_usd, 1.0),
            LATE: (expected.late, aims.late, 1.0),
            QUALITY: (expected.quality, aims.quality, -1.0),
        }[name]
        return 0.0 if aim is None else sign * (found - aim) / max(abs(aim), 1e-12)
