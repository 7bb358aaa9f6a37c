"""The demo's configuration and processes: valid, isolated, and gone afterwards."""

import io
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from proxy.config.load import load_text
from proxy.demo.run import Plan, show
from proxy.demo.stage import PACKAGES, ROUTE, configuration
from proxy.simulator.profiles import builtin_profiles


def test_the_configuration_is_accepted_and_has_every_model_with_two_prompts() -> None:
    """Three models and two prompts make six arms; the baseline is the dearest model as it is."""
    loaded = load_text(configuration(builtin_profiles(), 9001, 9002), {})

    (route,) = [route for route in loaded.settings.routes if route.name == ROUTE]
    assert len(route.arms) == 6
    assert len({arm.model for arm in route.arms}) == 3
    assert len({arm.variant_key for arm in route.arms}) == 2
    assert route.baseline == "sim-large"
    assert {objective.metric for objective in route.objectives} == {"quality", "cost", "latency"}


@pytest.mark.slow
async def test_the_demo_runs_without_a_terminal_and_ends_with_a_summary() -> None:
    """Plain lines, a table of all arms, feedback for every reply, no error."""
    written = io.StringIO()

    await show(Plan(seconds=6.0, speed=5.0), Console(file=written, width=100), None)

    text = written.getvalue()
    for name in ("sim-large", "sim-large+careful", "sim-small+careful", "saving over the whole run"):
        assert name in text
    assert " 0 errors" in text
    assert "\x1b[" not in text


def start_demo(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxy.cli", "demo", "--seconds", "60"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env={"TMPDIR": str(directory), "PYTHONPATH": str(PACKAGES), "PYTHONUTF8": "1"},
    )


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a short path: unix sockets below it allow about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_directory(
    number: signal.Signals, short_directory: Path
) -> None:
    """Ctrl-C in the middle of the traffic cleans up everything."""
    demo = start_demo(short_directory)
    try:
        family: set[psutil.Process] = set()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(family) < 4 and demo.poll() is None:
            family |= set(psutil.Process(demo.pid).children(recursive=True))
            time.sleep(0.05)
        demo.send_signal(number)
    finally:
        output = demo.communicate(timeout=30)[0]

    assert len(family) >= 4, f"simulator, supervisor, optimizer and worker:\n{output.decode()}"
    assert demo.returncode == 0, output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert list(short_directory.iterdir()) == []
