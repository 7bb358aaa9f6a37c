"""The ``llm-optimizer`` command: ``main`` and the table of commands.

The invariant is that ``--help`` loads none of the product: a command's module is imported when the command runs.
"""

import difflib
import importlib
import sys
from dataclasses import dataclass
from typing import Final

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command lives, and its line in the list of commands."""

    module: str
    attribute: str
    summary: str


_COMMANDS: Final = {
    "serve": _Entry("proxy.cli.serve", "serve", "Run the proxy: workers and the optimizer."),
    "demo": _Entry("proxy.cli.demo", "demo", "Watch the loop learn on simulated models."),
    "check-config": _Entry("proxy.cli.check_config", "check_config", "List every problem of a file."),
    "doctor": _Entry(
        "proxy.cli.doctor", "doctor", "Check this installation, with a fix for whatever is wrong."
    ),
    "config": _Entry("proxy.cli.config", "config", "Export, reload or validate the configuration."),
    "routes": _Entry("proxy.cli.live", "routes", "Show the routing table in use."),
    "arms": _Entry("proxy.cli.live", "arms", "Show what has been learned about every arm."),
    "explain": _Entry("proxy.cli.live", "explain", "Show how one request was decided."),
    "optimize": _Entry(
        "proxy.cli.optimize", "optimize", "Create, deploy, watch and take back optimizations."
    ),
    "replay": _Entry(
        "proxy.cli.replay", "replay_command", "Estimate from the log what another policy would have cost."
    ),
    "report": _Entry("proxy.cli.report", "report", "Show what was saved, with error bars."),
    "judges": _Entry("proxy.cli.judges", "judges", "Show what judges of answers found and cost."),
    "audit": _Entry("proxy.cli.audit", "audit", "Show who changed what, and when."),
    "cluster": _Entry("proxy.cli.cluster", "cluster", "Show nodes, shards and engines of a cluster."),
    "rebuild": _Entry("proxy.cli.rebuild", "rebuild", "Learn all statistics again from the events."),
    "keys": _Entry("proxy.cli.keys", "keys", "Make, list and revoke keys for applications."),
    "simulate": _Entry(
        "proxy.cli.simulate_data",
        "simulate",
        "Play a policy on recorded outcomes, next to what was to be had.",
    ),
    "simulate-upstream": _Entry(
        "proxy.cli.simulate", "simulate_upstream", "Serve simulated models, for staging."
    ),
    "completion": _Entry("proxy.cli.completion", "completion", "Print a script for the shell's completion."),
    "version": _Entry("proxy.cli.version", "version", "Print version and interpreter."),
}

_EPILOG = """
\b
Start here:
  llm-optimizer demo                        watch it learn, without any key
  llm-optimizer serve                       serve with the built-in configuration
  llm-optimizer check-config config.yaml    before a file goes live
  llm-optimizer serve --config config.yaml
  llm-optimizer routes                      what a running server does now
  llm-optimizer optimize create --name "Cost Optimization" --strategy cost_reduction
  llm-optimizer doctor                      when something is wrong

Point an application at it by changing its base_url to http://localhost:8080/v1.
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are looked up, not when help is printed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order a newcomer needs them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is no such name."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        refusal = platform_refusal(sys.platform)
        if refusal and not ctx.resilient_parsing:
            raise click.ClickException(refusal)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown name is answered with the nearest one."""
        unknown = args and args[0] not in _COMMANDS and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and options that begin so, importing none of the commands."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=entry.summary)
            for name, entry in _COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


def platform_refusal(platform: str) -> str:
    """Why the product does not run on ``platform`` (a ``sys.platform``); empty where it does.

    Asked before a command's module is imported: most of them need what Windows does not have.
    """
    if platform == "win32":
        return (
            "llm-optimizer does not run on Windows itself. Install it inside WSL 2 "
            "(`wsl --install`), where it behaves as on Linux."
        )
    return ""


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An OpenAI-compatible proxy that optimizes inline.

    Every LLM request passes through it; a bandit picks model and prompt variant, and what the request cost, how
    long it took and how good it was turns into the next routing table.
    """
