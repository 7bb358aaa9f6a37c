"""The simulations behind docs/statistics.md: repeatable, true to what they simulate, shown as they came out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.markdown import read, rendered
from loadtests.statistics import drift, page
from loadtests.statistics.__main__ import SCENES
from loadtests.statistics.crowd import generator
from loadtests.statistics.play import Behaviour, play, traffic
from loadtests.statistics.rollout_scenes import plan_of
from optimizer.rollouts.guards import Observation
from optimizer.settings import HealthChecks

ROOT = Path(__file__).parents[2]


def test_traffic_has_the_shares_it_was_asked_for():
    """200,000 requests at 10 %; every share within five standard errors."""
    sides = (Behaviour(rated=0.5), Behaviour(error=0.1, rejected=0.02, slow=0.2, quality=0.6, rated=0.5))

    total = sum(traffic(sides, 0.1, 200_000, 70, np.random.default_rng(1)), Observation())

    candidate = total.candidate
    assert total.control.assigned + candidate.assigned == 200_000
    assert candidate.assigned == pytest.approx(20_000, abs=700)
    assert candidate.errors / candidate.resolved == pytest.approx(0.1, abs=0.011)
    assert candidate.rejected / candidate.assigned == pytest.approx(0.02, abs=0.005)
    assert candidate.slow / candidate.timed == pytest.approx(0.2, abs=0.015)
    assert candidate.quality / candidate.rated == pytest.approx(0.6, abs=0.026)
    assert candidate.cost_usd / candidate.priced == pytest.approx(sides[1].mean_cost_usd, rel=0.05)
    assert candidate.priced == candidate.resolved - candidate.errors


def test_a_run_is_repeatable():
    """The same seed, scene and number give the same rollout, whoever runs it."""
    sides = (Behaviour(), Behaviour(error=0.06))

    one, other = (
        play(plan_of((10.0,), HealthChecks()), sides, (5000,), generator(1, "x", 3), portion=10)
        for _ in range(2)
    )

    assert one == other
    assert one.kind == "fail"


def test_identical_sides_are_rarely_rolled_back():
    """60 A/A rollouts at a bound of 1 %: more than 4 rollbacks have a probability below 4e-4."""
    plan = plan_of((10.0, 50.0, 100.0), HealthChecks())
    both = (replace(Behaviour(), error=0.05),) * 2

    found = [play(plan, both, (3000, 1000, 200), generator(2, "aa", run), portion=50) for run in range(60)]

    assert sum(outcome.kind == "fail" for outcome in found) <= 4


def test_the_page_shows_the_kept_results():
    """Tables are never typed in: the page is what rendering makes of the results, and every scene is on it."""
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")
    results = read(ROOT / page.KEPT)

    assert set(results) == set(SCENES)
    assert all(f"<!-- figures: {name} -->" in text for name in SCENES)
    assert rendered(text, results, page.TABLES) == text


def test_the_promises_are_kept():
    """The bounds that the product promises, held against the measured figures."""
    results = read(ROOT / page.KEPT)
    rows = {name: results[name]["rows"] for name in SCENES}

    assert all(row["rolled_back"] <= 0.01 and row["runs"] >= 2000 for row in rows["identical"])
    harm = {(row["harm"], row["percentage"]): row for row in rows["harm"]}
    assert harm["errors 2 % → 10 %", 10.0]["median_canary"] <= 80
    assert harm["errors 2 % → 10 %", 10.0]["runs"] >= 1000
    prompts = {(row["variants"], row["lift"]): row for row in rows["prompts"]}
    assert prompts[1, 0.0]["decided"] <= 0.05
    assert prompts[2, 0.0]["decided"] <= 0.05
    assert prompts[1, 0.03]["decided"] >= 0.84
    assert prompts[1, 0.05]["decided"] >= 0.999
    canaries = {row["rule"]: row for row in rows["canaries"]}
    for rule, found, soon in (("two-sample, a = .01", 0.462, 420), ("against 2 %, a = .01", 0.58, 336)):
        assert canaries[rule]["0.02"][0] <= 0.01
        assert canaries[rule]["0.03"][0] >= found, "what earlier measurements found"
        assert canaries[rule]["0.05"][1] <= soon
    worse = [row for row in rows["margin"] if row["worse"]]
    assert worse
    assert all(row["promoted"] <= 0.05 for row in worse)


@pytest.mark.skipif(not drift.DATA.exists(), reason=f"the data set {drift.DATA} is absent")
def test_the_recorded_regression_is_real():
    """GPT-4 fell from 84 % to about 50 % on primes, as published; the other model rose."""
    found = {(pair.task, pair.model): pair for pair in drift.pairs()}

    pair = found["is it a prime?", "gpt-4"]
    assert sum(pair.march) / len(pair.march) == pytest.approx(0.84, abs=0.01)
    assert sum(pair.june) / len(pair.june) == pytest.approx(0.51, abs=0.03)
    risen = found["is it a prime?", "gpt-3.5"]
    assert sum(risen.june) > sum(risen.march)
