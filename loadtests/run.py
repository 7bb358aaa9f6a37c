"""Measures the scenarios, one after the other: ``python -m loadtests.run [scenario ...]``.

Invariant: a scenario's result is written as soon as it is there, and taken up again as long as the sources are
the same, so an interrupted run goes on where it stopped. A run of everything ends by writing RESULTS.md.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from loadtests import report
from loadtests.figures import Figure, Result, fingerprint, load, save
from loadtests.machine import line, load_average, machine
from loadtests.processes import Failed, Skipped, cores
from loadtests.scenarios import SCENARIOS
from loadtests.scenarios.context import Context

FILES = 8192


def measure(name: str, *, rounds: int, seconds: int, sources: str) -> Result:
    """Run one scenario in a scratch directory of its own; failures and skips are results too."""
    directory = Path(tempfile.mkdtemp(prefix=f"loadtest-{name}-"))
    begun = time.monotonic()
    figures: tuple[Figure, ...] = ()
    status, reason, text = "done", "", ""
    facts = machine() | {"load_before": load_average()}
    try:
        context = Context(cores(), directory, rounds, seconds, lambda text: print(f"    {text}", flush=True))
        report = SCENARIOS[name](context)
        figures, text = report.figures, "\n".join([*report.rows, *([report.text] if report.text else [])])
    except Skipped as skip:
        status, reason = "skipped", str(skip)
    except Failed as failure:
        status, reason = "failed", str(failure)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Result(
        scenario=name,
        status=status,
        fingerprint=sources,
        machine=facts,
        figures=figures,
        reason=reason,
        text=text,
        seconds=round(time.monotonic() - begun, 1),
    )


def show(result: Result) -> None:
    """Print a result."""
    if result.status != "done":
        print(f"  {result.status.upper()}: {result.reason}")
    for row in result.text.splitlines():
        print(f"  {row}")
    for figure in result.figures:
        mark = f"  [{figure.verdict}]" if figure.verdict else ""
        note = f"  ({figure.void or figure.note})" if figure.void or figure.note else ""
        print(f"  {figure.name}: {figure.value:,.3g} {figure.unit}{mark}{note}")


def main() -> int:
    """Run what was asked for; 0 if everything was measured or skipped by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of one measurement")
    parser.add_argument("--again", action="store_true", help="also what was measured on these sources")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    sources = fingerprint()
    print(line(machine()))
    failed = False
    for name in options.scenarios or SCENARIOS:
        kept = load(name)
        if kept is not None and kept.status == "done" and kept.fingerprint == sources and not options.again:
            print(f"{name}: measured before on the same sources")
            result = kept
        else:
            print(f"{name} ...", flush=True)
            result = measure(name, rounds=options.rounds, seconds=options.seconds, sources=sources)
            save(result)
        show(result)
        failed |= result.status == "failed"
    if not options.scenarios:
        report.main()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
