"""What a scenario reports, and how it is kept between runs.

Invariant: a result file holds the fingerprint of the sources it was measured from; the runner takes it up
again only while they are the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.budgets import BUDGETS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. ``void`` says why it does not count; ``note`` what one should know to read it."""

    name: str
    value: float
    unit: str = ""
    note: str = ""
    void: str = ""

    @property
    def verdict(self) -> str:
        """``kept``, ``missed``, ``void``, or nothing for a figure without a budget."""
        if self.void:
            return "void"
        budget = BUDGETS.get(self.name)
        if budget is None:
            return ""
        return "kept" if budget.holds(self.value) else "missed"


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one scenario; ``status`` is ``done``, ``skipped`` or ``failed`` with a ``reason``."""

    scenario: str
    status: str
    fingerprint: str
    machine: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    reason: str = ""
    text: str = ""
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


def fingerprint() -> str:
    """A hash of every source file that a figure may depend on."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in ("policies", "optimizer", "proxy", "loadtests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".conf", ".lua") and "results" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def save(result: Result) -> Path:
    """Write a result; the folder ignores itself in git."""
    RESULTS.mkdir(exist_ok=True)
    # What a page of the documentation was drawn from is kept beside it.
    (RESULTS / ".gitignore").write_text("*\n!statistics.json\n!learning.json\n!cluster.json\n")
    path = RESULTS / f"{result.scenario}.json"
    path.write_text(json.dumps(asdict(result), indent=1))
    return path


def load(scenario: str) -> Result | None:
    """The kept result of a scenario, if there is one that can be read."""
    try:
        document = json.loads((RESULTS / f"{scenario}.json").read_text())
        figures = tuple(Figure(**figure) for figure in document.pop("figures"))
        return Result(figures=figures, **document)
    except (OSError, ValueError, TypeError, KeyError):
        return None
