"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

DEFAULT_STATE_DIR: Final = Path("state")

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where log, learned state, keys and the routing table live. [default: {DEFAULT_STATE_DIR}]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which running server a command talks to."""
    for option in (
        click.option(
            "--key-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with the admin key. [default: secrets/admin.key of the state directory]",
        ),
        click.option("--url", help="Base URL of a server, instead of the state directory's socket."),
        state_dir_option,
    ):
        command = option(command)
    return command
