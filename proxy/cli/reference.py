"""The reference of every command, as Markdown: ``python -m proxy.cli.reference > docs/cli-reference.md``.

It is what ``--help`` says, command by command, so it can't say anything else. A test compares the two.
"""

import sys
from collections.abc import Iterator
from typing import Final

import click

from proxy.cli import main

_PROGRAM: Final = "llm-optimizer"
_WIDTH: Final = 100
_HEAD: Final = """\
# Commands

<!-- Written by `python -m proxy.cli.reference > docs/cli-reference.md`.
     To change something change the command in proxy/cli/. -->

What `--help` says of every command. Commands that talk to a running server find it by options, by
`LLM_OPTIMIZER_URL` and `LLM_OPTIMIZER_ADMIN_KEY`, or by the state directory on the same machine.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for names, command in _commands(main, ()):
        context = click.Context(
            command,
            info_name=" ".join((_PROGRAM, *names)),
            terminal_width=_WIDTH,
            max_content_width=_WIDTH,
            **main.context_settings,
        )
        title = " ".join(names) if names else _PROGRAM
        parts.append(
            f"\n{'##' if len(names) < 2 else '###'} {title}\n\n```text\n{_help(command, context)}\n```\n"
        )
    return "".join(parts)


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def _commands(
    command: click.Command, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, (*names, name))


if __name__ == "__main__":
    sys.stdout.write(page())
