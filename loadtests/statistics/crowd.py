"""Runs many seeded simulations side by side and shows how far they are."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from rich.progress import Progress

T = TypeVar("T")

_CHUNKS = 40


class Crowd:
    """Processes that simulate. Run ``i`` of a scene has the generator seeded (seed, scene, i), whoever runs it."""

    def __init__(self, pool: ProcessPoolExecutor, progress: Progress, *, seed: int, scale: float) -> None:
        self.seed = seed
        self._pool = pool
        self._progress = progress
        self._scale = scale

    def runs(self, full: int) -> int:
        """How many runs stand for ``full`` of them in a run at reduced scale."""
        return max(20, round(full * self._scale))

    def run(self, scene: str, one: Callable[[np.random.Generator], T], runs: int) -> list[T]:
        """``one`` for each of ``runs`` generators, in order. ``one`` must be picklable."""
        size = max(1, runs // _CHUNKS)
        spans = [(start, min(start + size, runs)) for start in range(0, runs, size)]
        task = self._progress.add_task(scene, total=runs)
        found: list[T] = []
        for rows in self._pool.map(partial(_span, scene, self.seed, one), spans):
            found += rows
            self._progress.update(task, advance=len(rows))
        return found


def generator(seed: int, scene: str, run: int) -> np.random.Generator:
    """The randomness of one run."""
    return np.random.default_rng([seed, *scene.encode(), run])


def _span(scene: str, seed: int, one: Callable[[np.random.Generator], T], span: tuple[int, int]) -> list[T]:
    return [one(generator(seed, scene, run)) for run in range(*span)]
