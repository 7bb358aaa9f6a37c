"""The product as processes in front of simulated models, asking for client keys, and the clients' own environments."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CLI = (sys.executable, "-m", "proxy.cli")
CLIENTS = ROOT / ".venv" / "clients" / "bin" / "python"
MODELS = """
- {id: large, input_price: 2.5, output_price: 10, skill: 1.0, words: 4}
- {id: small, input_price: 0.15, output_price: 0.6, skill: 1.0, words: 4}
"""
CONFIG = """
server: {{host: 127.0.0.1, port: 0, workers: 1}}
access: {{client_keys: true}}
upstreams: {{simulated: {{base_url: "{url}", api_key: sk-planted-key-of-the-upstream, allow_private: true}}}}
models:
  large: {{upstream: simulated, price: {{input: 2.5, output: 10}}, endpoints: [chat, completions, responses]}}
  small: {{upstream: simulated, price: {{input: 0.15, output: 0.6}}, endpoints: [chat, completions, responses]}}
  vectors: {{upstream: simulated, model: small, price: {{input: 0.02, output: 0}}, endpoints: [embeddings]}}
routes:
  auto: {{arms: [large, small], baseline: large}}
"""


@dataclass(frozen=True)
class Product:
    """A product that serves; ``key`` may use its routes and one model, ``limited_key`` asks once a minute."""

    url: str
    key: str
    limited_key: str
    state: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What was logged of one type, oldest first."""
        found = []
        for path in sorted((self.state / "log").rglob("*.jsonl")):
            lines = path.read_bytes().splitlines()
            found += [json.loads(line) for line in lines if f".{kind}.v1".encode() in line]
        return [event for event in found if event["type"].endswith(f".{kind}.v1")]

    def logged(self, kind: str, **wanted: str) -> dict[str, Any]:
        """Id and data of the event of one type that has these members, once it is there."""
        deadline = time.monotonic() + 15
        while True:
            for event in self.events(kind):
                found = event["data"] | {"id": event["id"]}
                if all(found.get(name) == value for name, value in wanted.items()):
                    return found
            assert time.monotonic() < deadline, f"no {kind} with {wanted}"
            time.sleep(0.05)


def until_said(process: "subprocess.Popen[str]", pattern: str, errors: Path) -> str:
    """The first group of a line of its standard output; what it complained of, if it ends without one."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(errors.read_text())


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    directory = tmp_path_factory.mktemp("clients")
    (directory / "models.yaml").write_text(MODELS)
    errors = directory / "stderr"
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        with errors.open("a") as complaints:
            process = subprocess.Popen(
                [*CLI, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True
            )
        running.append(process)
        return process

    try:
        models = start("simulate-upstream", "--speed", "0", "--models", str(directory / "models.yaml"))
        upstream = until_said(models, r"listening on (http://\S+)", errors)
        config, state = directory / "config.yaml", directory / "state"
        config.write_text(CONFIG.format(url=upstream))
        serving = start("serve", "--config", str(config), "--state-dir", str(state))
        url = until_said(serving, r"ready on (http://\S+)", errors)
        keys = [
            subprocess.run(
                [*CLI, "keys", "create", "--state-dir", str(state), *wanted],
                cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
            ).stdout.strip()
            for wanted in (("clients", "--model", "vectors"), ("limited", "--requests-per-minute", "1"))
        ]  # fmt: skip
        product = Product(url, *keys, state)
        with httpx.Client(base_url=url, trust_env=False) as http:
            headers = {"authorization": f"Bearer {product.key}"}
            until = time.monotonic() + 15
            while http.get("/v1/models", headers=headers).status_code != 200:
                assert time.monotonic() < until, "the key does not work"
                time.sleep(0.05)
        yield product
    finally:
        for process in reversed(running):
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def clients() -> str:
    """The interpreter that has the clients whose dependencies are not ours."""
    if not CLIENTS.exists():
        pytest.skip("LangChain, LlamaIndex and litellm are not in .venv/clients: make test-clients")
    return str(CLIENTS)


@pytest.fixture(scope="module")
def node() -> str:
    """A Node.js that is new enough, with the packages of tests/clients/node beside it."""
    asked = subprocess.run(
        [sys.executable, "-c", "import page; print(getattr(page.find_node(), 'program', ''))"],
        cwd=ROOT / "deploy" / "packaging", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    if not asked.stdout.strip():
        pytest.skip(
            "openai for Node, the AI SDK and @anthropic-ai/sdk need Node.js 20.19 with npm: make page brings one"
        )
    if not (HERE / "node" / "node_modules").is_dir():
        pytest.skip("tests/clients/node has no node_modules: make test-clients")
    return asked.stdout.strip()


@pytest.fixture(scope="module")
def environment(product: Product) -> dict[str, str]:
    """What a script is given. None of it leads out of this machine."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
        "LLM_OPTIMIZER_URL": product.url,
        "LLM_OPTIMIZER_CLIENT_KEY": product.key,
        "LLM_OPTIMIZER_LIMITED_KEY": product.limited_key,
        "NO_PROXY": "127.0.0.1,localhost",
        # litellm would fetch its list of prices when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
