"""The score card: ``python -m loadtests.faults [scenario | begin* | group ...]``.

Exits with 1 when the product did not do what is expected of it, with 2 when a name chooses nothing.
"""

import argparse
import sys
import time

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.faults.card import PAGE, Row, figures, markdown, show, summary
from loadtests.faults.runner import chosen, run
from loadtests.figures import Result, fingerprint, save
from loadtests.machine import machine


def main() -> int:
    """Run what was asked for and show it; a run of everything also writes FAULTS.md and the result."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="scenarios, beginnings with *, or groups; default: all")
    parser.add_argument("--alone", action="store_true", help="without the pass-through")
    options = parser.parse_args()
    console = Console()
    try:
        entries = chosen(options.names)
    except KeyError as error:
        console.print(f"no scenario or group is called {error}")
        return 2
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("faults", total=len(entries))

        def ticked(name: str) -> None:
            progress.update(task, advance=1, description=name[:24].ljust(24))

        rows = uvloop.run(run(entries, ticked=ticked, plain=not options.alone))
    show(rows, console)
    if not options.names and not options.alone:
        PAGE.write_text(markdown(rows))
        _save(rows, time.monotonic() - began)
        console.print(f"wrote {PAGE}")
    return 0 if all(row.product.passed for row in rows) else 1


def _save(rows: list[Row], seconds: float) -> None:
    save(
        Result(
            scenario="faults",
            status="done",
            fingerprint=fingerprint(),
            machine=machine(),
            figures=figures(rows),
            text=summary(rows),
            seconds=round(seconds, 1),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
