"""``llm-optimizer simulate-upstream`` as a process: says where it listens, answers, ends on SIGTERM."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from proxy.cli.simulate import simulate_upstream


@pytest.mark.parametrize(("number"), [signal.SIGTERM, signal.SIGINT])
def test_it_takes_a_free_port_serves_and_ends_cleanly(number: signal.Signals) -> None:
    """The first line names the base URL."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "proxy.cli", "simulate-upstream", "--speed", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.match(r"listening on (http://127\.0\.0\.1:\d+/v1)", process.stdout.readline())
        assert found is not None
        listed = httpx.get(f"{found.group(1)}/models", trust_env=False).json()
    finally:
        process.send_signal(number)
        process.communicate(timeout=10)

    assert [model["id"] for model in listed["data"]] == ["sim-large", "sim-medium", "sim-small"]
    assert process.returncode == 0


def test_a_wrong_profile_file_is_refused_with_the_field(tmp_path: Path) -> None:
    """No traceback, the file and the field."""
    wrong = tmp_path / "models.yaml"
    wrong.write_text("[{id: a, skill: 2}]")

    result = CliRunner().invoke(simulate_upstream, ["--models", str(wrong)])

    assert result.exit_code == 1
    assert "models.yaml" in result.output
    assert "0.skill" in result.output
