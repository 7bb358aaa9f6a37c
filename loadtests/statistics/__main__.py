"""Measures how often guards and tests err: ``python -m loadtests.statistics [scene ...]``.

Runs from the root of the repository, keeps the results and writes the tables of ``docs/statistics.md``.
``--scale 0.05`` is a quick look that keeps nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.figures import fingerprint
from loadtests.markdown import keep, read, rendered
from loadtests.statistics import drift, method_scenes, rollout_scenes
from loadtests.statistics.crowd import Crowd
from loadtests.statistics.page import KEPT, PAGE, TABLES

SCENES: Mapping[str, Callable[[Crowd], list[rollout_scenes.Row]]] = {
    "identical": rollout_scenes.identical,
    "margin": rollout_scenes.margin,
    "promotion": rollout_scenes.promotion,
    "harm": rollout_scenes.harm,
    "prompts": method_scenes.prompts,
    "canaries": method_scenes.canaries,
    "ratios": method_scenes.ratios,
    "drift": drift.drift,
}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.statistics", description=__doc__.splitlines()[0]
    )
    parser.add_argument("scenes", nargs="*", help=f"of {', '.join(SCENES)}; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the runs; below 1 nothing is kept")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    console = Console()
    unknown = [name for name in options.scenes if name not in SCENES]
    if unknown:
        console.print(f"no scene is called {', '.join(unknown)}")
        return 2
    results = read(KEPT)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProcessPoolExecutor(options.processes) as pool, Progress(*columns, console=console) as progress:
        crowd = Crowd(pool, progress, seed=options.seed, scale=options.scale)
        for name in options.scenes or SCENES:
            began = time.monotonic()
            try:
                rows = SCENES[name](crowd)
            except FileNotFoundError as error:
                console.print(f"SKIPPED {name}: {error}")
                continue
            results[name] = {
                "rows": rows,
                "seed": options.seed,
                "seconds": round(time.monotonic() - began, 1),
                "fingerprint": fingerprint(),
            }
            console.print_json(data=rows)
            if options.scale >= 1.0:
                keep(KEPT, results)
                PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), results, TABLES), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
