"""``llm-optimizer demo``: watch the loop learn on simulated models, without any key."""

import asyncio
import shutil
import sys
from pathlib import Path

import click
from rich.console import Console


@click.command("demo")
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1.0, 150.0),
    help="How long traffic is sent.",
)
@click.option(
    "--concurrency",
    default=12,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Requests in flight.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of questions and simulated models.")
@click.option(
    "--speed",
    default=1.5,
    show_default=True,
    type=click.FloatRange(0.1, 100.0),
    help="Divides the simulated delays.",
)
@click.option("--keep", is_flag=True, help="Leave the proxy running afterwards, until Ctrl-C.")
def demo(seconds: float, concurrency: int, seed: int, speed: float, keep: bool) -> None:
    """Start three simulated models and the proxy, send graded traffic, and show what is learned."""
    try:
        from proxy.demo.run import DemoFailed, Plan, show  # noqa: PLC0415 - needs the optional SDK
        from proxy.demo.stage import StageFailed  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the demo needs {error.name}: pip install 'llm-optimizer[demo]'"
        ) from error
    plan = Plan(
        seconds=seconds, concurrency=concurrency, seed=seed, speed=speed, keep=keep, program=_as_typed()
    )
    try:
        asyncio.run(show(plan, Console(highlight=False), sys.stdin))
    except (DemoFailed, StageFailed) as error:
        raise click.ClickException(str(error)) from error


def _as_typed() -> str:
    """How this command can be called from here: by its name, or by its path when it is not on the PATH."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which("llm-optimizer")
    if called.name != "llm-optimizer" or (found is not None and Path(found).absolute() == called):
        return "llm-optimizer"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)
