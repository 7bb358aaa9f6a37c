"""The soak in short, on the real product, and its arithmetic."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loadtests.soak.scene import ROUTES, configuration
from loadtests.soak.watch import slope
from proxy.config.load import load_text

ROOT = Path(__file__).resolve().parents[2]


def test_a_leak_is_told_from_noise():
    """A true slope lies within its interval; noise alone has an interval around zero."""
    rng = random.Random(3)
    seconds = [2.0 * n for n in range(600)]
    flat = slope([(at, 80 + rng.gauss(0, 1)) for at in seconds])
    leak = slope([(at, 80 + at / 3600 * 36 + rng.gauss(0, 1)) for at in seconds])

    assert flat.per_hour - flat.half_width < 0 < flat.per_hour + flat.half_width
    assert abs(leak.per_hour - 36) < leak.half_width
    assert leak.per_hour - leak.half_width > 10


def test_few_samples_give_no_slope():
    """Rather none than one that means nothing."""
    assert slope([(float(n), 1.0) for n in range(10)]) is None


def test_its_configuration_is_one_that_the_product_takes():
    """Every route is there, so that no kind of caller is answered with 404."""
    loaded = load_text(yaml.safe_dump(configuration("http://127.0.0.1:9")), {})

    assert {route.name for route in loaded.settings.routes} == set(ROUTES)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_minute_of_everything_fails_nothing_and_leaves_nothing():
    """The whole program with its disturbances: exit status 0 means that every figure is as it must be."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.soak", "--minutes", "0.75", "--rate", "50"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "SIGSTOP of the optimizer" in done.stdout
    assert "events learned minus events logged" in done.stdout
