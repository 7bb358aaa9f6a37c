"""The decisions of one route as columns: what was drawn, with what probabilities, and what came of it.

Only first attempts that were drawn at random are rows; their outcome is the whole request's, retries and fallbacks
included, because those came of the decision. Probability vectors that many rows share are kept once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.offpolicy import IntArray, Logged
from policies.types import FloatArray

QUALITY = "quality"
COST = "cost_usd"
LATENCY = "latency_s"
SUCCESS = "success"
METRICS = (COST, QUALITY, SUCCESS, LATENCY)

_TIME_PARTS = 20


@dataclass(frozen=True, slots=True)
class Decisions:
    """n randomised decisions of ``route`` in the order they were made; K arms, m distinct vectors.

    ``at`` (n,) Unix seconds, ``chosen`` (n,) arm indices, ``propensity`` (n,). ``vectors``, ``eligible``
    and ``offered`` (m, K) are referred to by ``vector_of`` (n,): what was drawn from, which arms could serve the
    request, and which its side of the route had at all. ``baseline`` (n,) is the index of the arm that a caller would
    have got without us, -1 where unknown. ``outcomes`` holds a column per metric, NaN where nothing was observed:
    ``quality`` is of the whole request, 0 for one that failed. ``rateable`` (n,) bool are rows whose quality is only
    known if somebody rated them. ``x`` (n, d) are features of version ``features``, all 0 in rows without.
    ``units`` (n,) equal numbers share a draw. ``left_out`` counts, by reason, requests that are no rows; ``notes`` are
    sentences about them.
    """

    route: str
    arms: tuple[str, ...]
    at: FloatArray
    chosen: IntArray
    propensity: FloatArray
    vectors: FloatArray
    eligible: NDArray[np.bool_]
    offered: NDArray[np.bool_]
    vector_of: IntArray
    baseline: IntArray
    outcomes: Mapping[str, FloatArray]
    rateable: NDArray[np.bool_]
    rater: str = ""
    x: NDArray[np.float32] | None = None
    features: str | None = None
    units: IntArray | None = None
    left_out: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
    changed: Mapping[str, float] | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def n_arms(self) -> int:
        return len(self.arms)

    def logged_vectors(self, start: int, stop: int) -> FloatArray:
        """The vectors that were drawn from, shape (stop - start, K)."""
        found: FloatArray = self.vectors[self.vector_of[start:stop]]
        return found

    def eligible_arms(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which arms could serve, shape (stop - start, K)."""
        found: NDArray[np.bool_] = self.eligible[self.vector_of[start:stop]]
        return found

    def offered_all(self, arms: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows whose side had every one of ``arms`` (K,) bool, shape (n,)."""
        complete: NDArray[np.bool_] = np.logical_and.reduce(self.offered[:, arms], axis=1)
        found: NDArray[np.bool_] = complete[self.vector_of]
        return found

    def observed(self, metric: str) -> FloatArray:
        """Probability that ``metric`` is known of a row with its arm at its time, shape (n,), in (0, 1].

        That is mostly about ratings. Their rate is an arm's, times the time's (ratings of the newest requests are still
        to come, for every arm alike).
        """
        rates = np.ones(len(self))
        rated = np.isfinite(self.outcomes[metric])
        if rated.all():
            return rates
        mine = self.rateable if metric == QUALITY else np.ones(len(self), dtype=np.bool_)
        asked = np.bincount(self.chosen[mine], minlength=self.n_arms)
        given = np.bincount(self.chosen[mine & rated], minlength=self.n_arms)
        by_arm = np.divide(given, asked, out=np.zeros(self.n_arms), where=asked > 0)
        # A row's time factor is what its part of the log got, over what its arms' rates lead to expect there.
        part = np.minimum(np.arange(len(self)) * _TIME_PARTS // max(len(self), 1), _TIME_PARTS - 1)
        expected = np.bincount(part[mine], weights=by_arm[self.chosen[mine]], minlength=_TIME_PARTS)
        found = np.bincount(part[mine & rated], minlength=_TIME_PARTS)
        by_time = np.divide(found, expected, out=np.ones(_TIME_PARTS), where=expected > 0.0)
        share = by_arm[self.chosen[mine]] * by_time[part[mine]]
        # 0 only where nothing of the arm or the time was ever rated; such rows have no outcome and no weight.
        rates[mine] = np.where(share > 0.0, np.minimum(share, 1.0), 1.0)
        return rates

    def logged(self, metric: str) -> Logged:
        """The rows as an estimator takes them, with ``metric`` as the outcome."""
        return Logged(
            self.chosen,
            self.propensity,
            self.outcomes[metric],
            self.observed(metric),
            self.logged_vectors,
            self.x,
            self.units,
        )

    def part(self, keep: NDArray[np.bool_], notes: Sequence[str] = ()) -> "Decisions":
        """The rows for which ``keep`` (n,) is true, with more notes."""
        return Decisions(
            route=self.route,
            arms=self.arms,
            at=self.at[keep],
            chosen=self.chosen[keep],
            propensity=self.propensity[keep],
            vectors=self.vectors,
            eligible=self.eligible,
            offered=self.offered,
            vector_of=self.vector_of[keep],
            baseline=self.baseline[keep],
            outcomes={name: column[keep] for name, column in self.outcomes.items()},
            rateable=self.rateable[keep],
            rater=self.rater,
            x=None if self.x is None else self.x[keep],
            features=self.features,
            units=None if self.units is None else self.units[keep],
            left_out=self.left_out,
            notes=(*self.notes, *notes),
            changed=self.changed,
        )
