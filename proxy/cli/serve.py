"""``llm-optimizer serve``: check that this is one installation, then hand over to the supervisor."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Final

import click

from optimizer.log.node import StateDirectoryError
from proxy import logs
from proxy.cli import identity
from proxy.cli.options import DEFAULT_STATE_DIR, state_dir_option
from proxy.config.numerics import one_thread_for_numpy
from proxy.config.resolver import SecretResolver
from proxy.supervisor import ServeOptions, Supervisor
from proxy.supervisor_notify import ServiceManager
from proxy.supervisor_sockets import StartRefused
from proxy.supervisor_state import Home, find_home

MEMORY_ONLY: Final = (
    "MEMORY ONLY: %s. Everything that is learned, logged or created here, client keys, limits and the admin key "
    "included, is lost when this process ends. It is in %s until then. Give it a directory with --state-dir."
)

_log = logging.getLogger(logs.LOGGER_NAME)


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
    state_dir: Path | None,
    log_level: str | None,
    log_style: str | None,
) -> None:
    """Run the proxy: N workers that answer requests and one optimizer that learns.

    \b
    Examples:
      llm-optimizer serve
      llm-optimizer serve --config config.yaml --workers 2
      kill -HUP <pid>     reload the configuration (saving the file does, too)
      kill -USR2 <pid>    replace the workers one after the other, while serving
      kill <pid>          drain and stop; a second signal stops at once
    """
    os.umask(0o077)  # Inherited by every process: whatever any of them creates is the operator's alone.
    one_thread_for_numpy()
    redactor = logs.configure("supervisor", level=log_level or "info", style=log_style or "auto")
    home: Home | None = None
    try:
        check_installation()
        home = find_home(choose_state_dir(state_dir, config).absolute())
        if home.missing:
            _log.error(MEMORY_ONLY, home.missing, home.path)
        options = ServeOptions(
            state_dir=home.path,
            config=config.absolute() if config is not None else None,
            host=host,
            port=port,
            workers=workers,
            log_level=log_level,
            log_style=log_style,
        )
        supervisor = Supervisor(
            options,
            announce=click.echo,
            redactor=redactor,
            on_terminal=sys.stdout.isatty(),
            manager=ServiceManager(SecretResolver.from_process().resolve("env:NOTIFY_SOCKET")),
        )
        status = asyncio.run(supervisor.run())
    except (StartRefused, StateDirectoryError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if home is not None:
            home.leave()
    sys.exit(status)


def check_installation() -> None:
    """Refuse to run a blend of our packages and somebody else's.

    Raises:
        StartRefused: With everything that is wrong.
    """
    found = identity.problems()
    if found:
        raise StartRefused("refusing to start: " + "; ".join(found))


def choose_state_dir(option: Path | None, config: Path | None) -> Path:
    """The option, else what the configuration says, else the default.

    Only a configuration that mentions the directory is compiled here: compiling takes longer than everything else
    that happens before the first child is started.
    """
    if option is not None:
        return option
    variable = SecretResolver.from_process().resolve("env:LLM_OPTIMIZER__STATE_DIR")
    text = config.read_text("utf-8", errors="replace") if config is not None else ""
    if variable is None and "state_dir" not in text:
        return DEFAULT_STATE_DIR
    from proxy.config.environment import process_environment  # noqa: PLC0415 - see above
    from proxy.config.load import load  # noqa: PLC0415
    from proxy.config.problems import ConfigProblems  # noqa: PLC0415

    try:
        return load(config, process_environment()).state_dir or DEFAULT_STATE_DIR
    except ConfigProblems as refused:
        raise StartRefused(str(refused)) from refused
