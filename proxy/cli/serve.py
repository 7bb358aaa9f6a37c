"""``llm-optimizer serve``: check that this is one installation, then hand over to the supervisor."""

import asyncio
import sys
from pathlib import Path

import click

from optimizer.log.node import StateDirectoryError
from proxy import logs
from proxy.cli import identity
from proxy.cli.options import state_dir_option
from proxy.supervisor import ServeOptions, StartRefused, Supervisor, check_platform


@click.command("serve")
@click.option(
    "--config",
    "config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file; without it the built-in configuration is served.",
)
@click.option("--host", help="Address to listen on. [from the configuration]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one. [from the configuration]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Worker processes. [from the configuration]",
)
@state_dir_option
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="[from the configuration]")
@click.option(
    "--log-format",
    "log_style",
    type=click.Choice(logs.STYLES),
    help="How log lines on stderr look. [from the configuration]",
)
def serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    state_dir: Path,
    log_level: str | None,
    log_style: str | None,
) -> None:
    """Run the proxy: N workers that answer requests and one optimizer that learns.

    \b
    Examples:
      llm-optimizer serve
      llm-optimizer serve --config config.yaml --workers 2
      kill -HUP <pid>     reload the configuration (saving the file does, too)
      kill <pid>          drain and stop; a second signal stops at once
    """
    redactor = logs.configure("supervisor", level=log_level or "info", style=log_style or "auto")
    options = ServeOptions(
        state_dir=state_dir.absolute(),
        config=config.absolute() if config is not None else None,
        host=host,
        port=port,
        workers=workers,
        log_level=log_level,
        log_style=log_style,
    )
    try:
        check_platform()
        found = identity.problems()
        if found:
            raise StartRefused("refusing to start: " + "; ".join(found))
        supervisor = Supervisor(
            options,
            announce=lambda line: click.echo(line),
            redactor=redactor,
            on_terminal=sys.stdout.isatty(),
        )
        status = asyncio.run(supervisor.run())
    except (StartRefused, StateDirectoryError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)
