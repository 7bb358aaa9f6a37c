"""``llm-optimizer serve`` as an operator meets it: the real processes on a real port."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SECRET = "planted-secret-value-4711"
CONFIG = f"""
server: {{port: 0, workers: 2}}
upstreams: {{sim: {{base_url: "http://127.0.0.1:9/v1", api_key: {SECRET}}}}}
models:
  small: {{upstream: sim, model: small, price: {{input: 1, output: 4}}}}
  large: {{upstream: sim, model: large, price: {{input: 10, output: 40}}}}
routes:
  chat: {{arms: [small, large], baseline: large}}
"""

pytestmark = pytest.mark.slow


class Server:
    """A running product."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.config.write_text(CONFIG)
        self.state = directory / "state"
        self.errors = (directory / "stderr").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(self.config)),
                *("--state-dir", str(self.state), "--log-format", "json"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert self.ready_line.startswith("ready on "), self.logged()
        self.url = self.ready_line.split()[2]

    def logged(self) -> str:
        """Everything on stderr so far."""
        return (self.directory / "stderr").read_text()

    def pids(self) -> dict[str, Any]:
        """Process ids of the product's processes."""
        return dict(json.loads((self.state / "run" / "pids").read_text()))

    def call(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        """Status and text."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One product; it must end by SIGTERM with status 0."""
    running = Server(tmp_path)
    yield running
    running.process.terminate()
    assert running.process.wait(20) == 0
    running.errors.close()
    assert running.process.stdout is not None
    running.process.stdout.close()


def until(true: Any, seconds: float = 15.0) -> Any:
    """The first true result of ``true``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_the_guides_lines_work_on_the_public_port(server: Server) -> None:
    """Health, metrics and export without a key from this machine; the same through a proxy asks for one."""
    until(lambda: server.call("/health/detailed")[0] == 200)

    assert server.call("/health")[0] == 200
    status, text = server.call("/metrics")
    assert status == 200
    for name in (
        "cost_total",
        "cost_savings",
        "latency_seconds",
        "requests_total",
        "quality_score",
        "error_rate",
    ):
        assert f"llm_optimizer_{name}" in text
    status, text = server.call("/api/v1/config/export")
    assert status == 200
    assert SECRET not in text
    json_type = {"content_type": "application/json"}
    assert server.call("/api/v1/config/reload", method="POST", body=b"{}", **json_type)[0] == 200
    assert server.call("/api/v1/routes", x_forwarded_for="127.0.0.1")[0] == 401
    assert server.call("/api/v1/routes", host="evil.example")[0] == 401
    assert server.call("/api/v1/routes", x_llm_optimizer_peer="127.0.0.1", via="1.1 x")[0] == 401
    key = (server.state / "secrets" / "admin.key").read_text().strip()
    assert server.call("/api/v1/routes", via="1.1 x", authorization=f"Bearer {key}")[0] == 200
    assert server.call("/api/v1/optimize")[0] == 200


def test_a_killed_optimizer_comes_back_and_nobody_waits_for_it(server: Server) -> None:
    """Data endpoints answer all the time; /metrics says that the optimizer is away; then it is there again."""
    until(lambda: server.call("/health/detailed")[0] == 200)
    before = server.pids()
    os.kill(before["optimizer"], signal.SIGKILL)

    assert server.call("/v1/models")[0] == 200
    assert server.call("/health")[0] == 200
    until(lambda: "llm_optimizer_optimizer_up 1" in server.call("/metrics")[1])

    after = server.pids()
    assert after["optimizer"] != before["optimizer"]
    assert after["workers"] == before["workers"]


def test_a_killed_worker_is_replaced_while_the_other_serves(server: Server) -> None:
    """The port never stops answering."""
    before = server.pids()
    os.kill(before["workers"][0], signal.SIGKILL)

    until(lambda: server.pids()["workers"][0] not in (None, before["workers"][0]))
    # A connection that waited in the dead worker's queue is gone; the next ones are answered.
    until(lambda: server.call("/v1/models")[0] == 200)
    assert server.pids()["workers"][1] == before["workers"][1]


def test_saving_the_file_changes_the_routes_and_a_mistake_does_not(server: Server) -> None:
    """Within a second or so, without a restart; SIGHUP to the supervisor reloads as well."""
    until(lambda: server.call("/health/detailed")[0] == 200)
    server.config.write_text(CONFIG.replace("  chat:", "  talk:"))
    until(lambda: "talk" in server.call("/v1/models")[1])

    server.config.write_text("routes: [")
    until(lambda: "llm_optimizer_config_last_reload_successful 0.0" in server.call("/metrics")[1])
    assert "talk" in server.call("/v1/models")[1]

    server.config.write_text(CONFIG)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "chat" in server.call("/v1/models")[1])


def test_no_secret_leaves_by_any_door(server: Server) -> None:
    """A literal key in the file is in no log line, answer, metric, event or file of the state directory."""
    until(lambda: server.call("/health/detailed")[0] == 200)
    key = (server.state / "secrets" / "admin.key").read_text().strip()
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": SECRET}]}).encode()
    server.call("/v1/chat/completions", method="POST", body=body, content_type="application/json")
    server.config.write_text(CONFIG.replace(SECRET, f"{SECRET} and {SECRET}") + "servr: {}\n")
    until(lambda: "llm_optimizer_config_last_reload_successful 0.0" in server.call("/metrics")[1])
    answers = [
        server.call(path)[1]
        for path in (
            *("/health/detailed", "/metrics", "/v1/models", "/api/v1/routes", "/api/v1/arms"),
            *("/api/v1/config/export", "/api/v1/config/export?source=file", "/api/v1/metrics/summary"),
        )
    ]

    assert SECRET not in "".join(answers) + server.logged() + server.ready_line
    assert key not in "".join(answers) + server.logged() + server.ready_line
    for path in server.state.rglob("*"):
        if path.is_file() and path.name != "admin.key":
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert key.encode() not in content, path
    for path in server.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
