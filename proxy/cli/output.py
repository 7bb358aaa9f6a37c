"""How commands print: ``-o table|json|yaml``, tables and sentences for people.

JSON and YAML are the API's answer as it is; tables may change with any version. Text from elsewhere is printed as
text: neither markup nor control characters act on a terminal. rich and yaml are imported when something is printed
with them, so that help stays fast.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

TABLE: Final = "table"
JSON: Final = "json"
YAML: Final = "yaml"

_PIPE_WIDTH: Final = 1000
"""Lines in a pipe are for grep: they are not folded."""


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``-o`` and ``--json``; the command gets the format as ``form``."""

    @functools.wraps(command)
    def run(*arguments: Any, form: str, as_json: bool, **others: Any) -> Any:
        return command(*arguments, form=JSON if as_json else form, **others)

    decorated = click.option("--json", "as_json", is_flag=True, help="Short for -o json.")(run)
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice((TABLE, JSON, YAML)),
        default=TABLE,
        show_default=True,
        help="A table for people, or the API's answer.",
    )(decorated)


def emit(answer: Any, form: str, table: Callable[[], None]) -> None:
    """Print ``answer`` in the format asked for; ``table`` prints it for people."""
    if form == JSON:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    elif form == YAML:
        import yaml  # noqa: PLC0415 - only when asked for

        click.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True, width=100), nl=False)
    else:
        table()
        _say_incomplete(answer)


def _say_incomplete(answer: Any) -> None:
    """What the answer of a cluster lacks, on standard error; one node's lacks nothing."""
    for missing in (answer.get("incomplete") if isinstance(answer, Mapping) else None) or ():
        whose = f"node {missing['node']} ({missing['address']})" if missing["node"] else "no node"
        shards = f", shards {', '.join(map(str, missing['shards']))}" if missing["shards"] else ""
        say(f"incomplete: {whose}{shards}: {missing['reason']}", err=True)


def plain(value: Any) -> str:
    """Text that does nothing to a terminal, on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def say(text: str, *, err: bool = False) -> None:
    """Print a sentence, line breaks kept."""
    for line in str(text).splitlines() or [""]:
        click.echo(plain(line), err=err)


def hint(command: str, purpose: str) -> None:
    """Print a command that may be typed next."""
    say(f"  {command:<60} {purpose}")


def console(*, stderr: bool = False) -> "Console":
    """A rich console on stdout (or stderr), as wide as the terminal, or as wide as it takes."""
    from rich.console import Console  # noqa: PLC0415

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, fixed: Sequence[str] = ()) -> None:
    """Print rows under a header; columns in ``fixed`` are never folded."""
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in header:
        table.add_column(column, overflow="fold", no_wrap=column in fixed)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    target = console()
    with target.capture() as drawn:
        target.print(Padding(table, (0, 0, 0, 2), expand=False))
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def named(values: Mapping[str, Any]) -> str:
    """``name=value, ...`` on one line: without what is empty, or has a structure of its own (that is for JSON)."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in values.items()
        if value not in (None, "", []) and not isinstance(value, Mapping)
    )


def moment(at: float | None) -> str:
    """A Unix time for people, UTC; ``-`` for none."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float | None) -> str:
    """A length of time in its two largest units: ``45 s``, ``5 min``, ``1 h 30 min``, ``2 d``."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    words = []
    for name, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        if count:
            words.append(f"{count} {name}")
    return " ".join(words)


def percent(value: float | None) -> str:
    """``value`` 0..100 with as many digits as it has, at most four."""
    return "-" if value is None else f"{round(value, 4):g} %"
