"""What commands that read a log directory share: options, progress bars, and a page of sentences, tables and plots.

The log is read without a server, also beside one that runs.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optimizer.replaying.reading import log_directory, read_decisions
from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.rows import Decisions
from proxy.cli.options import DEFAULT_STATE_DIR, seconds_of
from proxy.cli.output import console, plain, print_table, say
from proxy.cli.plotting import Plot, drawn, write_page

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of a page."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


Page = Sequence[str | Grid | Plot]


class Moment(click.ParamType[float]):
    """A date, a date with time, or how long ago: ``2026-11-23``, ``2026-11-23T14:00Z``, ``7d``."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds; a time without zone is UTC."""
        if isinstance(value, int | float):
            return float(value)
        ago = seconds_of(str(value))
        if ago is not None:
            return time.time() - ago
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no moment such as 2026-11-23, 2026-11-23T14:00 or 7d (ago).", param, ctx)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def log_options(command: Callable[..., object]) -> Callable[..., object]:
    """Adds ``--log``, ``--since``, ``--until`` and ``--rater``."""
    for option in (
        click.option(
            "--rater",
            metavar="WHO",
            help="Whose ratings are quality: `users`, or a judge as NAME@VERSION. [default: the judge, if any]",
        ),
        click.option("--until", type=Moment(), help="Only requests from before: a date, or 12h (ago)."),
        click.option("--since", type=Moment(), help="Only requests from then on: a date, or 7d (ago)."),
        click.option(
            "--log",
            "log",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=DEFAULT_STATE_DIR,
            show_default=True,
            help="State directory of a node, or the log directory in it.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only; call it with what is done and what there is."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as shown:
        task = shown.add_task(words, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=max(total, 1))


def read_log(
    log: Path, *, route: str | None, since: float | None, until: float | None, rater: str | None
) -> Mapping[str, Decisions]:
    """The decisions in a log by route, with a progress bar.

    Raises:
        click.ClickException: If there are none, or the log can not be read.
    """
    try:
        with progress("reading the log") as tell:
            found = read_decisions(
                log_directory(log),
                route=route,
                since=since or 0.0,
                until=until if until is not None else float("inf"),
                rater=rater,
                progress=tell,
            )
    except ReplayRefused as refused:
        raise click.ClickException(str(refused)) from refused
    except OSError as error:
        raise click.ClickException(f"cannot read {log}: {error.strerror or error}") from error
    if not found:
        raise click.ClickException(f"The log in {log} has no request of any route in that time.")
    return found


def show(page: Page) -> None:
    """Print a page to the terminal."""
    for block in page:
        match block:
            case str():
                say(block)
            case Grid():
                print_table(block.header, block.rows)
            case Plot():
                click.echo(drawn(block, color=sys.stdout.isatty()))


def keep(path: Path, title: str, page: Page) -> None:
    """Write a page to a file, for ``--plot``."""

    def render(target: "Console") -> None:
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        for block in page:
            match block:
                case str():
                    target.print(Text(plain(block)))
                case Grid():
                    table = Table(box=None, pad_edge=False)
                    for column in block.header:
                        table.add_column(column)
                    for row in block.rows:
                        table.add_row(*(Text(plain(cell)) for cell in row))
                    target.print(table)
                case Plot():
                    target.print(Text.from_ansi(drawn(block, color=True)))
            target.print()

    write_page(path, title, render)
    say(f"written: {path}", err=True)


def jsonable(value: Any) -> Any:
    """Dataclasses as mappings, and numbers that JSON does not have as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value


def left_out(counts: Mapping[str, int]) -> list[str]:
    """Requests that are no rows, as a sentence."""
    if not counts:
        return []
    parts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
    return [f"Not used: {parts}."]
