"""``llm-optimizer simulate``: plays a policy on recorded outcomes, next to what was to be had in hindsight."""

from pathlib import Path
from typing import Any

import click

from proxy.config.numerics import one_thread_for_numpy

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_POSITIVE = click.FloatRange(min=0.0, min_open=True)
_PART = click.FloatRange(min=0.0, max=1.0, min_open=True, max_open=True)
_SHARE = click.FloatRange(min=0.0, max=1.0)


@click.command("simulate")
@click.option("--data", required=True, type=_FILE, help="Recorded outcomes: CSV or JSON lines, also .gz.")
@click.option(
    "--policy", type=_FILE, help="YAML with the keys of a route: policy, objectives, constraints, context."
)
@click.option("--cost-target", type=_POSITIVE, help="USD a request, on average.")
@click.option("--target-reduction", type=_PART, help="Share of the baseline arm's cost to save.")
@click.option("--quality-floor", type=_SHARE, help="Least mean quality.")
@click.option("--quality-threshold", type=_SHARE, help="Share of the baseline arm's quality to keep.")
@click.option("--latency-p95-ms", type=_POSITIVE, help="At most 5 % of the replies may take longer.")
@click.option("--max-request-usd", type=_POSITIVE, help="Most that one request may be expected to cost.")
@click.option("--baseline", help="The arm that ratios refer to.  [default: the last one of the file]")
@click.option(
    "--burn-in", default="0", show_default=True, help="A file to learn from first, or a share of the data."
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many runs.")
@click.option(
    "--feedback-rate", default=1.0, show_default=True, type=_SHARE, help="Share of requests that are rated."
)
@click.option("--feedback-delay", default=0, show_default=True, type=click.IntRange(0), help="In requests.")
@click.option("--category", help="Column with a query's category, for the per-category yardstick.")
@click.option(
    "-o", "--output", "form", default="table", show_default=True, type=click.Choice(("table", "json", "csv"))
)
def simulate(data: Path, form: str, seeds: int, category: str | None, **options: Any) -> None:
    """Play a policy on the recorded outcomes in DATA.

    \b
    Examples:
      llm-optimizer simulate --data outcomes.csv --cost-target 0.0005 --burn-in 0.5
      llm-optimizer simulate --data outcomes.jsonl --quality-floor 0.9 --seeds 20
      llm-optimizer simulate --data new.csv --burn-in old.csv --policy route.yaml -o json

    A row of DATA is what one arm did with one query: the columns query, arm, quality (0 to 1), cost_usd, and where
    known latency_s, text, category and feature.NAME. The policy sees the outcome of the arm it chose, nothing else,
    and is compared with what was to be had in hindsight. docs/learning.md describes the format.
    """
    one_thread_for_numpy()
    from proxy.cli.simulated_run import run  # noqa: PLC0415 - imports numpy

    run(data, form, seeds, category, options)
