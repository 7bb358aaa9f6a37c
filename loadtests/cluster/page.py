"""Puts measured figures into ``docs/operations.md``: the tables between its marks come from the kept results.

Invariant: every number between the marks is a result; the prose around them is written by hand.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from loadtests.markdown import percent, table

PAGE: Final = Path("docs/operations.md")
KEPT: Final = Path("loadtests/results/cluster.json")

Row: TypeAlias = Mapping[str, Any]


def read(path: Path = KEPT) -> dict[str, Any]:
    """Results of earlier runs, by scene; empty when there are none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def keep(results: Mapping[str, Any], path: Path = KEPT) -> None:
    """Save results for the page and for the test that holds page and results together."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rendered(text: str, results: Mapping[str, Any]) -> str:
    """``text`` with the tables of ``results`` between its marks.

    Raises:
        KeyError: If a mark names no table.
    """

    def figures(found: re.Match[str]) -> str:
        name = found.group(1)
        draw = TABLES[name]
        body = draw(results[name]["rows"]) if name in results else "not measured yet"
        return f"<!-- cluster: {name} -->\n\n{body}\n\n<!-- end -->"

    return re.sub(r"<!-- cluster: (\w+) -->.*?<!-- end -->", figures, text, flags=re.DOTALL)


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


TABLES: Final[Mapping[str, Callable[[Sequence[Row]], str]]] = {
    "convergence": _convergence,
    "shipping": _figures,
    "workers": _figures,
    "chaos": _figures,
}
