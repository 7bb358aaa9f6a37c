"""What commands talk to: a small server that answers as it is told, and an optimizer process of a test's own."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

BASE = "/api/v1/optimize"
ROOT = Path(__file__).resolve().parents[3]
_STARTS_S = 60.0


@dataclass
class Asked:
    """One request that arrived."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class Script:
    """What to answer: ``(method, path without query)`` to answers in turn, the last one for ever."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[tuple[int, Any]]] = field(default_factory=dict)

    def on(self, method: str, path: str, *bodies: Any, status: int = 200) -> None:
        """Answer with ``bodies``; one that is a pair of status and body has a status of its own."""
        self.answers[method, path] = [body if isinstance(body, tuple) else (status, body) for body in bodies]

    def answer(self, asked: Asked) -> tuple[int, Any]:
        """The next answer."""
        self.asked.append(asked)
        left = self.answers.get((asked.method, asked.path.partition("?")[0]))
        if left is None:
            return 404, {"error": {"code": "NOT_FOUND", "message": f"Nothing is served at {asked.path}."}}
        return left.pop(0) if len(left) > 1 else left[0]

    def last(self, method: str) -> Asked:
        """The newest request with this method."""
        return [asked for asked in self.asked if asked.method == method][-1]


def optimization(status: str = "proposed", **changes: Any) -> dict[str, Any]:
    """An answer of the API, as ``proxy.control.admin.models`` describes it."""
    stages = [
        {"percentage": 1.0, "duration_s": 300.0, "min_samples": 100, "max_wait_s": 3000.0},
        {"percentage": 12.5, "duration_s": 600.0, "min_samples": 100, "max_wait_s": 6000.0},
        {"percentage": 100.0, "duration_s": 0.0, "min_samples": 100, "max_wait_s": 0.0},
    ]
    plan = {"stages": stages, "checks": {}, "approval": False}
    splits = status in ("running", "paused", "deployed", "rolled_back", "aborted")
    row: dict[str, Any] = {
        "id": "opt_1",
        "name": "Cost Optimization",
        "strategy": "cost_reduction",
        "route": "chat",
        "parameters": {"target_reduction": 0.4},
        "status": status,
        "revision": 7,
        "origin": "api",
        "created_at": 1_700_000_000.0,
        "updated_at": 1_700_000_100.0,
        "reason": "",
        "explanation": "",
        "auto_deploy": False,
        "proposal": {
            "candidate": {"arms": None, "baseline": None, "policy": None, "objectives": None},
            "summary": "half of the requests to small",
            "effects": [
                {
                    "metric": "cost", "unit": "usd", "baseline": 0.002, "candidate": 0.0011, "change": -0.0009,
                    "low": -0.0011, "high": -0.0007,
                },
                {
                    "metric": "quality", "unit": "ratio", "baseline": 0.9, "candidate": 0.89, "change": -0.01,
                    "low": -0.03, "high": 0.01,
                },
            ],
            "samples": {"large": 4210.0, "small": 812.0},
            "confidence": 0.95,
            "made_at": 1_700_000_050.0,
            "saving_usd_per_day": 12.345,
        },
        "rollout": {
            "id": "ro_1", "attempt": 1, "plan": plan, "base": {}, "started_at": 1_700_000_060.0, "stage": 0,
            "stage_started_at": 1_700_000_060.0, "waited_from": 1_700_000_060.0, "reference_ms": None,
            "expected_s": 420.0,
        } if splits else None,
        "measured": {},
        "deployed_at": None,
        "attempts": 1 if splits else 0,
        "candidate_percentage": {"running": 1.0, "paused": 1.0, "deployed": 100.0}.get(status, 0.0),
        "metrics": {"cost_reduction": 0.45, "quality_score": 0.89, "deployment_percentage": 0.0},
        "plan": plan,
        "verbs": {
            "proposed": ["deploy", "rollback", "delete"],
            "running": ["promote", "pause", "rollback", "abort"],
            "paused": ["promote", "resume", "rollback", "abort"],
            "deployed": ["rollback"],
        }.get(status, ["retry", "delete"]),
    }  # fmt: skip
    return {**row, **changes}


def at_stage(number: int, status: str = "running", **changes: Any) -> dict[str, Any]:
    """The optimization in stage ``number`` (from 0)."""
    row = optimization(status, **changes)
    row["rollout"] |= {"stage": number}
    row["candidate_percentage"] = row["plan"]["stages"][number]["percentage"]
    return row


@pytest.fixture
def script() -> Iterator[Script]:
    """A server that answers by script."""
    found = Script()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = found.answer(
                Asked(self.command, self.path, json.loads(raw) if raw else None, headers)
            )
            is_text = isinstance(body, str)
            content = body.encode() if is_text else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if is_text else "application/json")
            self.send_header("content-length", str(len(content)))
            if 300 <= status < 400:
                self.send_header("location", "http://elsewhere.invalid/")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def ask(script: Script, tmp_path: Path) -> Callable[..., Result]:
    """Run a command against the script, without any state directory."""

    def invoke(*arguments: str, stdin: str | None = None, env: dict[str, str | None] | None = None) -> Result:
        known = {"LLM_OPTIMIZER_URL": script.url, "LLM_OPTIMIZER__STATE_DIR": str(tmp_path / "none")}
        return CliRunner().invoke(main, list(arguments), input=stdin, env={**known, **(env or {})})

    return invoke


@pytest.fixture(scope="module")
def optimizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory of an optimizer process that runs with the ``CONFIG`` of the test's module.

    Its ``config.yaml`` lies beside that directory.
    """
    directory = tmp_path_factory.mktemp("server")
    (directory / "config.yaml").write_text(request.module.CONFIG)
    state = directory / "state"
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy.control", "--state-dir", str(state), "--config", "config.yaml"],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        deadline = time.monotonic() + _STARTS_S
        while not (state / "run" / "optimizer.sock").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield state
    finally:
        process.terminate()
        assert process.wait(20) == 0
