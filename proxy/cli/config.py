"""``llm-optimizer config``: export, reload, validate, on a running server."""

from pathlib import Path
from typing import TextIO

import click

from proxy.cli.client import connect, describe
from proxy.cli.options import server_options


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
    help="With every default spelled out, or as written.",
)
@server_options
def export(source: str, state_dir: Path | None, url: str | None, key_file: Path | None) -> None:
    """Print YAML that loads again, with references in the place of secrets."""
    text = connect(state_dir, url, key_file).get(f"/api/v1/config/export?source={source}")
    click.echo(text, nl=False)


@config.command("reload")
@server_options
def reload(state_dir: Path | None, url: str | None, key_file: Path | None) -> None:
    """Read the file again; on any problem the old configuration stays (exit status 1)."""
    answer = connect(state_dir, url, key_file).post("/api/v1/config/reload", {})
    click.echo(f"{answer['result']}: configuration {answer['config_hash']}, table {answer['table_version']}")
    if answer["needs_restart"]:
        click.echo(f"only a restart changes: {', '.join(answer['needs_restart'])}")


@config.command("validate")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@server_options
def validate(file: TextIO, state_dir: Path | None, url: str | None, key_file: Path | None) -> None:
    """Ask the server whether it would accept FILE (`-` reads standard input); exit status 1 if not.

    Unlike `check-config` this uses the environment of the server.
    """
    client = connect(state_dir, url, key_file)
    answer = client.post("/api/v1/config/validate", {"config": file.read()})
    for note in answer["notes"]:
        click.echo(f"note: {note}")
    for problem in answer["problems"]:
        click.echo(describe(problem), err=True)
    if not answer["valid"]:
        raise SystemExit(1)
    click.echo(
        f"valid: configuration {answer['config_hash']}, routes {', '.join(answer['routes']) or 'none'}"
    )
