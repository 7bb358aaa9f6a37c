"""Keeping every arm alive: the exploration floor and the nursery for arms too young to be judged.

Both work by mixing, never by clipping: clipping and renormalising would sink below the floor again.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.types import ArmEvidence, FloatArray, PolicyParams

# With many arms the floors alone would use up the traffic; half of it always belongs to the policy.
_MOST_FORCED = 0.5


def effective_floor(floor: float, n_arms: int) -> float:
    """The floor that ``n_arms`` arms can have: ``floor``, or less where they are too many for it.

    Raises:
        ValueError: If ``floor`` is outside [0, 1] or there is no arm.
    """
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor must lie in [0, 1], not {floor}")
    if n_arms < 1:
        raise ValueError("a policy needs at least one arm")
    return min(floor, _MOST_FORCED / n_arms)


def with_floor(shares: FloatArray, floor: float) -> FloatArray:
    """Mix ``shares`` (summing to 1) with the uniform distribution so that nobody gets less than the floor."""
    least = effective_floor(floor, shares.size)
    mixed: FloatArray = least + (1.0 - least * shares.size) * shares
    mixed /= mixed.sum()
    return mixed


def young(evidence: Sequence[ArmEvidence], min_pulls: float) -> NDArray[np.bool_]:
    """Which arms are in the nursery, shape (n_arms,)."""
    return np.array([arm.pulls < min_pulls for arm in evidence], dtype=np.bool_)


def with_nursery(seasoned_shares: FloatArray, nursery: NDArray[np.bool_]) -> FloatArray:
    """Give every young arm an even share, 1 / n_arms, and scale the shares of the others into the rest.

    Args:
        seasoned_shares: Shape (n_seasoned,), summing to 1 (or empty), in the order of the seasoned arms.
        nursery: Shape (n_arms,), True for a young arm.
    """
    shares = np.full(nursery.size, 1.0 / nursery.size)
    seasoned = ~nursery
    shares[seasoned] = seasoned_shares * (seasoned.sum() / nursery.size)
    return shares


def finish(seasoned_shares: FloatArray, nursery: NDArray[np.bool_], params: PolicyParams) -> FloatArray:
    """Nursery, then floor: what every learning policy does with the shares it found."""
    return with_floor(with_nursery(seasoned_shares, nursery), params.floor)
