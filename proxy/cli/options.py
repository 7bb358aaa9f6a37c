"""Options and types of options that several commands share."""

import re
from pathlib import Path
from typing import Any, Final

import click

DEFAULT_STATE_DIR: Final = Path("state")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where log, learned state, keys and the routing table live. [default: {DEFAULT_STATE_DIR}]",
)


def seconds_of(text: str, *, bare: bool = False) -> float | None:
    """Seconds of ``90d``, ``12h``, ``30m``, ``45s`` or ``2w``; with ``bare`` also of ``300``. None if it is none."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw]?)", text.strip().lower())
    if found is None or not (found[2] or bare):
        return None
    return float(found[1]) * _UNITS[found[2] or "s"]


class Duration(click.ParamType[float]):
    """A length of time such as ``90d``; with ``bare`` a number without unit is seconds."""

    name = "duration"

    def __init__(self, *, bare: bool = False) -> None:
        self._bare = bare

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails when it is no duration."""
        if isinstance(value, int | float):
            return float(value)
        seconds = seconds_of(str(value), bare=self._bare)
        if seconds is None:
            self.fail(f"{value!r} is no duration such as 90d, 12h or 30m.", param, ctx)
        return seconds
