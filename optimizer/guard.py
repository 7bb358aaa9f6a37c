"""The guard file: proof that somebody is watching a rollout.

The optimizer renews it every second; workers read its age and stop sending candidate traffic when it is
older than the lease. Only the file's modification time matters.
"""

import os
from contextlib import suppress
from math import inf
from pathlib import Path

# Two processes of one machine share a clock, but file systems may round a time stamp up.
_CLOCK_GRAIN_S = 1.0


def renew(path: Path, now: float | None = None) -> None:
    """Mark the guard as present at ``now`` (Unix seconds; None = now), creating the file if needed.

    Raises:
        OSError: When the file cannot be touched; the guard is then not renewed.
    """
    times = None if now is None else (now, now)
    try:
        os.utime(path, times)
    except FileNotFoundError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.utime(path, times)


def withdraw(path: Path) -> None:
    """Say that nobody is watching any more, for the workers to see at once; never raises."""
    with suppress(OSError):
        path.unlink()


def age_s(path: Path, now: float) -> float:
    """Seconds since the guard was renewed, at Unix time ``now``; infinite when that cannot be told.

    A time stamp in the future means that the clock was set back after the last renewal; a living optimizer
    repairs that within a second, so until then nobody is known to be watching.
    """
    try:
        age = now - os.stat(path).st_mtime
    except OSError:
        return inf
    return max(age, 0.0) if age > -_CLOCK_GRAIN_S else inf
