"""A real regression behind the same name: GPT-4 and GPT-3.5 of March and of June 2023 on the same questions.

The answers are those of Chen, Zaharia and Zou, "How is ChatGPT's behavior changing over time?" (2023), the data set
``llmdrift``. Every simulated request asks one of its questions, control answers with March's recorded answer, the
candidate with June's; whether it is right arrives as feedback on quality. The guard knows nothing but these ratings.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from loadtests.statistics.crowd import Crowd
from loadtests.statistics.rollout_scenes import Row, plan_of
from optimizer.rollouts.evaluation import Evaluation
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.settings import HealthChecks

DATA = Path("/work/shared/data/llmdrift")

_MODELS = {"gpt-4": ("gpt-4-0314", "gpt-4-0613"), "gpt-3.5": ("gpt-3.5-turbo-0301", "gpt-3.5-turbo-0613")}
_TASKS = {"is it a prime?": "PRIME_FULL_EVAL.csv", "count the happy numbers": "COUNTAHAPPYNUMBER_EVAL.csv"}
_FRACTION = 0.1
_HORIZON = 20_000
_PORTION = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """The same questions answered twice; 1 is right."""

    task: str
    model: str
    march: tuple[int, ...]
    june: tuple[int, ...]


def pairs(directory: Path = DATA) -> Iterator[Pair]:
    """What the data set holds.

    Raises:
        FileNotFoundError: If it is not there.
    """
    for task, name in _TASKS.items():
        with (directory / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for model, (march, june) in _MODELS.items():
            right = {
                version: {
                    row["id"]: _is_right(name, row) for row in rows if row["model"].endswith(f"/{version}")
                }
                for version in (march, june)
            }
            shared = sorted(right[march].keys() & right[june].keys())
            yield Pair(
                task,
                model,
                tuple(right[march][key] for key in shared),
                tuple(right[june][key] for key in shared),
            )


def _is_right(name: str, row: dict[str, str]) -> int:
    wanted, answer = row["ref_answer"].strip(), row["answer"]
    if name.startswith("PRIME"):
        said = re.findall(r"\[(yes|no)\]", answer.lower()) or re.findall(
            r"^(yes|no)\W*$", answer.strip().lower()
        )
        return int(bool(said) and said[-1] == wanted.lower())
    number = re.search(r"\d+", wanted)
    boxed = re.findall(r"boxed\{\s*(\d+)\s*\}", answer)
    return int(bool(boxed) and number is not None and boxed[-1] == number.group())


def drift(crowd: Crowd) -> list[Row]:
    """June as the candidate of March at 10 %, every answer rated, and every tenth."""
    rows = []
    for pair in pairs():
        for rated in (1.0, 0.1):
            one = partial(_rollout, pair, rated)
            found = crowd.run(f"drift, {pair.model}, {pair.task}, {rated:g}", one, crowd.runs(100))
            caught = [count for count in found if count is not None]
            rows.append(
                {
                    "task": pair.task,
                    "model": pair.model,
                    "questions": len(pair.march),
                    "march": sum(pair.march) / len(pair.march),
                    "june": sum(pair.june) / len(pair.june),
                    "rated": rated,
                    "runs": len(found),
                    "rolled_back": len(caught) / len(found),
                    "median_canary": median(count[0] for count in caught) if caught else None,
                    "median_ratings": median(count[1] for count in caught) if caught else None,
                }
            )
    return rows


def _rollout(pair: Pair, rated: float, rng: np.random.Generator) -> tuple[int, int] | None:
    """(canary requests, ratings of the candidate) at the moment of rollback."""
    plan = plan_of((100.0 * _FRACTION, 50.0, 100.0), HealthChecks())
    evaluation = Evaluation(plan, 0, _FRACTION, stages=3)
    for _ in range(_HORIZON // _PORTION):
        side = rng.random(_PORTION) < _FRACTION
        asked = rng.integers(len(pair.march), size=_PORTION)
        told = rng.random(_PORTION) < rated
        control = _counts(np.asarray(pair.march)[asked[~side]], told[~side])
        evaluation.observe(Observation(control, _counts(np.asarray(pair.june)[asked[side]], told[side])))
        decision = evaluation.decision(enough_time=False)
        if decision.kind == "fail":
            totals = evaluation.totals.candidate
            return totals.assigned, totals.rated
    return None


def _counts(
    right: "np.ndarray[tuple[int], np.dtype[np.int64]]", told: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
) -> SideCounts:
    sent, good = len(right), float(right[told].sum())
    return SideCounts(
        assigned=sent, resolved=sent, timed=sent, rated=int(told.sum()), quality=good, quality2=good
    )
