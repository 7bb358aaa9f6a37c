"""Facts about the machine that figures must be read with."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from loadtests.peers import NGINX_PATHS


def machine() -> dict[str, Any]:
    """Processor, cores, memory, kernel, Python, and versions of what is compared."""
    return {
        "cpu": _match("/proc/cpuinfo", r"model name\s*: (.*)"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_match("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _tool("nginx", "-v", r"nginx/(\S+)"),
        "wrk": _tool("wrk", "-v", r"wrk (?:debian/)?(\S+)"),
        **{name: importlib.metadata.version(name) for name in ("aiohttp", "uvloop", "httptools", "orjson")},
    }


def line(facts: dict[str, Any]) -> str:
    """The facts on one line."""
    versions = ("python", "aiohttp", "uvloop", "httptools", "orjson", "nginx", "wrk")
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}; "
        + ", ".join(f"{name} {facts[name]}" for name in versions if facts.get(name))
    )


def load_average() -> float:
    """The one-minute load, to see whether something else ran beside a measurement."""
    return os.getloadavg()[0]


def _match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return found.group(1).strip() if found else None


def _tool(name: str, option: str, pattern: str) -> str | None:
    binary = shutil.which(name) or shutil.which(name, path=NGINX_PATHS)
    if binary is None:
        return None
    done = subprocess.run([binary, option], capture_output=True, text=True, check=False, timeout=5)
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else None
