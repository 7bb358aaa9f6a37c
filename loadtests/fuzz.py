"""Fuzz the parsers of our own for minutes: ``python -m loadtests.fuzz --minutes N [--seed S] [target ...]``.

Prints a line per target with executions, kinds of outcome, lines covered and crashes; inputs that crash are saved under
``loadtests/results/fuzz/`` and make the exit status 1. Runs of everything for three minutes or more go into
RESULTS.md. ``tests/fuzz`` runs the same targets for a moment in CI.
"""

import argparse
import sys
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from loadtests.figures import Figure, Result, fingerprint, save
from loadtests.fuzzing.catalogue import targets
from loadtests.fuzzing.runner import Crash, Outcome, run
from loadtests.fuzzing.target import Target
from loadtests.machine import machine

LONG_MINUTES = 3.0
RESULTS = Path(__file__).resolve().parent / "results" / "fuzz"


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    known = {target.name: target for target in targets()}
    parser = argparse.ArgumentParser(prog="python -m loadtests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("target", nargs="*", metavar="target", help=f"of {', '.join(known)}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.target if name not in known]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.target] or list(known.values())
    share = options.minutes * 60 / len(chosen)
    print(f"{len(chosen)} targets, {share:.1f} s each, seed {options.seed}")
    outcomes = {target.name: _fuzz(target, share, options.seed) for target in chosen}
    crashes = [crash for outcome in outcomes.values() for crash in outcome.crashes.values()]
    total = sum(outcome.executions for outcome in outcomes.values())
    print(f"{total:,} executions, {len(crashes)} crashes")
    if not options.target and options.minutes >= LONG_MINUTES:
        save(_result(outcomes, seed=options.seed, total=total, crashes=len(crashes)))
    return 1 if crashes else 0


def _result(outcomes: Mapping[str, Outcome], *, seed: int, total: int, crashes: int) -> Result:
    """For RESULTS.md."""
    slowest = max(outcomes, key=lambda name: outcomes[name].slowest_s)
    return Result(
        scenario="fuzz",
        status="done",
        fingerprint=fingerprint(),
        machine=machine(),
        figures=(
            Figure("fuzzing: executions", total, "", f"{len(outcomes)} targets, seed {seed}"),
            Figure("fuzzing: crashes", crashes),
            Figure("fuzzing: slowest input", outcomes[slowest].slowest_s * 1000, "ms", slowest),
        ),
        text="\n".join(_line(name, outcome) for name, outcome in outcomes.items()),
        seconds=round(sum(outcome.seconds for outcome in outcomes.values()), 1),
    )


def _fuzz(target: Target, seconds: float, seed: int) -> Outcome:
    """Run one target: half of its time with lines traced, for inputs that reach far, half of it fast."""
    shows = sys.stdout.isatty()

    def progress(outcome: Outcome) -> None:
        if shows:
            print(f"\r{_line(target.name, outcome)}", end="", flush=True)

    first = run(target, seed=seed, seconds=seconds / 2, covered=True, progress=progress)
    second = run(target, seed=seed + 1, seconds=seconds / 2, progress=progress)
    both = Outcome(
        executions=first.executions + second.executions,
        shapes=max(first.shapes, second.shapes),
        lines=first.lines,
        seconds=first.seconds + second.seconds,
        slowest_s=second.slowest_s,
        corpus=max(first.corpus, second.corpus),
        crashes=first.crashes | second.crashes,
    )
    print(("\r" if shows else "") + _line(target.name, both))
    for crash in both.crashes.values():
        print(f"    {crash.place}\n    saved as {_save(crash)}")
    return both


def _line(name: str, outcome: Outcome) -> str:
    return (
        f"{name:<22} {outcome.executions:>9,} executions  {outcome.shapes:>5} kinds  {outcome.lines:>5} lines  "
        f"slowest {outcome.slowest_s * 1000:>6.1f} ms  {len(outcome.crashes)} crashes"
    )


def _save(crash: Crash) -> Path:
    folder = RESULTS / crash.target
    folder.mkdir(parents=True, exist_ok=True)
    name = blake2b(crash.place.encode(), digest_size=6).hexdigest()
    (folder / f"{name}.txt").write_text(crash.text)
    path = folder / f"{name}.bin"
    path.write_bytes(crash.data)
    return path


if __name__ == "__main__":
    sys.exit(main())
