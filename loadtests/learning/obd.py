"""Off-policy estimates on production logs with known propensities: the Open Bandit data, 10,000 rows of each policy.

The logged propensity of the rows that a policy chose is not the policy (it averages to weights of 2). What it plays at
each of the three positions is how often it chose each item there. The reverse question, the uniform policy from the
Thompson sampling log, has an effective sample size of 2 and must be refused.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.learning.team import Team
from loadtests.learning.worlds import DATA
from loadtests.processes import Skipped
from policies.offpolicy import DR, IPS, SNIPS, STABLE_DR, Logged, apply, estimate

OBD = DATA / "obd_small"
POSITIONS = 3
_METHODS = (DR, STABLE_DR, SNIPS, IPS)


@dataclass(frozen=True, slots=True)
class Clicks:
    """One policy's log: item, position (0..2), click and propensity per row, in the order of time."""

    items: NDArray[np.int64]
    positions: NDArray[np.int64]
    clicks: NDArray[np.float64]
    propensity: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Clicks per row."""
        return float(self.clicks.mean())

    def played(self, n_items: int) -> NDArray[np.float64]:
        """How often each item was chosen at each position, shape (3, n_items)."""
        counts = np.zeros((POSITIONS, n_items))
        np.add.at(counts, (self.positions, self.items), 1.0)
        shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
        return shares

    def logged(self, n_items: int) -> Logged:
        """The rows with a uniform vector: only the chosen item's propensity is known of the other policy."""
        n = len(self.items)
        return Logged(self.items, self.propensity, self.clicks, np.ones(n), _uniform(n_items))


def obd(team: Team) -> list[Mapping[str, Any]]:
    """Both directions, by every method."""
    del team  # Nothing here is drawn at random.
    return list(evaluate(OBD))


def evaluate(directory: Path) -> Sequence[Mapping[str, Any]]:
    """Rows of the table: estimate, interval, what it should be, effective sample size, and whether it is a verdict.

    Raises:
        Skipped: If the data are not there.
    """
    uniform, thompson = read(directory / "random_women.csv"), read(directory / "bts_women.csv")
    n_items = int(max(uniform.items.max(), thompson.items.max())) + 1
    shares = thompson.played(n_items)
    forward = apply(
        uniform.logged(n_items), lambda start, stop: shares[uniform.positions[start:stop]], n_items
    )
    reverse = apply(thompson.logged(n_items), _uniform(n_items), n_items)
    rows = []
    for question, scored, truth in (
        ("Thompson sampling from the uniform log", forward, thompson.mean),
        ("uniform from the Thompson sampling log", reverse, uniform.mean),
    ):
        for method in _METHODS:
            found = estimate(scored, method)
            rows.append(
                {
                    "question": question,
                    "method": method,
                    "estimate": found.mean,
                    "interval": (found.low, found.high),
                    "on_policy": truth,
                    "inside": None if found.refused else found.low <= truth <= found.high,
                    "effective_size": round(found.effective),
                    "largest_weight": round(float(scored.overlap.max()), 1),
                    "verdict": "refused" if found.refused else "given",
                }
            )
    return rows


def read(path: Path) -> Clicks:
    """One log.

    Raises:
        Skipped: If it is not there.
    """
    if not path.exists():
        raise Skipped(f"{path} is not on this machine")
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["timestamp"])
    return Clicks(
        np.array([int(row["item_id"]) for row in rows]),
        np.array([int(row["position"]) - 1 for row in rows]),
        np.array([float(row["click"]) for row in rows]),
        np.array([float(row["propensity_score"]) for row in rows]),
    )


def _uniform(n_items: int) -> Callable[[int, int], NDArray[np.float64]]:
    return lambda start, stop: np.full((stop - start, n_items), 1.0 / n_items)
