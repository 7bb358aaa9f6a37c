"""What processes hold, sampled from /proc, and how fast it grows.

Invariant: a slope comes with its interval. Neighbouring samples resemble each other, so the interval is that of the
means of a dozen blocks, not of hundreds of samples.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from loadtests.processes import rss_bytes

BLOCKS: Final = 12
# Student's t at 97.5 % for BLOCKS - 2 degrees of freedom.
_T: Final = 2.228


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process; ``at`` in seconds since the start of the run."""

    at: float
    role: str
    pid: int
    rss: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per hour, and half the width of its 95 % interval."""

    per_hour: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.per_hour:+.2f} +- {self.half_width:.2f}"


def look(pid: int, role: str, at: float) -> Sample | None:
    """Sample a process; None when it has gone."""
    try:
        return Sample(
            at,
            role,
            pid,
            rss_bytes(pid),
            len(os.listdir(f"/proc/{pid}/fd")),
            len(os.listdir(f"/proc/{pid}/task")),
        )
    except (OSError, ValueError, IndexError):
        return None


async def watch(
    pids: Callable[[], Mapping[str, int]], samples: list[Sample], began: float, every_s: float
) -> None:
    """Sample all processes for ever."""
    while True:
        at = time.monotonic() - began
        samples += [found for role, pid in pids().items() if (found := look(pid, role, at)) is not None]
        await asyncio.sleep(every_s)


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """The straight line through (seconds, value) by least squares over block means; None with too few points."""
    if len(points) < 2 * BLOCKS:
        return None
    ordered = np.array(sorted(points))
    means = np.array([block.mean(axis=0) for block in np.array_split(ordered, BLOCKS)])
    hours, values = means[:, 0] / 3600, means[:, 1]
    centred = hours - hours.mean()
    spread = float((centred**2).sum())
    rise = float((centred * values).sum() / spread)
    rest = values - values.mean() - rise * centred
    error = float(np.sqrt((rest**2).sum() / (BLOCKS - 2) / spread))
    return Slope(rise, _T * error)


def pid_file(path: Path) -> bytes:
    """The product's own list of its processes; empty while it is being replaced."""
    try:
        return path.read_bytes()
    except OSError:
        return b"{}"
