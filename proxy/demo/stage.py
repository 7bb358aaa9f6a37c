"""Puts the demo's processes on free ports, in a directory of their own, and takes everything away again.

Invariant: whatever was started here has ended and its directory is gone when ``stage`` is left, however
that happens. The children get a bare environment, so that no variable of the caller's shell reaches them.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

import proxy
from proxy.simulator.profiles import STEPS, ModelProfile

ROUTE = "assistant"
PACKAGES = Path(proxy.__file__).resolve().parent.parent
READY_S = 30.0
STOP_S = 8.0
_TAIL = 2000


class StageFailed(Exception):
    """A process did not come up; the message has the end of its output."""


@dataclass(slots=True)
class Stage:
    """Where everything runs."""

    directory: Path
    proxy_port: int
    config: Path
    processes: list["Player"] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"


@dataclass(slots=True)
class Player:
    """One child process and the file its output goes to."""

    name: str
    process: asyncio.subprocess.Process
    output: Path

    def ended(self) -> str | None:
        """Why the demo can't go on, if the process has ended."""
        if self.process.returncode is None:
            return None
        return f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}"

    def tail(self) -> str:
        """The end of the process's output."""
        return self.output.read_text(errors="replace")[-_TAIL:]

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for the whole group."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), STOP_S)
        # The leader may be gone while a child of its group hangs on.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


def configuration(profiles: Sequence[ModelProfile], upstream_port: int, proxy_port: int) -> str:
    """The configuration file of the demo: one route, every model with two prompts."""
    document = {
        "server": {"host": "127.0.0.1", "port": proxy_port, "workers": 1},
        "log": {"level": "warning"},
        "upstreams": {
            "simulator": {
                "provider": "openai",
                "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "auth": "none",
            }
        },
        "models": {
            profile.id: {
                "upstream": "simulator",
                "price": {"input": profile.input_price, "output": profile.output_price},
            }
            for profile in profiles
        },
        "prompts": {"careful": {"system": f"Think {STEPS}, then answer.", "mode": "prepend"}},
        "routes": {
            ROUTE: {
                "match": ["gpt-*"],
                "baseline": profiles[0].id,
                "arms": [
                    {"model": profile.id} | ({"prompt": prompt} if prompt else {})
                    for profile in profiles
                    for prompt in (None, "careful")
                ],
                "policy": {"type": "thompson", "floor": 0.02, "min_pulls": 15},
                "objectives": [
                    {"name": "quality", "weight": 0.7, "direction": "maximize"},
                    {"name": "cost", "weight": 0.2, "direction": "minimize"},
                    {"name": "latency", "weight": 0.1, "direction": "minimize"},
                ],
            }
        },
    }
    return yaml.safe_dump(document, sort_keys=False)


@contextlib.asynccontextmanager
async def stage(profiles: Sequence[ModelProfile], *, seed: int, speed: float) -> AsyncIterator[Stage]:
    """Start simulator and proxy and wait until the proxy is ready.

    Raises:
        StageFailed: If one of them does not come up within ``READY_S``.
    """
    # Short on purpose: the path of a unix socket below it may have about 100 characters.
    directory = Path(tempfile.mkdtemp(prefix="llm-demo-"))
    upstream_port, proxy_port = free_port(), free_port()
    config = directory / "config.yaml"
    config.write_text(configuration(profiles, upstream_port, proxy_port))
    built = Stage(directory, proxy_port, config)
    try:
        simulate = [
            "simulate-upstream",
            "--port",
            str(upstream_port),
            "--seed",
            str(seed),
            "--speed",
            str(speed),
        ]
        await _start(built, "simulator", simulate)
        await _ready(built, f"http://127.0.0.1:{upstream_port}/health")
        serve = ["serve", "--config", str(config), "--port", str(proxy_port)]
        await _start(built, "proxy", [*serve, "--state-dir", str(directory / "state")])
        await _ready(built, f"{built.base_url}/health/ready")
        yield built
    finally:
        for player in reversed(built.processes):
            await player.stop()
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _start(built: Stage, name: str, arguments: list[str]) -> None:
    output = built.directory / f"{name}.out"
    with output.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.cli",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=built.directory,
            env={"PYTHONPATH": str(PACKAGES), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"},
            # A session of its own: Ctrl-C reaches the demo alone, which then stops its children in order.
            start_new_session=True,
        )
    built.processes.append(Player(name, process, output))


async def _ready(built: Stage, url: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
        while loop.time() < deadline:
            for player in built.processes:
                ended = player.ended()
                if ended is not None:
                    raise StageFailed(ended)
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    player = built.processes[-1]
    raise StageFailed(f"{player.name} was not ready within {READY_S:g} s:\n{player.tail()}")
