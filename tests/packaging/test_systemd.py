"""The unit file, and readiness as systemd hears it, from the real product over a real datagram socket."""

import configparser
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from proxy.control.runtime import TAIL_PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "llm-optimizer.service"


def service() -> dict[str, str]:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(UNIT)
    return dict(parsed["Service"])


def test_the_unit_waits_for_readiness_and_for_draining() -> None:
    unit = service()
    assert (unit["Type"], unit["NotifyAccess"], unit["KillMode"]) == ("notify", "main", "mixed")
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    # The default drain of 30 s, the workers' grace of 5 s, and what the optimizer may take to ship its tail.
    assert int(unit["TimeoutStopSec"]) > 30 + 5 + TAIL_PATIENCE_S + 10
    assert unit["DynamicUser"] == "yes"
    assert f"/var/lib/{unit['StateDirectory']}/state" in unit["ExecStart"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Its own checker, with a program in the place of ours."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/llm-optimizer/bin/llm-optimizer", "/bin/true"))
    try:
        checked = subprocess.run(
            ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False, timeout=30
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    about_us = [line for line in checked.stderr.splitlines() if UNIT.name in line]
    assert about_us == []


@pytest.mark.slow
def test_the_product_says_when_it_is_ready_reloads_and_stops() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="notify-") as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        directory = Path(name)
        manager.bind(str(directory / "notify"))
        manager.settimeout(20)
        config = directory / "config.yaml"
        config.write_text("server: {host: 127.0.0.1, port: 0, workers: 1}\n")
        with (directory / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "proxy.cli", "serve", "--config", str(config),
                 "--state-dir", str(directory / "state")],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors,
                env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
            )  # fmt: skip

        def hear(word: str) -> list[str]:
            end = time.monotonic() + 20
            while True:
                said = manager.recv(4096).decode().split("\n")
                if word in said:
                    return said
                assert time.monotonic() < end

        try:
            assert hear("READY=1") == ["READY=1", "STATUS=serving"]
            assert hear("READY=1")[1].startswith("STATUS=serving on http://127.0.0.1:")
            process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            config.write_text("nonsense: 1\n")  # A refused one is an end of reloading, too.
            process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            process.terminate()
            hear("STOPPING=1")
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
