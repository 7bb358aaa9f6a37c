"""The doctor's checks that need no server: packages, state directory, disk, processes, database files, clock."""

import json
import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from optimizer.sqlite_file import damage_of
from proxy.cli import identity
from proxy.cli.findings import Finding, fail, ok, warn

OLDEST_PYTHON: Final = (3, 11)

_FREE_FAIL: Final = 200 * 1024**2
_FREE_WARN: Final = 2 * 1024**3
_SHARE_WARN: Final = 0.05
_LARGEST_CHECKED: Final = 512 * 1024**2
_AHEAD_S: Final = 5.0
_LONGEST_SOCKET_PATH: Final = 103


def version() -> str | None:
    """Version of the installed product; None in a checkout."""
    try:
        return metadata.version(identity.DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def installation() -> Iterator[Finding]:
    """The packages that Python would import are ours, on a Python that is new enough."""
    problems = identity.problems()
    for problem in problems:
        yield fail("installation", problem, "install llm-optimizer into a virtual environment of its own")
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield fail(
            "installation", f"Python {platform.python_version()} is too old", f"use Python {wanted} or newer"
        )
    elif not problems:
        number = version() or "(running from a checkout)"
        yield ok("installation", f"llm-optimizer {number}, Python {platform.python_version()}")


def state_directory(state: Path) -> Iterator[Finding]:
    """It is there, ours, private and writable, on a disk with room; the last finding fails if it can't be used."""
    try:
        facts = state.stat()
    except FileNotFoundError:
        yield fail(
            "state",
            f"{state} does not exist",
            "llm-optimizer serve makes it; name another one with --state-dir",
        )
        return
    except OSError as error:
        yield fail("state", f"{state} can't be looked at ({error.strerror})", "run as the user that serves")
        return
    if not stat.S_ISDIR(facts.st_mode):
        yield fail("state", f"{state} is not a directory", "name the directory with --state-dir")
        return
    yield from _disk(state)
    if len(os.fsencode(state / "run" / "optimizer.sock")) > _LONGEST_SOCKET_PATH:
        yield fail("state", f"{state} is too long a path for a unix socket", "use a shorter --state-dir")
    elif facts.st_uid != os.geteuid():
        # Even root: what it writes here could not be read by the user that serves.
        yield fail(
            "state", f"{state} belongs to another user (uid {facts.st_uid})", "run as the user that serves"
        )
    elif not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        yield fail("state", f"{state} is not writable", f"chmod 700 {state}")
    elif not (state / "node.json").exists():
        yield fail(
            "state", f"{state} was not made by llm-optimizer", "name the state directory with --state-dir"
        )
    elif loose := sorted(_open_to_others(state)):
        yield warn("state", f"others may read {', '.join(loose)}", f"chmod -R go= {state}")
    else:
        yield ok("state", f"{state} is private and writable")


def processes(state: Path) -> Mapping[str, Any]:
    """Which processes of ``serve`` live, by the file that they leave: role -> pids; empty when none was started."""
    try:
        pids = json.loads((state / "run" / "pids").read_bytes())
        listed = {
            "supervisor": [pids["supervisor"]],
            "optimizer": [pids["optimizer"]] if pids["optimizer"] else [],
            "workers": list(pids["workers"]),
        }
        return {role: [pid for pid in found if _lives(pid)] for role, found in listed.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def databases(state: Path) -> Iterator[Finding]:
    """The SQLite files are whole; only asked while no server has them open."""
    for path in sorted(state.glob("*.sqlite3")):
        # A file of gigabytes would take minutes to read.
        if path.stat().st_size > _LARGEST_CHECKED:
            continue
        if problem := damage_of(path):
            yield fail(
                "database", f"{path.name}: {problem}", f"restore {path}, or move it aside to begin anew"
            )
        else:
            yield ok("database", f"{path.name} is whole")


def clock(state: Path) -> Iterator[Finding]:
    """What was written last does not lie in the future: decisions, windows and stages go by this clock."""
    now = time.time()
    newest = max((path.stat().st_mtime for path in _recent(state)), default=now)
    if newest > now + _AHEAD_S:
        yield fail(
            "clock",
            f"a file of {state} was written {newest - now:.0f} s in the future: the clock was set back",
            "let the system keep time (chrony, systemd-timesyncd); learning waits until the clock has caught up",
        )
    else:
        yield ok("clock", "does not lag behind what was written")


def _disk(state: Path) -> Iterator[Finding]:
    usage = shutil.disk_usage(state)
    words = f"{usage.free / 1024**3:.1f} of {usage.total / 1024**3:.1f} GiB free for {state}"
    fix = "free some space, or lower retention.max_bytes"
    if usage.free < _FREE_FAIL:
        yield fail("disk", words, fix)
    elif usage.free < min(_FREE_WARN, _SHARE_WARN * usage.total):
        yield warn("disk", words, fix)
    else:
        yield ok("disk", words)


def _open_to_others(state: Path) -> Iterator[str]:
    for path in (state, state / "secrets", *(state / "secrets").glob("*")):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield str(path.relative_to(state.parent))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _recent(state: Path) -> Iterator[Path]:
    for pattern in ("table/*.json", "log/*/*.jsonl", "*.sqlite3", "run/guard"):
        yield from state.glob(pattern)
