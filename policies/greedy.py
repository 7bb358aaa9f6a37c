"""What the deterministic policies share: split a route evenly among the arms of highest index."""

import numpy as np

from policies.types import FloatArray

_TIE = 1e-12


def share_of_best(index: FloatArray) -> FloatArray:
    """All probability on the greatest index, evenly where several are equal, shape (n_arms,)."""
    if index.size == 0:
        return np.ones(0)
    top = float(index.max())
    best: FloatArray = (index >= top - _TIE * max(1.0, abs(top))).astype(np.float64)
    best /= best.sum()
    return best
