"""The tables of ``docs/operations.md``; ``loadtests.markdown`` puts them between its marks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtests.markdown import Row, Tables, percent, table

PAGE: Final = Path("docs/operations.md")
KEPT: Final = Path("loadtests/results/cluster.json")


def _convergence(rows: Sequence[Row]) -> str:
    return table(
        (
            "table is old by",
            "nodes",
            "requests decided meanwhile",
            "requests to 80 % share ± sd",
            "most of the seeds",
            "seconds",
            "best arm's share of 3,000 requests ± sd",
        ),
        [
            (
                f"{row['staleness_s']:g} s",
                str(row["nodes"]),
                f"{row['behind']:g}",
                f"{row['requests']:.0f} ± {row['sd']:.0f}",
                f"{row['most']:.0f}",
                f"{row['seconds']:.1f}",
                f"{percent(row['share'])} ± {100.0 * row['share_sd']:.1f}",
            )
            for row in rows
        ],
    )


def _figures(rows: Sequence[Row]) -> str:
    """One figure a line, with what was asked of it."""
    return table(
        ("", "measured", "asked", "note"),
        [(row["name"], _number(row["value"], row["unit"]), row["asked"], row["note"]) for row in rows],
    )


def _number(value: float, unit: str) -> str:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    return f"{shown} {unit}".rstrip()


TABLES: Final[Tables] = {
    "convergence": _convergence,
    "shipping": _figures,
    "workers": _figures,
    "chaos": _figures,
    "upgrade": _figures,
}
