"""Starts the product for a measurement: a configuration, ``serve``, the worker on its core, the rest on the other.

Invariant: the worker is the only process on the worker core; supervisor and optimizer count as load side.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from loadtests.peers import Proxy, Upstream, free_port
from loadtests.processes import Child, Cores, Failed, command_line, descendants, pin, python_module

ROUTE = "loadtest"
READY_S = 20.0
MODELS = ("alpha", "beta", "gamma")


def configuration(upstream: Upstream, *, with_variants: bool = False) -> dict[str, Any]:
    """One route over three models of one upstream; with two prompts each if asked."""
    settings: dict[str, Any] = {
        "provider": "openai",
        "base_url": f"{upstream.url}/v1",
        "api_key": "literal-upstream-key",
        "max_connections": 4000,
    }
    if upstream.tls is not None:
        settings["ca_file"] = str(upstream.tls.ca)
    prompts = (None, "careful") if with_variants else (None,)
    return {
        "log": {"level": "warning"},
        "upstreams": {"mock": settings},
        "models": {
            name: {
                "upstream": "mock",
                "model": name,
                "price": {"input": 1.0 + index, "output": 4.0 + index},
                "endpoints": ["chat"],
            }
            for index, name in enumerate(MODELS)
        },
        "prompts": {"careful": {"system": "Think step by step.", "mode": "prepend"}},
        "routes": {
            ROUTE: {
                "baseline": MODELS[0],
                "arms": [
                    {"model": name} | ({"prompt": prompt} if prompt else {})
                    for name in MODELS
                    for prompt in prompts
                ],
                "policy": {"type": "thompson", "floor": 0.1},
                "objectives": [
                    {"name": "quality", "weight": 0.5, "direction": "maximize"},
                    {"name": "cost", "weight": 0.5, "direction": "minimize"},
                ],
            }
        },
    }


@contextmanager
def product(
    cores: Cores,
    directory: Path,
    document: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run ``serve`` with one worker and wait until it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(dict(document), sort_keys=False))
    port = free_port()
    options = ["--config", str(config), "--state-dir", str(directory / "state"), "--port", str(port)]
    command = python_module("proxy.cli", "serve", *options, "--host", "127.0.0.1", "--workers", "1")
    with Child(
        command, core=cores.load, log=directory / "serve.log", name="product", environ=environ
    ) as child:
        wait_ready(child, port)
        workers = worker_pids(child)
        for pid in workers:
            pin(pid, cores.worker)
        others = tuple(pid for pid in descendants(child.pid) if pid not in workers)
        yield Proxy("product", port, workers, others, child)


def wait_ready(child: Child, port: int, *, interval_s: float = 0.02, seconds: float = READY_S) -> float:
    """Seconds from the start of the process until ``/health/ready`` says 200.

    Raises:
        Failed: If the process ends or is not ready in time.
    """
    url = f"http://127.0.0.1:{port}/health/ready"
    while time.monotonic() < child.started_at + seconds:
        if child.process.poll() is not None:
            raise Failed(f"serve ended with {child.process.returncode}:\n{_tail(child)}")
        try:
            with urllib.request.urlopen(url, timeout=1.0) as reply:
                if reply.status == 200:
                    return time.monotonic() - child.started_at
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(interval_s)
    raise Failed(f"serve was not ready within {seconds:g} s:\n{_tail(child)}")


def worker_pids(child: Child) -> tuple[int, ...]:
    """The worker processes below ``serve``.

    Raises:
        Failed: If there is none.
    """
    found = tuple(pid for pid in descendants(child.pid) if "proxy.worker" in command_line(pid))
    if not found:
        raise Failed(f"no worker below {[command_line(pid) for pid in descendants(child.pid)]}")
    return found


def optimizer_pids(proxy: Proxy) -> Sequence[int]:
    """The optimizer processes of a running product."""
    return [pid for pid in proxy.side_pids if "proxy.control" in command_line(pid)]


def _tail(child: Child) -> str:
    return Path(child.log_path).read_text(errors="replace")[-2000:]
