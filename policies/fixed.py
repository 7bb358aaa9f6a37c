"""No learning: the shares that the operator wrote, or the baseline alone."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams


class Fixed:
    """Plays ``params.fixed``, normalised; arms it does not name get nothing, and there is no floor."""

    def probabilities(
        self,
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        baseline: int,
        params: PolicyParams,
        rng: np.random.Generator,
    ) -> FloatArray:
        """See ``policies.types.Policy``.

        Raises:
            ValueError: Also if ``params.fixed`` names unknown arms or holds no positive share.
        """
        if not 0 <= baseline < len(evidence):
            raise ValueError(f"baseline {baseline} is none of {len(evidence)} arms")
        if not params.fixed:
            shares = np.zeros(len(evidence))
            shares[baseline] = 1.0
            return shares
        unknown = sorted(set(params.fixed) - {arm.arm for arm in evidence})
        if unknown:
            raise ValueError(f"fixed shares name unknown arms: {', '.join(unknown)}")
        shares = np.array([params.fixed.get(arm.arm, 0.0) for arm in evidence], dtype=np.float64)
        total = float(shares.sum())
        if not (isfinite(total) and total > 0.0 and (shares >= 0.0).all()):
            raise ValueError("fixed shares must not be negative and need a positive sum")
        return shares / total
