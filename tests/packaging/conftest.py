"""The checker of charts and compose files, built once; a loud skip that names Go when it can't be had."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST_BUILD_S = 280
Check = Callable[..., str]


@pytest.fixture(scope="session")
def check() -> Check:
    """``check("compose", file)`` or ``check("chart", chart, *values)``: what came out, or a failure with the reason."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed (deploy/check/build.sh builds Helm's and Compose's loaders with it)")
    try:
        built = subprocess.run(
            ["sh", str(ROOT / "deploy" / "check" / "build.sh")],
            capture_output=True,
            text=True,
            timeout=LONGEST_BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("deploy/check/build.sh was not done in time: run it once, it keeps what it built")
    if built.returncode:
        pytest.skip(f"deploy/check/build.sh can't build: {built.stderr.strip()[-300:]}")
    program = built.stdout.strip()

    def run(*arguments: str | Path, refused: bool = False) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode != 0) is refused, done.stderr
        return done.stderr if refused else done.stdout

    return run
