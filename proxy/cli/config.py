"""``llm-optimizer config``: export, reload, validate, on a running server."""

from collections.abc import Mapping
from typing import Any, TextIO

import click

from proxy.cli.client import AdminClient, describe
from proxy.cli.output import emit, output_option, say
from proxy.cli.server import server_options


@click.group("config")
def config() -> None:
    """Export, reload or validate the configuration of a running server.

    \b
    Examples:
      llm-optimizer config export > backup.yaml
      llm-optimizer config validate new.yaml && cp new.yaml config.yaml
      llm-optimizer config reload
    """


@config.command("export")
@click.option(
    "--source",
    type=click.Choice(("effective", "file")),
    default="effective",
    show_default=True,
    help="With every default spelled out and deployed optimizations applied, or as written.",
)
@server_options
def export(server: AdminClient, *, source: str) -> None:
    """Print YAML that loads again, with references in the place of secrets."""
    click.echo(server.text(f"/api/v1/config/export?source={source}"), nl=False)


@config.command("reload")
@output_option
@server_options
def reload(server: AdminClient, form: str) -> None:
    """Read the file again; on any problem the old configuration stays (exit status 1).

    Where the file says something else about what an optimization has changed, the file wins: that optimization ends as
    superseded, and is named here.
    """
    answer = server.post("/api/v1/config/reload", {})
    emit(answer, form, lambda: _reloaded(answer))


@config.command("validate")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@output_option
@server_options
def validate(server: AdminClient, form: str, *, file: TextIO) -> None:
    """Ask the server whether it would accept FILE (`-` reads standard input); exit status 1 if not.

    Unlike `check-config` this uses the environment of the server.
    """
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file.name} is not UTF-8 text (byte {error.start}).") from error
    answer = server.post("/api/v1/config/validate", {"config": text})
    emit(answer, form, lambda: _validated(answer))
    if not answer["valid"]:
        raise SystemExit(1)


def _reloaded(answer: Mapping[str, Any]) -> None:
    say(f"{answer['result']}: configuration {answer['config_hash']}, table {answer['table_version']}")
    if answer["needs_restart"]:
        say(f"only a restart changes: {', '.join(answer['needs_restart'])}")
    for ended in answer.get("superseded", ()):
        name = f"{ended['id']} ({ended['name']})" if isinstance(ended, Mapping) else ended
        say(f"superseded by the file: {name}")


def _validated(answer: Mapping[str, Any]) -> None:
    for note in answer["notes"]:
        say(f"note: {note}")
    for problem in answer["problems"]:
        say(describe(problem), err=True)
    if answer["valid"]:
        say(f"valid: configuration {answer['config_hash']}, routes {', '.join(answer['routes']) or 'none'}")
