"""How 4,096 hashes of words become a handful of features: fitted from logged sketches, never from text.

A sketch is a row of ones, weighted by how rare their buckets are, over the root of their number. The leading
directions of what differs between rows come from power iteration on a random start (Halko, Martinsson, Tropp 2011).
Each feature has mean 0 and standard deviation ``DEVIATION`` over the fitted sketches. One seed gives one answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizer.context.words import BUCKETS, MOST_BUCKETS, OFFSET, Buckets

LEAST_SKETCHES: Final = 400
# As much as a feature that is 1 for one request in eight and else 0, so that one prior suits both kinds. Measured: with
# 1 the least certain of them drown the others while there is little evidence.
DEVIATION: Final = 1.0 / 3.0

_ROUNDS: Final = 4
_OVERSAMPLED: Final = 8
# A bucket in fewer sketches than this says nothing about other requests.
_LEAST_SEEN: Final = 3
_LEAST_DEVIATION: Final = 1e-4
# Share of the new features' variance that the old ones may leave open.
_SAME_UNEXPLAINED: Final = 0.2

Matrix: TypeAlias = NDArray[np.float32]

_ONES: Final = np.ones(MOST_BUCKETS, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Projection:
    """``matrix`` float32 (4096, size); ``sketches`` is how many it was fitted to."""

    matrix: Matrix
    sketches: int

    @property
    def size(self) -> int:
        """How many features it makes."""
        return int(self.matrix.shape[1])


def fit(sketches: Sequence[Buckets], size: int, *, seed: int = 0) -> Projection:
    """Condense sketches into ``size`` features (fewer when there are not as many directions).

    Raises:
        ValueError: Fewer than ``LEAST_SKETCHES`` of them are not empty, or ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"{size} lexical features")
    used = [sketch for sketch in sketches if len(sketch)]
    if len(used) < LEAST_SKETCHES:
        raise ValueError(f"{len(used)} sketches with words are fewer than {LEAST_SKETCHES}")
    seen = np.bincount(np.concatenate(used), minlength=BUCKETS)
    seen[OFFSET] = 0
    buckets = np.flatnonzero(seen >= _LEAST_SEEN)
    if not len(buckets):
        raise ValueError("no word occurs in more than two sketches")
    weights = np.log((1.0 + len(used)) / (1.0 + seen[buckets])).astype(np.float32)
    rows = _rows(used, buckets, weights)
    middle = rows.mean(axis=0)
    rows -= middle
    rng = np.random.default_rng(seed)
    directions, deviations = _leading(rows, min(size, len(buckets)), rng)
    matrix = np.zeros((BUCKETS, directions.shape[1]), dtype=np.float32)
    scaled = directions * (np.float32(DEVIATION) / deviations)
    matrix[buckets] = weights[:, None] * scaled
    matrix[OFFSET] = -(middle @ scaled)
    return Projection(matrix, len(used))


def _rows(sketches: Sequence[Buckets], buckets: NDArray[np.intp], weights: Matrix) -> Matrix:
    column = np.full(BUCKETS, -1)
    column[buckets] = np.arange(len(buckets))
    rows = np.zeros((len(sketches), len(buckets)), dtype=np.float32)
    for row, sketch in zip(rows, sketches, strict=True):
        columns = column[sketch]
        columns = columns[columns >= 0]
        row[columns] = weights[columns] / math.sqrt(len(sketch))
    return rows


def _leading(rows: Matrix, size: int, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Right singular vectors of centred rows, (columns, k), and the standard deviations along them, (k,)."""
    width = min(size + _OVERSAMPLED, *rows.shape)
    basis = rng.standard_normal((rows.shape[1], width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _upper = np.linalg.qr(rows.T @ (rows @ basis))
    _left, values, right = np.linalg.svd(rows @ basis, full_matrices=False)
    deviations = (values[:size] / math.sqrt(len(rows))).astype(np.float32)
    # Directions along which nothing differs would be scaled up to noise.
    kept = int(np.count_nonzero(deviations > _LEAST_DEVIATION))
    directions = basis @ right[:size].T
    # A singular vector's sign is arbitrary; this makes it the same whatever computed it.
    largest = np.abs(directions).argmax(axis=0)
    signs = np.where(directions[largest, np.arange(directions.shape[1])] < 0.0, -1.0, 1.0).astype(np.float32)
    return (directions * signs)[:, :kept], deviations[:kept]


def lexical(buckets: Buckets, projection: Matrix) -> Matrix:
    """The lexical features of a sketch, (r,): the sum of its rows over the root of their number, moved to mean 0."""
    if not len(buckets):
        return np.zeros(projection.shape[1], dtype=np.float32)
    # A product with ones is much quicker than a sum along the first axis.
    total: Matrix = _ONES[: len(buckets)] @ projection.take(buckets, axis=0)
    total *= np.float32(1.0 / math.sqrt(len(buckets)))
    total += projection[OFFSET]
    return total


def project(sketches: Sequence[Buckets], matrix: Matrix) -> Matrix:
    """Lexical features of many sketches, shape (n, r)."""
    return np.array([lexical(sketch, matrix) for sketch in sketches], dtype=np.float32).reshape(
        -1, matrix.shape[1]
    )


def refit(
    sketches: Sequence[Buckets], size: int, present: Matrix | None = None, *, seed: int = 0
) -> Projection | None:
    """A projection that is worth a new version of the features, or None when ``present`` says the same.

    It says the same when the new features are linear in the present ones: whatever a linear model learns from the new
    ones it has learned already. ``seed`` as in ``fit``, and its errors.
    """
    fitted = fit(sketches, size, seed=seed)
    if present is None or present.shape[1] < fitted.size:
        return fitted
    used = [sketch for sketch in sketches if len(sketch)]
    new, old = project(used, fitted.matrix), project(used, present)
    old = np.concatenate((old, np.ones((len(old), 1), dtype=np.float32)), axis=1)
    solution, *_ = np.linalg.lstsq(old, new, rcond=None)
    unexplained = float(((new - old @ solution) ** 2).mean()) / DEVIATION**2
    return fitted if unexplained > _SAME_UNEXPLAINED else None
