"""The tables of ``docs/statistics.md``; ``loadtests.markdown`` puts them between its marks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtests.markdown import Row, Tables, percent, table

PAGE: Final = Path("docs/statistics.md")
KEPT: Final = Path("loadtests/results/statistics.json")


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _identical(rows: Sequence[Row]) -> str:
    return table(
        ("both sides", "rollouts", "rolled back", "paused", "by which guard"),
        [
            (
                row["world"],
                _count(row["runs"]),
                percent(row["rolled_back"]),
                percent(row["paused"]),
                ", ".join(f"{guard} {count}" for guard, count in row["by_guard"].items()) or "-",
            )
            for row in rows
        ],
    )


def _margin(rows: Sequence[Row]) -> str:
    return table(
        (
            "canary",
            "control → candidate",
            "runs",
            "promoted",
            "rolled back",
            "median canary requests",
        ),
        [
            (
                f"{row['percentage']:g} %",
                str(row["change"]),
                _count(row["runs"]),
                percent(row["promoted"]),
                percent(row["rolled_back"]),
                _count(row["median_canary"]),
            )
            for row in rows
        ],
    )


def _promotion(rows: Sequence[Row]) -> str:
    return table(
        ("candidate errors", "runs", "P(promoted)", "P(rolled back)", "median canary requests to rollback"),
        [
            (
                percent(row["candidate_errors"]),
                _count(row["runs"]),
                percent(row["promoted"]),
                percent(row["rolled_back"]),
                _count(row["median_canary"]),
            )
            for row in rows
        ],
    )


def _harm(rows: Sequence[Row]) -> str:
    return table(
        (
            "harm",
            "canary",
            "runs",
            "rolled back",
            "median canary requests",
            "p90",
            "median requests of the route",
        ),
        [
            (
                row["harm"],
                f"{row['percentage']:g} %",
                _count(row["runs"]),
                percent(row["rolled_back"]),
                _count(row["median_canary"]),
                _count(row["p90_canary"]),
                _count(row["median_requests"]),
            )
            for row in rows
        ],
    )


def _prompts(rows: Sequence[Row]) -> str:
    return table(
        ("variants", "true lift", "runs", "a winner", "median per prompt"),
        [
            (
                _count(row["variants"]),
                f"+{row['lift']:g}",
                _count(row["runs"]),
                f"{row['decided']:.3f}",
                _count(row["median_per_arm"]),
            )
            for row in rows
        ],
    )


def _canaries(rows: Sequence[Row]) -> str:
    rates = ("0.02", "0.03", "0.05", "0.1", "0.3")
    return table(
        ("rule", "2 % (false)", "3 %", "5 %", "10 %", "30 %"),
        [
            (
                row["rule"],
                *(
                    f"{share:.3f}" if middle is None else f"{share:.3f}, {_count(middle)}"
                    for share, middle in (row[rate] for rate in rates)
                ),
            )
            for row in rows
        ],
    )


def _ratios(rows: Sequence[Row]) -> str:
    return table(
        ("meant share", "real share", "runs", "alarms", "median requests"),
        [
            (
                f"{row['meant']:g}",
                f"{row['real']:g}",
                _count(row["runs"]),
                f"{row['alarms']:.3f}",
                _count(row["median_requests"]),
            )
            for row in rows
        ],
    )


def _drift(rows: Sequence[Row]) -> str:
    return table(
        (
            "task",
            "model",
            "March right",
            "June right",
            "answers rated",
            "rolled back",
            "median canary requests",
            "of them rated",
        ),
        [
            (
                row["task"],
                row["model"],
                percent(row["march"]),
                percent(row["june"]),
                percent(row["rated"]),
                percent(row["rolled_back"]),
                _count(row["median_canary"]),
                _count(row["median_ratings"]),
            )
            for row in rows
        ],
    )


TABLES: Final[Tables] = {
    "identical": _identical,
    "margin": _margin,
    "promotion": _promotion,
    "harm": _harm,
    "prompts": _prompts,
    "canaries": _canaries,
    "ratios": _ratios,
    "drift": _drift,
}
