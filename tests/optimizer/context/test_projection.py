"""Condensing sketches into a few features."""

import numpy as np
import pytest

from optimizer.context.projection import DEVIATION, LEAST_SKETCHES, fit, lexical, project, refit
from optimizer.context.words import BUCKETS, OFFSET


def sketches(count, seed=0, topics=3, first=1):
    """Requests of ``topics`` kinds with a vocabulary each, beside words that all of them use; and who is what."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(topics, size=count)
    own = [
        rng.choice(np.arange(first + 200 * kind, first + 200 * kind + 40), size=rng.integers(3, 12))
        for kind in kinds
    ]
    shared = [rng.integers(3000, 3100, size=rng.integers(1, 8)) for _ in kinds]
    return [
        np.unique(np.concatenate(pair)).astype(np.uint16) for pair in zip(own, shared, strict=True)
    ], kinds


def test_features_tell_topics_apart():
    """What a request is about is linear in the features of requests that were not fitted."""
    fitted = fit(sketches(600)[0], 8)
    others, kinds = sketches(400, seed=1)
    x = np.c_[project(others, fitted.matrix), np.ones(400)]
    target = np.eye(3)[kinds]

    predicted = x @ np.linalg.lstsq(x, target, rcond=None)[0]

    assert (predicted.argmax(axis=1) == kinds).mean() > 0.98


def test_features_have_the_same_scale():
    """Mean 0 and one deviation over what was fitted: one prior suits lexical and other features."""
    rows, _ = sketches(700)
    fitted = fit(rows, 16)
    x = project(rows, fitted.matrix)

    assert fitted.matrix.shape == (BUCKETS, 16)
    assert fitted.matrix.dtype == np.float32
    assert (fitted.size, fitted.sketches) == (16, 700)
    assert np.abs(x.mean(axis=0)).max() < 1e-3
    assert np.abs(x.std(axis=0) / DEVIATION - 1).max() < 0.02


def test_one_seed_gives_one_answer():
    """And another seed nearly the same: the start is random, the result is not."""
    rows, _ = sketches(500)
    first, again, other = fit(rows, 2), fit(rows, 2), fit(rows, 2, seed=7)

    assert (first.matrix == again.matrix).all()
    assert np.abs(first.matrix - other.matrix).max() < 0.05 * np.abs(first.matrix).max()


def test_leading_directions_are_those_of_the_whole_decomposition():
    """Power iteration finds what an exact decomposition finds."""
    rows, _ = sketches(500)
    x = project(rows, fit(rows, 2).matrix)
    seen = np.bincount(np.concatenate(rows), minlength=BUCKETS)
    table = np.zeros((500, BUCKETS), dtype=np.float32)
    for number, row in enumerate(rows):
        table[number, row] = np.log(501 / (1 + seen[row])) / np.sqrt(len(row))
    table = table[:, seen >= 3]
    left, _values, _right = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)

    overlap = np.abs(left[:, :2].T @ x) / np.sqrt(500) / DEVIATION

    assert np.abs(overlap - np.eye(2)).max() < 0.05


def test_too_little_to_fit():
    """Few sketches, empty ones, or no common word: a sentence says so."""
    rows, _ = sketches(LEAST_SKETCHES)
    empty = np.zeros(0, dtype=np.uint16)
    strangers = [np.array([number], dtype=np.uint16) for number in range(1, 500)]

    with pytest.raises(ValueError, match="399 sketches"):
        fit([*rows[1:], empty], 4)
    with pytest.raises(ValueError, match="no word"):
        fit(strangers, 4)
    with pytest.raises(ValueError, match="0 lexical"):
        fit(rows, 0)


def test_a_small_vocabulary_makes_fewer_features():
    """There are never more features than directions in which requests differ."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(rng.random(5) < 0.5).astype(np.uint16) + 1 for _ in range(800)]

    assert 1 <= fit(rows, 16).size <= 5


def test_no_word_is_the_middle():
    """An empty sketch has features 0, an unknown word only the offset."""
    matrix = fit(sketches(500)[0], 4).matrix

    assert (lexical(np.zeros(0, dtype=np.uint16), matrix) == 0).all()
    assert lexical(np.array([4000], dtype=np.uint16), matrix) == pytest.approx(matrix[OFFSET])


def test_a_projection_is_replaced_only_when_it_says_something_new():
    """More of the same traffic keeps the version; a new vocabulary, or a new size, does not."""
    present = fit(sketches(800)[0], 2).matrix

    assert refit(sketches(800, seed=5)[0], 2, present) is None
    assert refit(sketches(800, seed=5, first=1500)[0], 2, present) is not None
    assert refit(sketches(800, seed=5)[0], 4, present).size == 4
    assert refit(sketches(800)[0], 2).size == 2
