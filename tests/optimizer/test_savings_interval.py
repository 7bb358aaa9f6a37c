"""The 95 % interval around what was saved: how often it holds the truth, and what older snapshots say."""

import sqlite3
from math import exp, sqrt

import numpy as np
import orjson
import pytest

from optimizer import events
from optimizer.history_rings import HistoryRings
from optimizer.savings import RouteSavings, Savings, saving_of
from policies.types import Moments

TRIALS = 400


def simulate(rng, *, share, requests, kept=1.0):
    """With every request what the baseline is known by weighs ``kept`` times as much as before.

    Returns the saving as estimated, what these requests would really have cost on the baseline, and what is expected.

    Every prompt has a cost on both arms; they are alike, since long prompts are dear on both. ``share`` of the
    requests go to the baseline, whose mean is that of what it served so far, as the learner knows it.
    """
    length = rng.lognormal(0.0, 0.7, requests)
    dear = 0.010 * length * rng.lognormal(0.0, 0.3, requests)
    cheap = 0.002 * length * rng.lognormal(0.0, 0.3, requests)
    on_baseline = rng.random(requests) < share
    on_baseline[0] = True
    actual = np.where(on_baseline, dear, cheap)
    route, weight, total, squares = RouteSavings(), 0.0, 0.0, 0.0
    for cost, is_baseline in zip(actual.tolist(), on_baseline.tolist(), strict=True):
        weight, total, squares = weight * kept, total * kept, squares * kept
        if is_baseline:
            weight, total, squares = weight + 1.0, total + cost, squares + cost * cost
            route.fresh += 1
        route.compare(cost, Moments.from_sums(weight, total, squares))
    served = float((~on_baseline).sum())
    mean = exp((0.7**2 + 0.3**2) / 2)
    return saving_of([route]), float((dear - actual).sum()), served * mean * 0.008


@pytest.mark.parametrize(
    ("share", "requests", "kept", "widest"),
    [
        (0.02, 1000, 1.0, 1.3),
        (0.1, 400, 1.0, 1.3),
        (0.5, 400, 1.0, 1.5),
        (0.9, 400, 1.0, 2.0),
        (0.1, 600, 0.995, 1.5),
        (0.5, 400, 0.98, 1.5),
    ],
)
def test_the_interval_holds_the_truth(share, requests, kept, widest):
    """Of 400 seeded runs at least 92.5 % hold what was really saved, and what is expected.

    If the interval covered exactly 95 %, other seeds would fail one case in 90 (binomial, 0.011); it covers
    more. It is not much wider than it has to be: its half width compared with what the errors really reach.
    """
    rng = np.random.default_rng(7)
    real = expected = 0
    errors, reaches = [], []
    for _ in range(TRIALS):
        found, truth, mean = simulate(rng, share=share, requests=requests, kept=kept)
        real += found.low_usd <= truth <= found.high_usd
        expected += found.low_usd <= mean <= found.high_usd
        errors.append(found.saved_usd - truth)
        reaches.append((found.high_usd - found.low_usd) / 2)

    assert real >= 0.925 * TRIALS
    assert expected >= 0.925 * TRIALS
    assert np.median(reaches) <= widest * 1.96 * sqrt(float(np.var(errors)))


def test_shares_follow_from_dollars():
    """Of what the baseline would have cost; its bounds belong to the bounds of what was saved."""
    route = RouteSavings()
    for number in range(100):
        route.compare(0.002 + 0.0001 * (number % 3), Moments(50.0, 0.01, 1e-6))

    found = saving_of([route])

    assert found.actual_usd == pytest.approx(route.actual_usd)
    assert found.baseline_usd == pytest.approx(1.0)
    assert found.share == pytest.approx(found.saved_usd / found.baseline_usd)
    assert found.low_usd < found.saved_usd < found.high_usd
    assert found.low_share == pytest.approx(found.low_usd / (found.low_usd + found.actual_usd))
    assert found.low_share < found.share < found.high_share < 1.0


def test_routes_together_are_surer_than_their_sum():
    """Their errors are independent; a route that counted nothing takes nothing away."""
    routes = [RouteSavings() for _ in range(4)]
    for route in routes:
        for number in range(50):
            route.compare(0.001 * (number % 5), Moments(20.0, 0.01, 1e-5))

    one, all_four = saving_of(routes[:1]), saving_of([*routes, RouteSavings(unknown=3)])

    assert all_four.saved_usd == pytest.approx(4 * one.saved_usd)
    assert all_four.high_usd - all_four.low_usd == pytest.approx(2 * (one.high_usd - one.low_usd))
    assert (all_four.requests, all_four.unknown) == (200, 3)


def test_nothing_is_said_where_nothing_is_known():
    """No request at all, or only one."""
    nothing, one = saving_of([RouteSavings(unknown=2)]), RouteSavings()
    one.compare(0.001, Moments(1.0, 0.01, 0.0))

    assert (nothing.unknown, nothing.saved_usd, nothing.low_usd, nothing.share) == (2, None, None, None)
    assert saving_of([one]).saved_usd == pytest.approx(0.009)
    assert saving_of([one]).low_usd is None
    assert saving_of([]).requests == 0


def test_older_snapshots_are_read_and_get_their_interval_later():
    """As if the older requests had been as uncertain as the newer ones, all to the same side."""
    savings = Savings(
        lambda route, arm, *, at: Moments(30.0, 0.01, 1e-5),
        HistoryRings(sqlite3.connect(":memory:"), now=lambda: 1e9),
    )
    savings.restore(b'{"auto": {"saved_usd": 7.2, "actual_usd": 0.8, "requests": 800, "unknown": 1}}')
    before = saving_of([savings.routes["auto"]])
    for _ in range(100):
        data = {
            "route": "auto", "baseline_arm": "large", "outcome": events.COMPLETED, "started_ms": 1e12,
            "duration_ms": 1.0, "cost_usd": 0.001,
        }  # fmt: skip
        savings.observe({"type": events.REQUEST, "data": data}, None)

    after, route = saving_of([savings.routes["auto"]]), savings.routes["auto"]

    assert (before.saved_usd, before.low_usd, before.requests) == (7.2, None, 800)
    assert after.saved_usd == pytest.approx(7.2 + 0.9)
    assert route.measured == 100
    assert after.saved_usd - after.low_usd == pytest.approx(1.96 * 9 * sqrt(route.uncertainty), rel=0.01)


def test_a_baseline_that_rests_is_known_as_well_as_before():
    """Its observations weigh less and less, all alike; their mean is the same, and as far off."""
    route, rested = RouteSavings(), RouteSavings()
    for each, weight in ((route, 100.0), (rested, 0.01)):
        each.compare(0.001, Moments(100.0, 0.01, 1e-5))
        for _ in range(99):
            each.compare(0.001, Moments(weight, 0.01, 1e-5))

    assert rested.uncertainty == pytest.approx(route.uncertainty)
    assert saving_of([rested]).low_usd > 0.5 * rested.saved_usd


def test_an_older_program_reads_the_totals_and_leaves_the_interval_alone():
    """Going back to it and forth again loses no dollar; what it counted itself is as uncertain as the rest."""
    savings = made()
    for _ in range(3):
        savings.observe({"type": events.REQUEST, "data": REQUEST}, None)
    parts = savings.snapshot_parts()
    totals = orjson.loads(parts[""])

    assert set(totals["auto"]) == {"saved_usd", "actual_usd", "requests", "unknown"}

    totals["auto"]["requests"] += 5
    again = made()
    again.restore(orjson.dumps(totals))
    again.restore_part(parts["interval"])

    assert again.routes["auto"].requests == 8
    assert again.routes["auto"].measured == 3
    assert again.routes["auto"].uncertainty == savings.routes["auto"].uncertainty


REQUEST = {
    "route": "auto", "baseline_arm": "large", "arm": "small", "outcome": events.COMPLETED, "started_ms": 1e12,
    "duration_ms": 1.0, "cost_usd": 0.001,
}  # fmt: skip


def made():
    """What follows a log in which the baseline's cost is known."""
    return Savings(
        lambda route, arm, *, at: Moments(30.0, 0.01, 1e-5),
        HistoryRings(sqlite3.connect(":memory:"), now=lambda: 1e9),
    )
