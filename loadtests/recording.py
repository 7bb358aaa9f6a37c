"""The recorded prompts of ParetoBandit: rewards and costs of several models per prompt, and what is best in hindsight.

Invariant: nothing is copied into the project; the file is read where it lies. Columns: see its PROVENANCE.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.processes import ROOT, Skipped

DATA = ROOT.parent / "shared" / "data" / "paretobandit" / "val.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model did with one prompt: reward in [0, 1], cost in USD."""

    reward: float
    cost: float


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and the outcome of every model."""

    prompt: str
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class Recording:
    """All rows; ``models`` from cheap to dear, each model present in every row."""

    rows: tuple[Row, ...]
    models: tuple[str, ...]

    def mean(self, model: str) -> Outcome:
        """Mean reward and cost of always using one model."""
        count = len(self.rows)
        return Outcome(
            sum(row.outcomes[model].reward for row in self.rows) / count,
            sum(row.outcomes[model].cost for row in self.rows) / count,
        )

    def best_mix(self, cost: float) -> tuple[float, Mapping[str, float]]:
        """The best mean reward that a fixed random mix reaches for at most ``cost`` USD per request.

        A linear program with one budget: some optimum mixes at most two models, so all pairs are looked
        at. A budget below the cheapest model gets the cheapest model.
        """
        means = {model: self.mean(model) for model in self.models}
        cheapest = self.models[0]
        best = (means[cheapest].reward, {cheapest: 1.0})
        for model, mean in means.items():
            if mean.cost <= cost and mean.reward > best[0]:
                best = (mean.reward, {model: 1.0})
        for low in self.models:
            for high in self.models:
                if not means[low].cost < cost < means[high].cost:
                    continue
                share = (cost - means[low].cost) / (means[high].cost - means[low].cost)
                reward = share * means[high].reward + (1 - share) * means[low].reward
                if reward > best[0]:
                    best = (reward, {low: 1 - share, high: share})
        return best


def read(path: Path = DATA) -> Recording:
    """Read the recording.

    Raises:
        Skipped: If the file is not on this machine.
    """
    if not path.exists():
        raise Skipped(f"{path} is not here: the recorded prompts are not part of the project")
    rows: list[Row] = []
    # Not splitlines(): prompts hold Unicode line separators, which are no ends of JSON lines.
    for text in path.read_text(encoding="utf-8").split("\n"):
        if not text:
            continue
        document = json.loads(text)
        outcomes = {name: Outcome(arm["reward"], arm["cost"]) for name, arm in document["arms"].items()}
        rows.append(Row(document["prompt"], outcomes))
    return of_rows(rows)


def of_rows(rows: Sequence[Row]) -> Recording:
    """A recording of rows that all have the same models."""
    names = set(rows[0].outcomes)
    if any(set(row.outcomes) != names for row in rows):
        raise ValueError("every row must have every model")
    unsorted = Recording(tuple(rows), tuple(sorted(names)))
    models = tuple(sorted(names, key=lambda name: unsorted.mean(name).cost))
    return Recording(unsorted.rows, models)
