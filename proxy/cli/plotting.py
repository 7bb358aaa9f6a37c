"""Plots for the terminal, and the same page as SVG or HTML.

A plot is text: what a terminal shows is what ``--plot FILE`` keeps, tables included. Files refer to nothing on a
network. uniplot draws, rich renders; both are imported when something is drawn.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.output import plain

if TYPE_CHECKING:
    from rich.console import Console

_SUFFIXES: Final = (".svg", ".html")
_COLORS: Final = ("blue", "red", "green", "yellow", "magenta", "cyan")
_WIDTH: Final = 64
_HEIGHT: Final = 14
_PAGE_WIDTH: Final = 130


@dataclass(frozen=True, slots=True)
class Series:
    """A named polyline; ``at`` are its Unix seconds if the horizontal axis is time, else ``x`` counts."""

    name: str
    y: Sequence[float]
    x: Sequence[float] = ()
    at: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines in one frame. ``title`` says what the axes are."""

    title: str
    series: Sequence[Series] = field(default_factory=tuple)


def cross(name: str, x: tuple[float, float, float], y: tuple[float, float, float]) -> Series:
    """A point with error bars in both directions; (low, middle, high) each."""
    return Series(name, y=(y[1], y[1], y[1], y[0], y[2]), x=(x[0], x[2], x[1], x[1], x[1]))


def whisker(name: str, x: tuple[float, float, float], place: float) -> Series:
    """A horizontal interval at height ``place`` with its middle marked."""
    return Series(name, y=(place, place, place - 0.2, place + 0.2), x=(x[0], x[2], x[1], x[1]))


def drawn(plot: Plot, *, color: bool) -> str:
    """The plot as text of several lines."""
    import uniplot  # noqa: PLC0415 - slow to import, and only for plots

    dated = bool(plot.series[0].at)
    times = [[_utc(moment) for moment in line.at] for line in plot.series]
    return uniplot.plot_to_string(
        ys=[list(line.y) for line in plot.series],
        xs=times if dated else [list(line.x) for line in plot.series],
        lines=[True] * len(plot.series),
        title=plain(plot.title),
        legend_labels=[plain(line.name) for line in plot.series],
        color=[_COLORS[place % len(_COLORS)] for place in range(len(plot.series))] if color else False,
        width=_WIDTH,
        height=_HEIGHT,
        x_gridlines=[],
        y_gridlines=[],
    )


def plot_option(command: Callable[..., object]) -> Callable[..., object]:
    """Adds ``--plot FILE``, checked to be of a kind that can be written."""
    return click.option(
        "--plot",
        "plot_file",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_check_suffix,
        help="Write table and plot to FILE.svg or FILE.html.",
    )(command)


def write_page(path: Path, title: str, show: Callable[["Console"], None]) -> None:
    """Render what ``show`` prints to a file, SVG or HTML by its name.

    Raises:
        click.ClickException: If it can not be written.
    """
    from rich.console import Console  # noqa: PLC0415

    page = Console(record=True, file=io.StringIO(), width=_PAGE_WIDTH, force_terminal=True, highlight=False)
    show(page)
    text = (
        page.export_svg(title=plain(title), code_format=_svg_format())
        if path.suffix == ".svg"
        else page.export_html()
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from error


def _svg_format() -> str:
    """rich's frame without its font files, which it would fetch from a network; the reader's own fonts do."""
    from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: PLC0415

    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def _check_suffix(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in _SUFFIXES:
        raise click.BadParameter(f"{value} must end in {' or '.join(_SUFFIXES)}.", ctx, param)
    return value


def _utc(moment: float) -> datetime:
    # uniplot takes times without a zone; they are UTC everywhere here.
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
