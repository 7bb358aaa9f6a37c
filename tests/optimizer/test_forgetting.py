"""Resets of single signals: what counts less, what does not, and that it is saved."""

import pytest

from optimizer.ingest import Ingest
from optimizer.linear_statistics import DONE, LinearStatistics
from optimizer.statistics import Statistics

NOON = 1_795_000_000.0
ARM = ("auto", "key-small", "key-default")
KEYS = {"model_key": ARM[1], "variant_key": ARM[2]}
X = b"\x00\x00\x80?"  # the vector (1,)


def moments(statistics, learning, now=NOON):
    arm = learning["arm"](learning["settings"]())
    return statistics.evidence("auto", arm, now=now, half_life_s=7 * 86400.0).signals


def test_only_the_named_signals_count_less(learning):
    """Under every price version, also what arrives later but is older; what comes after counts whole."""
    statistics = Statistics()
    taught = (("success", 1.0), ("cost@v1", -5.0), ("cost_usd@v1", 0.01), ("quality", 0.8))
    for _ in range(10):
        statistics.add(ARM, NOON - 10, taught)

    statistics.reset("auto", at=NOON - 5, keep=0.1, signals=("cost", "cost_usd"), **KEYS)
    statistics.add(ARM, NOON - 10, (("cost@v1", -5.0),))
    statistics.add(ARM, NOON, (("cost@v1", -4.0), ("cost_usd@v1", 0.02)))

    found = moments(statistics, learning)
    assert found["cost"].weight == pytest.approx(1.1 + 1.0, rel=1e-3)
    assert found["cost_usd"].weight == pytest.approx(1.0 + 1.0, rel=1e-3)
    assert found["quality"].weight == pytest.approx(10.0, rel=1e-3)
    assert statistics.cost_usd(ARM, now=NOON).mean == pytest.approx(0.015, rel=1e-3)


def test_resets_of_single_signals_and_of_all_multiply(learning):
    """Each counts for what it names."""
    statistics = Statistics()
    statistics.add(ARM, NOON - 10, [("latency", 1.0), ("quality", 0.5)])

    statistics.reset("auto", at=NOON - 8, keep=0.5, signals=("latency",), **KEYS)
    statistics.reset("auto", at=NOON - 6, keep=0.5)
    statistics.reset("auto", at=NOON - 4, keep=0.5, signals=("latency",), **KEYS)

    found = moments(statistics, learning)
    assert found["latency"].weight == pytest.approx(0.125, rel=1e-3)
    assert found["quality"].weight == pytest.approx(0.5, rel=1e-3)


def test_linear_sums_follow(learning):
    """A cell of several signals counts less for one of them only."""
    statistics = Statistics()
    linear = LinearStatistics(statistics)
    for _ in range(10):
        linear.add(ARM, "f1", DONE, NOON - 10, X, (("latency", 1.0), ("valid", 1.0)))
    statistics.add(ARM, NOON - 10, [("success", 1.0)])

    statistics.reset("auto", at=NOON - 5, keep=0.1, signals=("latency",), **KEYS)

    arm = learning["arm"](learning["settings"]())
    weights = {
        signal: linear.sums("auto", arm, "f1", DONE, signal, now=NOON).weight
        for signal in ("latency", "valid")
    }
    assert weights == {"latency": pytest.approx(1.0, rel=1e-3), "valid": pytest.approx(10.0, rel=1e-3)}


def test_a_reset_of_a_signal_is_saved(node, learning):
    """The next process reads the same."""
    for opened in range(2):
        ingest = Ingest(node.state, clock=lambda: NOON + 60)
        ingest.configure(learning["settings"]())
        if not opened:
            ingest.reset("auto", keep=0.25, at=NOON, signals=("cost", "cost_usd"), **KEYS)
            ingest.step()
        (reset,) = ingest.statistics.timeline.resets
        ingest.close()
        assert (reset.at, reset.keep, reset.signals) == (NOON, 0.25, ("cost", "cost_usd"))
