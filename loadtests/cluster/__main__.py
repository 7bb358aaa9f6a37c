"""Measures what a cluster must show: ``python -m loadtests.cluster [scene ...]``.

Runs from the root of the repository, keeps the results and writes the tables of ``docs/operations.md``. ``--seeds``,
``--requests`` and ``--rounds`` make it quicker and less sure; with less than usual of any, nothing is kept. ``--from``
is the commit of the older program of ``upgrade``.
"""

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.cluster.page import KEPT, PAGE, TABLES
from loadtests.figures import fingerprint
from loadtests.learning.team import Team
from loadtests.machine import machine
from loadtests.markdown import keep, read, rendered
from loadtests.processes import Failed, Skipped

SEEDS: Final = 20
REQUESTS: Final = 100_000
ROUNDS: Final = 5
OLDER: Final = "3b3f2d0"
"""The older program of an upgrade: the first version whose clusters were proved."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: seeds of simulations, requests under faults, rounds of comparisons; and against what."""

    seeds: int = SEEDS
    requests: int = REQUESTS
    rounds: int = ROUNDS
    older: str = OLDER


Rows = Sequence[Mapping[str, Any]]


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", help=f"of {', '.join(SCENES)}; default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--from", dest="older", metavar="COMMIT", default=OLDER)
    options = parser.parse_args()
    unknown = [name for name in options.scenes if name not in SCENES]
    if unknown:
        print(f"no scene is called {', '.join(unknown)}")
        return 2
    effort = Effort(options.seeds, options.requests, options.rounds, options.older)
    whole = effort.seeds >= SEEDS and effort.requests >= REQUESTS and effort.rounds >= ROUNDS
    results, failed = read(KEPT), False
    for name in options.scenes or SCENES:
        began = time.monotonic()
        try:
            rows = SCENES[name](effort)
        except Skipped as absent:
            print(f"SKIPPED {name}: {absent}")
            continue
        except Failed as failure:
            print(f"FAILED {name}: {failure}")
            failed = True
            continue
        print(TABLES[name](rows), flush=True)
        if not whole:
            continue
        results[name] = {
            "rows": rows,
            "seconds": round(time.monotonic() - began, 1),
            "machine": machine(),
            "fingerprint": fingerprint(),
        }
        keep(KEPT, results)
        if PAGE.exists():
            PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), results, TABLES), encoding="utf-8")
    return int(failed)


def _convergence(effort: Effort) -> Rows:
    # A second thread for small matrices only takes the other process's core. Before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.disable(logging.WARNING)
    try:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with ProcessPoolExecutor(2) as pool, Progress(*columns, console=Console(stderr=True)) as progress:
            return _scene("convergence", "convergence")(Team(pool, progress, effort.seeds))
    finally:
        logging.disable(logging.NOTSET)


def _scene(module: str, function: str) -> Callable[[Any], Rows]:
    """A scene's function. Only what is measured is imported."""
    run: Callable[[Any], Rows] = getattr(importlib.import_module(f"loadtests.cluster.{module}"), function)
    return run


SCENES: Final[Mapping[str, Callable[[Effort], Rows]]] = {
    "convergence": _convergence,
    "shipping": lambda effort: _scene("shipping", "shipping")(effort.rounds),
    "workers": lambda effort: _scene("workers", "workers")(effort.rounds),
    "chaos": lambda effort: _scene("chaos", "chaos")(effort.requests),
    "upgrade": lambda effort: _scene("upgrade", "upgrade")(effort.older),
}


if __name__ == "__main__":
    sys.exit(main())
