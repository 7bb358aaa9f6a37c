"""``llm-optimizer check-config``: every problem of a file, without a server."""

from pathlib import Path

import click

from proxy.config.environment import process_environment
from proxy.config.export import effective_yaml
from proxy.config.load import load
from proxy.config.problems import ConfigProblems, describe_notes, describe_problems


@click.command("check-config")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--effective", is_flag=True, help="Print what the file means, every default spelled out.")
def check_config(file: Path, *, effective: bool) -> None:
    """List every problem of FILE with its path; exit status 1 if there is any.

    \b
    Examples:
      llm-optimizer check-config config.yaml
      llm-optimizer check-config config.yaml --effective > effective.yaml

    The environment counts (SERVER_PORT, ${NAME}...), as it would when serving. Notes say what is accepted but not
    active yet; with --effective they go to stderr.
    """
    try:
        loaded = load(file, process_environment())
    except ConfigProblems as refused:
        click.echo(describe_problems(refused.problems, origin=refused.origin), err=True)
        raise SystemExit(1) from refused
    click.echo(describe_notes(loaded.notes, origin=str(file)), err=effective)
    if effective:
        click.echo(effective_yaml(loaded), nl=False)
