"""``llm-optimizer judges``: what judges cost, whether they answer, and what they found."""

from collections.abc import Mapping
from typing import Any

import click

from proxy.cli.client import AdminClient
from proxy.cli.output import emit, output_option, print_table, say
from proxy.cli.server import server_options


@click.command("judges")
@click.option("--route", help="Only this route.")
@output_option
@server_options
def judges(server: AdminClient, form: str, route: str | None) -> None:
    """Show the models that rate sampled answers: state, cost, and what they say of arms and prompts.

    A mean is the judge's over all answers of an arm: those that it did not see are joined by heuristics, as far as
    these agreed with it where both looked. A preference is the share of comparisons that the first prompt won; a win
    counts only in both orders.

    \b
    Examples:
      llm-optimizer judges
      llm-optimizer judges --route chat -o json
    """
    answer = server.get("/api/v1/judges")
    if route is not None:
        answer = {**answer, "judges": [row for row in answer["judges"] if row["route"] == route]}
    emit(answer, form, lambda: _tables(answer))


def _tables(answer: Mapping[str, Any]) -> None:
    rows = answer["judges"]
    if not rows:
        say("no route has a judge")
        return
    print_table(
        ("route", "judge", "version", "state", "rate", "today", "a day", "scored"),
        [
            (
                row["route"],
                row["name"],
                row["version"],
                "answers" if row["answers"] else f"does not answer ({row['problem']})",
                f"{row['rate']:.1%}",
                f"${row['spent_today_usd']:.4f}",
                f"${row['usd_per_day']:g}",
                str(row["judgements"].get("score.scored", 0)),
            )
            for row in rows
        ],
        fixed=("route", "judge"),
    )
    arms = [(row["route"], arm) for row in rows for arm in row["arms"]]
    if arms:
        print_table(
            ("route", "arm", "ratings", "mean", "between", "heuristics"),
            [
                (
                    route,
                    arm["arm"],
                    f"{arm['ratings']:g}",
                    f"{arm['mean']:.3f}",
                    f"{arm['low']:.3f} - {arm['high']:.3f}",
                    f"{arm['heuristics_weight']:.2f}",
                )
                for route, arm in arms
            ],
            fixed=("route", "arm"),
        )
    pairs = [(row["route"], pair) for row in rows for pair in row["pairs"]]
    if pairs:
        print_table(
            ("route", "prompt", "against", "comparisons", "preference", "between", "torn"),
            [
                (
                    route,
                    pair["arm"],
                    pair["other_arm"],
                    str(pair["comparisons"]),
                    f"{pair['preference']:.3f}",
                    f"{pair['low']:.3f} - {pair['high']:.3f}",
                    str(pair["torn"]),
                )
                for route, pair in pairs
            ],
            fixed=("route", "prompt"),
        )
