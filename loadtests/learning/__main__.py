"""Measures what learning is worth on recorded data: ``python -m loadtests.learning [table ...]``.

Runs from the root of the repository, keeps the results and writes the tables of ``docs/learning.md``. ``--seeds 2`` is
a quick look: with fewer than 20 nothing is kept.
"""

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.figures import fingerprint
from loadtests.learning.page import KEPT, PAGE, TABLES
from loadtests.learning.team import Team
from loadtests.markdown import keep, read, rendered
from loadtests.processes import Skipped

SEEDS = 20

MEASURED: Mapping[str, tuple[str, str]] = {
    "paretobandit": ("pareto", "budgets"),
    "bfcl": ("bfcl", "floors"),
    "delay": ("pareto", "delay"),
    "priors": ("pareto", "priors"),
    "judge": ("pareto", "judge"),
    "llmdrift": ("llmdrift", "llmdrift"),
    "obd": ("obd", "obd"),
    "http": ("http", "http"),
    "hotpath": ("hotpath", "hotpath"),
}
"""Module and function of every table."""

FROM: Mapping[str, str] = {"broken": "bfcl"}
"""Tables that show other columns of another table's rows."""


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.learning", description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(MEASURED)}; default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"with fewer than {SEEDS} nothing is kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--published",
        type=Path,
        help="a Python in which the package paretobandit is installed, to compare with",
    )
    options = parser.parse_args()
    console = Console()
    unknown = [name for name in options.tables if name not in MEASURED]
    if unknown:
        console.print(f"no table is called {', '.join(unknown)}")
        return 2
    # The matrices are small: a second thread for them only takes the other process's core. Before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Alarms of simulated routes are figures here, no news.
    logging.disable(logging.WARNING)
    results = read(KEPT)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProcessPoolExecutor(options.processes) as pool, Progress(*columns, console=console) as progress:
        team = Team(pool, progress, options.seeds, options.published)
        for name in options.tables or MEASURED:
            began = time.monotonic()
            try:
                rows = measure(name, team)
            except Skipped as absent:
                console.print(f"SKIPPED {name}: {absent}")
                continue
            kept = {
                "rows": rows,
                "seeds": options.seeds,
                "seconds": round(time.monotonic() - began, 1),
                "fingerprint": fingerprint(),
            }
            results |= {name: kept} | {other: kept for other, source in FROM.items() if source == name}
            for shown in (name, *(other for other, source in FROM.items() if source == name)):
                print(TABLES[shown](rows), flush=True)
            if options.seeds >= SEEDS:
                keep(KEPT, results)
                PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), results, TABLES), encoding="utf-8")
    return 0


def measure(name: str, team: Team) -> Sequence[Mapping[str, Any]]:
    """The rows of one table. Only what is measured is imported."""
    module, function = MEASURED[name]
    run: Callable[[Team], Sequence[Mapping[str, Any]]] = getattr(
        importlib.import_module(f"loadtests.learning.{module}"), function
    )
    return run(team)


if __name__ == "__main__":
    sys.exit(main())
