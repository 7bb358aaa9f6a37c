"""A small model of outcomes per arm, fitted as rows come: the arm's mean, and where there are features a ridge on top.

It only makes off-policy estimates less noisy; they are right without it. Arms with few rows lean on the mean of all
rows, and features on nothing: their coefficients shrink to zero, so that they cost little where they say nothing.
"""

import numpy as np
from numpy.typing import NDArray

from policies.types import FloatArray

_MEAN_STRENGTH = 5.0
_RIDGE = 10.0


class OutcomeModel:
    """Expected outcome of every arm. Sums are kept, so learning is additive and its order does not matter."""

    def __init__(self, n_arms: int, n_features: int = 0, *, guess: float = 0.0) -> None:
        """Know nothing: everything is predicted to be ``guess`` until something was learned."""
        self._guess = guess
        self._weight = np.zeros(n_arms)
        self._total = np.zeros(n_arms)
        self._features = n_features
        self._gram = np.zeros((n_arms, n_features, n_features))
        self._moment = np.zeros((n_arms, n_features))
        self._sum = np.zeros((n_arms, n_features))
        self._coefficients: FloatArray | None = None

    @property
    def means(self) -> FloatArray:
        """Mean outcome of every arm, leaning on the mean of all, shape (n_arms,)."""
        weight = self._weight.sum()
        overall = self._total.sum() / weight if weight > 0.0 else self._guess
        means: FloatArray = (self._total + _MEAN_STRENGTH * overall) / (self._weight + _MEAN_STRENGTH)
        return means

    def learn(
        self, arms: NDArray[np.int64], values: FloatArray, x: NDArray[np.float32] | None = None
    ) -> None:
        """Add rows: ``arms`` (n,), ``values`` (n,), features ``x`` (n, d) unless the model has none."""
        n_arms = len(self._weight)
        self._weight += np.bincount(arms, minlength=n_arms)
        self._total += np.bincount(arms, weights=values, minlength=n_arms)
        if x is None or not self._features:
            return
        for arm in np.unique(arms):
            mine = arms == arm
            rows = x[mine].astype(np.float64)
            self._gram[arm] += rows.T @ rows
            self._moment[arm] += rows.T @ values[mine]
            self._sum[arm] += rows.sum(axis=0)
        self._coefficients = None

    def predict(self, x: NDArray[np.float32] | None, n: int) -> FloatArray:
        """Expected outcomes, shape (n, n_arms); ``x`` (n, d) or None."""
        means = self.means
        if x is None or not self._features:
            return np.broadcast_to(means, (n, len(means)))
        if self._coefficients is None:
            # Ridge on what the means leave over, all arms at once.
            left = self._moment - means[:, None] * self._sum
            ridge = self._gram + _RIDGE * np.eye(self._features)
            self._coefficients = np.linalg.solve(ridge, left[..., None])[..., 0].astype(np.float64)
        predicted: FloatArray = means + x.astype(np.float64) @ self._coefficients.T
        return predicted
