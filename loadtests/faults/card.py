"""The score card: what was expected, what the product did, what a plain pass-through did. Terminal and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.faults.judge import Verdict
from loadtests.faults.scenario import Scenario
from loadtests.figures import Figure

PAGE = Path(__file__).resolve().parent.parent / "FAULTS.md"

HEAD = """# Faults: score card

Written by `python -m loadtests.faults`; do not edit. Every row is an upstream (or a caller) that fails in one way, in
front of it once the product and once a plain pass-through (aiohttp server and client, no retries). The product is
judged by what its caller sees, by what the upstream sees and by the logged event; the pass-through by what its caller
sees. Upstream attempts are letters: `a` is the arm that was decided for, `aab` that one twice and then the next.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario's verdicts; no ``plain`` where a pass-through has nothing to compare."""

    group: str
    scenario: Scenario
    product: Verdict
    plain: Verdict | None


def passed(rows: Sequence[Row]) -> tuple[int, int, int]:
    """How many the product met, how many the pass-through met, and how many of those could be compared."""
    compared = [row.plain for row in rows if row.plain is not None]
    return sum(row.product.passed for row in rows), sum(plain.passed for plain in compared), len(compared)


def summary(rows: Sequence[Row]) -> str:
    """One line."""
    product, plain, compared = passed(rows)
    return f"product {product} of {len(rows)}, plain pass-through {plain} of {compared}"


def by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each group, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def figures(rows: Sequence[Row]) -> tuple[Figure, ...]:
    """What RESULTS.md shows: how much of what is expected each group met."""
    found = []
    for group, members in {"all": rows, **by_group(rows)}.items():
        product, plain, compared = passed(members)
        note = f"{product} of {len(members)}; plain pass-through {plain} of {compared}"
        found.append(Figure(f"faults, {group}: met", 100.0 * product / len(members), "%", note=note))
    return tuple(found)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the card, then every miss of the product in full."""
    table = Table(show_lines=False, pad_edge=False, expand=True)
    table.add_column("scenario", ratio=2, overflow="fold")
    table.add_column("expected", ratio=4)
    table.add_column("product", ratio=4)
    table.add_column("pass-through", ratio=4)
    for group, members in by_group(rows).items():
        table.add_section()
        table.add_row(Text(group, style="bold"), summary(members), "", "")
        for row in members:
            table.add_row(row.scenario.name, row.scenario.says, _cell(row.product), _cell(row.plain))
    console.print(table)
    for row in rows:
        if row.product.misses:
            console.print(Text(f"✗ {row.scenario.name}: {row.scenario.says}", style="bold red"))
            console.print(Text(f"    {row.product.story}"))
            for miss in row.product.misses:
                console.print(Text(f"    - {miss}"))
    console.print(Text(summary(rows), style="bold"))


def markdown(rows: Sequence[Row]) -> str:
    """The card as a page."""
    parts = [HEAD, f"**{summary(rows)}**\n"]
    for group, members in by_group(rows).items():
        parts.append(f"## {group}\n\n{summary(members)}\n")
        lines = ["| scenario | expected | product | plain pass-through |", "|---|---|---|---|"]
        lines += [
            f"| {row.scenario.name} | {_safe(row.scenario.says)} | {_mark(row.product)} | {_mark(row.plain)} |"
            for row in members
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(verdict: Verdict | None) -> Text:
    if verdict is None:
        return Text("-", style="dim")
    return Text.assemble(("✓ ", "green") if verdict.passed else ("✗ ", "red"), verdict.story)


def _mark(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    return f"{'✓' if verdict.passed else '✗'} {_safe(verdict.story)}"


def _safe(text: str) -> str:
    return text.replace("|", "\\|")
