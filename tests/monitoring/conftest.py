"""Prometheus' own tools, a loud skip where they are missing, and what boards and rules say."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.boards.__main__ import files

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
# What Grafana puts in, as if everything was chosen.
VARIABLES = {
    "$__rate_interval": "1m",
    "$__interval": "1m",
    "$__range": "1h",
    "$node": ".*",
    "$route": ".*",
    "$arm": ".*",
    "$model": ".*",
}
_NAME = re.compile(r"llm_optimizer_[a-z0-9_]+")
_RECORDED = re.compile(r"[a-z]+:llm_optimizer_[a-z0-9_:]+")
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def installed(name: str) -> str:
    """Where a program of Debian's package `prometheus` is; without it the test is skipped by name."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus (no service has to run)")
    return found


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    """``promtool("check", "rules", file)``: what it said; it must succeed."""
    program = installed("promtool")

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def boards() -> list[dict[str, Any]]:
    """The boards as they are committed."""
    return [json.loads((MONITORING / "grafana" / name).read_text()) for name in files()]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a board that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def board_expressions() -> Iterator[tuple[str, str]]:
    """Where and what every expression of a board is, with its variables put in."""
    for board in boards():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{board['title']}: {panel['title']}", filled(target["expr"])
        for mark in board["annotations"]["list"]:
            yield f"{board['title']}: {mark['name']}", filled(mark["target"]["expr"])


def filled(expression: str) -> str:
    """An expression as Prometheus gets it."""
    for name in sorted(VARIABLES, key=len, reverse=True):
        expression = expression.replace(name, VARIABLES[name])
    assert "$" not in expression, expression
    return expression


def rules() -> list[dict[str, Any]]:
    """Every rule that is committed, recorded ones first."""
    found = [
        rule
        for path in sorted((MONITORING / "prometheus" / "rules").glob("*.yml"), reverse=True)
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(found) > 40
    return found


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names, as docs/metrics.md spells them; recorded ones are ours."""
    return {_SUFFIX.sub("", name) for name in _NAME.findall(_RECORDED.sub("", expression))}


def used_metrics() -> set[str]:
    """Every metric that a board, a variable of a board or a rule names."""
    queries = [
        variable["query"]["query"]
        for board in boards()
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    expressions = [expression for _, expression in board_expressions()]
    return set().union(*map(metrics_in, [*queries, *expressions, *(rule["expr"] for rule in rules())]))
