"""The experiments behind docs/learning.md: true to their data, shown as they came out, promises kept."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from loadtests import markdown
from loadtests.learning import http, page, worlds
from loadtests.learning.__main__ import FROM, MEASURED, SEEDS
from loadtests.learning.bfcl import pulls_until_starved
from loadtests.learning.pareto import BUDGETS, budgeted
from loadtests.recording import read
from optimizer.settings import ContextSettings
from optimizer.simulating.frontier import hindsight
from proxy.config.load import load_text

ROOT = Path(__file__).parents[2]
NAMES = {*MEASURED, *FROM}

needs_prompts = pytest.mark.skipif(
    not worlds.PARETOBANDIT.exists(), reason="the data set paretobandit is absent"
)
needs_calls = pytest.mark.skipif(not worlds.BFCL.exists(), reason="the data set bfcl_2024_08 is absent")


def test_the_page_shows_the_kept_results():
    """Tables are never typed in: the page is what rendering makes of the results, and every table is on it."""
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")

    assert set(page.TABLES) == NAMES
    assert all(f"<!-- figures: {name} -->" in text for name in NAMES)
    assert markdown.rendered(text, markdown.read(ROOT / page.KEPT), page.TABLES) == text


@needs_prompts
def test_the_halves_are_of_the_same_kind():
    """They share no prompt, and the yardsticks of the reported one are near those of the whole."""
    recorded = worlds.paretobandit()
    burn_in, report = worlds.halves(recorded)

    whole, half = hindsight(recorded.world), hindsight(recorded.world.part(report))
    assert len(set(burn_in) | set(report)) == recorded.world.n_queries == 1785
    assert not set(burn_in) & set(report)
    for budget in BUDGETS:
        assert half.mix.quality_at(budget) == pytest.approx(whole.mix.quality_at(budget), abs=0.01)
    assert len(recorded.world.groups) == 30


@needs_prompts
def test_features_are_the_products_own_and_know_nothing_of_the_reported_half():
    """Other prompts in the reported half leave the vectors of the burn-in as they are."""
    recorded = worlds.paretobandit()
    burn_in, report = worlds.halves(recorded)
    context = ContextSettings(lexical=True)

    seen = recorded.seen(context, burn_in)
    bodies = list(recorded.bodies)
    for row in report:
        bodies[row] = {"messages": [{"role": "user", "content": "something else altogether"}]}
    other = worlds.Recorded(recorded.world, tuple(bodies)).seen(context, burn_in)

    assert seen.size > 24
    assert (seen.x[:, 0] == 1.0).all()
    assert np.array_equal(seen.x[burn_in], other.x[burn_in])


@needs_prompts
def test_the_running_proxy_gets_the_route_that_is_simulated():
    """Over HTTP the same arms, objective, budget, floor and features are configured, by the product's own reader."""
    recording = read()
    courses = [http.Course(budget, copy) for budget in http.BUDGETS for copy in range(http.COPIES)]

    settings = load_text(yaml.safe_dump(http.configuration(recording, 9, courses)), {}).settings

    for course in courses:
        over_http = settings.route(course.route)
        simulated = budgeted(worlds.paretobandit(), course.budget, ContextSettings()).route
        assert over_http is not None
        assert [arm.id for arm in over_http.arms] == [arm.id for arm in simulated.arms]
        for name in ("baseline", "objectives", "constraints", "context", "policy", "drift"):
            assert getattr(over_http, name) == getattr(simulated, name)


@needs_calls
def test_the_eight_arms_are_those_of_the_reference():
    """Qualities from .258 to .905, and $1.184 per 1,000 calls as the least cost of a floor of .89."""
    world = worlds.bfcl().world
    seen = hindsight(world)

    assert world.n_queries == 1700
    assert seen.single[worlds.BROKEN][0] == pytest.approx(0.258, abs=5e-4)
    assert seen.single[worlds.BEST][0] == pytest.approx(0.905, abs=5e-4)
    assert seen.mix.cost_at(0.89) == pytest.approx(1.184e-3, abs=1e-6)


def test_a_data_set_that_is_absent_is_named(tmp_path):
    """Not a traceback."""
    with pytest.raises(worlds.Skipped, match=r"gone\.jsonl"):
        worlds.paretobandit(tmp_path / "gone.jsonl")


def test_starving_is_counted_in_pulls():
    """50 decisions at .5 and then the floor: starved after the pulls of the first 50."""
    share = np.full(300, 0.005)
    share[:50] = 0.5
    pulled = np.zeros(300, dtype=np.bool_)
    pulled[:50:2] = pulled[200] = True

    assert pulls_until_starved(share, pulled, floor=0.005) == 25
    assert pulls_until_starved(share, pulled, floor=0.001) is None
    assert pulls_until_starved(share[:50], pulled[:50], floor=0.005) is None


def test_the_command_says_what_it_measures():
    """Without importing what is measured; an unknown table is refused."""
    said = subprocess.run(
        [sys.executable, "-m", "loadtests.learning", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode == 2
    assert "no table is called nothing" in said.stdout


def _rows(name: str):
    results = markdown.read(ROOT / page.KEPT)
    if name not in results:
        pytest.skip(f"{name} is not measured yet")
    assert results[name]["seeds"] >= SEEDS
    return results[name]["rows"]


def test_budgets_are_kept_and_beat_the_fixed_mix():
    """Reward at least the mix's plus what was promised, spend within 3 % of a target that binds and can be kept."""
    for row in _rows("paretobandit"):
        assert row["context"]["quality"] >= row["mix"] + row["margin"]
        assert row["context"]["spent"] <= 1.03 * max(1.0, row["cheapest"] / row["budget"])
        if row["binds"]:
            assert row["context"]["spent"] >= 0.97


def test_the_floor_is_met_at_a_price_near_the_least():
    """Within .3 points at 1.25 times the least cost; the broken arm is starved within 150 pulls."""
    rows = [row for row in _rows("bfcl") if row["goal"] == "floor .89"]

    assert rows
    for row in rows:
        assert row["quality"] >= row["floor"] - 0.003
        assert row["times_least"] <= 1.25
        assert all(count is not None and count <= 150 for count in row["broken_pulls"])


def test_drift_is_followed_within_120_requests_and_nothing_else_is():
    """40 seeds; the stationary stretch has no false reset."""
    (product, *_), count = _rows("llmdrift"), 2 * SEEDS

    assert product["runs"] >= count
    assert product["median requests to 80 %"] <= 120
    assert product["false resets before the change"] == 0


def test_delay_and_sparsity_cost_little():
    """A fifth of the ratings, 200 requests late: at most .015 below all of them at once."""
    rows = {(row["budget"], row["share"], row["delay"]): row["quality"] for row in _rows("delay")}

    for budget in {budget for budget, *_ in rows}:
        assert rows[budget, 0.2, 200] >= rows[budget, 1.0, 0] - 0.015


def test_the_running_proxy_does_what_the_simulator_does():
    """Reward within three standard deviations of a single run, no feedback refused."""
    rows = {(row["budget"], row["way"]): row for row in _rows("http")}

    for budget in http.BUDGETS:
        simulated, real = rows[budget, "simulated"], rows[budget, "over HTTP"]
        assert abs(real["quality"] - simulated["quality"]) <= 3.0 * simulated["sd"] + 0.002
        assert abs(real["spent"] - simulated["spent"]) <= 3.0 * simulated["spent_sd"] + 0.01
        assert real["refused_feedback"] == 0


def test_an_estimate_holds_what_the_policy_earned_or_there_is_none():
    """Thompson sampling from the uniform log lies within its interval; the reverse is refused."""
    rows = _rows("obd")

    assert all(row["inside"] and row["effective_size"] >= 200 for row in rows if row["verdict"] == "given")
    assert {(row["question"], row["verdict"]) for row in rows} == {
        ("Thompson sampling from the uniform log", "given"),
        ("uniform from the Thompson sampling log", "refused"),
    }
