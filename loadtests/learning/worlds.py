"""The recorded data sets as worlds, and as request bodies from which the product itself takes the features.

Invariant: a data set is read from ``shared/data`` beside the repository; ``Skipped`` says which one is absent.
"""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.processes import ROOT, Skipped
from optimizer.settings import ContextSettings
from optimizer.simulating.features import vectors
from optimizer.simulating.world import IntArray, World

DATA = ROOT.parent / "shared" / "data"
PARETOBANDIT = DATA / "paretobandit" / "val.jsonl"
BFCL = DATA / "bfcl_2024_08"

ARMS_8 = (
    "gpt-4o-mini-2024-07-18-FC",
    "gpt-4o-mini-2024-07-18",
    "gpt-4o-2024-08-06-FC",
    "gpt-4o-2024-08-06",
    "claude-3-5-sonnet-20240620-FC",
    "gpt-4-0613-FC",
    "gpt-4-0613",
    "claude-3-5-sonnet-20240620",
)
"""Four models, each with native function calling and by prompt: .258 to .905 right, $.075 to 15.1 a thousand calls."""

BROKEN = "gpt-4o-2024-08-06"
BEST = "claude-3-5-sonnet-20240620"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A world that nobody has looked at yet (its x is the single 1), and the request body of every query."""

    world: World
    bodies: tuple[Mapping[str, Any], ...]

    def seen(self, context: ContextSettings, fitted_on: IntArray) -> World:
        """The world with the product's features; lexical ones from the requests ``fitted_on`` alone."""
        return self.world.with_features(vectors(self.bodies, context, fitted_on))


def paretobandit(path: Path = PARETOBANDIT) -> Recorded:
    """1,785 prompts of 30 sources, three models. Rewards are a judge's scores.

    Raises:
        Skipped: If the file is not on this machine.
    """
    rows = [json.loads(line) for line in _lines(path)]
    arms = tuple(sorted(rows[0]["arms"], key=lambda arm: sum(row["arms"][arm]["cost"] for row in rows)))
    world = _world(
        arms,
        [[row["arms"][arm]["reward"] for arm in arms] for row in rows],
        [[row["arms"][arm]["cost"] for arm in arms] for row in rows],
        None,
        [row["source"] for row in rows],
    )
    return Recorded(world, tuple(_body(row["prompt"]) for row in rows))


def halves(recorded: Recorded) -> tuple[IntArray, IntArray]:
    """Rows of two halves, told apart by a hash of the prompt: the same on every machine, whatever the file's order."""
    digests = [_digest(body) for body in recorded.bodies]
    ranked = sorted(range(len(digests)), key=digests.__getitem__)
    middle = len(ranked) // 2
    return np.array(sorted(ranked[:middle])), np.array(sorted(ranked[middle:]))


def bfcl(arms: Sequence[str] = ARMS_8, directory: Path = BFCL) -> Recorded:
    """1,700 function calls of 12 categories; quality is right or wrong, cost and latency are metered.

    The question and its functions are not recorded for the 240 queries of ``relevance``: their bodies are empty.

    Raises:
        Skipped: If the files are not on this machine.
    """
    cells: dict[str, dict[tuple[str, str], tuple[float, float, float]]] = {arm: {} for arm in arms}
    for row in csv.DictReader(_lines(directory / "bfcl_rows.csv.gz")):
        if row["model"] in cells:
            measured = (float(row["valid"]), float(row["cost_usd"]), float(row["latency_s"]))
            cells[row["model"]][row["category"], row["qid"]] = measured
    queries = sorted(cells[arms[0]])
    table = np.array([[cells[arm][query] for arm in arms] for query in queries])
    asked = {}
    for line in _lines(directory / "prompts.jsonl.gz"):
        prompt = json.loads(line)
        asked[prompt["category"], str(prompt["qid"])] = prompt
    bodies = tuple(_call(asked.get(query, {}), query[0]) for query in queries)
    world = _world(
        tuple(arms), table[:, :, 0], table[:, :, 1], table[:, :, 2], [category for category, _ in queries]
    )
    return Recorded(world, bodies)


def _call(prompt: Mapping[str, Any], category: str) -> Mapping[str, Any]:
    question = prompt.get("question", "")
    if not isinstance(question, str):
        question = json.dumps(question)
    body = dict(_body(question))
    functions = prompt.get("function", [])
    functions = functions if isinstance(functions, list) else [functions]
    body["tools"] = [{"type": "function", "function": function} for function in functions]
    body["metadata"] = {"task": category}
    return body


def _body(text: str) -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _digest(body: Mapping[str, Any]) -> bytes:
    return blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).digest()


def _world(arms: tuple[str, ...], quality: Any, cost: Any, latency: Any, groups: Sequence[str]) -> World:
    taken = np.asarray(quality, dtype=np.float64)
    late = np.full(taken.shape, np.nan) if latency is None else np.asarray(latency, dtype=np.float64)
    names = tuple(sorted(set(groups)))
    numbers = np.array([names.index(group) for group in groups], dtype=np.int64)
    return World(
        arms, taken, np.asarray(cost, dtype=np.float64), late, np.ones((len(taken), 1)), numbers, names
    )


def _lines(path: Path) -> Iterator[str]:
    if not path.exists():
        raise Skipped(f"{path} is not here: recorded data are not part of the project")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    # Not splitlines(): prompts hold Unicode line separators, which are no ends of lines.
    yield from (line for line in text.decode("utf-8").split("\n") if line)
