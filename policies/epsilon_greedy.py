"""Epsilon-greedy: the best arm by posterior mean, and a fixed share of the traffic spread over all."""

from collections.abc import Sequence

import numpy as np

from policies.greedy import share_of_best
from policies.mixing import finish, young
from policies.objective import Utility
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams


class EpsilonGreedy:
    """Spends ``params.epsilon`` of the traffic evenly, the rest on the best arm; draws no random number."""

    def probabilities(
        self,
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        baseline: int,
        params: PolicyParams,
        rng: np.random.Generator,
    ) -> FloatArray:
        """See ``policies.types.Policy``."""
        if not 0.0 <= params.epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], not {params.epsilon}")
        nursery = young(evidence, params.min_pulls)
        index = Utility(evidence, goals, params).mean()[~nursery]
        shares = (1.0 - params.epsilon) * share_of_best(index) + params.epsilon / max(1, index.size)
        return finish(shares, nursery, params)
