"""The boards: current, well-formed, and understood by Prometheus."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.boards.__main__ import BOARDS, DIRECTORY, files
from monitoring.boards.model import COLUMNS
from tests.monitoring.conftest import MONITORING, board_expressions, boards, panels

# Units that Grafana knows, as far as they are used.
UNITS = {"short", "none", "s", "bytes", "percentunit", "currencyUSD", "reqps", "ops", "bool_yes_no"}
KINDS = {"timeseries", "stat", "bargauge", "table", "state-timeline", "heatmap"}


def test_what_is_committed_is_what_the_code_writes() -> None:
    """`python -m monitoring.boards` writes them; nothing else is there."""
    assert {path.name: path.read_text() for path in DIRECTORY.glob("*.json")} == files()


def test_the_boards_of_the_user_guide_are_there() -> None:
    titles = [board.title for board in BOARDS]
    assert titles[:4] == ["Cost Overview", "Performance", "Quality Metrics", "Optimization History"]
    assert titles[4:] == ["Rollouts", "Pipeline"]


@pytest.mark.parametrize("board", boards(), ids=lambda board: board["title"])
def test_a_board_is_one_that_grafana_can_show(board: dict[str, Any]) -> None:
    """Ids are unique, panels lie in the grid side by side, and each asks the chosen data source with a known unit."""
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in board["panels"]]
    for place in places:
        assert place["w"] > 0 < place["h"]
        assert place["x"] >= 0 <= place["y"]
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert {"node"} <= set(variables) <= {"datasource", "node", "route", "arm", "model"}
    for panel in panels(board):
        assert panel["type"] in KINDS
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert len(panel["description"]) > 5
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            # What is chosen above narrows every panel, and what is not a choice narrows none.
            assert '=~"$node"' in target["expr"]
            used = {name for name in ("route", "arm", "model") if f'=~"${name}"' in target["expr"]}
            assert used <= set(variables)
            assert target["instant"] is not target["range"]


def test_titles_and_uids_are_unique() -> None:
    found = boards()
    assert len({board["uid"] for board in found}) == len(found) == 6
    for board in found:
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles), titles


def test_gauges_that_are_not_known_do_not_spoil_a_sum() -> None:
    """A sum with NaN is NaN, so what may be unknown is summed only where it is known."""
    for where, expression in board_expressions():
        for name in ("cost_savings", "quality_score", "constraint_actual", "engine_up"):
            if f"llm_optimizer_{name}" in expression and expression.startswith("sum"):
                assert " == " in expression, where


def test_prometheus_understands_every_expression(promtool: Callable[..., str], tmp_path: Path) -> None:
    """As recording rules, because then its own tool parses them all at once."""
    asked = [
        {"record": f"board:{number}", "expr": expression}
        for number, (_, expression) in enumerate(board_expressions())
    ]
    file = tmp_path / "boards.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": asked}]}))
    assert f"SUCCESS: {len(asked)} rules found" in promtool("check", "rules", file)


def test_grafana_finds_the_boards_where_compose_mounts_them() -> None:
    """`deploy/compose.yaml` mounts the folder; the chart carries the same files."""
    chart = MONITORING.parent / "deploy" / "helm" / "llm-auto-optimizer" / "files"
    for name, text in files().items():
        assert (chart / "boards" / name).read_text() == text
    for path in (MONITORING / "prometheus" / "rules").glob("*.yml"):
        assert (chart / "rules" / path.name).read_text() == path.read_text()
