"""The best mixture of arms under linear constraints: a small linear program, solved exactly and without chance.

``Solver`` is the seam: strategies state a ``Task`` over arms and get shares back, however they were found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.types import FloatArray

ArmMask: TypeAlias = NDArray[np.bool_]

_TOLERANCE: Final = 1e-9
# Shares are published with six decimals; constraints are kept by so much more.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Constraint:
    """``sum(share * value) >= least``; shape (n_arms,)."""

    name: str
    values: FloatArray
    least: float

    def slack(self, shares: FloatArray) -> float:
        """By how much ``shares`` keep it, negative when they do not."""
        return float(shares @ self.values) - self.least


@dataclass(frozen=True, slots=True)
class Task:
    """Minimise ``sum(share * charges)`` over shares that sum to 1.

    Every share is at least its entry of ``floors``, and exactly that where ``free`` is False. All of shape (n_arms,).
    """

    charges: FloatArray
    constraints: Sequence[Constraint]
    floors: FloatArray
    free: ArmMask


class Solver(Protocol):
    """Finds the best shares for a task."""

    def solve(self, task: Task) -> FloatArray | None:
        """Shares of shape (n_arms,), summing to 1; None when nothing keeps all constraints."""
        ...


class LinearSolver:
    """Two-phase simplex method with Bland's rule: finite, deterministic, and small enough to read."""

    def solve(self, task: Task) -> FloatArray | None:
        """See ``Solver``."""
        rest = 1.0 - float(task.floors.sum())
        free = np.flatnonzero(task.free)
        if rest < -_TOLERANCE:
            return None
        if free.size == 0 or rest <= _TOLERANCE:
            shares = task.floors.copy()
            complete = rest <= _TOLERANCE and all(c.slack(shares) >= -_TOLERANCE for c in task.constraints)
            return shares if complete else None
        rows, bounds = [], []
        for constraint in task.constraints:
            # In units of the constraint's own range, so that one tolerance serves dollars and ratios alike.
            row = constraint.values[free]
            least = constraint.least - float(constraint.values @ task.floors)
            scale = float(np.abs(constraint.values - constraint.least).max()) or 1.0
            rows.append(row * rest / scale)
            bounds.append(least / scale + task.floors.size * _ROUNDING)
        charges = task.charges[free]
        span = float(charges.max() - charges.min()) or 1.0
        mix = _simplex(
            (charges - charges.min()) / span, np.array(rows).reshape(len(rows), free.size), np.array(bounds)
        )
        if mix is None:
            return None
        shares = task.floors.copy()
        shares[free] += rest * mix
        shares /= shares.sum()
        return shares


def _simplex(charges: FloatArray, rows: FloatArray, bounds: FloatArray) -> FloatArray | None:
    """Minimise ``charges @ x`` with ``x >= 0``, ``sum(x) == 1`` and ``rows @ x >= bounds``; None if there is none."""
    n_rows, n_arms = rows.shape
    height = n_rows + 1
    table = np.zeros((height, n_arms + n_rows + height + 1))
    table[0, :n_arms], table[0, -1] = 1.0, 1.0
    table[1:, :n_arms], table[1:, -1] = rows, bounds
    table[1:, n_arms : n_arms + n_rows] = -np.eye(n_rows)
    table[table[:, -1] < 0.0] *= -1.0
    real = n_arms + n_rows
    table[:, real:-1] = np.eye(height)
    basis = list(range(real, real + height))
    artificial = np.zeros(table.shape[1] - 1)
    artificial[real:] = 1.0
    _pivot_to_optimum(table, basis, artificial, table.shape[1] - 1)
    if sum(table[row, -1] for row, column in enumerate(basis) if column >= real) > 1e-8:
        return None
    _drive_out(table, basis, real)
    objective = np.zeros(table.shape[1] - 1)
    objective[:n_arms] = charges
    _pivot_to_optimum(table, basis, objective, real)
    solution = np.zeros(table.shape[1] - 1)
    solution[basis] = table[:, -1]
    found: FloatArray = solution[:n_arms].clip(min=0.0)
    found /= found.sum()
    return found


def _pivot_to_optimum(table: FloatArray, basis: list[int], charges: FloatArray, columns: int) -> None:
    """Move to the best vertex, entering only the first ``columns``. Bland's rule never cycles."""
    while True:
        reduced = charges[:columns] - charges[basis] @ table[:, :columns]
        entering = np.flatnonzero(reduced < -_TOLERANCE)
        if entering.size == 0:
            return
        column = int(entering[0])
        rising = np.flatnonzero(table[:, column] > _TOLERANCE)
        if rising.size == 0:
            return
        ratios = table[rising, -1] / table[rising, column]
        tied = rising[ratios <= ratios.min() + _TOLERANCE]
        _pivot(table, basis, min(tied, key=lambda row: basis[row]), column)


def _drive_out(table: FloatArray, basis: list[int], real: int) -> None:
    """Replace artificial variables that are left in the basis at 0; a row without any other is redundant."""
    for row, column in enumerate(basis):
        if column >= real:
            others = np.flatnonzero(np.abs(table[row, :real]) > 1e-7)
            if others.size:
                _pivot(table, basis, row, int(others[0]))


def _pivot(table: FloatArray, basis: list[int], row: int, column: int) -> None:
    table[row] /= table[row, column]
    for other in range(table.shape[0]):
        if other != row:
            table[other] -= table[other, column] * table[row]
    basis[row] = column
