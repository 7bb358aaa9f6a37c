"""A real silent regression under a bandit: GPT-4 and GPT-3.5 of March 2023 become those of June, under the same names.

Of 4,000 questions whether a number is a prime, the first 1,500 are answered with March's recorded answers, the others
with June's: the better arm falls from .84 to about .5 right, the other rises from .52 to .68. The run is
``optimizer.drift_trial``: the product's statistics, policy and detectors.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from loadtests.learning.team import Team
from loadtests.learning.worlds import DATA
from loadtests.processes import Skipped
from loadtests.statistics.drift import pairs
from optimizer.drift_trial import DriftRun, median_to_share, run
from optimizer.settings import DriftSettings
from policies.types import FloatArray

Row: TypeAlias = dict[str, Any]

CHANGE = 1500
REQUESTS = 4000
SEEDS_TIMES = 2
"""40 seeds where other tables have 20: what is measured is a median and a share of runs without a false alarm."""

_WAYS = (
    ("statistics and detectors (the product)", DriftSettings(), True),
    ("without detectors", DriftSettings(enabled=False), True),
    ("no change at all, with detectors", DriftSettings(), False),
)


def llmdrift(team: Team) -> list[Row]:
    """How soon the arm that is best after the change has 80 % of the requests, and what false alarms there are.

    Raises:
        Skipped: If the data set is not on this machine.
    """
    before, after = primes()
    rows = []
    for name, drift, changes in _WAYS:
        one = partial(_one, before, after if changes else before, drift)
        found = team.run(f"llmdrift, {name}", one, range(SEEDS_TIMES * team.seeds))
        rows.append(_row(name, found, changes=changes))
    means = np.array([before.mean(axis=0), after.mean(axis=0)])
    weight = np.array([CHANGE, REQUESTS - CHANGE]) / REQUESTS
    singles = weight @ means
    for label, reward in (
        ("always the better single arm", float(singles.max())),
        ("always the best arm of the moment", float(weight @ means.max(axis=1))),
    ):
        rows.append({"": label, "runs": None} | dict.fromkeys(_FIGURES) | {"reward": reward})
    return rows


_FIGURES = (
    "median requests to 80 %",
    "p90",
    "never",
    "false resets before the change",
    "resets in all",
    "reward",
    "sd",
)


def primes() -> tuple[FloatArray, FloatArray]:
    """Right or wrong by question and arm, of March and of June, shape (n, 2) each."""
    if not (DATA / "llmdrift").exists():
        raise Skipped(f"{DATA / 'llmdrift'} is not here: recorded data are not part of the project")
    found = [pair for pair in pairs(DATA / "llmdrift") if pair.task == "is it a prime?"]
    march, june = (
        np.column_stack([getattr(pair, name) for pair in found]).astype(np.float64)
        for name in ("march", "june")
    )
    return march, june


def _one(before: FloatArray, after: FloatArray, drift: DriftSettings, seed: int) -> DriftRun:
    return run(before, after, seed=seed, change_at=CHANGE, requests=REQUESTS, drift=drift)


def _row(name: str, found: Sequence[DriftRun], *, changes: bool) -> Row:
    reached = [float("inf") if run.requests_to_share is None else run.requests_to_share for run in found]
    rewards = [run.reward for run in found]
    false = sum(run.false_alarms if changes else len(run.alarms) for run in found)
    return {
        "": name,
        "runs": len(found),
        "median requests to 80 %": median_to_share(found) if changes else None,
        "p90": float(np.percentile(reached, 90, method="higher"))
        if changes and np.isfinite(reached).all()
        else None,
        "never": sum(run.requests_to_share is None for run in found) if changes else None,
        "false resets before the change": false,
        "resets in all": sum(len(run.alarms) for run in found),
        "reward": float(np.mean(rewards)),
        "sd": float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0,
    }
