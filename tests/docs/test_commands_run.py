"""Every line of shell in the README and in docs/ is run against a product that serves, or named here with why not."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Block

CLI = (sys.executable, "-m", "proxy.cli")
# What runs elsewhere, or can't here.
ELSEWHERE = {
    "make demo": "tests/proxy/demo",
    "make test": "is what runs this",
    "make serve": "tests/proxy/cli/test_serve.py; here it serves already",
    "make cluster-demo": "tests/packaging/test_demo.py",
    "make check": "CONTRIBUTING.md, for people",
    "make format": "the same",
    "make page": "tests/packaging/test_page.py",
    "llm-optimizer serve": "serves already",
    "python -m loadtests": "measurements, minutes to hours",
    "docker ": "no engine here; deploy/demo and tests/packaging look at what it would do",
    "helm ": "no cluster here; tests/packaging/test_chart.py renders it",
    "pip install ": "tests/packaging",
    "systemctl ": "tests/packaging/test_systemd.py",
    "export ": "a key of your own",
}  # fmt: skip
CONFIG = """
server: {{port: 0, workers: 1}}
upstreams: {{openai: {{base_url: "{url}", api_key: sk-none, allow_private: true}}}}
metrics: {{custom: [{{name: user_satisfaction, type: gauge, aggregation: mean, direction: maximize, min: 0, max: 5}}]}}
prompts: {{concise: {{system: Be brief.}}}}
routes:
  auto:
    arms: [gpt-4o, gpt-4o-mini, {{model: gpt-4o, prompt: concise}}]
    baseline: gpt-4o
"""
MODELS = """
- {id: gpt-4o, input_price: 2.5, output_price: 10, skill: 0.9}
- {id: gpt-4o-mini, input_price: 0.15, output_price: 0.6, skill: 0.8}
"""
POLICY = "constraints: {target_reduction: 0.3}\n"
# Statuses that say something other than failure: a watched optimization that waits for evidence is stopped by us.
WATCHED = re.compile(r"--watch\b")


@dataclass
class World:
    """A product with traffic, and the names that stand for things in pages."""

    url: str
    directory: Path
    state: Path
    request_id: str = ""
    response_id: str = ""
    names: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        bin_directory = str(Path(sys.executable).parent)
        return os.environ | {
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "LLM_OPTIMIZER_URL": self.url,
            "LLM_OPTIMIZER__STATE_DIR": str(self.state),
        }

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.directory, env=self.environment(), capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip

    def filled(self, line: str) -> str:
        """With real ids for those that end in dots."""
        if "opt_..." in line:
            listed = json.loads(self.run("llm-optimizer optimize list -o json").stdout)
            line = line.replace("opt_...", listed["optimizations"][0]["id"])
        if "key_..." in line:
            keys = json.loads(self.run("llm-optimizer keys list -o json").stdout)
            rows = keys["keys"] if isinstance(keys, dict) else keys
            line = line.replace("key_...", next(row["id"] for row in rows if not row.get("revoked_at")))
        line = line.replace("req_...", self.request_id).replace("chatcmpl-...", self.response_id)
        line = line.replace("REQUEST_ID", self.request_id)
        return line.replace("http://localhost:8080", self.url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("pages")
    (directory / "models.yaml").write_text(MODELS)
    simulator = subprocess.Popen(
        [*CLI, "simulate-upstream", "--speed", "0", "--models", str(directory / "models.yaml")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield from served(directory, simulator)


def served(directory: Path, simulator: "subprocess.Popen[str]") -> Iterator[World]:
    assert simulator.stdout is not None
    address = re.search(r"http://[\d.]+:\d+\S*", simulator.stdout.readline() + simulator.stdout.readline())
    assert address is not None
    state = directory / "state"
    (directory / "config.yaml").write_text(
        CONFIG.format(url=address[0].rstrip("/").removesuffix("/v1") + "/v1")
    )
    (directory / "candidate.yaml").write_text(POLICY)
    (directory / "route.yaml").write_text(POLICY)
    rows = ["query,arm,quality,cost_usd"]
    for query in range(400):
        rows += [
            f"{query},big,{0.9 if query % 7 else 0.2},0.001",
            f"{query},small,{0.8 if query % 3 else 0.1},0.0001",
        ]
    (directory / "outcomes.csv").write_text("\n".join(rows) + "\n")
    names = rows[0].split(",")
    recorded = "".join(json.dumps(dict(zip(names, row.split(","), strict=True))) + "\n" for row in rows[1:])
    for name in ("new", "old"):
        (directory / f"{name}.jsonl.gz").write_bytes(gzip.compress(recorded.encode()))
    (directory / "backup").mkdir()
    (directory / "backup" / "state").symlink_to(state)
    errors = (directory / "stderr").open("w")
    product = subprocess.Popen(
        [*CLI, "serve", "--config", str(directory / "config.yaml"), "--state-dir", str(state)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
    )  # fmt: skip
    errors.close()
    try:
        assert product.stdout is not None
        ready = product.stdout.readline()
        assert ready.startswith("ready on "), (directory / "stderr").read_text()
        yield with_traffic(World(ready.split()[2], directory, state))
    finally:
        for process in (product, simulator):
            process.terminate()
            process.communicate(timeout=30)


def with_traffic(world: World) -> World:
    with httpx.Client(base_url=world.url, trust_env=False, timeout=20) as client:
        for number in range(60):
            asked = {"model": "auto", "messages": [{"role": "user", "content": f"What is {number} + 1?"}]}
            reply = client.post("/v1/chat/completions", json=asked)
            assert reply.status_code == 200, reply.text
            world.request_id = reply.headers["x-llm-optimizer-request-id"]
            world.response_id = reply.json()["id"]
            client.post("/v1/feedback", json={"request_id": world.request_id, "score": number % 2})
        until = time.monotonic() + 20
        while client.get(f"/api/v1/decisions/{world.request_id}").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
    return world


def lines(blocks: list[Block]) -> Iterator[tuple[str, str]]:
    for block in blocks:
        if block.language in ("bash", "sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield block.page, line.strip().removeprefix("$ ")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_line_of_shell_runs(blocks: list[Block], world: World) -> None:
    failed, ran = [], 0
    for page, line in lines(blocks):
        if any(line.startswith(known) for known in ELSEWHERE):
            continue
        filled = world.filled(line)
        if WATCHED.search(filled):
            filled = f"timeout 3 {filled}"
        done = world.run(filled)
        ran += 1
        watched = bool(WATCHED.search(filled)) and done.returncode in (3, 4, 5, 124)
        # Sixty requests are too few for a verdict, which its status says.
        undecided = done.returncode == 3 and re.search("replay|report savings", filled) is not None
        if done.returncode != 0 and not watched and not undecided:
            failed.append((page, filled, done.returncode, done.stdout[-400:], done.stderr[-400:]))
    assert not failed, "\n".join(map(str, failed))
    assert ran > 20


def test_what_is_not_run_here_is_in_some_page(blocks: list[Block]) -> None:
    every = [line for _, line in lines(blocks)]
    assert [known for known in ELSEWHERE if not any(line.startswith(known) for line in every)] == []
    assert all(shlex.split(line, comments=True) for line in every)
