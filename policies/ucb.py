"""Upper confidence bounds: the arm whose utility could still be the highest.

The bound is the quantile 1 - 1/(n + 2) of the utility's belief, n being all pulls of the route, as in
Bayes-UCB (Kaufmann, Cappe and Garivier, 2012), in its Gaussian form.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from policies.greedy import share_of_best
from policies.mixing import finish, young
from policies.objective import Utility
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

_MOST_PULLS = 1e9


class Ucb:
    """Plays the arm of highest optimistic index, mixed with the floor; draws no random number."""

    def probabilities(
        self,
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        baseline: int,
        params: PolicyParams,
        rng: np.random.Generator,
    ) -> FloatArray:
        """See ``policies.types.Policy``."""
        utility = Utility(evidence, goals, params)
        nursery = young(evidence, params.min_pulls)
        pulls = min(sum(arm.pulls for arm in evidence), _MOST_PULLS)
        width = NormalDist().inv_cdf(1.0 - 1.0 / (pulls + 2.0))
        index = (utility.mean() + width * utility.spread())[~nursery]
        return finish(share_of_best(index), nursery, params)
