"""How measured figures get into the pages of docs/: tables between marks, drawn from kept results.

Invariant: every number between the marks is a result; the prose around them is written by hand.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Tables: TypeAlias = Mapping[str, Callable[[Sequence[Row]], str]]


def read(path: Path) -> dict[str, Any]:
    """Results of earlier runs, by table; empty when there are none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def keep(path: Path, results: Mapping[str, Any]) -> None:
    """Save results for the page and for the test that holds page and results together."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rendered(text: str, results: Mapping[str, Any], tables: Tables) -> str:
    """``text`` with the tables of ``results`` between its marks.

    Raises:
        KeyError: If a mark names no table.
    """

    def figures(found: re.Match[str]) -> str:
        name = found.group(1)
        draw = tables[name]
        body = draw(results[name]["rows"]) if name in results else "not measured yet"
        return f"<!-- figures: {name} -->\n\n{body}\n\n<!-- end -->"

    return re.sub(r"<!-- figures: (\w+) -->.*?<!-- end -->", figures, text, flags=re.DOTALL)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(share: float) -> str:
    """A share in per cent, three digits."""
    return f"{100.0 * share:.3g} %"
