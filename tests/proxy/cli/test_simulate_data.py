"""``llm-optimizer simulate`` from the command line to its three forms."""

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner

from proxy.cli import main


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """600 queries: long ones need the dear arm (.9 against .3), short ones do not (.8 with both)."""
    path = tmp_path_factory.mktemp("recorded") / "data.csv"
    rng = np.random.default_rng(7)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "arm", "quality", "cost_usd", "latency_s", "text", "kind"])
        for number in range(600):
            long = bool(rng.random() < 0.5)
            text = "why is it so? " * (80 if long else 1)
            cheap = (0.3 if long else 0.8) + rng.normal(0.0, 0.02)
            dear = (0.9 if long else 0.8) + rng.normal(0.0, 0.02)
            rows.writerow([number, "cheap", round(cheap, 4), 0.001, 0.5, text, "long" if long else "short"])
            rows.writerow([number, "dear", round(min(1.0, dear), 4), 0.01, 2.0, "", ""])
    return path


def simulate(*arguments):
    """The command's result."""
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


@pytest.fixture(scope="module")
def answer(recorded):
    """One run at a budget that pays the dear arm for half of the queries."""
    result = simulate(
        "--data", recorded, "--cost-target", 0.0055, "--burn-in", 0.5, "--category", "kind", "-o", "json"
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_says_what_was_to_be_had(answer):
    """Yardsticks of the reported half, at the budget."""
    assert answer["queries"] == {"burn_in": 300, "reported": 300}
    assert answer["goal"] == {"cost_usd": 0.0055, "quality": None, "is": "the cost target"}
    yardsticks = answer["yardsticks"]
    assert yardsticks["best_single"]["arm"] == "cheap"
    assert yardsticks["context_free_mix"]["quality"] == pytest.approx(0.70, abs=0.03)
    assert yardsticks["per_category_mix"]["quality"] == pytest.approx(0.85, abs=0.03)
    assert yardsticks["per_query_oracle"]["quality"] >= yardsticks["per_category_mix"]["quality"]


def test_a_route_that_looks_at_requests_beats_the_fixed_mix(answer):
    """Above it by half of what categories could give; the budget is kept."""
    policy = answer["policy"]

    assert policy["quality"]["mean"] >= answer["yardsticks"]["context_free_mix"]["quality"] + 0.075
    assert policy["cost_usd"]["mean"] <= 0.0055 * 1.05
    assert sum(policy["shares"].values()) == pytest.approx(1.0)


def test_a_table_for_people(recorded):
    """Every yardstick is a line; latency is held to its target."""
    result = simulate("--data", recorded, "--quality-floor", 0.75, "--latency-p95-ms", 5000, "--burn-in", 0.2)

    assert result.exit_code == 0, result.output
    for line in ("this policy", "best single arm (dear)", "best fixed mix", "oracle", "always cheap"):
        assert line in result.output
    assert "best mix per category" not in result.output
    assert "replies over the latency target: 0 %" in result.output


def test_several_seeds_as_csv(recorded, tmp_path):
    """A line per seed, the same whoever plays it; a policy file and another file for the burn-in."""
    policy = tmp_path / "route.yaml"
    policy.write_text("context: false\nconstraints: {cost_per_request_usd: 0.004}\nobjectives: [quality]\n")

    arguments = ("--data", recorded, "--burn-in", recorded, "--policy", policy, "--seeds", 2, "-o", "csv")
    first, again = simulate(*arguments), simulate(*arguments)

    assert first.exit_code == 0, first.output
    assert first.output == again.output
    rows = list(csv.DictReader(io.StringIO(first.stdout)))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert rows[0]["quality"] != rows[1]["quality"]
    assert float(rows[0]["share.cheap"]) + float(rows[0]["share.dear"]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--burn-in", "nowhere.csv"), "neither a file nor a share"),
        (("--burn-in", "1.5"), "a share lies in [0, 1)"),
        (("--category", "colour"), "'colour'"),
        (("--baseline", "nobody"), "nobody"),
        (("--cost-target", "0"), "0.0 is not in the range"),
    ],
)
def test_mistakes_are_said(recorded, arguments, said):
    """A sentence, not a traceback."""
    result = simulate("--data", recorded, *arguments)

    assert result.exit_code in (1, 2)
    assert said in result.output
    assert not isinstance(result.exception, ValueError)


def test_a_file_in_another_format(tmp_path):
    """Its name and the line."""
    path = tmp_path / "data.csv"
    path.write_text("query,arm,quality,cost_usd\n1,a,2,1\n")

    result = simulate("--data", path)

    assert result.exit_code == 1
    assert "data.csv: line 2: `quality` is 2.0" in result.output


def test_missing_outcomes_are_said_to_be_missing(tmp_path):
    """Means over different queries are compared with a warning only."""
    path = tmp_path / "holes.csv"
    rows = "".join(
        f"{number},{arm},0.5,0.1\n" for number in range(30) for arm in ("a", "b")[: 1 + number % 2]
    )
    path.write_text(f"query,arm,quality,cost_usd\n{rows}")

    shown = simulate("--data", path)
    exact = json.loads(simulate("--data", path, "-o", "json").stdout)

    assert "15 outcomes are not in the data" in shown.output
    assert exact["missing_outcomes"] == 15
