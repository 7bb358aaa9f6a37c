"""What the book tells those who watch for drift."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer import reward
from optimizer.linear_statistics import DONE, RATED
from optimizer.settings import DriftSettings
from tests.optimizer.context_book.conftest import NOON, Bench, route

SMALL, LARGE = (("auto", f"key-{name}", "key-default") for name in ("small", "large"))


def learn(bench: Bench, *, level: float) -> str:
    """`small` is as good as feature 1 is small, and dearer with it; the features' version."""
    rng = np.random.default_rng(5)
    features = bench.book.features(route())
    assert features is not None
    for number in range(400):
        arm, x = (SMALL, LARGE)[number % 2], np.zeros(features.size, np.float32)
        x[0], x[1] = 1.0, 2.0 + rng.normal()
        told = [(reward.QUALITY, level - (0.1 * float(x[1]) if arm == SMALL else 0.0) + 0.02 * rng.normal())]
        taught = [
            *reward.costs(float(np.exp(-7.0 + 0.3 * x[1] + 0.1 * rng.normal())), ""),
            (reward.VALID, 1.0),
        ]
        bench.linear.note("auto", features.version, NOON, x)
        bench.linear.add(arm, features.version, DONE, NOON, x, taught)
        bench.linear.add(arm, features.version, RATED, NOON, x, told)
        bench.statistics.add(arm, NOON, [(reward.SUCCESS, 1.0), *taught, *told])
    bench.book.mark(["auto"])
    return features.version


async def test_slopes_are_told_without_any_level(bench: Bench) -> None:
    """Per arm and signal, of cost too although the route does not pursue it; a level that moves does not show."""
    bench.configure(route())
    bench.table(route())
    version = learn(bench, level=0.9)
    assert np.abs(bench.book.slopes(SMALL, version)["quality"]).max() == 0.0  # Not frozen anew yet.
    bench.now += 10.0
    await bench.book.refresh()

    first = bench.book.slopes(SMALL, version)
    assert set(first) == {"quality", "cost"}
    assert first["quality"][0] == first["cost"][0] == 0.0
    assert first["quality"][1] == pytest.approx(-0.1, abs=0.02)
    assert first["cost"][1] == pytest.approx(0.3, abs=0.03)
    assert bench.book.slopes(LARGE, version)["quality"][1] == pytest.approx(0.0, abs=0.02)

    learn(bench, level=0.6)
    bench.now += 10.0
    await bench.book.refresh()
    # Two levels make the scatter larger, so the slope is trusted a little less.
    assert bench.book.slopes(SMALL, version)["quality"][1] == pytest.approx(-0.1, abs=0.04)


async def test_of_what_is_unknown_nothing_is_told(bench: Bench) -> None:
    """Other features, arms that are gone, routes that are not steered; and no more is fitted than is watched."""
    unwatched = replace(route(), drift=DriftSettings(enabled=False))
    bench.configure(unwatched)
    bench.table(unwatched)
    version = learn(bench, level=0.9)
    bench.now += 10.0
    await bench.book.refresh()

    assert set(bench.book.slopes(SMALL, version)) == {"quality"}
    assert bench.book.slopes(SMALL, "other") == {}
    assert bench.book.slopes(("auto", "key-gone", "key-default"), version) == {}
    assert bench.book.slopes(("other", *SMALL[1:]), version) == {}
