"""``routes``, ``arms`` and ``explain``: what a running server does, in tables for people or as JSON and YAML."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import click

from proxy.cli.client import AdminClient
from proxy.cli.optimization_options import complete_routes
from proxy.cli.output import emit, moment, output_option, percent, print_table, say
from proxy.cli.server import server_options

_SHOWN: Mapping[str, Callable[[float], str]] = {
    "cost": "{:.6f} USD".format,
    "quality": "{:.3f}".format,
    "late": "{:.1%}".format,
}


@click.command("routes")
@output_option
@server_options
def routes(server: AdminClient, form: str) -> None:
    """Show the routing table in use: arms and their percentages, and how far a rollout has come.

    \b
    Examples:
      llm-optimizer routes
      llm-optimizer routes --url https://llm.internal --key-file ~/.llm-admin-key
    """
    answer = server.get("/api/v1/routes")
    emit(answer, form, lambda: _routes(answer))


@click.command("arms")
@click.option("--route", shell_complete=complete_routes, help="Only this route.")
@output_option
@server_options
def arms(server: AdminClient, form: str, *, route: str | None) -> None:
    """Show what has been learned about every arm: means with 95 % intervals."""
    query = f"?route={quote(route, safe='')}" if route is not None else ""
    answer = server.get(f"/api/v1/arms{query}")
    emit(answer, form, lambda: _arms(answer))


@click.command("explain")
@click.argument("request_id")
@output_option
@server_options
def explain(server: AdminClient, form: str, *, request_id: str) -> None:
    """Say why the request REQUEST_ID went where it went; -o json prints the whole event.

    The id is in the reply's header x-llm-optimizer-request-id (and x-request-id).
    """
    if not request_id.replace("_", "").isalnum():
        raise click.BadParameter("it looks like req_0123...", param_hint="REQUEST_ID")
    answer = server.get(f"/api/v1/decisions/{quote(request_id, safe='')}")
    emit(answer, form, lambda: _sentences(answer))


def _routes(answer: Mapping[str, Any]) -> None:
    say(f"table {answer['table_version']}, configuration {answer['config_hash']}")
    for route in answer["routes"]:
        control, candidate = route["control"], route.get("candidate")
        matched = f", matches {', '.join(route['match'])}" if route["match"] else ""
        say(f"\n{route['name']}  ({control['policy']}{matched})")
        for words in _rollout(route):
            say(f"  {words}")
        if candidate is not None:
            say(f"  control: {percent(control['percentage'])} of the requests, {control['policy']}")
        _side(control)
        if candidate is not None:
            say(f"  candidate: {percent(candidate['percentage'])} of the requests, {candidate['policy']}")
            _side(candidate)
    if not answer["routes"]:
        say("no routes: requests go to the model they name")


def _rollout(route: Mapping[str, Any]) -> list[str]:
    """What optimizations do to the route and what it looks at, in words."""
    words = [
        f"changed by {row['optimization']} ({row['name']}, {row['strategy']}) since {moment(row['deployed_at'])}"
        for row in route.get("deployed") or ()
    ]
    context = route.get("context")
    if context:
        means = "the shares are means" if context["by_request"] else "which are only learned so far"
        by = "decides by" if context["by_request"] else "looks at"
        words.append(f"{by} {context['size']} features of a request ({context['features_version']}); {means}")
    rollout = route.get("rollout")
    if rollout and "optimization" in rollout:
        why = f" ({rollout['reason']})" if rollout.get("reason") else ""
        stage = (
            f"stage {rollout['stage'] + 1} of {rollout['stages']} since {moment(rollout['stage_started_at'])}"
        )
        words.append(
            f"rollout of {rollout['optimization']} ({rollout['name']}) {rollout['status']}{why}, {stage}"
        )
    elif rollout:
        words.append(f"rollout {rollout['id']}")
    return words


def _side(side: Mapping[str, Any]) -> None:
    rows = [
        (
            f"{arm['percentage']:.1f} %",
            arm["id"],
            arm["model"],
            arm["upstream"] or "-",
            arm["variant"],
            "baseline" if arm["id"] == side["baseline"] else "",
        )
        for arm in side["arms"]
    ]
    print_table(("share", "arm", "model", "upstream", "variant", ""), rows)


def _arms(answer: Mapping[str, Any]) -> None:
    rows = [
        (
            row["route"],
            row["arm"],
            f"{row['pulls']:.0f}",
            f"{100 * row['probability']:.1f} %",
            _estimate(row["quality"], "{:.3f}".format),
            _estimate(row["cost_usd"], "{:.6f}".format),
            _estimate(row["latency_s"], "{:.2f}".format),
            _estimate(row["success"], "{:.3f}".format),
        )
        for row in answer["arms"]
    ]
    print_table(("route", "arm", "tried", "now", "quality", "USD", "seconds", "success"), rows)
    for row in answer["arms"]:
        for alarm in row.get("alarms") or ():
            say(
                f"{row['route']}: the {alarm['signal']} of {row['arm']} changed from {alarm['before']:.4g} to "
                f"{alarm['after']:.4g} ({moment(alarm['at'])})"
            )
    kept = [
        (route, *_kept(row))
        for route, steering in (answer.get("steering") or {}).items()
        for row in steering["kept"]
    ]
    if kept:
        say("")
        print_table(("route", "constraint", "asked", "expected", "now", "multiplier", ""), kept)


def _kept(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One constraint: what is asked, what is expected and what happened, and what it weighs."""
    show = _SHOWN.get(row["name"], "{:g}".format)
    return (
        f"{row['name']} {'>=' if row['name'] == 'quality' else '<='}",
        show(row["target"]),
        show(row["expected"]),
        show(row["actual"]) if row["actual"] is not None else "-",
        f"{row['multiplier']:.4g}" if row["multiplier"] else "-",
        "" if row["feasible"] else "can not be kept with the others; `expected` is the nearest",
    )


def _sentences(answer: Mapping[str, Any]) -> None:
    for sentence in answer["explanation"]:
        say(sentence)


def _estimate(estimate: dict[str, Any] | None, show: Callable[[float], str]) -> str:
    if estimate is None or not estimate["weight"]:
        return "-"
    return f"{show(estimate['mean'])} [{show(estimate['low'])}..{show(estimate['high'])}]"
