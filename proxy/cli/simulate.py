"""``llm-optimizer simulate-upstream``: an OpenAI-compatible upstream with several simulated models."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from proxy.simulator.profiles import ModelProfile, ProfileProblem, builtin_profiles, load_profiles
from proxy.simulator.server import Simulator, run


@click.command("simulate-upstream")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default="a free one", help="Port to listen on.")
@click.option(
    "--models",
    default="built-in",
    show_default=True,
    help="YAML or JSON file with model profiles, or 'built-in' for three models.",
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same answers, delays and faults.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.0),
    help="Divides every delay; 0 removes them.",
)
def simulate_upstream(host: str, port: int, models: str, seed: int, speed: float) -> None:
    """Serve simulated models that differ in price, latency and quality, for demos and staging."""
    try:
        profiles = builtin_profiles() if models == "built-in" else load_profiles(Path(models))
    except ProfileProblem as problem:
        raise click.ClickException(str(problem)) from problem
    asyncio.run(_serve(Simulator(profiles, seed=seed, speed=speed), host, port))


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await run(
            simulator,
            host=host,
            port=port,
            on_ready=lambda taken: _announce(host, taken, simulator.profiles),
            stop=stop,
        )
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _announce(host: str, port: int, profiles: Sequence[ModelProfile]) -> None:
    click.echo(f"listening on http://{host}:{port}/v1")
    for profile in profiles:
        click.echo(
            f"  {profile.id}: {profile.input_price:g}/{profile.output_price:g} USD per million tokens in/out"
        )
