"""``llm-optimizer keys``: make, list and revoke the client keys of a running server."""

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from proxy.cli.client import AdminClient
from proxy.cli.options import Duration
from proxy.cli.output import emit, moment, output_option, print_table, say
from proxy.cli.server import server_options


@click.group("keys")
def keys() -> None:
    """Make, list and revoke the keys that applications send to a running server.

    Keys are asked for when the configuration says so:

    \b
      access:
        client_keys: true

    An application sends its key as it would send a provider's: as the api_key of an OpenAI client, or in the
    header x-llm-optimizer-key. The server keeps no key, only what recognises one, so a key is shown once.

    \b
    Examples:
      llm-optimizer keys create ci
      llm-optimizer keys create batch --route 'batch-*' --usd-per-day 20 --expires-in 90d
      KEY=$(llm-optimizer keys create web)          only the key comes through a pipe
      llm-optimizer keys list
      llm-optimizer keys revoke key_0123456789abcdef
    """


@keys.command("create")
@click.argument("name")
@click.option(
    "--route", "routes", multiple=True, help="Route or pattern it may use; repeatable. [default: all]"
)
@click.option("--no-routes", is_flag=True, help="It may use no route, only what else you give it.")
@click.option(
    "--model", "models", multiple=True, help="Plain model or pattern it may name; repeatable. [default: none]"
)
@click.option("--pin", is_flag=True, help="It may choose the arm (x-llm-optimizer-pin).")
@click.option(
    "--passthrough", is_flag=True, help="It may use the paths that are passed through to an upstream."
)
@click.option(
    "--expires-in",
    type=Duration(),
    metavar="DURATION",
    help="How long it works: 90d, 12h, 30m. [default: until revoked]",
)
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Limit of requests.")
@click.option(
    "--tokens-per-minute", type=click.IntRange(min=1), help="Limit of tokens, input and output together."
)
@click.option("--usd-per-day", type=click.FloatRange(min=0, min_open=True), help="Budget per day (UTC).")
@click.option("--usd-per-month", type=click.FloatRange(min=0, min_open=True), help="Budget per month (UTC).")
@output_option
@server_options
def create(
    server: AdminClient,
    form: str,
    *,
    name: str,
    routes: tuple[str, ...],
    no_routes: bool,
    models: tuple[str, ...],
    expires_in: float | None,
    **others: Any,
) -> None:
    """Make a key for NAME (an application, a team) and print it: this once, for it is not kept.

    On a terminal the key comes with what it may do; into a pipe or a file goes the key alone. It works within a
    fifth of a second, on every worker. Whatever is not given here the key may not do.

    \b
    Examples:
      llm-optimizer keys create web
      llm-optimizer keys create research --model 'gpt-*' --pin
      llm-optimizer keys create files --no-routes --passthrough --expires-in 12h
    """
    if routes and no_routes:
        raise click.UsageError("--route and --no-routes exclude each other.")
    wanted: dict[str, Any] = {"name": name, "models": list(models)}
    if routes or no_routes:
        wanted["routes"] = list(routes)
    wanted |= {scope: others.pop(scope) for scope in ("pin", "passthrough")}
    quota = {limit: value for limit, value in others.items() if value is not None}
    if quota:
        wanted["quota"] = quota
    if expires_in is not None:
        wanted["expires_in_sec"] = expires_in
    made = server.post("/api/v1/keys", wanted)
    emit(made, form, lambda: _hand_over(made))


@keys.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@output_option
@server_options
def listing(server: AdminClient, form: str, *, everything: bool) -> None:
    """Show the keys that work, with what each may do."""
    answer = server.get("/api/v1/keys")
    emit(answer, form, lambda: _table(answer["keys"], everything=everything))


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@output_option
@server_options
def revoke(server: AdminClient, form: str, *, key_id: str) -> None:
    """End the key with this ID (`keys list` shows it), at once and for ever.

    Requests that have begun are finished; the next one is refused. Revoking it again does no harm.
    """
    answer = server.delete(f"/api/v1/keys/{quote(key_id, safe='')}")
    emit(answer, form, lambda: say(f"revoked: {answer['id']} ({answer['name']})"))


def _hand_over(made: Mapping[str, Any]) -> None:
    for warning in made["warnings"]:
        say(f"note: {warning}", err=True)
    if not sys.stdout.isatty():
        click.echo(made["key"])
        return
    say(f"\n  {made['key']}\n")
    say(f"{made['id']} for {made['name']}: {_may(made)}; {_limits(made)}; {_end(made)}.")
    say("Keep it now: it is not shown again.")


def _table(found: list[Mapping[str, Any]], *, everything: bool) -> None:
    shown = [key for key in found if everything or key["state"] == "active"]
    if shown:
        print_table(
            ("id", "name", "ends with", "state", "made", "ends", "may use", "limits"),
            [
                (
                    key["id"], key["name"], key["last4"], key["state"], moment(key["created_at"]), _end(key),
                    _may(key), _limits(key),
                )
                for key in shown
            ],
            fixed=("id", "ends with", "state"),
        )  # fmt: skip
    else:
        say("no keys: llm-optimizer keys create NAME")
    if len(found) > len(shown):
        say(f"{len(found) - len(shown)} that ended: llm-optimizer keys list --all")


def _may(key: Mapping[str, Any]) -> str:
    scopes = []
    if key["routes"]:
        scopes.append("every route" if key["routes"] == ["*"] else f"routes {', '.join(key['routes'])}")
    if key["models"]:
        scopes.append("every model" if key["models"] == ["*"] else f"models {', '.join(key['models'])}")
    scopes += [name for name in ("pin", "passthrough") if key[name]]
    return "; ".join(scopes) or "nothing"


def _limits(key: Mapping[str, Any]) -> str:
    quota = key["quota"] or {}
    words = {
        "requests_per_minute": "{:g} requests/min",
        "tokens_per_minute": "{:g} tokens/min",
        "usd_per_day": "{:g} USD/day",
        "usd_per_month": "{:g} USD/month",
    }
    return ", ".join(words[name].format(limit) for name, limit in quota.items()) or "no limits"


def _end(key: Mapping[str, Any]) -> str:
    ends = [at for at in (key["revoked_at"], key["expires_at"]) if at is not None]
    if not ends:
        return "until revoked"
    return f"{'ended' if key['state'] != 'active' else 'until'} {moment(min(ends))}"
