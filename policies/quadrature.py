"""How probable it is that each of several independent Gaussians is the greatest: exact integrals, no drawing.

P(k best) = integral of f_k times the product of the other arms' F_j, by Gauss-Legendre on the stretch where the greatest
can lie. The normal distribution function is Abramowitz and Stegun's 7.1.26 (error below 1.5e-7), because numpy has none.
"""

import numpy as np

from policies.types import FloatArray

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_REACH = 6.5


def normal_cdf(z: FloatArray) -> FloatArray:
    """Distribution function of the standard normal, error below 1e-7."""
    size = np.abs(z) * np.sqrt(0.5)
    t = 1.0 / (1.0 + 0.3275911 * size)
    a, b, c, d, e = _ERF
    tail = 0.5 * t * (a + t * (b + t * (c + t * (d + t * e)))) * np.exp(-size * size)
    return np.where(z >= 0.0, 1.0 - tail, tail)


def best_shares(mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """P(arm is the greatest), shape (..., K), summing to 1.

    Args:
        mean: Shape (..., K).
        deviation: Standard deviations > 0, same shape.
    """
    if mean.shape[-1] == 1:
        return np.ones_like(mean)
    low = (mean - _REACH * deviation).max(axis=-1, keepdims=True)
    high = (mean + _REACH * deviation).max(axis=-1, keepdims=True)
    grid = (low + high) / 2.0 + (high - low) / 2.0 * _NODES
    z = (grid[..., None, :] - mean[..., None]) / deviation[..., None]
    below = np.maximum(normal_cdf(z), 1e-300)
    density = np.exp(-0.5 * z * z) / deviation[..., None]
    every = below.prod(axis=-2, keepdims=True)
    shares: FloatArray = (density * (every / below)) @ _WEIGHTS
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
