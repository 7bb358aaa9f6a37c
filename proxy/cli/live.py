"""``routes``, ``arms`` and ``explain``: what a running server does, in tables for people or as JSON."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from proxy.cli.client import connect
from proxy.cli.options import json_option, server_options


@click.command("routes")
@json_option
@server_options
def routes(state_dir: Path | None, url: str | None, key_file: Path | None, *, as_json: bool) -> None:
    """Show the routing table in use: arms and their percentages.

    \b
    Examples:
      llm-optimizer routes
      llm-optimizer routes --url https://llm.internal --key-file ~/.llm-admin-key
    """
    answer = connect(state_dir, url, key_file).get("/api/v1/routes")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"table {answer['table_version']}, configuration {answer['config_hash']}")
    for route in answer["routes"]:
        matched = f", matches {', '.join(route['match'])}" if route["match"] else ""
        click.echo(f"\n{route['name']}  ({route['control']['policy']}{matched})")
        rows = [
            [
                f"{arm['percentage']:.1f} %",
                arm["id"],
                arm["model"],
                arm["upstream"] or "-",
                arm["variant"],
                "baseline" if arm["id"] == route["control"]["baseline"] else "",
            ]
            for arm in route["control"]["arms"]
        ]
        _table(["share", "arm", "model", "upstream", "variant", ""], rows)
    if not answer["routes"]:
        click.echo("no routes: requests go to the model they name")


@click.command("arms")
@click.option("--route", help="Only this route.")
@json_option
@server_options
def arms(
    route: str | None, state_dir: Path | None, url: str | None, key_file: Path | None, *, as_json: bool
) -> None:
    """Show what has been learned about every arm: means with 95 % intervals."""
    query = f"?route={quote(route, safe='')}" if route is not None else ""
    answer = connect(state_dir, url, key_file).get(f"/api/v1/arms{query}")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    rows = [
        [
            row["route"],
            row["arm"],
            f"{row['pulls']:.0f}",
            f"{100 * row['probability']:.1f} %",
            _estimate(row["quality"], "{:.3f}".format),
            _estimate(row["cost_usd"], "{:.6f}".format),
            _estimate(row["latency_s"], "{:.2f}".format),
            _estimate(row["success"], "{:.3f}".format),
        ]
        for row in answer["arms"]
    ]
    _table(["route", "arm", "tried", "now", "quality", "USD", "seconds", "success"], rows)


@click.command("explain")
@click.argument("request_id")
@server_options
def explain(request_id: str, state_dir: Path | None, url: str | None, key_file: Path | None) -> None:
    """Show how the request REQUEST_ID was decided, as it stands in the event log.

    The id is in the reply's header x-llm-optimizer-request-id (and x-request-id).
    """
    if not request_id.replace("_", "").isalnum():
        raise click.BadParameter("it looks like req_0123...", param_hint="REQUEST_ID")
    answer = connect(state_dir, url, key_file).get(f"/api/v1/decisions/{request_id}")
    click.echo(json.dumps(answer, indent=2))


def _estimate(estimate: dict[str, Any] | None, show: Callable[[float], str]) -> str:
    if estimate is None or not estimate["weight"]:
        return "-"
    return f"{show(estimate['mean'])} [{show(estimate['low'])}..{show(estimate['high'])}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for line in (header, *rows):
        click.echo(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
