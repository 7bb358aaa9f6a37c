"""Writes loadtests/RESULTS.md from the kept results: ``python -m loadtests.report``.

Invariant: every number in the file comes from a result file; nothing is typed in by hand.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from loadtests.budgets import BUDGETS
from loadtests.figures import Figure, Result, load
from loadtests.machine import line
from loadtests.scenarios import SCENARIOS

# Run by their own commands, for as long as one likes.
LONG = ("rollback", "soak", "fuzz")
TARGET = Path(__file__).with_name("RESULTS.md")
HEAD = """# Measured figures

Written by `python -m loadtests.report` from the newest results; do not edit. Rerun everything with `make figures`
or `python -m loadtests.run`, a part of it with `python -m loadtests.run unary relay`. How to read it: README.md.
"""


def render(results: list[Result], *, now: datetime) -> str:
    """The whole page."""
    parts = [HEAD, f"Newest result rendered {now:%Y-%m-%d %H:%M} UTC.\n"]
    parts += [f"Machine: {facts}.\n" for facts in dict.fromkeys(line(dict(r.machine)) for r in results)]
    if len({result.fingerprint for result in results}) > 1:
        parts.append("Some results are of older sources; the fingerprints below say which.\n")
    parts.append(_budget_table(results))
    parts += [_section(result) for result in results]
    return "\n".join(parts)


def _budget_table(results: list[Result]) -> str:
    measured = {figure.name: figure for result in results for figure in result.figures}
    rows = ["## Budgets\n", "| figure | measured | budget | |", "|---|---|---|---|"]
    for name, budget in BUDGETS.items():
        figure = measured.get(name)
        value = "not measured" if figure is None else _value(figure)
        rows.append(f"| {name} | {value} | {budget.text} | {'' if figure is None else figure.verdict} |")
    return "\n".join([*rows, ""])


def _section(result: Result) -> str:
    head = f"## {result.scenario}\n\nSources {result.fingerprint}, {result.seconds:g} s, "
    head += f"load average before {result.machine.get('load_before', 0):.2f}.\n"
    if result.status != "done":
        head += f"\n{result.status}{': ' if result.reason else ''}{result.reason}\n"
    if not result.figures:
        return head
    rows = ["| figure | value | |", "|---|---|---|"]
    rows += [f"| {f.name} | {_value(f)} | {f.void or f.note} |" for f in result.figures]
    block = f"\n```\n{result.text}\n```\n" if result.text else ""
    return "\n".join([head, *rows, block])


def _value(figure: Figure) -> str:
    digits = 0 if abs(figure.value) >= 1000 else 2
    return f"{figure.value:,.{digits}f} {figure.unit}".strip()


def main() -> int:
    """Render what is there; 1 when there is nothing."""
    results = [result for name in (*SCENARIOS, *LONG) if (result := load(name)) is not None]
    if not results:
        print("no results yet: python -m loadtests.run")
        return 1
    TARGET.write_text(render(results, now=datetime.now(UTC)))
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
