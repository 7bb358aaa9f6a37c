"""Thompson sampling over separate posteriors, frozen into probabilities.

The share of an arm is how often its utility is the greatest in joint posterior draws. Arms are drawn
in the order of their ids, so the order in which a route lists them changes nothing, and one seed
gives one answer: with the same seed, slowly moving evidence gives slowly moving shares.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.mixing import finish, young
from policies.objective import Utility
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

# With many arms fewer joint draws are made, so that a selector costs some 20 ms and 10 MB at most.
_MOST_NUMBERS = 1 << 18
_FEWEST_DRAWS = 512


class Thompson:
    """Plays each arm with the probability that it is the best one."""

    def probabilities(
        self,
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        baseline: int,
        params: PolicyParams,
        rng: np.random.Generator,
    ) -> FloatArray:
        """See ``policies.types.Policy``."""
        if params.draws < 1:
            raise ValueError(f"draws must be positive, not {params.draws}")
        order = sorted(range(len(evidence)), key=lambda index: evidence[index].arm)
        ordered = [evidence[index] for index in order]
        utility = Utility(ordered, goals, params)
        nursery = young(ordered, params.min_pulls)
        shares = np.empty(len(order))
        shares[order] = finish(_best_shares(utility, ~nursery, params.draws, rng), nursery, params)
        return shares


def _best_shares(
    utility: Utility, seasoned: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> FloatArray:
    """How often each seasoned arm is the best of them, shape (n_seasoned,)."""
    n_seasoned = int(seasoned.sum())
    if n_seasoned <= 1:
        return np.ones(n_seasoned)
    count = min(draws, max(_FEWEST_DRAWS, _MOST_NUMBERS // utility.n_arms))
    best = utility.draw(rng, count)[:, seasoned].argmax(axis=1)
    return np.bincount(best, minlength=n_seasoned) / count
