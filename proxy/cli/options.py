"""Options that several commands share."""

from pathlib import Path
from typing import Final

import click

DEFAULT_STATE_DIR: Final = Path("state")

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Where log, learned state, keys and the routing table live.",
)
