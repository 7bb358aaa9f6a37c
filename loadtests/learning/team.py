"""Runs seeded simulations on several processes and shows how far they are."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Team:
    """Processes that simulate. ``seeds`` is how many a table is measured with.

    ``published`` is a Python that has the package ``paretobandit``, for the comparison with it; None leaves it out.
    """

    pool: ProcessPoolExecutor
    progress: Progress
    seeds: int
    published: Path | None = None

    def run(self, name: str, one: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """``one`` of every task, in order. Both must be picklable."""
        shown = self.progress.add_task(name, total=len(tasks))
        found: list[Result] = []
        for result in self.pool.map(one, tasks):
            found.append(result)
            self.progress.advance(shown)
        return found
