"""The tables of ``docs/learning.md``; ``loadtests.markdown`` puts them between its marks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.markdown import Row, Tables, percent, table

PAGE: Final = Path("docs/learning.md")
KEPT: Final = Path("loadtests/results/learning.json")


def dollars(amount: float | None) -> str:
    """USD with the digits that tell."""
    return "-" if amount is None else f"${amount:.3g}"


def _spread(row: Row | None) -> str:
    return "-" if row is None else f"{row['quality']:.4f} ± {row['sd']:.4f}"


def _spent(row: Row | None) -> str:
    return "-" if row is None else f"{row['spent']:.3f} ± {row['spent_sd']:.3f}"


def _paretobandit(rows: Sequence[Row]) -> str:
    return table(
        (
            "USD a request",
            "best single",
            "fixed mix",
            "per category",
            "oracle",
            "**with context**",
            "over the mix (asked)",
            "cost / target",
            "without context",
            "cost / target",
            "paretobandit",
            "cost / target",
        ),
        [
            (
                f"{row['budget']:.2g}",
                "-" if row["best_single"] is None else f"{row['best_single']['quality']:.4f}",
                f"{row['mix']:.4f}",
                f"{row['category']:.4f}",
                f"{row['oracle']:.4f}",
                f"**{_spread(row['context'])}**",
                f"{row['context']['quality'] - row['mix']:+.4f} ({row['margin']:+.3f})",
                _spent(row["context"]),
                _spread(row["plain"]),
                _spent(row["plain"]),
                _spread(row["published"]),
                _spent(row["published"]),
            )
            for row in rows
        ],
    )


def _bfcl(rows: Sequence[Row]) -> str:
    return table(
        (
            "goal",
            "what is looked at",
            "quality",
            "to the floor",
            "USD per 1,000",
            "fixed mix",
            "cost / fixed mix",
            "per category",
            "oracle",
            "saving against the best model",
            "windows of 500 short by > 1.5 points",
        ),
        [
            (
                row["goal"],
                row["context"],
                _spread(row),
                f"{100.0 * (row['quality'] - row['floor']):+.2f} pp",
                f"{1000.0 * row['cost']:.3f} ± {1000.0 * row['cost_sd']:.3f}",
                _thousand(row["least_cost"]),
                "-" if row["times_least"] is None else f"{row['times_least']:.3f}",
                _thousand(row["category_cost"]),
                _thousand(row["oracle_cost"]),
                percent(row["saving"]),
                percent(row["short_windows"]),
            )
            for row in rows
        ],
    )


def _thousand(cost: float | None) -> str:
    return "-" if cost is None else f"{1000.0 * cost:.3f}"


def _broken(rows: Sequence[Row]) -> str:
    return table(
        ("goal", "what is looked at", "runs", "pulls until starved: median", "most", "never"),
        [
            (
                row["goal"],
                row["context"],
                str(len(row["broken_pulls"])),
                *_pulls([count for count in row["broken_pulls"] if count is not None]),
                str(sum(count is None for count in row["broken_pulls"])),
            )
            for row in rows
        ],
    )


def _pulls(counts: Sequence[int]) -> tuple[str, str]:
    ranked = sorted(counts)
    return (str(ranked[len(ranked) // 2]), str(ranked[-1])) if ranked else ("-", "-")


def _delay(rows: Sequence[Row]) -> str:
    return table(
        ("USD a request", "rated", "requests late", "reward", "cost / target"),
        [
            (
                f"{row['budget']:.2g}",
                percent(row["share"]),
                str(row["delay"]),
                _spread(row),
                _spent(row),
            )
            for row in rows
        ],
    )


def _priors(rows: Sequence[Row]) -> str:
    return table(
        (
            "ratings",
            "prior strength",
            "mean reward ± sd between seeds",
            "always the best arm",
            "share of the best arm",
        ),
        [
            (
                row["world"],
                f"{row['strength']:g}",
                _spread(row),
                f"{row['best']:.4f}",
                percent(row["best_share"]),
            )
            for row in rows
        ],
    )


def _judge(rows: Sequence[Row]) -> str:
    return table(
        ("what the judge says", "rated", "true reward", "cost / target"),
        [(row["judge"], percent(row["share"]), _spread(row), _spent(row)) for row in rows],
    )


def _plain(rows: Sequence[Row]) -> str:
    """Rows as they are: a column per name."""
    names = list(rows[0])
    return table(
        [name.replace("_", " ") for name in names], [[_cell(row[name]) for name in names] for row in rows]
    )


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return " to ".join(_cell(part) for part in value)
        case _:
            return str(value)


def _http(rows: Sequence[Row]) -> str:
    return table(
        ("USD a request", "", "runs", "reward", "cost / target"),
        [(f"{row['budget']:.2g}", row["way"], str(row["seeds"]), _spread(row), _spent(row)) for row in rows],
    )


TABLES: Final[Tables] = {
    "paretobandit": _paretobandit,
    "bfcl": _bfcl,
    "broken": _broken,
    "delay": _delay,
    "priors": _priors,
    "judge": _judge,
    "llmdrift": _plain,
    "obd": _plain,
    "http": _http,
    "hotpath": _plain,
}
