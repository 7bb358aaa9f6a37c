"""How long ``serve`` takes from its first instruction to ready."""

from statistics import median

import yaml

from loadtests.figures import Figure
from loadtests.peers import free_port, mock_upstream
from loadtests.processes import Child, python_module
from loadtests.product import configuration, wait_ready
from loadtests.scenarios.context import Context, Report


def start(context: Context) -> Report:
    """Start it several times, the first time on an empty state directory; both cores are free for it."""
    times: list[float] = []
    with mock_upstream(context.cores, context.directory) as upstream:
        config = context.directory / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(upstream), sort_keys=False))
        for number in range(context.rounds + 1):
            port = free_port()
            state = context.directory / "state"
            options = ["--config", str(config), "--state-dir", str(state), "--port", str(port)]
            command = python_module("proxy.cli", "serve", *options, "--workers", "1")
            both = f"{context.cores.worker},{context.cores.load}"
            log = context.directory / f"serve-{number}.log"
            with Child(command, core=both, log=log, name="serve") as child:
                times.append(wait_ready(child, port, interval_s=0.005))
            context.say(f"start {number + 1}: {times[-1]:.2f} s")
    return Report(
        figures=(
            Figure("serve: start to ready", median(times), "s", note=f"first start {times[0]:.2f} s"),
            Figure("serve: slowest start", max(times), "s"),
        )
    )
